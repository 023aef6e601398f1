//! What nodes say to each other, besides openraft's own messages. Enums are only ever appended to.

use muster_core::{Command, ProposalId};
use muster_storage::codec::{self, CodecError};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// The format of every peer message of this version.
const FORMAT: u8 = 1;

/// The largest peer message: a snapshot chunk of 1 MiB or a batch of appends, with room to spare.
pub const RPC_BODY_MAX: usize = 8 * 1024 * 1024;

/// Commands a node wants in the log.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Proposal {
    pub(crate) id: ProposalId,
    pub(crate) commands: Vec<Command>,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) enum ProposalOutcome {
    Committed,
    /// The asked node does not lead; it did nothing.
    NotLeader,
    /// It was taken but its fate is unknown to the leader.
    Unknown,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) enum ReadIndex {
    /// A read is linearizable once everything up to this index is applied.
    At(u64),
    NotLeader,
    NoQuorum,
}

pub(crate) fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, CodecError> {
    codec::encode(FORMAT, message)
}

pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    codec::decode(&[FORMAT], RPC_BODY_MAX, bytes)
}
