//! Usage, as `GET /v1/usage` answers.

use serde::{Deserialize, Serialize};

/// One account's use of one function in one period. Counts are sums over the period.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Usage {
    /// Who is charged.
    pub account: String,
    pub function: String,
    /// What the numbers are sums over. Longer than was asked for where no more is known: hours and days
    /// are added up after a while.
    pub period: Grain,
    /// Start of the hour, day or month; absent for a total.
    #[cfg_attr(feature = "openapi", schema(format = DateTime))]
    pub from: Option<String>,
    /// Invocations that this account made and that ended in the period.
    pub invocations: u64,
    /// Those that ended without an answer from the function.
    pub failures: u64,
    /// Those that waited for a launch.
    pub cold_starts: u64,
    /// Time a slot was held, in milliseconds.
    pub busy_ms: u64,
    /// Busy time times the instance's memory, in mebibyte-milliseconds.
    pub memory_mb_ms: u64,
    pub request_bytes: u64,
    pub response_bytes: u64,
    /// Instance time this account pays for, in milliseconds, start-up included; running instances up
    /// to now.
    pub instance_ms: u64,
    /// The same times the instance's memory, in mebibyte-milliseconds.
    pub instance_memory_mb_ms: u64,
    /// The part of `instance_ms` before the instance was ready.
    pub startup_ms: u64,
    /// Start-up time of short-lived instances that this account's bursts caused.
    pub burst_startup_ms: u64,
}

/// The length of a period of `GET /v1/usage`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum Grain {
    Hour,
    #[default]
    Day,
    Month,
    Total,
}
