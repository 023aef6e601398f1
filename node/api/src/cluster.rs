//! The cluster and its nodes.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cluster {
    pub cluster_id: Option<String>,
    /// As the asked node knows it; absent while there is none.
    pub leader: Option<u64>,
    pub term: u64,
    pub nodes: Vec<ClusterNode>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
pub struct Node {
    pub id: u64,
    pub address: String,
    pub peer_address: String,
    pub condition: String,
    pub reason: String,
    pub changed_at: String,
    /// How many times it has started.
    pub incarnation: u64,
    pub engines: Vec<String>,
    pub labels: BTreeMap<String, String>,
    pub version: String,
    pub capacity: Resources,
    pub reserved: Resources,
    pub instances: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resources {
    pub memory_mb: u64,
    pub cpu_millis: u64,
}
