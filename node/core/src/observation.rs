//! What the leader hears from the hosts: soft state, a few times a second, never replicated.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::ids::{AccountName, FunctionName, Incarnation, InstanceId, NodeId};
use crate::units::Millis;

/// One node's report. Sent every 250 ms, and at once when a queue forms.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeReport {
    pub node: NodeId,
    pub incarnation: Incarnation,
    /// The instances it hosts.
    pub instances: Vec<InstanceLoad>,
    /// The requests that wait at this entry node, one row per function that has any.
    pub queues: Vec<QueueLoad>,
    /// Container images it need not pull.
    pub images: BTreeSet<String>,
}

/// One instance's counters. They are cumulative, so a lost report loses nothing; they start from
/// zero when the instance becomes ready and when its host restarts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceLoad {
    pub instance: InstanceId,
    /// Requests it is serving now.
    pub in_flight: u32,
    /// Slot time so far: a request in flight counts as it runs, not when it ends.
    pub busy_ms: u64,
    /// Time since it became ready.
    pub ready_ms: u64,
    /// Requests it has finished.
    pub completed: u64,
}

/// The requests for one function that wait at one entry node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueLoad {
    pub function: FunctionName,
    pub waiting: u32,
    /// How long the first of them has waited.
    pub oldest_ms: u64,
    /// Whose they are: the accounts with the most, at most
    /// [`CAUSE_ACCOUNTS_MAX`](crate::instances::CAUSE_ACCOUNTS_MAX) of them.
    pub accounts: Vec<(AccountName, u32)>,
}

/// Everything heard since this leader began.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// Time since this node became the leader, by its monotonic clock.
    pub elapsed: Millis,
    /// The last report of each node that sent one since then. A node that is not here was never heard.
    pub nodes: BTreeMap<NodeId, Heard>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heard {
    /// Time since the report arrived, by the leader's monotonic clock.
    pub age: Millis,
    pub report: NodeReport,
}
