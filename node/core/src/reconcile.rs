//! What an agent has to do so that the containers on its host match the replicated assignment.
//!
//! Level-triggered: it looks at what should be and at what is, never at how it came about. Run it
//! again after each state that is published and each change on the host; crash recovery is the
//! ordinary path. Containers are fenced by the generation in their label.

use std::collections::{BTreeMap, BTreeSet};

use crate::ids::{Generation, InstanceId, NodeId};
use crate::instances::{Instance, Phase};
use crate::mutant;
use crate::state::ClusterState;

/// A container (or process) of this cluster that is on this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    pub instance: InstanceId,
    /// The generation it was launched for, from its label.
    pub generation: Generation,
    pub phase: FoundPhase,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FoundPhase {
    /// Created, its program not begun.
    Starting,
    Running,
    /// Ended by itself, with how in words, such as "exited with code 1".
    Exited(String),
}

/// One thing for the agent to do. Each is harmless to repeat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AgentAction {
    /// Stop a container that should not run: unknown, ended, another node's or of another generation.
    Stop { instance: InstanceId },
    /// Remove what is left of one that ended: its container and whatever the agent keeps of it.
    Forget { instance: InstanceId },
    /// It ended while it was wanted: propose `MarkFailed`.
    ReportFailed { instance: InstanceId, generation: Generation, reason: String },
    /// It ended as it was asked to: propose `MarkStopped`.
    ReportStopped { instance: InstanceId, generation: Generation },
    /// Take no new requests, let those in flight finish, then stop it.
    Drain { instance: InstanceId },
    /// It runs, but this process does not serve it yet: find its address, probe it and serve it.
    Adopt { instance: InstanceId },
    /// Propose `MarkStarting`, start a container, probe it and serve it.
    Launch { instance: InstanceId },
}

/// The actions due on `node`: first those that free room, then reports, launches last; each group by
/// instance id. At most one per instance.
///
/// * `found`: what the engine lists now, one entry per instance.
/// * `served`: instances whose container this very process has taken charge of (it probes them or
///   routes requests to them). Empty when the process starts. An instance leaves it with `Forget`.
/// * `busy`: instances with an action under way; they are left alone.
pub fn reconcile(
    state: &ClusterState,
    node: NodeId,
    found: &[Found],
    served: &BTreeSet<InstanceId>,
    busy: &BTreeSet<InstanceId>,
) -> Vec<AgentAction> {
    let found: BTreeMap<InstanceId, &Found> = found.iter().map(|f| (f.instance, f)).collect();
    let assigned: BTreeMap<InstanceId, &Instance> =
        state.instances.on_node(node).map(|(id, instance)| (id, instance.as_ref())).collect();
    let known: BTreeSet<InstanceId> = found.keys().chain(assigned.keys()).chain(served).copied().collect();
    let mut actions: Vec<AgentAction> = known
        .difference(busy)
        .filter_map(|id| match (assigned.get(id), found.get(id)) {
            (Some(instance), found) => assigned_action(*id, instance, found.copied(), served.contains(id)),
            // Placed later than this replica has got to: not an orphan but news.
            (None, Some(found)) if found.generation > state.instances.last_generation() => None,
            (None, Some(_)) if mutant!("orphans-stay") => None,
            (None, Some(found)) => Some(match found.phase {
                FoundPhase::Exited(_) => AgentAction::Forget { instance: *id },
                FoundPhase::Starting | FoundPhase::Running => AgentAction::Stop { instance: *id },
            }),
            (None, None) => Some(AgentAction::Forget { instance: *id }),
        })
        .collect();
    actions.sort_by_key(order);
    actions
}

/// For an instance that the state assigns to this node.
fn assigned_action(
    id: InstanceId,
    instance: &Instance,
    found: Option<&Found>,
    served: bool,
) -> Option<AgentAction> {
    let generation = instance.generation;
    if let Some(found) = found.filter(|f| f.generation != generation && !mutant!("launch-not-fenced")) {
        // Of two launches under one id only the assigned one may run. First the other must go.
        return (found.generation < generation).then_some(match found.phase {
            FoundPhase::Exited(_) => AgentAction::Forget { instance: id },
            FoundPhase::Starting | FoundPhase::Running => AgentAction::Stop { instance: id },
        });
    }
    let failed = |reason: String| Some(AgentAction::ReportFailed { instance: id, generation, reason });
    let phase = found.map(|f| &f.phase);
    match (instance.phase, phase) {
        // A crash between the mark and the container leaves `Starting` with nothing: launch again.
        (Phase::Placed | Phase::Starting, None) => Some(AgentAction::Launch { instance: id }),
        (Phase::Ready, None) => failed("its container is gone".into()),
        (Phase::Placed | Phase::Starting | Phase::Ready, Some(FoundPhase::Exited(reason))) => {
            failed(reason.clone())
        }
        (
            Phase::Placed | Phase::Starting | Phase::Ready,
            Some(FoundPhase::Starting | FoundPhase::Running),
        ) => (!served).then_some(AgentAction::Adopt { instance: id }),
        (Phase::Draining, None | Some(FoundPhase::Exited(_))) => {
            Some(AgentAction::ReportStopped { instance: id, generation })
        }
        (Phase::Draining, Some(FoundPhase::Starting | FoundPhase::Running)) => {
            Some(AgentAction::Drain { instance: id })
        }
        (Phase::Stopped | Phase::Failed | Phase::Lost, _) => {
            unreachable!("only live instances are assigned")
        }
    }
}

fn order(action: &AgentAction) -> u8 {
    match action {
        AgentAction::Stop { .. } => 0,
        AgentAction::Forget { .. } => 1,
        AgentAction::ReportFailed { .. } | AgentAction::ReportStopped { .. } => 2,
        AgentAction::Drain { .. } => 3,
        AgentAction::Adopt { .. } => 4,
        AgentAction::Launch { .. } => 5,
    }
}

#[cfg(test)]
#[path = "reconcile_tests.rs"]
mod tests;
