//! The cluster's hosts: where they are, what they can hold and whether they can be counted on.

use std::collections::{BTreeMap, BTreeSet};

use imbl::OrdMap;
use serde::{Deserialize, Serialize};

use crate::functions::EngineKind;
use crate::ids::{Incarnation, NodeId, StoreId};
use crate::rejection::{Kind, Rejection};
use crate::units::Timestamp;

/// Labels on one node; they travel in every snapshot.
pub const LABELS_MAX: usize = 64;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// Sent by each node when it starts, under a new incarnation.
    Register { node: NodeId, incarnation: Incarnation, profile: Profile },
    /// Decided by the leader (or an operator). Fenced by the incarnation it was decided for.
    SetCondition { node: NodeId, incarnation: Incarnation, condition: Condition, reason: String },
    /// Sent by each node before it registers: from now on, whoever comes under its id with other data
    /// is someone else.
    Claim { node: NodeId, store: StoreId },
}

/// What a node says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Profile {
    /// `host:port` of the public listener.
    pub http: String,
    /// `host:port` of the listener for other nodes.
    pub peer: String,
    pub capacity: Resources,
    pub engines: BTreeSet<EngineKind>,
    pub labels: BTreeMap<String, String>,
    /// The version of its software.
    pub version: String,
}

/// Memory and cpu, as capacity or as demand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resources {
    pub memory_mb: u64,
    pub cpu_millis: u64,
}

impl Resources {
    pub fn fits(&self, free: &Resources) -> bool {
        self.memory_mb <= free.memory_mb && self.cpu_millis <= free.cpu_millis
    }

    pub fn plus(self, other: Resources) -> Resources {
        Resources {
            memory_mb: self.memory_mb + other.memory_mb,
            cpu_millis: self.cpu_millis + other.cpu_millis,
        }
    }

    /// What is left; nothing where more is taken than there is (a host may come back smaller).
    pub fn minus(self, other: Resources) -> Resources {
        Resources {
            memory_mb: self.memory_mb.saturating_sub(other.memory_mb),
            cpu_millis: self.cpu_millis.saturating_sub(other.cpu_millis),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Condition {
    Ready,
    /// Takes no new instances; those it has are moved away.
    Draining,
    /// Not heard from; its instances count as lost.
    Down,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    pub incarnation: Incarnation,
    pub profile: Profile,
    pub condition: Condition,
    /// A drain is an operator's wish: it outlives the process, and a time of being down.
    pub drain_wanted: bool,
    pub reason: String,
    pub changed_at: Timestamp,
    /// What its live instances take together.
    pub reserved: Resources,
}

impl Node {
    pub fn free(&self) -> Resources {
        self.profile.capacity.minus(self.reserved)
    }
}

/// Which data is which node's. A voter that lost its data must not vote again: it would have forgotten
/// what it voted and acknowledged, and a quorum would be less than one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stores(#[serde(deserialize_with = "crate::maps::map")] OrdMap<NodeId, StoreId>);

impl Stores {
    pub fn get(&self, node: NodeId) -> Option<StoreId> {
        self.0.get(&node).copied()
    }

    pub(crate) fn nodes(&self) -> impl Iterator<Item = NodeId> {
        self.0.keys().copied()
    }

    /// The first claim stands. Repeating it is harmless.
    pub(crate) fn claim(&mut self, node: NodeId, store: StoreId) -> Result<(), Rejection> {
        match self.get(node) {
            None => drop(self.0.insert(node, store)),
            Some(known) if known == store => {}
            Some(known) => {
                return Err(Rejection::Conflict(format!("the data of node {node} is {known}, not {store}")));
            }
        }
        Ok(())
    }

    pub(crate) fn highest(&self) -> NodeId {
        self.0.get_max().map_or(NodeId(0), |(id, _)| *id)
    }

    pub(crate) fn forget(&mut self, node: NodeId) {
        self.0.remove(&node);
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nodes {
    #[serde(deserialize_with = "crate::maps::map")]
    by_id: OrdMap<NodeId, Node>,
}

impl Nodes {
    pub fn get(&self, id: NodeId) -> Option<&Node> {
        self.by_id.get(&id)
    }

    pub fn iter(&self) -> impl Iterator<Item = (NodeId, &Node)> {
        self.by_id.iter().map(|(id, node)| (*id, node))
    }

    /// Answers whether this is a new incarnation, so that what died with the old one can be written off.
    pub(crate) fn register(
        &mut self,
        id: NodeId,
        incarnation: Incarnation,
        profile: &Profile,
        now: Timestamp,
    ) -> Result<bool, Rejection> {
        if profile.labels.len() > LABELS_MAX {
            return Err(Rejection::Limit { what: "labels per node".into(), max: LABELS_MAX as u64 });
        }
        let known = self.by_id.get(&id);
        if let Some(known) = known {
            if incarnation < known.incarnation {
                return Err(Rejection::Stale(format!("node {id} runs as incarnation {}", known.incarnation)));
            }
            if incarnation == known.incarnation && *profile == known.profile {
                return Ok(false);
            }
        }
        let restarted = known.is_none_or(|known| incarnation > known.incarnation);
        let drain_wanted = known.is_some_and(|known| known.drain_wanted);
        let node = Node {
            incarnation,
            profile: profile.clone(),
            condition: if drain_wanted { Condition::Draining } else { Condition::Ready },
            drain_wanted,
            reason: "registered".into(),
            changed_at: now,
            reserved: known.map(|known| known.reserved).unwrap_or_default(),
        };
        self.by_id.insert(id, node);
        Ok(restarted)
    }

    /// Answers whether anything changed.
    pub(crate) fn set_condition(
        &mut self,
        id: NodeId,
        incarnation: Incarnation,
        condition: Condition,
        reason: &str,
        now: Timestamp,
    ) -> Result<bool, Rejection> {
        let node = self.by_id.get_mut(&id).ok_or_else(|| Rejection::missing(Kind::Node, id))?;
        if node.incarnation != incarnation {
            return Err(Rejection::Stale(format!("node {id} runs as incarnation {}", node.incarnation)));
        }
        if node.condition == condition {
            return Ok(false);
        }
        node.condition = condition;
        match condition {
            Condition::Ready => node.drain_wanted = false,
            Condition::Draining => node.drain_wanted = true,
            Condition::Down => {}
        }
        node.reason = reason.to_owned();
        node.changed_at = now;
        Ok(true)
    }

    pub(crate) fn highest(&self) -> NodeId {
        self.by_id.get_max().map_or(NodeId(0), |(id, _)| *id)
    }

    /// Forgets a node that was removed. Its instances have ended.
    pub(crate) fn forget(&mut self, id: NodeId) {
        self.by_id.remove(&id);
    }

    pub(crate) fn reserve(&mut self, id: NodeId, demand: Resources) {
        let node = self.by_id.get_mut(&id).expect("an instance is placed on a known node");
        node.reserved = node.reserved.plus(demand);
    }

    pub(crate) fn release(&mut self, id: NodeId, demand: Resources) {
        let node = self.by_id.get_mut(&id).expect("an instance runs on a known node");
        node.reserved = node.reserved.minus(demand);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_claim_of_a_nodes_data_stands() {
        let mut stores = Stores::default();
        for (node, store, stands) in [(1, 10, true), (1, 10, true), (1, 11, false), (2, 11, true)] {
            assert_eq!(stores.claim(NodeId(node), StoreId(store)).is_ok(), stands, "{node} {store}");
        }
        assert_eq!(stores.get(NodeId(1)), Some(StoreId(10)));
        assert_eq!(stores.get(NodeId(3)), None);
    }
}
