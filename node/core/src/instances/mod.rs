//! Instances: one launched copy of a function on one node, from its placement to its end.

mod decision;
mod phase;

use std::sync::Arc;

use imbl::{OrdMap, OrdSet};
use serde::{Deserialize, Serialize};

pub use decision::*;
pub use phase::*;

use crate::functions::{EngineKind, PROVEN_AFTER, Payer};
use crate::ids::{AccountName, FunctionName, Generation, InstanceId, NodeId};
use crate::nodes::Resources;
use crate::rejection::{Kind, Rejection};
use crate::units::{Millis, Timestamp};

/// Ended instances kept to be looked at.
pub const FINISHED_MAX: usize = 512;
/// The most characters of a failure's reason.
pub const REASON_MAX: usize = 512;

/// A change to one instance. The proposer chose the ids and the node, so every replica applies it
/// alike. Repeating a command is harmless.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    Place {
        instance: InstanceId,
        function: FunctionName,
        version: u64,
        node: NodeId,
        cause: LaunchCause,
    },
    MarkStarting {
        instance: InstanceId,
        generation: Generation,
    },
    MarkReady {
        instance: InstanceId,
        generation: Generation,
    },
    MarkFailed {
        instance: InstanceId,
        generation: Generation,
        reason: String,
    },
    Drain {
        instance: InstanceId,
        reason: DrainReason,
    },
    MarkStopped {
        instance: InstanceId,
        generation: Generation,
    },
    /// Keeps what the leader decided and why, for users to read.
    Record {
        decision: Decision,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Instance {
    pub function: FunctionName,
    pub version: u64,
    pub node: NodeId,
    pub generation: Generation,
    pub phase: Phase,
    pub cause: LaunchCause,
    /// Why it is draining, failed or was lost.
    pub reason: Option<String>,
    pub engine: EngineKind,
    pub resources: Resources,
    pub concurrency: u32,
    pub owner: AccountName,
    pub payer: Payer,
    pub placed_at: Timestamp,
    pub ready_at: Option<Timestamp>,
    pub draining_at: Option<Timestamp>,
    pub ended_at: Option<Timestamp>,
    /// Busy time by account so far, for splitting its cost among its callers.
    #[serde(deserialize_with = "crate::maps::map")]
    pub busy_by: OrdMap<AccountName, Millis>,
}

impl Instance {
    /// Whether it had served for so long before it ended that launching it was no failure.
    pub fn was_proven(&self) -> bool {
        let (ready, ended) = (self.ready_at, self.ended_at);
        ready.zip(ended).is_some_and(|(ready, ended)| ended.since(ready) >= PROVEN_AFTER)
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Instances {
    #[serde(deserialize_with = "crate::maps::map")]
    by_id: OrdMap<InstanceId, Arc<Instance>>,
    #[serde(deserialize_with = "crate::maps::map_of_sets")]
    live_by_function: OrdMap<FunctionName, OrdSet<InstanceId>>,
    #[serde(deserialize_with = "crate::maps::map_of_sets")]
    live_by_node: OrdMap<NodeId, OrdSet<InstanceId>>,
    /// Ended instances, those that ended first come first.
    #[serde(deserialize_with = "crate::maps::map")]
    finished: OrdMap<(Timestamp, Generation), InstanceId>,
    last_generation: Generation,
    decisions: Decisions,
}

impl Instances {
    pub fn get(&self, id: InstanceId) -> Option<&Arc<Instance>> {
        self.by_id.get(&id)
    }

    /// All that are known, live ones and the last that ended.
    pub fn iter(&self) -> impl Iterator<Item = (InstanceId, &Arc<Instance>)> {
        self.by_id.iter().map(|(id, instance)| (*id, instance))
    }

    /// The live instances of a function: placed, starting, ready or draining.
    pub fn of_function(&self, name: &str) -> impl Iterator<Item = (InstanceId, &Arc<Instance>)> {
        self.live_by_function.get(name).into_iter().flatten().map(|id| (*id, &self.by_id[id]))
    }

    /// The live instances on a node.
    pub fn on_node(&self, node: NodeId) -> impl Iterator<Item = (InstanceId, &Arc<Instance>)> {
        self.live_by_node.get(&node).into_iter().flatten().map(|id| (*id, &self.by_id[id]))
    }

    pub fn live(&self) -> impl Iterator<Item = (InstanceId, &Arc<Instance>)> {
        self.live_by_node.values().flatten().map(|id| (*id, &self.by_id[id]))
    }

    /// Functions with live instances.
    pub fn functions(&self) -> impl Iterator<Item = &FunctionName> {
        self.live_by_function.keys()
    }

    /// The last instances of a function that failed, the last first: as many as are still known.
    pub fn failed(&self, name: &FunctionName) -> impl Iterator<Item = &Arc<Instance>> {
        let ended = self.finished.values().rev().filter_map(|id| self.by_id.get(id));
        ended.filter(move |instance| instance.phase == Phase::Failed && instance.function == *name)
    }

    /// The generation of the newest placement.
    pub fn last_generation(&self) -> Generation {
        self.last_generation
    }

    pub fn decisions(&self) -> &Decisions {
        &self.decisions
    }

    pub(crate) fn place(&mut self, id: InstanceId, mut instance: Instance) -> Generation {
        self.last_generation = Generation(self.last_generation.0 + 1);
        instance.generation = self.last_generation;
        self.live_by_function.entry(instance.function.clone()).or_default().insert(id);
        self.live_by_node.entry(instance.node).or_default().insert(id);
        self.by_id.insert(id, Arc::new(instance));
        self.last_generation
    }

    /// Changes a live instance whose generation is the one the sender acted on.
    pub(crate) fn update<R>(
        &mut self,
        id: InstanceId,
        generation: Option<Generation>,
        change: impl FnOnce(&mut Instance) -> R,
    ) -> Result<R, Rejection> {
        let known = self.by_id.get(&id).ok_or_else(|| Rejection::missing(Kind::Instance, id))?;
        if let Some(generation) = generation.filter(|g| *g != known.generation) {
            return Err(Rejection::Stale(format!(
                "instance {id} has generation {}, not {generation}",
                known.generation
            )));
        }
        if known.phase.is_ended() {
            return Err(Rejection::Stale(format!("instance {id} has ended: {}", known.phase)));
        }
        let mut instance = Instance::clone(known);
        let answer = change(&mut instance);
        self.by_id.insert(id, Arc::new(instance));
        Ok(answer)
    }

    /// Ends a live instance and returns its final record.
    pub(crate) fn end(
        &mut self,
        id: InstanceId,
        generation: Option<Generation>,
        phase: Phase,
        reason: Option<String>,
        now: Timestamp,
    ) -> Result<Arc<Instance>, Rejection> {
        assert!(phase.is_ended(), "an instance ends as stopped, failed or lost, not as {phase}");
        self.update(id, generation, |instance| {
            instance.phase = phase;
            instance.ended_at = Some(now);
            if let Some(reason) = reason {
                instance.reason = Some(truncated(reason));
            }
        })?;
        let ended = Arc::clone(&self.by_id[&id]);
        unlist(&mut self.live_by_function, &ended.function, id);
        unlist(&mut self.live_by_node, &ended.node, id);
        self.finished.insert((now, ended.generation), id);
        if self.finished.len() > FINISHED_MAX
            && let Some((oldest, forgotten)) = self.finished.get_min().cloned()
        {
            self.finished.remove(&oldest);
            self.by_id.remove(&forgotten);
        }
        Ok(ended)
    }

    pub(crate) fn record(&mut self, decision: &Decision, now: Timestamp) {
        self.decisions.record(decision, now);
    }
}

fn unlist<K: Ord + Clone>(index: &mut OrdMap<K, OrdSet<InstanceId>>, key: &K, id: InstanceId) {
    let emptied = index.get_mut(key).is_some_and(|ids| {
        ids.remove(&id);
        ids.is_empty()
    });
    if emptied {
        index.remove(key);
    }
}

fn truncated(mut text: String) -> String {
    if let Some((end, _)) = text.char_indices().nth(REASON_MAX) {
        text.truncate(end);
    }
    text
}
