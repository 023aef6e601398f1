//! Snapshots from peers: part by part into the store, and on from there after an interruption.
//!
//! The sender offers a [`Transfer`] and is told how much of it is here; then it sends parts from there
//! on, which are decoded as they come. What has arrived is checked against the offered hash before openraft hears of it: an error
//! after that would be the end of this node's part in the log. A sender of a version that makes no offers
//! begins with the first part.

use std::sync::Arc;

use muster_core::ids::NodeId;
use muster_storage::{Draft, Pace, SnapshotStore, StoreError, Transfer};
use openraft::SnapshotSegmentId;
use openraft::error::{Fatal, InstallSnapshotError, RaftError, SnapshotMismatch};
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;

use crate::snapshots::{Decoding, write_error};
use crate::types::{SnapshotMeta, Vote};

/// A sender's question how much of a transfer is here.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Offer {
    pub(crate) vote: Vote,
    pub(crate) transfer: Transfer,
}

/// The one transfer under way. A clone is a handle to the same, and keeps the store open until it is
/// [closed](Receiver::close).
#[derive(Clone, Debug)]
pub(crate) struct Receiver(Arc<Mutex<Option<Inner>>>);

#[derive(Debug)]
struct Inner {
    store: SnapshotStore,
    under_way: Option<UnderWay>,
}

#[derive(Debug)]
struct UnderWay {
    id: String,
    draft: Draft,
    decoding: Option<Decoding>,
}

pub(crate) type Refusal = RaftError<NodeId, InstallSnapshotError>;

impl Receiver {
    pub(crate) fn new(store: SnapshotStore) -> Self {
        Receiver(Arc::new(Mutex::new(Some(Inner { store, under_way: None }))))
    }

    /// Prepares for a transfer, and tells how much of it is here.
    pub(crate) async fn held(&self, transfer: Transfer) -> Result<u64, Fatal<NodeId>> {
        let mut inner = self.0.lock().await;
        let Inner { store, under_way } = inner.as_mut().ok_or(Fatal::Stopped)?;
        if let Some(known) = under_way.as_ref().filter(|known| known.draft.transfer() == Some(&transfer)) {
            return Ok(known.draft.held());
        }
        // The store keeps what there is of the one before until this one has begun.
        *under_way = None;
        let (id, meta) = (transfer.id.clone(), SnapshotMeta::default());
        let mut draft = store.receive(transfer).await.map_err(|e| failed(&meta, &e))?;
        let held = draft.held();
        let decoding = Decoding::of(&mut draft, store);
        *under_way = Some(UnderWay { id, draft, decoding });
        Ok(held)
    }

    /// Takes one part; with the last it gives the whole, checked, and the state that comes of it.
    pub(crate) async fn take(
        &self,
        meta: &SnapshotMeta,
        offset: u64,
        data: &[u8],
        done: bool,
    ) -> Result<Option<(Draft, Option<Decoding>)>, Refusal> {
        let mut inner = self.0.lock().await;
        let Inner { store, under_way } = inner.as_mut().ok_or(RaftError::Fatal(Fatal::Stopped))?;
        let known = under_way.take().filter(|known| known.id == meta.snapshot_id);
        let UnderWay { id, mut draft, decoding } = match known {
            Some(known) => known,
            None if offset == 0 => {
                let (id, draft) = (meta.snapshot_id.clone(), store.begin(Pace::Full));
                UnderWay { id, draft, decoding: None }
            }
            None => return Err(mismatch(meta, 0, offset)),
        };
        let held = draft.held();
        if offset > held {
            *under_way = Some(UnderWay { id, draft, decoding });
            return Err(mismatch(meta, held, offset));
        }
        // A part that was sent again may overlap what is here.
        let skip = usize::try_from(held - offset).unwrap_or(usize::MAX);
        let taken = async {
            draft.append(data.get(skip..).unwrap_or(&[])).await?;
            if done { draft.seal().await } else { Ok(()) }
        };
        match taken.await {
            Ok(()) if done => Ok(Some((draft, decoding))),
            Ok(()) => {
                *under_way = Some(UnderWay { id, draft, decoding });
                Ok(None)
            }
            Err(error @ (StoreError::Mismatch { .. } | StoreError::TooLarge { .. })) => {
                tracing::warn!(%error, snapshot = id, "an arrived snapshot is refused");
                draft.discard();
                Err(mismatch(meta, 0, offset))
            }
            Err(error) => Err(RaftError::Fatal(failed(meta, &error))),
        }
    }

    /// Lets go of the store. What has arrived stays there.
    pub(crate) async fn close(&self) {
        let inner = self.0.lock().await.take();
        let Some(UnderWay { draft, decoding: Some(decoding), .. }) = inner.and_then(|inner| inner.under_way)
        else {
            return;
        };
        drop(draft);
        // Who reads what arrives has the store open, too.
        decoding.ended().await;
    }
}

fn failed(meta: &SnapshotMeta, error: &StoreError) -> Fatal<NodeId> {
    Fatal::StorageError(write_error(meta, error))
}

/// Tells the sender from where on to send.
fn mismatch(meta: &SnapshotMeta, expected: u64, got: u64) -> Refusal {
    let at = |offset| SnapshotSegmentId { id: meta.snapshot_id.clone(), offset };
    let mismatch = SnapshotMismatch { expect: at(expected), got: at(got) };
    RaftError::APIError(InstallSnapshotError::SnapshotMismatch(mismatch))
}
