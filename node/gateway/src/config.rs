//! What an operator can set about the invocation path.

use std::time::Duration;

use muster_core::ids::NodeId;
use serde::{Deserialize, Serialize};

/// The gateway's section of the node's configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// This node. Set when the node knows its identity.
    #[serde(skip)]
    pub node: NodeId,
    /// The largest request body; above it the answer is 413.
    pub body_max_bytes: u64,
    /// Bodies of known length up to this are read before a slot is taken, so that a slow client
    /// holds none and the request can be sent again.
    pub replay_max_bytes: u64,
    /// A client that sends nothing of its body for this long gets 408.
    pub body_idle_ms: u64,
    /// How long a connection to an instance or a node may take, with TLS to a node.
    pub connect_timeout_ms: u64,
    /// Idle connections to instances are used again within this time only. Common servers close
    /// theirs after 2 to 5 seconds, and a request sent into that close is lost.
    pub upstream_idle_ms: u64,
    /// The largest head of a function's answer.
    pub upstream_head_max_bytes: usize,
    /// How long a node is left alone after it could not be reached.
    pub avoid_ms: u64,
    /// How long requests wait without a quorum and with nothing able to serve them.
    pub quorum_grace_ms: u64,
    /// An unused slot token is void after this.
    pub token_ttl_ms: u64,
    /// How long a poll for slots stays open on the host.
    pub poll_ms: u64,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            node: NodeId::default(),
            body_max_bytes: 6 * 1024 * 1024,
            replay_max_bytes: 64 * 1024,
            body_idle_ms: 10_000,
            connect_timeout_ms: 1_000,
            upstream_idle_ms: 1_500,
            upstream_head_max_bytes: 64 * 1024,
            avoid_ms: 500,
            quorum_grace_ms: 2_000,
            token_ttl_ms: 2_000,
            poll_ms: 2_000,
        }
    }
}

/// A setting out of bounds.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{field}` must be between {min} and {max}")]
pub struct ConfigError {
    pub field: &'static str,
    pub min: u64,
    pub max: u64,
}

impl Config {
    /// Checks every bound; the error names the first field that breaks one.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let head = u64::try_from(self.upstream_head_max_bytes).unwrap_or(u64::MAX);
        for (field, value, min, max) in [
            ("body_max_bytes", self.body_max_bytes, 1, 1 << 40),
            ("replay_max_bytes", self.replay_max_bytes, 0, 16 << 20),
            ("body_idle_ms", self.body_idle_ms, 1, 3_600_000),
            ("connect_timeout_ms", self.connect_timeout_ms, 1, 60_000),
            ("upstream_idle_ms", self.upstream_idle_ms, 0, 3_600_000),
            // hyper refuses to work with less than 8 KiB.
            ("upstream_head_max_bytes", head, 8 * 1024, 16 << 20),
            ("avoid_ms", self.avoid_ms, 1, 60_000),
            ("quorum_grace_ms", self.quorum_grace_ms, 0, 60_000),
            ("token_ttl_ms", self.token_ttl_ms, 1, 60_000),
            ("poll_ms", self.poll_ms, 1, 60_000),
        ] {
            if !(min..=max).contains(&value) {
                return Err(ConfigError { field, min, max });
            }
        }
        Ok(())
    }

    pub(crate) fn connect_timeout(&self) -> Duration {
        Duration::from_millis(self.connect_timeout_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_setting_out_of_bounds_is_named() {
        assert_eq!(Config::default().validate(), Ok(()));
        let small = Config { upstream_head_max_bytes: 1, ..Config::default() };
        assert_eq!(small.validate().unwrap_err().field, "upstream_head_max_bytes");
        let unknown = serde_json::from_str::<Config>(r#"{"body_max":1}"#).unwrap_err();
        assert!(unknown.to_string().contains("body_max"), "{unknown}");
    }
}
