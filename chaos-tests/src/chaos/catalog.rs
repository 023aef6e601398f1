//! What a run sets up before it begins: accounts with lasting keys, and functions to invoke.

use std::path::Path;

use anyhow::{Context, Result};
use muster_api::{FunctionSpec, Scaling, UsageDurability};

use super::recorder;
use crate::functions;

/// Accounts whose keys and grants are left alone: their usage is counted.
pub const ACCOUNTS: [&str; 2] = ["user-a", "user-b"];

pub const ACKNOWLEDGED: &str = "acknowledged";
pub const REPLICATED: &str = "replicated";
pub const INTERVAL: &str = "interval";
/// Goes to zero at once, so that most of its invocations are cold.
pub const COLD: &str = "cold";
pub const IDEMPOTENT: &str = "idempotent";
/// Is asked to exit or hang now and then.
pub const FRAGILE: &str = "fragile";
pub const CRASH: &str = "crash";
pub const NONSENSE: &str = "nonsense";
pub const TRUNCATE: &str = "truncate";

/// What is invoked, by weight.
pub const INVOKED: [(u64, &str); 9] = [
    (25, ACKNOWLEDGED),
    (15, REPLICATED),
    (20, INTERVAL),
    (12, COLD),
    (8, IDEMPOTENT),
    (8, FRAGILE),
    (3, CRASH),
    (3, NONSENSE),
    (3, TRUNCATE),
];

/// One deadline for all: long enough for a cold start on a busy machine after a failover.
pub const TIMEOUT_MS: u64 = 8_000;

/// An account whose grant one worker changes.
pub fn guest(worker: u64) -> String {
    format!("guest-{worker}")
}

/// An account whose keys one worker makes and revokes.
pub fn holder(worker: u64) -> String {
    format!("holder-{worker}")
}

/// The functions to deploy. Under Docker `image` is one of `faulty`; else functions are processes
/// that note each execution in `executions`.
///
/// # Errors
/// Where the recording function cannot be made.
pub fn invoked(executions: &Path, image: Option<&str>) -> Result<Vec<(&'static str, FunctionSpec)>> {
    let recording = match image {
        Some(image) => functions::faulty_image(image, "echo"),
        None => recorder::spec(executions)?,
    };
    let faulty = |mode| match image {
        Some(image) => functions::faulty_image(image, mode),
        None => functions::faulty(mode),
    };
    let scaled = |spec: &FunctionSpec, min, keep_alive_ms, durability| {
        let scaling = Scaling { min, max: 3, target_utilization: 0.7, window_ms: 2_000, keep_alive_ms };
        let (timeout_ms, startup_timeout_ms) = (TIMEOUT_MS, 6_000);
        let spec = spec.clone();
        FunctionSpec {
            concurrency: 4,
            scaling,
            usage_durability: durability,
            timeout_ms,
            startup_timeout_ms,
            ..spec
        }
    };
    use UsageDurability::{Acknowledged, Interval, Replicated};
    Ok(vec![
        (ACKNOWLEDGED, scaled(&recording, 1, 5_000, Acknowledged)),
        (REPLICATED, scaled(&recording, 0, 5_000, Replicated)),
        (INTERVAL, scaled(&recording, 1, 5_000, Interval)),
        (COLD, scaled(&recording, 0, 500, Acknowledged)),
        (IDEMPOTENT, FunctionSpec { idempotent: true, ..scaled(&recording, 0, 5_000, Acknowledged) }),
        (FRAGILE, scaled(&recording, 0, 5_000, Acknowledged)),
        (CRASH, scaled(&faulty("crash"), 0, 5_000, Interval)),
        (NONSENSE, scaled(&faulty("nonsense"), 0, 5_000, Interval)),
        (TRUNCATE, scaled(&faulty("truncate"), 0, 5_000, Interval)),
    ])
}

/// How usage of a function is kept; `None` for a name that is not deployed.
pub fn durability(function: &str) -> Option<UsageDurability> {
    match function {
        ACKNOWLEDGED | COLD | IDEMPOTENT | FRAGILE => Some(UsageDurability::Acknowledged),
        REPLICATED => Some(UsageDurability::Replicated),
        INTERVAL | CRASH | NONSENSE | TRUNCATE => Some(UsageDurability::Interval),
        _ => None,
    }
}

/// A function that is never invoked: only its `REV` matters.
///
/// # Errors
/// Never in practice: the harness makes valid specs.
pub fn register(rev: u64) -> Result<serde_json::Value> {
    let mut spec = functions::command("/never/launched");
    spec.env.insert("REV".into(), rev.to_string());
    serde_json::to_value(spec).context("a spec is plain data")
}
