//! How a function's launches fare, and how long to wait before the next one.

use serde::{Deserialize, Serialize};

use crate::units::{Millis, Timestamp};

/// An instance that served at least this long before it failed was not a failed launch.
pub const PROVEN_AFTER: Millis = Millis::from_secs(10);
/// The pause after the first failure; it doubles with each further one.
pub const BACKOFF_BASE: Millis = Millis(500);
pub const BACKOFF_MAX: Millis = Millis::from_secs(60);
/// From this many failures in a row, users see a crash loop and requests are not kept waiting.
pub const CRASH_LOOP_AFTER: u32 = 3;

/// Consecutive failures of a function's instances, and the last one's reason.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaunchHealth {
    pub consecutive_failures: u32,
    pub last_failure_at: Timestamp,
    pub last_reason: String,
}

impl LaunchHealth {
    /// When the next launch may be tried; in the past where nothing has failed.
    pub fn retry_at(&self) -> Timestamp {
        match self.consecutive_failures {
            0 => Timestamp(0),
            n => self.last_failure_at + backoff(n),
        }
    }

    pub fn is_crash_loop(&self) -> bool {
        self.consecutive_failures >= CRASH_LOOP_AFTER
    }

    /// An instance failed; `ready_for` is how long it had been ready, if it ever was.
    pub(crate) fn failed(&mut self, ready_for: Option<Millis>, reason: &str, now: Timestamp) {
        let proven = ready_for.is_some_and(|span| span >= PROVEN_AFTER);
        self.consecutive_failures = if proven { 1 } else { self.consecutive_failures.saturating_add(1) };
        self.last_failure_at = now;
        self.last_reason = reason.to_owned();
    }

    /// An instance ended as it was asked to, having been ready: launching it works.
    pub(crate) fn ended_well(&mut self) {
        *self = LaunchHealth::default();
    }
}

/// The pause after `failures` failures in a row.
fn backoff(failures: u32) -> Millis {
    let doublings = failures.saturating_sub(1).min(16);
    Millis((BACKOFF_BASE.0 << doublings).min(BACKOFF_MAX.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backoff_doubles_up_to_its_limit() {
        for (failures, ms) in [(1, 500), (2, 1000), (3, 2000), (7, 32_000), (8, 60_000), (1000, 60_000)] {
            assert_eq!(backoff(failures), Millis(ms), "after {failures}");
        }
    }

    #[test]
    fn only_unproven_instances_add_up_to_a_crash_loop() {
        let mut health = LaunchHealth::default();
        for _ in 0..5 {
            health.failed(Some(PROVEN_AFTER), "exited with code 1", Timestamp(7));
            assert!(!health.is_crash_loop());
        }
        for _ in 0..2 {
            health.failed(None, "exited with code 1", Timestamp(9));
        }
        assert!(health.is_crash_loop());
        assert_eq!(health.retry_at(), Timestamp(9) + Millis(2000));
        health.ended_well();
        assert_eq!(health.retry_at(), Timestamp(0));
    }
}
