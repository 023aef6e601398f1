//! A snapshot on its way to a peer: part by part from the store, from where the peer has it.

use std::sync::Arc;
use std::time::Duration;

use muster_core::ids::NodeId;
use muster_storage::SnapshotReader;
use openraft::error::{
    Fatal, InstallSnapshotError, NetworkError, RPCError, RaftError, RemoteError, StreamingError,
};
use openraft::network::RPCOption;
use openraft::raft::{InstallSnapshotResponse, SnapshotResponse};

use crate::messages::Part;
use crate::network::{Peer, RaftRpcError};
use crate::receiving::Offer;
use crate::snapshots::read_error;
use crate::transport::CallError;
use crate::types::{SnapshotMeta, StorageError, TypeConfig, Vote};

/// Bytes in one part. Two are in memory of a snapshot that is being sent: one on its way, and the next.
const PART_BYTES: usize = if cfg!(test) { 256 * 1024 } else { 1024 * 1024 };
/// A part is sent this often in a row before openraft is left to begin anew.
const ATTEMPTS_MAX: u32 = 5;
/// For a peer to answer: a lost answer must not hold up a follower for as long as a large snapshot may take.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// So much longer for each part of the whole, where it is checked, decoded and installed: the last.
const INSTALL_LIMIT_PER_PART: Duration = Duration::from_millis(250);
const PAUSE_MIN: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_millis(200);

type Answer = Result<SnapshotResponse<NodeId>, StreamingError<TypeConfig, Fatal<NodeId>>>;
type PartError = RaftRpcError<InstallSnapshotError>;

/// One transfer to one peer.
struct Sending<'a> {
    peer: &'a Peer,
    vote: Vote,
    meta: SnapshotMeta,
    reader: Arc<SnapshotReader>,
    option: RPCOption,
}

/// Sends a snapshot; returns when the peer has installed it or knows of a higher vote.
pub(crate) async fn send(
    peer: &Peer,
    vote: Vote,
    meta: SnapshotMeta,
    reader: SnapshotReader,
    option: RPCOption,
) -> Answer {
    Sending { peer, vote, meta, reader: Arc::new(reader), option }.run().await
}

impl Sending<'_> {
    async fn run(self) -> Answer {
        let mut from = None;
        let mut ahead = None;
        // In a row; and those that the peer had a reason for, in all.
        let (mut failures, mut refusals) = (0, 0);
        loop {
            let sent = match from {
                Some(offset) => self.part(offset, &mut ahead).await?,
                None => self.held().await.map(Progress::At),
            };
            match sent {
                Ok(Progress::Done(vote)) => return Ok(SnapshotResponse::new(vote)),
                Ok(Progress::At(offset)) => {
                    if from.is_some() {
                        failures = 0;
                    }
                    from = Some(offset);
                }
                Err(error) => {
                    failures += 1;
                    refusals += u32::from(matches!(error, RPCError::RemoteError(_)));
                    if failures.max(refusals) >= ATTEMPTS_MAX {
                        return Err(given_up(error));
                    }
                    tracing::warn!(%error, to = %self.peer.target(), "a part of a snapshot was not taken");
                    // Whatever happened, the peer knows what it has.
                    from = None;
                    let pause = PAUSE_MIN.saturating_mul(1 << failures.min(8)).min(PAUSE_MAX);
                    tokio::time::sleep(pause).await;
                }
            }
        }
    }

    async fn held(&self) -> Result<u64, PartError> {
        let transfer = self.reader.transfer(&self.meta.snapshot_id);
        let offer = Offer { vote: self.vote, transfer };
        let option = self.within(ANSWER_LIMIT);
        match self.peer.call::<_, Result<u64, RaftError<NodeId>>>("snapshot-held", &offer, &option).await {
            Ok(Ok(held)) => Ok(held.min(self.reader.bytes())),
            Ok(Err(error)) => {
                let error =
                    error.into_fatal().map_or_else(|| RaftError::Fatal(Fatal::Stopped), RaftError::Fatal);
                Err(RPCError::RemoteError(RemoteError::new(self.peer.target(), error)))
            }
            // A version that knows no offers: it takes the parts from the first on.
            Err(CallError::Refused(_)) => Ok(0),
            Err(error) => Err(Peer::failed(error)),
        }
    }

    /// No longer than openraft allows in any case.
    fn within(&self, limit: Duration) -> RPCOption {
        RPCOption::new(limit.min(self.option.hard_ttl()))
    }

    async fn read(&self, offset: u64) -> Result<Vec<u8>, StorageError> {
        let read = self.reader.read(offset, PART_BYTES).await;
        read.map_err(|error| read_error(Some(&self.meta), &error))
    }

    /// Sends the part from there on, and reads the one that comes next.
    async fn part(
        &self,
        offset: u64,
        ahead: &mut Option<(u64, Vec<u8>)>,
    ) -> Result<Result<Progress, PartError>, StreamingError<TypeConfig, Fatal<NodeId>>> {
        let data = match ahead.take() {
            Some((at, data)) if at == offset => data,
            _ => self.read(offset).await?,
        };
        let end = offset + data.len() as u64;
        let done = end == self.reader.bytes();
        let request = Part { vote: self.vote, meta: self.meta.clone(), offset, data, done };
        let parts = u32::try_from(self.reader.bytes() / PART_BYTES as u64).unwrap_or(u32::MAX);
        let install = if done { INSTALL_LIMIT_PER_PART.saturating_mul(parts) } else { Duration::ZERO };
        let option = self.within(ANSWER_LIMIT + install);
        let call = self.peer.raft_call("snapshot", &request, &option);
        let (answer, next): (Result<InstallSnapshotResponse<NodeId>, PartError>, _) =
            tokio::join!(call, async { if done { Ok(Vec::new()) } else { self.read(end).await } });
        *ahead = Some((end, next?));
        Ok(answer.map(|InstallSnapshotResponse { vote }| match done || vote > self.vote {
            true => Progress::Done(vote),
            false => Progress::At(end),
        }))
    }
}

enum Progress {
    /// The peer has as much as this.
    At(u64),
    /// With the peer's vote.
    Done(Vote),
}

fn given_up(error: PartError) -> StreamingError<TypeConfig, Fatal<NodeId>> {
    match error {
        RPCError::Timeout(error) => error.into(),
        RPCError::Unreachable(error) => error.into(),
        RPCError::Network(error) => error.into(),
        RPCError::RemoteError(RemoteError { target, target_node, source: RaftError::Fatal(source) }) => {
            RemoteError { target, target_node, source }.into()
        }
        error => NetworkError::new(&error).into(),
    }
}

#[cfg(test)]
mod tests;
