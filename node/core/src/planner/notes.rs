//! What the leader notices of functions' habits, on its way into the replicated state: at most
//! [`ROWS_MAX`] functions a second, and each function at most once in [`SAVE_EVERY`].

use std::collections::BTreeMap;

use super::Memory;
use crate::functions::KeepAlive;
use crate::habits::{self, Bucket, Forecast, Habit, IDLE_TIMES_MAX, Outlook, ROWS_MAX, Row};
use crate::ids::FunctionName;
use crate::state::{ClusterState, Command};
use crate::units::{Millis, Timestamp};

/// A function's row is written at most this often; a change of leader loses no more than that.
const SAVE_EVERY: Millis = Millis::from_secs(10);
/// The end of a use is worth a row once nothing was asked for so long: more of it would need another.
const QUIET: Millis = Millis::from_secs(1);
/// A new leader knows the last use only as far as it was written down. An idle time that begins
/// there is real only if it is longer than what may be missing.
const DOUBTFUL: Millis = Millis::from_secs(20);
/// The least time between two commands, and between two looks for functions that are expected.
const LOOK_EVERY: Millis = Millis::from_secs(1);

/// The uses of one function that are not written down yet.
#[derive(Clone, Debug, Default)]
pub(super) struct Notes {
    /// When something was last asked of it.
    asked_until: Option<Timestamp>,
    /// When idle times ended, and how long they were.
    ended: Vec<(Timestamp, Bucket)>,
    /// The first use that is not in any row.
    dirty_since: Option<Timestamp>,
    saved_at: Option<Timestamp>,
}

impl Notes {
    /// Something was asked of it between those moments.
    pub(super) fn asked(&mut self, from: Timestamp, until: Timestamp, habit: Option<&Habit>) {
        let written = habit.map(|habit| habit.asked_until);
        if let Some(before) = self.asked_until.or(written) {
            let idle = from.since(before);
            let certain = self.asked_until.is_some() || idle >= DOUBTFUL;
            if let Some(bucket) = Bucket::of(idle).filter(|_| certain && self.ended.len() < IDLE_TIMES_MAX) {
                self.ended.push((until, bucket));
            }
        }
        self.asked_until = self.asked_until.max(Some(until));
        self.dirty_since.get_or_insert(until);
    }

    /// How long nothing was asked of it, if that is known.
    pub(super) fn idle_for(&self, habit: Option<&Habit>, now: Timestamp) -> Option<Millis> {
        let written = habit.map(|habit| habit.asked_until);
        self.asked_until.max(written).map(|last| now.since(last))
    }

    /// What is written down needs no second row, however it came there.
    fn settle(&mut self, habit: Option<&Habit>) {
        let written = habit.map_or(Timestamp(0), |habit| habit.asked_until);
        self.ended.retain(|(at, _)| *at > written);
    }

    fn is_due(&self, habit: Option<&Habit>, now: Timestamp) -> bool {
        let written = habit.map_or(Timestamp(0), |habit| habit.asked_until);
        let Some(asked_until) = self.asked_until.filter(|at| *at > written) else { return false };
        let passed = |since: Option<Timestamp>| since.is_none_or(|at| now.since(at) >= SAVE_EVERY);
        passed(self.saved_at) && (now.since(asked_until) >= QUIET || passed(self.dirty_since))
    }

    fn row(&mut self, function: FunctionName, habit: Option<&Habit>, now: Timestamp) -> Option<Row> {
        self.saved_at = Some(now);
        self.dirty_since = None;
        let idle: Vec<Bucket> = self.ended.iter().map(|(_, bucket)| *bucket).collect();
        let costs = habit.map(|habit| habit.costs_after(&idle)).unwrap_or_default();
        Some(Row { function, asked_until: self.asked_until?, idle, costs })
    }
}

/// The command that writes down what is due, if anything is: who has waited longest comes first.
pub(super) fn save(
    state: &ClusterState,
    memory: &mut Memory,
    elapsed: Millis,
    now: Timestamp,
) -> Option<Command> {
    if memory.saved_at.is_some_and(|at| elapsed.0 - at.0 < LOOK_EVERY.0) {
        return None;
    }
    let mut due = Vec::new();
    for (name, known) in &mut memory.functions {
        let habit = state.habits.get(name.as_str());
        known.notes.settle(habit);
        if known.notes.is_due(habit, now) {
            due.push((known.notes.saved_at, name.clone()));
        }
    }
    if due.is_empty() {
        return None;
    }
    memory.saved_at = Some(elapsed);
    due.sort();
    due.truncate(ROWS_MAX);
    let row = |(_, name): (_, FunctionName)| {
        let habit = state.habits.get(name.as_str());
        memory.functions.get_mut(&name)?.notes.row(name, habit, now)
    };
    let rows = due.into_iter().filter_map(row).collect();
    Some(Command::Habits(habits::Command::Observe { rows }))
}

/// Forecasts by function, each made anew when its habit has changed.
#[derive(Clone, Debug, Default)]
pub(super) struct Forecasts {
    known: BTreeMap<FunctionName, (Timestamp, Option<Forecast>)>,
    looked_at: Option<Millis>,
}

impl Forecasts {
    pub(super) fn outlook(
        &mut self,
        name: &FunctionName,
        habit: Option<&Habit>,
        idle_for: Millis,
    ) -> Outlook {
        let Some(habit) = habit else { return Outlook::Unknown };
        let fresh = || (habit.asked_until, Forecast::of(habit));
        if self.known.get(name).is_none_or(|(of, _)| *of != habit.asked_until) {
            self.known.insert(name.clone(), fresh());
        }
        let forecast = self.known.get(name).and_then(|(_, forecast)| forecast.as_ref());
        forecast.map_or(Outlook::Unknown, |forecast| forecast.outlook(idle_for))
    }

    /// The functions that are about to be asked for, whether they have instances or not.
    pub(super) fn expected<'s>(
        &mut self,
        state: &'s ClusterState,
        elapsed: Millis,
        now: Timestamp,
    ) -> Vec<&'s FunctionName> {
        if self.looked_at.is_some_and(|at| elapsed.0 - at.0 < LOOK_EVERY.0) {
            return Vec::new();
        }
        self.looked_at = Some(elapsed);
        self.known.retain(|name, _| state.habits.get(name.as_str()).is_some());
        let expected = state.habits.iter().filter(|(name, habit)| {
            self.outlook(name, Some(habit), now.since(habit.asked_until)) == Outlook::Expected
        });
        expected.map(|(name, _)| name).filter(|name| is_adaptive(state, name)).collect()
    }
}

pub(super) fn is_adaptive(state: &ClusterState, name: &FunctionName) -> bool {
    let function = state.functions.get(name.as_str());
    function.is_some_and(|f| f.current().spec.scaling.keep_alive == KeepAlive::Adaptive)
}
