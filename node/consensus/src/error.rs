//! What can go wrong between asking and knowing.

use std::collections::BTreeMap;

use muster_core::ids::{ClusterId, NodeId};
use muster_core::version::{Obstacle, Unsupported, Version};

/// Why a proposal has no answer. A refused command is not an error: it is answered by a `Rejection`.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ProposeError {
    /// Nobody took it: it was certainly not applied.
    #[error("no leader could be reached; nothing was changed")]
    NoLeader,
    /// It was sent, and no answer came in time. It may yet be applied, until this node's next
    /// proposal is.
    #[error("no quorum answered in time; whether the change was made is unknown")]
    Unknown,
    #[error("the change is {bytes} bytes long; at most {max} fit the log")]
    TooLarge { bytes: usize, max: usize },
    /// Some member may not understand it. Nothing was proposed.
    #[error("the cluster is still at version {in_effect}, and this needs version {since}; {}", held_back(by))]
    TooNew { since: Version, in_effect: Version, by: BTreeMap<NodeId, Obstacle> },
    #[error("too many changes are waiting to be replicated")]
    Overloaded,
    #[error("the node is shutting down")]
    Stopping,
}

#[derive(Debug, Clone, thiserror::Error)]
pub enum ReadError {
    #[error("no quorum answered in time")]
    NoQuorum,
    #[error("the node is shutting down")]
    Stopping,
}

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Version(#[from] Unsupported),
    #[error("the raft configuration is not valid")]
    Config(#[source] Box<openraft::ConfigError>),
    #[error("cannot read the stored state")]
    Storage(#[source] openraft::StorageError<NodeId>),
    #[error("cannot read the log")]
    Log(#[source] muster_storage::StoreError),
    #[error("cannot start raft")]
    Raft(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Why a peer's request could not be answered.
#[derive(Debug, thiserror::Error)]
pub enum RpcError {
    #[error("unknown peer request `{0}`")]
    UnknownPath(String),
    #[error("this is node {0}, not the one that was called")]
    Misdirected(NodeId),
    #[error("the caller is not node {0}: its data is another than that node's")]
    Impostor(NodeId),
    #[error("node {0} was removed from the cluster")]
    Removed(NodeId),
    #[error("node {caller} spoke for node {claimed}")]
    Mismatch { caller: NodeId, claimed: NodeId },
    #[error("node {0} has lost its data and takes no part")]
    Disowned(NodeId),
    #[error(
        "node {node} is of the cluster {theirs}, and this one of {own}: it does not belong here any more. \
         If its cluster was made anew, it must be given an empty directory"
    )]
    OtherCluster { node: NodeId, own: ClusterId, theirs: ClusterId },
    #[error("the log takes nothing any more")]
    Log(#[source] muster_storage::StoreError),
    #[error("cannot decode the peer's request")]
    Decode(#[source] muster_storage::codec::CodecError),
    #[error("cannot encode the answer")]
    Encode(#[source] muster_storage::codec::CodecError),
}

/// Who stands in the way of the next version, for people.
fn held_back(by: &BTreeMap<NodeId, Obstacle>) -> String {
    if by.is_empty() {
        return "who holds it back is not known here at the moment: see `muster cluster status`".into();
    }
    let each: Vec<String> = by.iter().map(|(node, why)| format!("node {node} {why}")).collect();
    format!("held back by: {}", each.join(", "))
}
