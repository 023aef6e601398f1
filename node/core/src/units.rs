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
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hours_begin_and_end_on_the_hour() {
        assert_eq!(Timestamp(HOUR_MS - 1).hour(), Hour(0));
        assert_eq!(Timestamp(HOUR_MS).hour(), Hour(1));
        assert_eq!(Hour(7).start().hour(), Hour(7));
        assert_eq!(Hour(7).next().start().since(Hour(7).start()), Millis(HOUR_MS));
        assert_eq!(Timestamp(5).since(Timestamp(9)), Millis::ZERO);
    }
}
