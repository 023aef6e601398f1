//! The leader's part in rolling up: when the marks move, and which slices are due. Soft state: a new
//! leader begins with a new one and finds what is left to do in the replicated state.

use std::collections::BTreeSet;
use std::ops::Bound;

use imbl::OrdMap;

use super::read::Last;
use super::{Command, SLICES_MAX, Slice};
use crate::ids::{AccountName, FunctionName};
use crate::state::ClusterState;
use crate::units::{Day, Hour, Month, Timestamp};

/// Pairs of account and function looked at for one command: the plan it is part of must not take long.
const STEPS_MAX: usize = 512;

/// How long the ledger keeps what it knows more closely than by month.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Whole days, besides the present one, of which hours are kept.
    pub hours_for_days: u32,
    /// Whole months, besides the present one, of which days are kept.
    pub days_for_months: u32,
}

impl Default for Retention {
    /// A month's bill can be looked into by the hour until the next one is due, and each month compared
    /// with the same one a year ago by the day.
    fn default() -> Self {
        Retention { hours_for_days: 35, days_for_months: 13 }
    }
}

impl Retention {
    fn marks(self, now: Timestamp) -> (Day, Month) {
        let today = now.hour().day();
        let hours_from = Day(today.0.saturating_sub(self.hours_for_days));
        let days_from = Month(today.month().0.saturating_sub(self.days_for_months));
        (hours_from, days_from.min(hours_from.month()))
    }
}

/// Where a pass over the ledger has come to.
#[derive(Clone, Debug, Default)]
pub struct Sweep {
    map: Map,
    /// The account and function looked at last.
    after: Option<(AccountName, FunctionName)>,
    found: bool,
    /// The marks below which a whole pass has found nothing.
    clean: Option<(Day, Month)>,
}

#[derive(Clone, Copy, Debug, Default)]
enum Map {
    #[default]
    Usage,
    InstanceTime,
    Days,
}

impl Sweep {
    /// What to do next, if anything. To be asked again once that is applied.
    pub fn next(&mut self, state: &ClusterState, retention: Retention, now: Timestamp) -> Option<Command> {
        let (hours_from, days_from) = retention.marks(now);
        let rollups = &state.rollups;
        if hours_from > rollups.hours_from() || days_from > rollups.days_from() {
            *self = Sweep::default();
            return Some(Command::Keep { hours_from, days_from });
        }
        let marks = (rollups.hours_from(), rollups.days_from());
        if self.clean == Some(marks) {
            return None;
        }
        let (days, months) = self.collect(state, marks);
        (!days.is_empty() || !months.is_empty()).then(|| Command::RollUp {
            days: days.into_iter().collect(),
            months: months.into_iter().collect(),
        })
    }

    /// The slices that are due, as far as some steps and one command reach.
    fn collect(
        &mut self,
        state: &ClusterState,
        marks: (Day, Month),
    ) -> (BTreeSet<Slice<Day>>, BTreeSet<Slice<Month>>) {
        let (mut days, mut months) = (BTreeSet::new(), BTreeSet::new());
        let mut steps = STEPS_MAX;
        let (first_hour, first_day) = (marks.0.first_hour(), marks.1.first_day());
        while steps > 0 && days.len() + months.len() < SLICES_MAX {
            let room = SLICES_MAX - days.len() - months.len();
            let after = &mut self.after;
            let ended = match self.map {
                Map::Usage => {
                    due(state.ledger.usage(), after, first_hour, &mut steps, room, Hour::day, &mut days)
                }
                Map::InstanceTime => due(
                    state.ledger.instance_time(),
                    after,
                    first_hour,
                    &mut steps,
                    room,
                    Hour::day,
                    &mut days,
                ),
                Map::Days => {
                    due(state.rollups.days(), after, first_day, &mut steps, room, Day::month, &mut months)
                }
            };
            if !ended {
                continue;
            }
            self.after = None;
            self.map = match self.map {
                Map::Usage => Map::InstanceTime,
                Map::InstanceTime => Map::Days,
                Map::Days => {
                    // What was found may be refused, or never committed: only a pass without any says
                    // that nothing is left.
                    let found = std::mem::take(&mut self.found) || !days.is_empty() || !months.is_empty();
                    self.clean = (!found).then_some(marks);
                    self.map = Map::Usage;
                    return (days, months);
                }
            };
        }
        self.found |= !days.is_empty() || !months.is_empty();
        (days, months)
    }
}

/// Adds the slices of rows before `first`, from the pair after `after` on, until the steps or the room
/// are used up; true once the map has ended. Per pair one look, and one for each row that is due.
fn due<P: Last, V, Q: Copy + Ord>(
    map: &OrdMap<Slice<P>, V>,
    after: &mut Option<(AccountName, FunctionName)>,
    first: P,
    steps: &mut usize,
    room: usize,
    whole: impl Fn(P) -> Q,
    slices: &mut BTreeSet<Slice<Q>>,
) -> bool {
    let limit = slices.len() + room;
    while *steps > 0 {
        *steps -= 1;
        let from = match &*after {
            None => Bound::Unbounded,
            Some((account, function)) => Bound::Excluded((account.clone(), function.clone(), P::LAST)),
        };
        let mut rows = map.range((from, Bound::Unbounded));
        let Some(((account, function, period), _)) = rows.next() else { return true };
        let pair = (account.clone(), function.clone());
        if *period < first {
            let end = (pair.0.clone(), pair.1.clone(), first);
            let start = (pair.0.clone(), pair.1.clone(), *period);
            for ((_, _, period), _) in map.range(start..end) {
                slices.insert((pair.0.clone(), pair.1.clone(), whole(*period)));
                if slices.len() >= limit {
                    // The pair may have more: the next look begins with it again.
                    return false;
                }
            }
        }
        *after = Some(pair);
    }
    false
}
