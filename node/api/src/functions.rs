//! Functions and how they scale.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{self, Deserializer, Unexpected, Visitor};
use serde::{Deserialize, Serialize};

/// A function as its owner describes it. Exactly one of `image` and `command` is given.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct FunctionSpec {
    /// A container image, run by the Docker engine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// A program and its arguments, run by the process engine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<Vec<String>>,
    /// The package that the image or the program is in, `sha256:` and 64 hexadecimal digits: the cluster must
    /// have it. A relative program is one of the package.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub package: Option<String>,
    /// Environment variables. `PORT` is set by Muster.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Where an instance listens in its container. The process engine gives each instance a free
    /// port instead; `PORT` tells it which.
    #[serde(default = "defaults::port")]
    #[cfg_attr(feature = "openapi", schema(default = defaults::port))]
    pub port: u16,
    /// A path that answers 2xx once ready; absent: a TCP connect is enough.
    #[serde(default)]
    pub readiness_path: Option<String>,
    /// Mebibytes, reserved on the instance's host.
    #[serde(default = "defaults::memory_mb")]
    #[cfg_attr(feature = "openapi", schema(default = defaults::memory_mb))]
    pub memory_mb: u32,
    /// Thousandths of one core, reserved on the instance's host.
    #[serde(default = "defaults::cpu_millis")]
    #[cfg_attr(feature = "openapi", schema(default = defaults::cpu_millis))]
    pub cpu_millis: u32,
    /// Requests one instance serves at a time.
    #[serde(default = "defaults::concurrency")]
    #[cfg_attr(feature = "openapi", schema(default = defaults::concurrency))]
    pub concurrency: u32,
    /// One deadline for queueing, cold start and run, in milliseconds.
    #[serde(default = "defaults::timeout_ms")]
    #[cfg_attr(feature = "openapi", schema(default = defaults::timeout_ms))]
    pub timeout_ms: u64,
    /// How long an instance may take to become ready, in milliseconds.
    #[serde(default = "defaults::startup_timeout_ms")]
    #[cfg_attr(feature = "openapi", schema(default = defaults::startup_timeout_ms))]
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

/// When instances are launched and brought down.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields, default)]
pub struct Scaling {
    /// Instances kept even when idle.
    pub min: u32,
    /// Instances never exceeded.
    pub max: u32,
    /// Instances that may be starting at once; absent: as many as are ready, and at least 10.
    pub step: Option<u32>,
    /// The utilization the autoscaler steers to, between 0.001 and 1.
    pub target_utilization: f64,
    /// The span utilization is averaged over, and the calm needed before scaling down, in milliseconds.
    pub window_ms: u64,
    /// Idle time after which the last instances are brought down, in milliseconds; or `"adaptive"`.
    pub keep_alive_ms: KeepAlive,
}

/// How long the last instances are kept when nobody asks for the function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(untagged)]
pub enum KeepAlive {
    /// For so many milliseconds.
    Millis(u64),
    /// As its habits say: let go when it will not be asked for soon, and launched before it is.
    Named(NamedKeepAlive),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum NamedKeepAlive {
    Adaptive,
}

impl KeepAlive {
    pub const ADAPTIVE: KeepAlive = KeepAlive::Named(NamedKeepAlive::Adaptive);
}

impl From<u64> for KeepAlive {
    fn from(millis: u64) -> Self {
        KeepAlive::Millis(millis)
    }
}

/// By hand, because serde's own error for such an enum does not say what was expected.
impl<'de> Deserialize<'de> for KeepAlive {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Expected;

        impl Visitor<'_> for Expected {
            type Value = KeepAlive;

            fn expecting(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
                to.write_str("a number of milliseconds or \"adaptive\"")
            }

            fn visit_u64<E: de::Error>(self, millis: u64) -> Result<KeepAlive, E> {
                Ok(KeepAlive::Millis(millis))
            }

            fn visit_i64<E: de::Error>(self, millis: i64) -> Result<KeepAlive, E> {
                let negative = |_| E::invalid_value(Unexpected::Signed(millis), &self);
                u64::try_from(millis).map(KeepAlive::Millis).map_err(negative)
            }

            fn visit_str<E: de::Error>(self, word: &str) -> Result<KeepAlive, E> {
                match word {
                    "adaptive" => Ok(KeepAlive::ADAPTIVE),
                    _ => Err(E::invalid_value(Unexpected::Str(word), &self)),
                }
            }
        }

        from.deserialize_any(Expected)
    }
}

