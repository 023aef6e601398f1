//! What hourly rows become: daily ones, then monthly ones. Sums only ever move, so none is lost.
//!
//! Two marks say how far back hours and days are *known*. They are raised by a command, since applying
//! has no clock; from then on whatever is older counts as known by day, or by month, wherever it still
//! lies: usage that comes late goes there at once, and answers never tell more of it. The rows follow
//! slice by slice, so that no command has much to do: a slice of a day has 24 hours, one of a month 31
//! days.

use imbl::OrdMap;
use serde::{Deserialize, Serialize};

use super::{Grain, Known, Ledger, Slice, Sums};
use crate::ids::{AccountName, FunctionName};
use crate::rejection::Rejection;
use crate::units::{Day, Hour, Month, Timestamp};

/// Slices in one command: with two maps and 24 hours each it stays within a few milliseconds, and with
/// the longest names within a log record.
pub const SLICES_MAX: usize = 128;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rollups {
    /// Hours are known from this day on.
    hours_from: Day,
    /// Days are known from this month on: never later than hours are.
    days_from: Month,
    #[serde(deserialize_with = "crate::maps::map")]
    days: OrdMap<Slice<Day>, Sums>,
    /// For ever: twelve rows a year for an account's use of a function.
    #[serde(deserialize_with = "crate::maps::map")]
    months: OrdMap<Slice<Month>, Sums>,
}

impl Rollups {
    pub fn hours_from(&self) -> Day {
        self.hours_from
    }

    pub fn days_from(&self) -> Month {
        self.days_from
    }

    pub fn days(&self) -> &OrdMap<Slice<Day>, Sums> {
        &self.days
    }

    pub fn months(&self) -> &OrdMap<Slice<Month>, Sums> {
        &self.months
    }

    /// What an hour's usage is known by.
    pub fn known(&self, hour: Hour) -> Known {
        let day = hour.day();
        if day >= self.hours_from { Known::Hour(hour) } else { self.known_day(day) }
    }

    /// What a day's usage is known by, once its hours are not.
    pub fn known_day(&self, day: Day) -> Known {
        let month = day.month();
        if month >= self.days_from { Known::Day(day) } else { Known::Month(month) }
    }

    /// What is known of the moment `at`.
    pub fn grain_at(&self, at: Timestamp) -> Grain {
        if at >= self.hours_from.start() {
            Grain::Hour
        } else if at >= self.days_from.start() {
            Grain::Day
        } else {
            Grain::Month
        }
    }

    pub(crate) fn keep(&mut self, hours_from: Day, days_from: Month) {
        self.hours_from = self.hours_from.max(hours_from);
        self.days_from = self.days_from.max(days_from.min(self.hours_from.month()));
    }

    pub(crate) fn roll_up(
        &mut self,
        ledger: &mut Ledger,
        days: &[Slice<Day>],
        months: &[Slice<Month>],
    ) -> Result<(), Rejection> {
        if days.len() + months.len() > SLICES_MAX {
            let what = "slices in one roll-up".to_owned();
            return Err(Rejection::Limit { what, max: SLICES_MAX as u64 });
        }
        let (hours_from, days_from) = (self.hours_from, self.days_from);
        for slice in days.iter().filter(|(_, _, day)| *day < hours_from) {
            let sums = ledger.take_day(slice);
            if !sums.is_empty() {
                self.add(slice.0.clone(), slice.1.clone(), self.known_day(slice.2), &sums);
            }
        }
        for slice in months.iter().filter(|(_, _, month)| *month < days_from) {
            let sums = self.take_month(slice);
            if !sums.is_empty() {
                self.add(slice.0.clone(), slice.1.clone(), Known::Month(slice.2), &sums);
            }
        }
        Ok(())
    }

    /// Adds to a day or a month.
    pub(super) fn add(&mut self, account: AccountName, function: FunctionName, to: Known, sums: &Sums) {
        match to {
            Known::Hour(_) => unreachable!("hours are the ledger's"),
            Known::Day(day) => self.days.entry((account, function, day)).or_default().add(sums),
            Known::Month(month) => self.months.entry((account, function, month)).or_default().add(sums),
        }
    }

    fn take_month(&mut self, slice: &Slice<Month>) -> Sums {
        let (account, function, month) = slice;
        let mut sums = Sums::default();
        for day in month.first_day().0..month.next().first_day().0 {
            if let Some(day) = self.days.remove(&(account.clone(), function.clone(), Day(day))) {
                sums.add(&day);
            }
        }
        sums
    }
}
