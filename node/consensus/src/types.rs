//! What openraft needs to know of our types.

use std::fmt;

use muster_core::Entry;
use muster_core::ids::NodeId;
use serde::{Deserialize, Serialize};

use crate::snapshots::SnapshotData;

openraft::declare_raft_types!(
    /// Entries are `muster_core::Entry`. Their answers go to whoever proposed them from the local
    /// apply, not through Raft, so the reply type is empty.
    pub TypeConfig:
        D = Entry,
        R = (),
        NodeId = NodeId,
        Node = Member,
        SnapshotData = SnapshotData,
);

/// A member of the cluster, as the membership entry keeps it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// `host:port` of its public listener.
    pub http: String,
    /// `host:port` of its listener for other nodes.
    pub peer: String,
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.peer)
    }
}

pub(crate) type LogId = openraft::LogId<NodeId>;
pub(crate) type Vote = openraft::Vote<NodeId>;
pub(crate) type StoredMembership = openraft::StoredMembership<NodeId, Member>;
pub(crate) type SnapshotMeta = openraft::SnapshotMeta<NodeId, Member>;
pub(crate) type StorageError = openraft::StorageError<NodeId>;
pub(crate) type Raft = openraft::Raft<TypeConfig>;