impl Default for Scaling {
    fn default() -> Self {
        Scaling {
            min: 0,
            max: 10,
            step: None,
            target_utilization: 0.7,
            window_ms: 60_000,
            keep_alive_ms: KeepAlive::Millis(300_000),
        }
    }
}

/// The queue of requests that no instance has a free slot for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
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

/// Who pays for the time a function's instances exist.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum Payer {
    /// The account that deployed the function.
    #[default]
    Owner,
    /// The accounts that called it, by their share of each instance's busy time.
    Callers,
}

/// How safe an invocation's usage record is when its answer ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum UsageDurability {
    /// In memory; a crash may lose the last 100 ms.
    #[default]
    Interval,
    /// Synced to the host's journal.
    Acknowledged,
    /// Committed to the replicated ledger.
    Replicated,
}

/// A function as `GET /v1/functions/{name}` shows it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Function {
    pub name: String,
    /// The account that deployed it first.
    pub owner: String,
    /// Grows with each change.
    pub version: u64,
    #[cfg_attr(feature = "openapi", schema(format = DateTime))]
    pub created_at: String,
    #[cfg_attr(feature = "openapi", schema(format = DateTime))]
    pub changed_at: String,
    pub spec: FunctionSpec,
    pub instances: InstanceCounts,
    /// `ok`, `failing` (backing off) or `crash_loop`.
    pub health: String,
    /// Why the last launch failed, while it matters.
    pub last_failure: Option<String>,
    /// When the next launch is tried, while backing off.
    #[cfg_attr(feature = "openapi", schema(format = DateTime))]
    pub retry_at: Option<String>,
}

/// A function's live instances by phase.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct InstanceCounts {
    pub launching: u32,
    pub ready: u32,
    pub draining: u32,
}

/// One instance. Ended ones are listed for a while.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Instance {
    pub id: String,
    pub function: String,
    /// The version of the function it runs.
    pub version: u64,
    /// The node it runs on.
    pub node: u64,
    /// The order in which instances were placed, cluster-wide.
    pub generation: u64,
    /// `placed`, `starting`, `ready`, `draining`, `stopped`, `failed` or `lost`.
    pub phase: String,
    /// Time spent serving over time since ready, over its whole life; absent where its host was
    /// not heard from lately.
    pub utilization: Option<f64>,
    /// Requests it serves now; absent where its host was not heard from lately.
    pub in_flight: Option<u32>,
    /// Mebibytes it was promised.
    pub memory_mb: u64,
    /// Why it was launched: `minimum`, `queued`, `utilization`, `rollout` or `prewarm`.
    pub cause: String,
    /// Why it is draining, failed or lost.
    pub reason: Option<String>,
    #[cfg_attr(feature = "openapi", schema(format = DateTime))]
    pub launched_at: String,
    #[cfg_attr(feature = "openapi", schema(format = DateTime))]
    pub ready_at: Option<String>,
    #[cfg_attr(feature = "openapi", schema(format = DateTime))]
    pub ended_at: Option<String>,
}

/// What the leader decided, and why.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Decision {
    #[cfg_attr(feature = "openapi", schema(format = DateTime))]
    pub at: String,
    pub function: String,
    /// `launch`, `drain` or `hold`.
    pub action: String,
    pub instance: Option<String>,
    pub node: Option<u64>,
    /// In words.
    pub reason: String,
    pub inputs: DecisionInputs,
}

/// What the leader saw of the function when it decided.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct DecisionInputs {
    pub ready: u32,
    pub launching: u32,
    pub draining: u32,
    /// Requests waiting, on all nodes.
    pub waiting: u32,
    /// Requests being served, on all nodes.
    pub in_flight: u32,
    /// Busy slot time over ready slot time in the window.
    pub utilization: f64,
    /// Instances wanted.
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

    #[test]
    fn keep_alive_is_a_number_or_adaptive() {
        let parse = |value: &str| serde_json::from_str::<Scaling>(&format!(r#"{{"keep_alive_ms":{value}}}"#));
        for (value, want) in [("0", KeepAlive::Millis(0)), (r#""adaptive""#, KeepAlive::ADAPTIVE)] {
            let scaling = parse(value).unwrap();
            assert_eq!(scaling.keep_alive_ms, want);
            assert!(
                serde_json::to_string(&scaling).unwrap().contains(&format!(r#""keep_alive_ms":{value}"#))
            );
        }
        for value in ["-1", "1.5", "null", r#""Adaptive""#, r#""300000""#, "{}", "true"] {
            let error = parse(value).unwrap_err().to_string();
            assert!(error.contains("a number of milliseconds or \"adaptive\""), "{value}: {error}");
        }
    }
}
