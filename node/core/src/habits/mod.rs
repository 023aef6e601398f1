//! When each function tends to be asked for: replicated histograms of the times that nothing was
//! asked of it, and what follows from them for keeping and pre-warming an instance.
//!
//! The leader notices idle times as they end and commits them now and then; a new leader goes on from
//! there. Only functions whose keep-alive is adaptive have one. The idea of the histogram is from
//! Shahrad et al., "Serverless in the Wild", ATC'20; how it is used is our own: see [`Forecast`].

mod forecast;
mod histogram;

use imbl::OrdMap;
use serde::{Deserialize, Serialize};

pub use forecast::*;
pub use histogram::*;

use crate::ids::FunctionName;
use crate::units::Timestamp;

/// Functions in one [`Command::Observe`]: a plan adds one such command to the log, of some kilobytes at most.
pub const ROWS_MAX: usize = 64;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// What the leader noticed. A row that tells nothing new is passed over, so repeating it is harmless.
    Observe { rows: Vec<Row> },
}

/// What was noticed of one function since its last row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    pub function: FunctionName,
    /// When something was last asked of it. Grows from row to row.
    pub asked_until: Timestamp,
    /// The idle times that ended since.
    pub idle: Vec<Bucket>,
    /// What came of judging them.
    pub costs: Costs,
}

/// What the two rules of [`Forecast`] would have cost lately, in milliseconds. The leader judges, so that
/// replicas of different versions agree.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Costs {
    pub plain: u64,
    pub pattern: u64,
}

/// The habits of one function.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Habit {
    /// When something was last asked of it, as far as it was committed: within some seconds.
    pub asked_until: Timestamp,
    pub idle: Histogram,
    pub costs: Costs,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Habits(#[serde(deserialize_with = "crate::maps::map")] OrdMap<FunctionName, Habit>);

impl Habits {
    pub fn get(&self, function: &str) -> Option<&Habit> {
        self.0.get(function)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&FunctionName, &Habit)> {
        self.0.iter()
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn observe(&mut self, row: &Row) {
        let habit = self.0.entry(row.function.clone()).or_default();
        if row.asked_until > habit.asked_until {
            habit.asked_until = row.asked_until;
            habit.costs = row.costs;
            for bucket in row.idle.iter().take(IDLE_TIMES_MAX) {
                habit.idle.add(*bucket);
            }
        }
    }

    pub(crate) fn forget(&mut self, function: &FunctionName) {
        self.0.remove(function);
    }
}
