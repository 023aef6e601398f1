//! What was used and by whom: rows per account and function, and the time instances ran. Rows are
//! hourly at first; [`Rollups`] has what they became, by day and then by month, for ever.

mod read;
mod rollup;
mod sweep;
mod usage;

use imbl::OrdMap;
use serde::{Deserialize, Serialize};

pub use read::{Cut, Grain, Known, Selection};
pub use rollup::{Rollups, SLICES_MAX};
pub use sweep::{Retention, Sweep};
pub use usage::*;

use crate::billing::Charge;
use crate::ids::{AccountName, FunctionName, Generation, Incarnation, InstanceId, NodeId};
use crate::units::{Day, Hour, Month, Timestamp};

/// Closed intervals kept one by one; the rows keep their sum for ever.
pub const INTERVALS_MAX: usize = 1_024;
/// Rows in one usage batch: a batch must fit a log record of 64 KiB.
pub const ROWS_PER_BATCH_MAX: usize = 128;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// One numbered batch from one node. Applied once: batches of a node arrive in order, and
    /// those of an older incarnation before those of a newer one.
    RecordUsage { node: NodeId, incarnation: Incarnation, batch: u64, rows: Vec<UsageRow> },
    /// From now on the ledger knows no hours before `hours_from`, and no days before `days_from`. What it
    /// has of them is still to be rolled up. Never goes back.
    Keep { hours_from: Day, days_from: Month },
    /// Adds up these days' hours, and these months' days, of one account and function each. At most
    /// [`SLICES_MAX`] of them; those that are still kept are left alone.
    RollUp { days: Vec<Slice<Day>>, months: Vec<Slice<Month>> },
}

/// One account's use of one function in one period.
pub type Slice<P> = (AccountName, FunctionName, P);

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
pub type RowKey = Slice<Hour>;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ledger {
    #[serde(deserialize_with = "crate::maps::map")]
    usage: OrdMap<RowKey, Usage>,
    /// Closed instance time, under the account that pays for it.
    #[serde(deserialize_with = "crate::maps::map")]
    instance_time: OrdMap<RowKey, InstanceTime>,
    /// Those that ended first come first.
    #[serde(deserialize_with = "crate::maps::map")]
    intervals: OrdMap<(Timestamp, Generation), Interval>,
    /// The last batch applied from each node.
    #[serde(deserialize_with = "crate::maps::map")]
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

    /// Forgets how far the other nodes had come.
    pub(crate) fn keep_mark_of(&mut self, node: NodeId) {
        self.marks = self.marks.get(&node).map(|mark| OrdMap::unit(node, *mark)).unwrap_or_default();
    }

    /// Adds a row to its hour, or to what that has become.
    pub(crate) fn add_usage(&mut self, rollups: &mut Rollups, row: &UsageRow) {
        let key = (row.account.clone(), row.function.clone(), row.hour);
        match rollups.known(row.hour) {
            Known::Hour(_) => self.usage.entry(key).or_default().add(&row.usage),
            rolled_up => rollups.add(key.0, key.1, rolled_up, &Sums { usage: row.usage, ..Sums::default() }),
        }
    }

    /// As [`Ledger::add_usage`]: an instance that ran for long is charged for hours long past.
    pub(crate) fn add_charge(&mut self, rollups: &mut Rollups, function: &FunctionName, charge: Charge) {
        let Charge { account, hour, time } = charge;
        match rollups.known(hour) {
            Known::Hour(_) => {
                self.instance_time.entry((account, function.clone(), hour)).or_default().add(&time);
            }
            rolled_up => {
                rollups.add(account, function.clone(), rolled_up, &Sums { time, ..Sums::default() });
            }
        }
    }

    /// Takes the hours of one slice out: what they come to.
    fn take_day(&mut self, slice: &Slice<Day>) -> Sums {
        let (account, function, day) = slice;
        let mut sums = Sums::default();
        for hour in day.first_hour().0..day.next().first_hour().0 {
            let key = (account.clone(), function.clone(), Hour(hour));
            if let Some(usage) = self.usage.remove(&key) {
                sums.usage.add(&usage);
            }
            if let Some(time) = self.instance_time.remove(&key) {
                sums.time.add(&time);
            }
        }
        sums
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
