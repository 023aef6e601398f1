//! The cluster and its nodes.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The members as the asked node knows them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Cluster {
    /// Absent before the cluster has begun.
    pub cluster_id: Option<String>,
    /// As the asked node knows it; absent while there is none.
    pub leader: Option<u64>,
    /// The Raft term.
    pub term: u64,
    /// The cluster version in effect: what all members understand. It goes up by itself once all nodes were
    /// upgraded.
    #[serde(default)]
    pub version: u16,
    /// The version that some nodes support already; absent where none does, or where no leader has said so
    /// lately.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_version: Option<NextVersion>,
    /// Of the asked node; absent while it builds on a snapshot from before there were digests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<AppliedDigest>,
    pub nodes: Vec<ClusterNode>,
}

/// A hash over all that a node has applied. Nodes whose index is the same have the same digest, or one of
/// them is damaged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct AppliedDigest {
    /// The index of the last log entry in it.
    pub index: u64,
    /// Hexadecimal, 64 characters.
    pub digest: String,
}

/// A member of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ClusterNode {
    pub id: u64,
    /// `host:port` of its public listener.
    pub address: String,
    /// `leader`, `voter`, `learner`, `joining` (it has a token's id and is not up yet) or `removing`.
    pub role: String,
    /// `ready`, `draining`, `down`, or `unknown` before it registered.
    pub condition: String,
    /// The index of the last log entry it applied; absent where the asked node can't know.
    pub applied: Option<u64>,
    /// How many entries it is behind the one that is furthest; absent where the asked node can't know.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lag: Option<u64>,
    /// The version of `muster-node`; absent before it registered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// The cluster versions that its software supports; absent where it has not told the leader lately.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub versions: Option<VersionRange>,
}

/// Cluster versions, both of them included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct VersionRange {
    pub oldest: u16,
    pub newest: u16,
}

/// A cluster version that is not in effect yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct NextVersion {
    pub version: u16,
    /// Who stands in its way.
    pub held_back_by: Vec<HeldBack>,
}

/// A node that holds the next version back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct HeldBack {
    pub node: u64,
    /// Why, for people.
    pub reason: String,
}

/// `POST /v1/cluster/tokens`; the body may be empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields, default)]
pub struct CreateToken {
    /// How long the token is good for, in milliseconds, at most a week; absent: ten minutes.
    pub expires_in_ms: Option<u64>,
    /// The node that is removed, as it is, once the new one has caught up.
    pub replaces: Option<u64>,
}

/// The only answer that ever carries the token itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct CreatedToken {
    /// `mj_<id>_<secret>_<the certificate authority's fingerprint>`. Only a hash of the secret is kept.
    pub token: String,
    /// The id that whoever joins with it gets.
    pub node_id: u64,
    #[cfg_attr(feature = "openapi", schema(format = DateTime))]
    pub expires_at: String,
    /// `host:port` of the members' peer listeners: where to join.
    pub addresses: Vec<String>,
}

/// `POST /v1/cluster/transfer`; the body may be empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields, default)]
pub struct Transfer {
    /// Who is to lead; absent: any voter that has caught up.
    pub to: Option<u64>,
}

/// Who leads after a transfer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Transferred {
    pub leader: u64,
}

/// A host, as `GET /v1/nodes` shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Node {
    pub id: u64,
    /// `host:port` of its public listener.
    pub address: String,
    /// `host:port` of its listener for other nodes.
    pub peer_address: String,
    /// `ready`, `draining` or `down`.
    pub condition: String,
    /// Why it is in that condition.
    pub reason: String,
    /// Since when it is in that condition.
    #[cfg_attr(feature = "openapi", schema(format = DateTime))]
    pub changed_at: String,
    /// How many times it has started.
    pub incarnation: u64,
    /// What runs instances there: `docker`, `process` or both.
    pub engines: Vec<String>,
    /// As its configuration names them.
    pub labels: BTreeMap<String, String>,
    /// The version of `muster-node`.
    pub version: String,
    /// What it gives to instances.
    pub capacity: Resources,
    /// What its live instances were promised.
    pub reserved: Resources,
    /// Live instances placed there.
    pub instances: u32,
}

/// Memory and processor time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Resources {
    /// Mebibytes.
    pub memory_mb: u64,
    /// Thousandths of one core.
    pub cpu_millis: u64,
}
