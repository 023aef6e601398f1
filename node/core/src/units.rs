//! Time and money as integers. Floats round differently by build, and replicas must agree to the byte.

use std::fmt;
use std::ops::{Add, AddAssign};

use serde::{Deserialize, Serialize};

/// A length of time in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Millis(pub u64);

impl Millis {
    pub const ZERO: Millis = Millis(0);

    pub const fn from_secs(secs: u64) -> Self {
        Millis(secs * 1000)
    }

    pub const fn to_duration(self) -> std::time::Duration {
        std::time::Duration::from_millis(self.0)
    }
}

impl fmt::Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ms", self.0)
    }
}

impl Add for Millis {
    type Output = Millis;

    fn add(self, other: Millis) -> Millis {
        Millis(self.0 + other.0)
    }
}

impl AddAssign for Millis {
    fn add_assign(&mut self, other: Millis) {
        self.0 += other.0;
    }
}

impl std::iter::Sum for Millis {
    fn sum<I: Iterator<Item = Millis>>(iter: I) -> Millis {
        Millis(iter.map(|m| m.0).sum())
    }
}

/// A moment: milliseconds since 1970-01-01T00:00:00Z, without leap seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// The time since `earlier`; zero if `earlier` is in the future.
    pub const fn since(self, earlier: Timestamp) -> Millis {
        Millis(self.0.saturating_sub(earlier.0))
    }

    pub fn hour(self) -> Hour {
        Hour(u32::try_from(self.0 / HOUR_MS).unwrap_or(u32::MAX))
    }
}

impl Add<Millis> for Timestamp {
    type Output = Timestamp;

    fn add(self, span: Millis) -> Timestamp {
        Timestamp(self.0.saturating_add(span.0))
    }
}

const HOUR_MS: u64 = 3_600_000;

/// A clock hour in UTC: hours since 1970-01-01T00:00Z. The grain of the usage ledger.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Hour(pub u32);

impl Hour {
    pub const fn start(self) -> Timestamp {
        Timestamp(self.0 as u64 * HOUR_MS)
    }

    pub const fn next(self) -> Hour {
        Hour(self.0 + 1)
    }

    pub const fn day(self) -> Day {
        Day(self.0 / HOURS_PER_DAY)
    }

    /// The first hour that begins at a moment or later.
    pub fn not_before(at: Timestamp) -> Hour {
        Hour(u32::try_from(at.0.div_ceil(HOUR_MS)).unwrap_or(u32::MAX))
    }
}

const HOURS_PER_DAY: u32 = 24;
const DAY_MS: u64 = 24 * HOUR_MS;

/// A day in UTC: days since 1970-01-01.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Day(pub u32);

impl Day {
    pub const fn start(self) -> Timestamp {
        Timestamp(self.0 as u64 * DAY_MS)
    }

    pub const fn next(self) -> Day {
        Day(self.0.saturating_add(1))
    }

    pub const fn first_hour(self) -> Hour {
        Hour(self.0.saturating_mul(HOURS_PER_DAY))
    }

    /// The month it lies in, by the Gregorian calendar. The arithmetic is Howard Hinnant's
    /// `civil_from_days`: years that begin in March, so that the leap day comes last.
    pub const fn month(self) -> Month {
        let days = self.0 as u64 + DAYS_BEFORE_1970;
        let (era, day_of_era) = (days / DAYS_PER_ERA, days % DAYS_PER_ERA);
        let year_of_era =
            (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month_from_march = (5 * day_of_year + 2) / 153;
        let months = (era * 400 + year_of_era) * 12 + month_from_march;
        #[expect(clippy::cast_possible_truncation, reason = "fewer than there are days")]
        Month((months - MONTHS_BEFORE_1970) as u32)
    }

    /// The first day that begins at a moment or later.
    pub fn not_before(at: Timestamp) -> Day {
        Day(u32::try_from(at.0.div_ceil(DAY_MS)).unwrap_or(u32::MAX))
    }
}

/// From 0000-03-01 to 1970-01-01, and the months of the same.
const DAYS_BEFORE_1970: u64 = 719_468;
const MONTHS_BEFORE_1970: u64 = 1969 * 12 + 10;
/// 400 years.
const DAYS_PER_ERA: u64 = 146_097;

/// A month in UTC: months since 1970-01.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Month(pub u32);

impl Month {
    pub const fn start(self) -> Timestamp {
        self.first_day().start()
    }

    pub const fn next(self) -> Month {
        Month(self.0.saturating_add(1))
    }

    /// The inverse of [`Day::month`]: Hinnant's `days_from_civil`.
    pub const fn first_day(self) -> Day {
        let months = self.0 as u64 + MONTHS_BEFORE_1970;
        let (year, month_from_march) = (months / 12, months % 12);
        let (era, year_of_era) = (year / 400, year % 400);
        let day_of_year = (153 * month_from_march + 2) / 5;
        let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
        let days = era * DAYS_PER_ERA + day_of_era - DAYS_BEFORE_1970;
        #[expect(clippy::cast_possible_truncation, reason = "clamped to what fits")]
        Day(if days > u32::MAX as u64 { u32::MAX } else { days as u32 })
    }

    /// The first month that begins at a moment or later.
    pub fn not_before(at: Timestamp) -> Month {
        let month = Day::not_before(at).month();
        if month.start() >= at { month } else { month.next() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn months_are_those_of_the_calendar() {
        for (day, month, first) in [
            (0, 0, 0),
            (30, 0, 0),
            (31, 1, 31),
            // 2000-02-29 and 2000-03-01.
            (11_016, 361, 10_988),
            (11_017, 362, 11_017),
            // 2026-11-25.
            (20_782, 682, 20_758),
            // 2100-02-28 and 2100-03-01: no leap year.
            (47_540, 1_561, 47_513),
            (47_541, 1_562, 47_541),
        ] {
            assert_eq!((Day(day).month(), Month(month).first_day()), (Month(month), Day(first)), "day {day}");
        }
        // Each month begins the day after the one before has ended.
        for month in (0..12_000).map(Month) {
            let first = month.first_day();
            assert_eq!(first.month(), month);
            assert!((28..=31).contains(&(month.next().first_day().0 - first.0)), "{month:?}");
            assert_eq!(Day(month.next().first_day().0 - 1).month(), month);
        }
        assert_eq!(Day(u32::MAX).month().next().first_day(), Day(u32::MAX), "the end of time");
    }

    #[test]
    fn periods_not_before_a_moment() {
        let day = Day(31).start();
        for (at, hour, of_day, month) in [
            (Timestamp(0), 0, 0, 0),
            (Timestamp(1), 1, 1, 1),
            (day, 744, 31, 1),
            (Timestamp(day.0 + 1), 745, 32, 2),
            (Timestamp(u64::MAX), u32::MAX, u32::MAX, Day(u32::MAX).month().0),
        ] {
            let got = (Hour::not_before(at), Day::not_before(at));
            assert_eq!(got, (Hour(hour), Day(of_day)), "{at:?}");
            assert!(Month::not_before(at).0 >= month, "{at:?}");
        }
    }

    #[test]
    fn hours_begin_and_end_on_the_hour() {
        assert_eq!(Timestamp(HOUR_MS - 1).hour(), Hour(0));
        assert_eq!(Timestamp(HOUR_MS).hour(), Hour(1));
        assert_eq!(Hour(7).start().hour(), Hour(7));
        assert_eq!(Hour(7).next().start().since(Hour(7).start()), Millis(HOUR_MS));
        assert_eq!(Timestamp(5).since(Timestamp(9)), Millis::ZERO);
    }
}
