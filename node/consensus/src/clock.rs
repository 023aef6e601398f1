//! The wall clock, read in one place.

use std::time::{SystemTime, UNIX_EPOCH};

use muster_core::units::Timestamp;

/// The host's clock. Only a proposal's time: the replicated clock never runs backwards whatever this says.
pub fn now() -> Timestamp {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX))
}
