//! What nodes say to each other, besides openraft's own messages. Enums are only ever appended to.

use muster_core::{Command, ProposalId};
use muster_storage::codec::{self, CodecError};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// The newest format of peer messages; which one is written, [`crate::formats`] says. History:
/// * 1, 2026-11: a request began with the node it is for;
/// * 2, 2026-11: with who sends it, too, and what data either is known by;
/// * 3, 2026-11: and the sender's cluster.
pub(crate) const FORMAT: u8 = 3;
/// Those that are read. What was written before there was a cluster version is not: no release did.
pub(crate) const KNOWN: [u8; 1] = [FORMAT];

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
    /// As `At`, but who reads must not admit callers on the strength of it: it is no member yet, or is
    /// about to be none.
    Unleased(u64),
}

/// `format` is that of the version in effect, or for an answer that of the request.
pub(crate) fn encode<T: Serialize>(format: u8, message: &T) -> Result<Vec<u8>, CodecError> {
    codec::encode(format, message)
}

/// The format of a message, if it is one.
pub(crate) fn format_of(bytes: &[u8]) -> u8 {
    bytes.first().copied().unwrap_or(FORMAT)
}

pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    codec::decode(&KNOWN, RPC_BODY_MAX, bytes)
}
