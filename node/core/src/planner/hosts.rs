//! Which nodes can be counted on, by their reports.

use std::collections::BTreeMap;

use super::{Limits, Memory};
use crate::ids::{Incarnation, InstanceId, NodeId};
use crate::instances::Instance;
use crate::nodes::{self, Condition, Node, Resources};
use crate::observation::{Heard, InstanceLoad, Observed};
use crate::state::{ClusterState, Command};
use crate::units::{Millis, Timestamp};

/// A node that has run for so long has not just been started together with all others.
const SETTLED_AFTER: Millis = Millis::from_secs(10);
/// The most that one plan adds to a node's silence. A leader that was paused has heard nothing
/// either; this gives the nodes the time to be heard again.
const STEP_MAX: Millis = Millis::from_secs(1);

#[derive(Clone, Debug)]
pub(super) struct NodeMemory {
    incarnation: Incarnation,
    silence: Millis,
    /// When this leader first heard it.
    heard_since: Option<Millis>,
}

/// The nodes as the rest of a plan sees them.
pub(super) struct Hosts<'a> {
    pub by_id: BTreeMap<NodeId, Host<'a>>,
    loads: BTreeMap<InstanceId, (NodeId, &'a InstanceLoad)>,
    /// Since when every live node has been heard; `None` if one is silent.
    informed_since: Option<Millis>,
}

pub(super) struct Host<'a> {
    /// With what this plan is about to change.
    pub condition: Condition,
    pub node: &'a Node,
    /// What is left after the placements of this plan.
    pub free: Resources,
    /// The last report, if it is fresh and from the incarnation that is registered.
    pub heard: Option<&'a Heard>,
}

impl<'a> Hosts<'a> {
    pub(super) fn condition(&self, node: NodeId) -> Condition {
        self.by_id.get(&node).map_or(Condition::Down, |host| host.condition)
    }

    /// The load of an instance, if its node is heard.
    pub(super) fn load(&self, id: InstanceId, instance: &Instance) -> Option<&'a InstanceLoad> {
        self.loads.get(&id).filter(|(node, _)| *node == instance.node).map(|(_, load)| *load)
    }

    pub(super) fn is_heard(&self, node: NodeId) -> bool {
        self.by_id.get(&node).is_some_and(|host| host.heard.is_some())
    }

    /// Whether every live node has been heard for `span`.
    pub(super) fn informed(&self, elapsed: Millis, span: Millis) -> bool {
        self.informed_since.is_some_and(|since| elapsed.0 - since.0 >= span.0)
    }
}

/// Looks at each node's silence; the commands take down those that are silent for too long and bring
/// back those that are heard again.
pub(super) fn judge<'a>(
    state: &'a ClusterState,
    observed: &'a Observed,
    memory: &mut Memory,
    now: Timestamp,
) -> (Hosts<'a>, Vec<Command>) {
    let settled = is_settled(state, observed, now);
    let step = Millis(observed.elapsed.0.saturating_sub(memory.last_plan.unwrap_or_default().0));
    let step = step.min(STEP_MAX);
    memory.nodes.retain(|id, _| state.nodes.get(*id).is_some());
    let mut hosts =
        Hosts { by_id: BTreeMap::new(), loads: BTreeMap::new(), informed_since: Some(Millis::ZERO) };
    let mut commands = Vec::new();
    for (id, node) in state.nodes.iter() {
        let heard = observed.nodes.get(&id).filter(|heard| heard.report.incarnation >= node.incarnation);
        let known = listen(memory, id, node.incarnation, observed.elapsed, step, heard.map(|h| h.age));
        let fresh = heard.is_some() && known.silence <= memory.limits.fresh_within;
        let reports = heard.filter(|h| fresh && h.report.incarnation == node.incarnation);
        let mut host = Host { condition: node.condition, node, free: node.free(), heard: reports };
        let patient = heard.is_none() && !(settled && has_run(node, now));
        if let Some(condition) = change(node, &known, patient, reports.is_some(), &memory.limits) {
            let reason = match condition {
                Condition::Down => format!("silent for {}", known.silence),
                Condition::Ready | Condition::Draining => "heard again".to_owned(),
            };
            let incarnation = node.incarnation;
            commands.push(Command::Nodes(nodes::Command::SetCondition {
                node: id,
                incarnation,
                condition,
                reason,
            }));
            if condition == Condition::Down {
                host.condition = condition;
            }
        }
        if host.condition != Condition::Down {
            let since = if fresh { known.heard_since } else { None };
            hosts.informed_since = hosts.informed_since.zip(since).map(|(all, this)| all.max(this));
        }
        let loads = reports.iter().flat_map(|h| &h.report.instances);
        hosts.loads.extend(loads.map(|load| (load.instance, (id, load))));
        hosts.by_id.insert(id, host);
    }
    (hosts, commands)
}

/// Brings the memory of a node up to date and returns it.
fn listen(
    memory: &mut Memory,
    id: NodeId,
    incarnation: Incarnation,
    elapsed: Millis,
    step: Millis,
    age: Option<Millis>,
) -> NodeMemory {
    let new = NodeMemory { incarnation, silence: Millis::ZERO, heard_since: None };
    let known = memory.nodes.entry(id).or_insert(new);
    if known.incarnation != incarnation {
        // It restarted, and to register it spoke. What it asked for before is still remembered.
        known.incarnation = incarnation;
        known.silence = Millis::ZERO;
    }
    known.silence += step;
    if let Some(age) = age {
        known.silence = known.silence.min(age);
        known.heard_since.get_or_insert(Millis(elapsed.0.saturating_sub(age.0)));
    }
    known.clone()
}

/// Whether somebody who is heard has run for so long that a node which is not heard is no node that
/// comes back after a restart of all: it was lost together with the last leader, or was that leader.
fn is_settled(state: &ClusterState, observed: &Observed, now: Timestamp) -> bool {
    state.nodes.iter().any(|(id, node)| {
        let heard = observed.nodes.get(&id);
        heard.is_some_and(|heard| heard.report.incarnation == node.incarnation) && has_run(node, now)
    })
}

fn has_run(node: &Node, now: Timestamp) -> bool {
    now.since(node.changed_at) >= SETTLED_AFTER
}

/// The condition a node should get, if another than it has. One that may be on its way back is given longer.
fn change(
    node: &Node,
    known: &NodeMemory,
    patient: bool,
    reports: bool,
    limits: &Limits,
) -> Option<Condition> {
    let limit = if patient { limits.returning_after } else { limits.down_after };
    match node.condition {
        Condition::Down => {
            reports.then_some(if node.drain_wanted { Condition::Draining } else { Condition::Ready })
        }
        Condition::Ready | Condition::Draining => (known.silence > limit).then_some(Condition::Down),
    }
}
