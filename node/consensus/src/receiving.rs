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

#[cfg(test)]
mod tests {
    use muster_core::version::{SUPPORTED, Version};
    use muster_storage::{Memory, Options, SnapshotReader, Store};

    use super::*;
    use crate::contents::Contents;
    use crate::contents::tests::{raised, used};
    use crate::snapshots::{Shelf, SnapshotData};

    const PART_BYTES: usize = 20_000;

    /// A state, and a snapshot of it as its sender has it.
    struct Sent {
        contents: Contents,
        meta: SnapshotMeta,
        reader: Arc<SnapshotReader>,
        _store: Store,
    }

    impl Sent {
        async fn of(rows: u64, version: Version) -> Sent {
            let contents = Contents { state: raised(used(rows), version), digest: None };
            let meta = SnapshotMeta { snapshot_id: format!("of-{rows}"), ..SnapshotMeta::default() };
            let store = Store::in_memory(&Memory::new()).expect("a store in memory opens");
            let shelf = Shelf::new(store.snapshots());
            shelf.build(&meta, contents.clone()).await.expect("built");
            let built = shelf.current().expect("readable").expect("it was just built");
            let SnapshotData::Stored(reader) = *built.snapshot else { panic!("it lies in the store") };
            Sent { contents, meta, reader: Arc::new(reader), _store: store }
        }

        /// Sends what the receiver lacks, `parts` of it at most; gives what comes of the last.
        async fn send(&self, to: &Receiver, parts: usize) -> Option<(Draft, Option<Decoding>)> {
            let mut at = to.held(self.reader.transfer(&self.meta.snapshot_id)).await.expect("offered");
            for _ in 0..parts {
                let part = self.reader.read(at, PART_BYTES).await.expect("readable");
                let done = at + part.len() as u64 == self.reader.bytes();
                if let Some(whole) = to.take(&self.meta, at, &part, done).await.expect("taken") {
                    return Some(whole);
                }
                at += part.len() as u64;
            }
            None
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_arrives_is_decoded_meanwhile() {
        let (small, other) =
            (Sent::of(20_000, SUPPORTED.newest).await, Sent::of(10_000, SUPPORTED.newest).await);
        // So large that some of it is stored before all of it is here: it is not compressed.
        let large = Sent::of(40_000, Version(2)).await;
        for (name, sent) in [
            ("at once", &small),
            ("it broke off", &small),
            ("after another one", &small),
            ("the node was started again", &large),
        ] {
            let dir = tempfile::tempdir().expect("a temporary directory");
            let store = Store::open(dir.path(), Options::default()).expect("a fresh store opens");
            let mut receiver = Receiver::new(store.snapshots());
            match name {
                "it broke off" => assert!(sent.send(&receiver, 4).await.is_none(), "it was to be larger"),
                "the node was started again" => {
                    assert!(sent.send(&receiver, 60).await.is_none(), "it was to be larger");
                    receiver.close().await;
                    receiver = Receiver::new(store.snapshots());
                    let held = receiver.held(sent.reader.transfer(&sent.meta.snapshot_id)).await;
                    assert!(held.expect("offered") > 0, "nothing was kept");
                }
                "after another one" => assert!(other.send(&receiver, 1).await.is_none()),
                _ => {}
            }
            let (draft, decoding) = sent.send(&receiver, usize::MAX).await.expect("the whole");
            let decoded = decoding.expect("begun").ended().await;
            let decoded = decoded.unwrap_or_else(|| panic!("{name}: it was not decoded"));
            assert_eq!((&decoded.state, decoded.digest), (&sent.contents.state, None), "{name}");
            drop(draft);
            receiver.close().await;
            tokio::task::spawn_blocking(move || store.close()).await.expect("closed");
        }
    }
}
