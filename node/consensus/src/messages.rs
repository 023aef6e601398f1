//! What nodes say to each other, besides openraft's own messages. Enums are only ever appended to.

use muster_core::{Command, ProposalId};
use muster_storage::codec::{self, CodecError};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::types::{SnapshotMeta, Vote};

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

/// A part of a snapshot: openraft's `InstallSnapshotRequest`, and the same as that byte for byte. Its data is
/// written and read as one piece, not as a million numbers.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Part {
    pub(crate) vote: Vote,
    pub(crate) meta: SnapshotMeta,
    pub(crate) offset: u64,
    #[serde(with = "serde_bytes")]
    pub(crate) data: Vec<u8>,
    pub(crate) done: bool,
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

#[cfg(test)]
mod tests {
    use openraft::raft::InstallSnapshotRequest;

    use super::*;
    use crate::types::TypeConfig;

    #[test]
    fn a_part_is_what_openraft_would_send() {
        for bytes in [0, 1, 200, 70_000] {
            let data: Vec<u8> = (0..=255).cycle().take(bytes).collect();
            let (vote, meta) =
                (Vote::default(), SnapshotMeta { snapshot_id: "s".into(), ..Default::default() });
            let part = Part { vote, meta: meta.clone(), offset: 7, data: data.clone(), done: true };
            let theirs: InstallSnapshotRequest<TypeConfig> =
                InstallSnapshotRequest { vote, meta, offset: 7, data: data.clone(), done: true };
            let encoded = encode(FORMAT, &part).unwrap();
            assert_eq!(encoded, encode(FORMAT, &theirs).unwrap(), "{bytes} bytes");
            assert_eq!(decode::<Part>(&encoded).unwrap().data, data, "{bytes} bytes");
        }
    }
}
