//! Functions and how they scale.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// A function as its owner describes it. Exactly one of `image` and `command` is given.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FunctionSpec {
    /// A container image, run by the Docker engine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// A program and its arguments, run by the process engine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<Vec<String>>,
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Where an instance listens in its container.
    #[serde(default = "defaults::port")]
    pub port: u16,
    /// A path that answers 2xx once ready; absent: a TCP connect is enough.
    #[serde(default)]
    pub readiness_path: Option<String>,
    #[serde(default = "defaults::memory_mb")]
    pub memory_mb: u32,
    /// Thousandths of one core.
    #[serde(default = "defaults::cpu_millis")]
    pub cpu_millis: u32,
    /// Requests one instance serves at a time.
    #[serde(default = "defaults::concurrency")]
    pub concurrency: u32,
    /// One deadline for queueing, cold start and run.
    #[serde(default = "defaults::timeout_ms")]
    pub timeout_ms: u64,
    /// How long an instance may take to become ready.
    #[serde(default = "defaults::startup_timeout_ms")]
    pub startup_timeout_ms: u64,
    #[serde(default)]
    pub scaling: Scaling,
    #[serde(default)]
    pub queue: Queue,
    #[serde(default)]
    pub payer: Payer,
    #[serde(default)]
    pub usage_durability: UsageDurability,
    /// Running a request twice is harmless.
    #[serde(default)]
    pub idempotent: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Scaling {
    pub min: u32,
    pub max: u32,
    /// Between 0.001 and 1.
    pub target_utilization: f64,
    pub window_ms: u64,
    pub keep_alive_ms: u64,
}

impl Default for Scaling {
    fn default() -> Self {
        Scaling { min: 0, max: 10, target_utilization: 0.7, window_ms: 60_000, keep_alive_ms: 300_000 }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Queue {
    /// Requests that may wait for a slot, per entry node.
    pub max_waiting: u32,
}

impl Default for Queue {
    fn default() -> Self {
        Queue { max_waiting: 1000 }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Payer {
    #[default]
    Owner,
    Callers,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UsageDurability {
    #[default]
    Interval,
    Acknowledged,
    Replicated,
}

/// A function as `GET /v1/functions/{name}` shows it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Function {
    pub name: String,
    pub owner: String,
    /// Grows with each change.
    pub version: u64,
    pub created_at: String,
    pub changed_at: String,
    pub spec: FunctionSpec,
    pub instances: InstanceCounts,
    /// `ok`, `failing` (backing off) or `crash_loop`.
    pub health: String,
    /// Why the last launch failed, while it matters.
    pub last_failure: Option<String>,
    /// When the next launch is tried, while backing off.
    pub retry_at: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceCounts {
    pub launching: u32,
    pub ready: u32,
    pub draining: u32,
}

/// One instance. Ended ones are listed for a while.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Instance {
    pub id: String,
    pub function: String,
    pub version: u64,
    pub node: u64,
    pub generation: u64,
    /// `placed`, `starting`, `ready`, `draining`, `stopped`, `failed` or `lost`.
    pub phase: String,
    /// Time spent serving over time since ready, over its whole life; absent where its host was
    /// not heard from lately.
    pub utilization: Option<f64>,
    pub in_flight: Option<u32>,
    pub memory_mb: u64,
    /// Why it was launched: `minimum`, `queued`, `utilization` or `rollout`.
    pub cause: String,
    /// Why it is draining, failed or lost.
    pub reason: Option<String>,
    pub launched_at: String,
    pub ready_at: Option<String>,
    pub ended_at: Option<String>,
}

/// What the leader decided, and why.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Decision {
    pub at: String,
    pub function: String,
    /// `launch`, `drain` or `hold`.
    pub action: String,
    pub instance: Option<String>,
    pub node: Option<u64>,
    pub reason: String,
    pub inputs: DecisionInputs,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DecisionInputs {
    pub ready: u32,
    pub launching: u32,
    pub draining: u32,
    pub waiting: u32,
    pub in_flight: u32,
    pub utilization: f64,
    pub desired: u32,
}

mod defaults {
    pub(super) fn port() -> u16 {
        8080
    }
    pub(super) fn memory_mb() -> u32 {
        128
    }
    pub(super) fn cpu_millis() -> u32 {
        1000
    }
    pub(super) fn concurrency() -> u32 {
        1
    }
    pub(super) fn timeout_ms() -> u64 {
        30_000
    }
    pub(super) fn startup_timeout_ms() -> u64 {
        60_000
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spec_needs_little_and_refuses_the_unknown() {
        let spec: FunctionSpec = serde_json::from_str(r#"{"image":"muster/alpha:latest"}"#).unwrap();
        assert_eq!((spec.port, spec.memory_mb, spec.timeout_ms), (8080, 128, 30_000));
        assert_eq!(spec.scaling, Scaling::default());
        let text = serde_json::to_string(&spec).unwrap();
        assert_eq!(serde_json::from_str::<FunctionSpec>(&text).unwrap(), spec);
        let error = serde_json::from_str::<FunctionSpec>(r#"{"image":"a","memory":1}"#).unwrap_err();
        assert!(error.to_string().contains("memory"), "{error}");
    }
}
