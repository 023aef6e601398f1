//! The counts of a ledger row.

use serde::{Deserialize, Serialize};

/// Invocations and what they took. All counts add up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    pub invocations: u64,
    /// Those that ended without an answer from the function.
    pub failures: u64,
    pub cold_starts: u64,
    /// Time a slot was held.
    pub busy_ms: u64,
    /// Busy time times the instance's memory.
    pub memory_mb_ms: u64,
    pub request_bytes: u64,
    pub response_bytes: u64,
}

impl Usage {
    pub fn add(&mut self, other: &Usage) {
        self.invocations += other.invocations;
        self.failures += other.failures;
        self.cold_starts += other.cold_starts;
        self.busy_ms += other.busy_ms;
        self.memory_mb_ms += other.memory_mb_ms;
        self.request_bytes += other.request_bytes;
        self.response_bytes += other.response_bytes;
    }
}

/// Time for which instances existed, charged to one account.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceTime {
    /// From launch to end, start-up included.
    pub millis: u64,
    /// The same times the instance's memory.
    pub memory_mb_ms: u64,
    /// The part of `millis` before the instances were ready.
    pub startup_millis: u64,
    /// Start-up time of short-lived instances, charged to those who caused them (the per-invocation
    /// model). Not part of `millis`.
    pub burst_startup_millis: u64,
}

impl InstanceTime {
    pub fn add(&mut self, other: &InstanceTime) {
        self.millis += other.millis;
        self.memory_mb_ms += other.memory_mb_ms;
        self.startup_millis += other.startup_millis;
        self.burst_startup_millis += other.burst_startup_millis;
    }
}

/// Both of one row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sums {
    pub usage: Usage,
    pub time: InstanceTime,
}

impl Sums {
    pub fn add(&mut self, other: &Sums) {
        self.usage.add(&other.usage);
        self.time.add(&other.time);
    }

    pub fn is_empty(&self) -> bool {
        *self == Sums::default()
    }
}
