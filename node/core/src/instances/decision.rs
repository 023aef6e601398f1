//! What the leader decided, with its inputs and its reason, kept for users to read.

use imbl::OrdMap;
use serde::{Deserialize, Serialize};

use crate::ids::{ChangeId, FunctionName, InstanceId, NodeId};
use crate::units::Timestamp;

/// Decisions kept, cluster-wide.
pub const DECISIONS_MAX: usize = 512;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    /// Tells a repeated record from a new one.
    pub id: ChangeId,
    pub function: FunctionName,
    pub action: DecidedAction,
    pub inputs: Inputs,
    /// In words, for people.
    pub reason: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DecidedAction {
    Launch {
        instance: InstanceId,
        node: NodeId,
    },
    Drain {
        instance: InstanceId,
    },
    /// Wanted, but not possible now: no room, or backing off after failures.
    Hold,
}

/// What the autoscaler saw.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inputs {
    pub ready: u32,
    pub launching: u32,
    pub draining: u32,
    pub waiting: u32,
    pub in_flight: u32,
    pub utilization_permille: u32,
    pub desired: u32,
}

/// The last decisions, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decisions {
    #[serde(deserialize_with = "crate::maps::map")]
    kept: OrdMap<u64, (Timestamp, Decision)>,
    next: u64,
}

impl Decisions {
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (Timestamp, &Decision)> {
        self.kept.values().map(|(at, decision)| (*at, decision))
    }

    pub(crate) fn record(&mut self, decision: &Decision, now: Timestamp) {
        if self.kept.values().any(|(_, known)| known.id == decision.id) {
            return;
        }
        self.kept.insert(self.next, (now, decision.clone()));
        self.next += 1;
        if self.kept.len() > DECISIONS_MAX {
            self.kept.remove(&(self.next - 1 - DECISIONS_MAX as u64));
        }
    }
}
