//! How a call reaches a peer, and what may come of it. Who carries it, and how it is known who is at the other
//! end, is not the log's business.

use std::fmt::Debug;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use muster_core::ids::NodeId;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// What a call resolves to.
pub type Answer<'a> = Pin<Box<dyn Future<Output = Result<Bytes, CallError>> + Send + 'a>>;

/// Why a call to a peer brought no answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The connection was not made: the peer saw nothing.
    #[error("cannot connect to the peer")]
    Unreachable(#[source] BoxError),
    #[error("the peer did not answer")]
    Broken(#[source] BoxError),
    #[error("the peer refused the call with status {0}")]
    Refused(u16),
    #[error("cannot encode or decode a peer message")]
    Codec(#[source] muster_storage::codec::CodecError),
}

/// Calls peers, as this node and no other.
pub trait Transport: Debug + Send + Sync {
    /// Posts `body` to a `path` of the peer `target`, which listens at `address`, and returns the answer's body.
    /// Nobody else may see it. Takes no longer than `limit`. The peer may see a call more than once.
    fn call<'a>(
        &'a self,
        target: NodeId,
        address: &'a str,
        path: &'a str,
        body: Vec<u8>,
        limit: Duration,
    ) -> Answer<'a>;
}
