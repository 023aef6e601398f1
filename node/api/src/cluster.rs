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
    pub nodes: Vec<ClusterNode>,
}

/// A member of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ClusterNode {
    pub id: u64,
    /// `host:port` of its public listener.
    pub address: String,
    /// `leader`, `voter` or `learner`.
    pub role: String,
    /// `ready`, `draining`, `down`, or `unknown` before it registered.
    pub condition: String,
    /// The index of the last log entry it applied; absent where the asked node can't know.
    pub applied: Option<u64>,
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
