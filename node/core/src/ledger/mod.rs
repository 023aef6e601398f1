//! What was used and by whom: hourly rows per account and function, and the time instances ran.

mod usage;

use imbl::OrdMap;
use serde::{Deserialize, Serialize};

pub use usage::*;

use crate::billing::Charge;
use crate::ids::{AccountName, FunctionName, Generation, Incarnation, InstanceId, NodeId};
use crate::units::{Hour, Timestamp};

/// Closed intervals kept one by one; the hourly rows keep their sum for ever.
pub const INTERVALS_MAX: usize = 1_024;
/// Rows in one usage batch: a batch must fit a log record of 64 KiB.
pub const ROWS_PER_BATCH_MAX: usize = 128;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// One numbered batch from one node. Applied once: batches of a node arrive in order, and
    /// those of an older incarnation before those of a newer one.
    RecordUsage { node: NodeId, incarnation: Incarnation, batch: u64, rows: Vec<UsageRow> },
}

/// Invocations of one function by one account on one instance in one hour.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsageRow {
    pub account: AccountName,
    pub function: FunctionName,
    pub instance: InstanceId,
    pub hour: Hour,
    pub usage: Usage,
}

/// The life of one instance, as it is charged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interval {
    pub instance: InstanceId,
    pub function: FunctionName,
    pub node: NodeId,
    pub memory_mb: u64,
    pub launched_at: Timestamp,
    pub ready_at: Option<Timestamp>,
    pub ended_at: Timestamp,
}

/// A row's key: account, function, hour.
pub type RowKey = (AccountName, FunctionName, Hour);

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ledger {
    usage: OrdMap<RowKey, Usage>,
    /// Closed instance time, under the account that pays for it.
    instance_time: OrdMap<RowKey, InstanceTime>,
    /// Those that ended first come first.
    intervals: OrdMap<(Timestamp, Generation), Interval>,
    /// The last batch applied from each node.
    marks: OrdMap<NodeId, (Incarnation, u64)>,
}

impl Ledger {
    pub fn usage(&self) -> &OrdMap<RowKey, Usage> {
        &self.usage
    }

    pub fn instance_time(&self) -> &OrdMap<RowKey, InstanceTime> {
        &self.instance_time
    }

    /// The last instances that ended, oldest first.
    pub fn intervals(&self) -> impl DoubleEndedIterator<Item = &Interval> {
        self.intervals.values()
    }

    pub fn mark(&self, node: NodeId) -> Option<(Incarnation, u64)> {
        self.marks.get(&node).copied()
    }

    /// Whether this batch is new; if so it counts as applied from now on.
    pub(crate) fn advance(&mut self, node: NodeId, incarnation: Incarnation, batch: u64) -> bool {
        let new = self.marks.get(&node).is_none_or(|mark| (incarnation, batch) > *mark);
        if new {
            self.marks.insert(node, (incarnation, batch));
        }
        new
    }

    pub(crate) fn add_usage(&mut self, row: &UsageRow) {
        let key = (row.account.clone(), row.function.clone(), row.hour);
        self.usage.entry(key).or_default().add(&row.usage);
    }

    pub(crate) fn add_charge(&mut self, function: &FunctionName, charge: Charge) {
        let key = (charge.account, function.clone(), charge.hour);
        self.instance_time.entry(key).or_default().add(&charge.time);
    }

    pub(crate) fn close(&mut self, generation: Generation, interval: Interval) {
        self.intervals.insert((interval.ended_at, generation), interval);
        if self.intervals.len() > INTERVALS_MAX
            && let Some(oldest) = self.intervals.get_min().map(|(key, _)| *key)
        {
            self.intervals.remove(&oldest);
        }
    }
}
