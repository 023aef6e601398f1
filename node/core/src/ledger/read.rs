//! Reading what was used: by account, function and time, touching little but the answer.

use std::ops::Bound;

use imbl::OrdMap;

use super::{Rollups, Slice, Sums};
use crate::billing;
use crate::ids::{AccountName, FunctionName};
use crate::state::ClusterState;
use crate::units::{Day, Hour, Month, Timestamp};

/// How closely usage is told apart in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Grain {
    Hour,
    Day,
    Month,
    Total,
}

/// The period that some usage is known by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Known {
    // Older usage is known by longer periods, so the order is that of time.
    Month(Month),
    Day(Day),
    Hour(Hour),
}

impl Known {
    pub fn grain(self) -> Grain {
        match self {
            Known::Hour(_) => Grain::Hour,
            Known::Day(_) => Grain::Day,
            Known::Month(_) => Grain::Month,
        }
    }

    pub fn start(self) -> Timestamp {
        match self {
            Known::Hour(hour) => hour.start(),
            Known::Day(day) => day.start(),
            Known::Month(month) => month.start(),
        }
    }

    /// The period of at least this grain that it lies in; `None` for the total.
    #[must_use]
    pub fn coarsened(self, grain: Grain) -> Option<Known> {
        Some(match (grain, self) {
            (Grain::Total, _) => return None,
            (Grain::Day, Known::Hour(hour)) => Known::Day(hour.day()),
            (Grain::Month, Known::Hour(hour)) => Known::Month(hour.day().month()),
            (Grain::Month, Known::Day(day)) => Known::Month(day.month()),
            (_, known) => known,
        })
    }
}

/// Which usage to read: whose, of what, and of periods that begin in `from..to`.
#[derive(Clone, Debug)]
pub struct Selection {
    pub account: Option<AccountName>,
    pub function: Option<FunctionName>,
    pub from: Timestamp,
    pub to: Timestamp,
}

/// A bound of a selection that lies within a period of which no more is known than its sum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    /// Whether it is `from`, rather than `to`.
    pub at_start: bool,
    pub grain: Grain,
    /// From when on usage is known more closely.
    pub known_from: Timestamp,
}

impl Selection {
    /// A bound that cuts through a day or a month that is known as a whole only: what was used on
    /// either side of it nobody knows any more.
    pub fn cut(&self, rollups: &Rollups) -> Option<Cut> {
        let cut = |at: Timestamp, at_start| {
            let grain = rollups.grain_at(at);
            let (begins, known_from) = match grain {
                Grain::Day => (Day::not_before(at).start() == at, rollups.hours_from().start()),
                Grain::Month => (Month::not_before(at).start() == at, rollups.days_from().start()),
                Grain::Hour | Grain::Total => return None,
            };
            (!begins).then_some(Cut { at_start, grain, known_from })
        };
        cut(self.from, true).or_else(|| cut(self.to, false))
    }

    /// Gives `visit` all that is selected: sums with the period they are known by. Of one account,
    /// function and period there may be several. It ends where `visit` breaks off.
    ///
    /// # Errors
    /// What `visit` breaks off with.
    pub fn read<E>(
        &self,
        state: &ClusterState,
        mut visit: impl FnMut(&AccountName, &FunctionName, Known, &Sums) -> Result<(), E>,
    ) -> Result<(), E> {
        let (ledger, rollups) = (&state.ledger, &state.rollups);
        let hours = (Hour::not_before(self.from), Hour::not_before(self.to));
        self.rows(ledger.usage(), hours, |account, function, hour, usage| {
            let sums = Sums { usage: *usage, ..Sums::default() };
            visit(account, function, rollups.known(hour), &sums)
        })?;
        self.rows(ledger.instance_time(), hours, |account, function, hour, time| {
            let sums = Sums { time: *time, ..Sums::default() };
            visit(account, function, rollups.known(hour), &sums)
        })?;
        let days = (Day::not_before(self.from), Day::not_before(self.to));
        self.rows(rollups.days(), days, |account, function, day, sums| {
            visit(account, function, rollups.known_day(day), sums)
        })?;
        let months = (Month::not_before(self.from), Month::not_before(self.to));
        self.rows(rollups.months(), months, |account, function, month, sums| {
            visit(account, function, Known::Month(month), sums)
        })?;
        for (_, instance) in state.instances.live() {
            if self.function.as_ref().is_some_and(|function| *function != instance.function) {
                continue;
            }
            for charge in billing::charges(instance, state.clock) {
                let selected = self.account.as_ref().is_none_or(|account| *account == charge.account)
                    && (hours.0..hours.1).contains(&charge.hour);
                if selected {
                    let sums = Sums { time: charge.time, ..Sums::default() };
                    visit(&charge.account, &instance.function, rollups.known(charge.hour), &sums)?;
                }
            }
        }
        Ok(())
    }

    /// The rows of one map that are selected. Between two pairs of account and function it leaps, so
    /// that rows of other times and others' rows cost nothing.
    fn rows<P: Last, V, E>(
        &self,
        map: &OrdMap<Slice<P>, V>,
        (from, to): (P, P),
        mut visit: impl FnMut(&AccountName, &FunctionName, P, &V) -> Result<(), E>,
    ) -> Result<(), E> {
        if from >= to {
            return Ok(());
        }
        let first_function = || self.function.clone().unwrap_or_else(FunctionName::before_all);
        let first_account = self.account.clone().unwrap_or_else(AccountName::before_all);
        let mut next = Bound::Included((first_account, first_function(), from));
        loop {
            let found = map.range((next, Bound::Unbounded)).next();
            let Some(((account, function, _), _)) = found else { return Ok(()) };
            if self.account.as_ref().is_some_and(|wanted| wanted != account) {
                return Ok(());
            }
            next = match self.function.as_ref().map(|wanted| function.cmp(wanted)) {
                Some(std::cmp::Ordering::Less) => Bound::Included((account.clone(), first_function(), from)),
                Some(std::cmp::Ordering::Greater) => {
                    Bound::Excluded((account.clone(), FunctionName::after_all(), P::LAST))
                }
                Some(std::cmp::Ordering::Equal) | None => {
                    let key = |period| (account.clone(), function.clone(), period);
                    for ((_, _, period), value) in map.range(key(from)..key(to)) {
                        visit(account, function, *period, value)?;
                    }
                    Bound::Excluded(key(P::LAST))
                }
            };
        }
    }
}

/// A period of a row's key.
pub(super) trait Last: Copy + Ord {
    const LAST: Self;
}

impl Last for Hour {
    const LAST: Self = Hour(u32::MAX);
}

impl Last for Day {
    const LAST: Self = Day(u32::MAX);
}

impl Last for Month {
    const LAST: Self = Month(u32::MAX);
}
