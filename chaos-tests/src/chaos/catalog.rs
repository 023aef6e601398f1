//! What a run sets up before it begins: accounts with lasting keys, and functions to invoke.

use anyhow::{Context, Result};
use muster_api::{FunctionSpec, Payer, Queue, Scaling, UsageDurability};

use super::notes::Notes;
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

/// Invoked by faults alone, not by workers.
/// By many clients at the same time, while it is at zero.
pub const HERD: &str = "herd";
/// By clients that are slow or go away.
pub const CROWD: &str = "crowd";
pub const NEVER_READY: &str = "never-ready";
/// Asked to exceed its memory, where that is limited.
pub const HUNGRY: &str = "hungry";

/// Instances of each function.
pub const INSTANCES_MAX: u32 = 3;
/// Requests that wait for the herd's function at a node; more are refused.
const HERD_WAITING_MAX: u32 = 50;

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

/// Those that get new versions again and again.
pub const REDEPLOYED: [&str; 2] = [ACKNOWLEDGED, INTERVAL];

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

/// The `number`th admin whom one worker appoints. No name comes back.
pub fn deputy(worker: u64, number: u64) -> String {
    format!("deputy-{worker}-{number}")
}

/// A function that one worker changes with the keys of such admins.
pub fn ruled(worker: u64) -> String {
    format!("ruled-{worker}")
}

/// The functions to deploy, which note their executions with `notes`.
///
/// # Errors
/// Where the recording function cannot be made.
pub fn invoked(notes: &Notes) -> Result<Vec<(&'static str, FunctionSpec)>> {
    let recording = notes.function()?;
    let faulty = |mode| notes.faulty(mode);
    let scaled = |spec: &FunctionSpec, min, keep_alive_ms: u64, durability| {
        let keep_alive_ms = keep_alive_ms.into();
        let scaling =
            Scaling { min, max: INSTANCES_MAX, window_ms: 2_000, keep_alive_ms, ..Scaling::default() };
        let (timeout_ms, startup_timeout_ms) = (TIMEOUT_MS, notes.startup_timeout_ms());
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
    let herd = scaled(&recording, 0, 500, Acknowledged);
    let never_ready = scaled(&faulty("never-ready"), 0, 500, Interval);
    Ok(vec![
        (ACKNOWLEDGED, scaled(&recording, 1, 5_000, Acknowledged)),
        (REPLICATED, scaled(&recording, 0, 5_000, Replicated)),
        (INTERVAL, scaled(&recording, 1, 5_000, Interval)),
        // Most of its instances end while others look on, so what they cost can be added up.
        (COLD, FunctionSpec { payer: Payer::Callers, ..scaled(&recording, 0, 500, Acknowledged) }),
        (IDEMPOTENT, FunctionSpec { idempotent: true, ..scaled(&recording, 0, 5_000, Acknowledged) }),
        (FRAGILE, scaled(&recording, 0, 5_000, Acknowledged)),
        (CRASH, scaled(&faulty("crash"), 0, 5_000, Interval)),
        (NONSENSE, scaled(&faulty("nonsense"), 0, 5_000, Interval)),
        (TRUNCATE, scaled(&faulty("truncate"), 0, 5_000, Interval)),
        (HERD, FunctionSpec { queue: Queue { max_waiting: HERD_WAITING_MAX }, ..herd }),
        (CROWD, scaled(&recording, 0, 2_000, Acknowledged)),
        (NEVER_READY, FunctionSpec { startup_timeout_ms: 2_000, ..never_ready }),
        (HUNGRY, scaled(&recording, 0, 2_000, Acknowledged)),
    ])
}

/// How usage of a function is kept; `None` for a name that is not deployed.
pub fn durability(function: &str) -> Option<UsageDurability> {
    match function {
        ACKNOWLEDGED | COLD | IDEMPOTENT | FRAGILE | HERD | CROWD | HUNGRY => {
            Some(UsageDurability::Acknowledged)
        }
        REPLICATED => Some(UsageDurability::Replicated),
        INTERVAL | CRASH | NONSENSE | TRUNCATE | NEVER_READY => Some(UsageDurability::Interval),
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
