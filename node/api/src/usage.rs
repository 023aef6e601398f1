//! Usage, as `GET /v1/usage` answers.

use serde::{Deserialize, Serialize};

/// One account's use of one function in one period. Counts are sums over the period.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    pub account: String,
    pub function: String,
    /// Start of the hour or day; absent for a total.
    pub from: Option<String>,
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
    /// Instance time this account pays for, start-up included; running instances up to now.
    pub instance_ms: u64,
    pub instance_memory_mb_ms: u64,
    pub startup_ms: u64,
    /// Start-up time of short-lived instances that this account's bursts caused.
    pub burst_startup_ms: u64,
}

/// The grain of `GET /v1/usage`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Grain {
    Hour,
    #[default]
    Day,
    Total,
}
