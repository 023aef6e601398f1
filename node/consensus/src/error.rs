//! What can go wrong between asking and knowing.

use muster_core::ids::NodeId;

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
    #[error("the raft configuration is not valid")]
    Config(#[source] Box<openraft::ConfigError>),
    #[error("cannot read the stored state")]
    Storage(#[source] openraft::StorageError<NodeId>),
    #[error("cannot read the log")]
    Log(#[source] muster_storage::StoreError),
    #[error("cannot start raft")]
    Raft(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("cannot make an HTTP client for peers")]
    Http(#[source] reqwest::Error),
}

/// Why a peer's request could not be answered.
#[derive(Debug, thiserror::Error)]
pub enum RpcError {
    #[error("unknown peer request `{0}`")]
    UnknownPath(String),
    #[error("this is node {0}, not the one that was called")]
    Misdirected(NodeId),
    #[error("cannot decode the peer's request")]
    Decode(#[source] muster_storage::codec::CodecError),
    #[error("cannot encode the answer")]
    Encode(#[source] muster_storage::codec::CodecError),
}
