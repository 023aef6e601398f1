//! Snapshots of the state: encoded away from the apply path, straight into the store, one at a time.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use muster_core::ledger::Ledger;
use muster_core::mutant;
use muster_storage::codec::{self, CodecError};
use muster_storage::snapshot::Stream;
use muster_storage::{Draft, Pace, SnapshotReader, SnapshotStore, StoreError};
use openraft::storage::RaftSnapshotBuilder;
use openraft::{Snapshot, StorageIOError};
use tokio::sync::{Mutex, mpsc, oneshot};

use crate::contents::{Contents, SLICE_BYTES};
use crate::types::{LogId, SnapshotMeta, StorageError, StoredMembership, TypeConfig};
use crate::versions::Versions;
use crate::vital::Vital;

/// The format of a snapshot's metadata.
const META_FORMAT: u8 = 1;
const META_MAX: usize = 64 * 1024;

/// How long a state that is half decoded is kept in memory for what comes next of it.
const PATIENCE: Duration = Duration::from_secs(10);

/// A snapshot's data, as openraft passes it around: a handle on what lies in the store.
#[derive(Debug)]
pub enum SnapshotData {
    /// This node's snapshot, to be read.
    Stored(SnapshotReader),
    /// One that has arrived, and is not this node's yet; and what comes of it, if that was begun meanwhile.
    Arrived(Box<Draft>, Option<Decoding>),
}

/// A state that is decoded while it arrives.
#[derive(Debug)]
pub struct Decoding(oneshot::Receiver<Option<Contents>>);

impl Decoding {
    /// Begins with what is here of a draft; `None` where nothing can be done but wait for all of it.
    pub(crate) fn of(draft: &mut Draft, store: &SnapshotStore) -> Option<Decoding> {
        if !store.has_threads() {
            return None;
        }
        let mut stream = draft.follow(PATIENCE)?;
        let decode = move || {
            let decoded = Contents::decode(&mut stream);
            decoded.inspect_err(|error| tracing::debug!(%error, "a state was not decoded as it arrived")).ok()
        };
        let begun = muster_storage::begin_gently(decode);
        begun
            .inspect_err(|error| tracing::debug!(%error, "no state is decoded as it arrives"))
            .ok()
            .map(Decoding)
    }

    /// Waits for its end, which comes soon once the draft is there as a whole, or is dropped. Whatever was wrong,
    /// who decodes the whole draft will hear of it.
    pub(crate) async fn ended(self) -> Option<Contents> {
        self.0.await.ok().flatten()
    }
}

/// Why a snapshot cannot be decoded: the store's fault, or that of what was encoded.
#[derive(Debug, thiserror::Error)]
enum DecodeError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Codec(#[from] CodecError),
}

/// Where the last snapshot lies. An older one never replaces a newer one.
#[derive(Debug)]
pub(crate) struct Shelf {
    store: SnapshotStore,
    newest: Mutex<Option<LogId>>,
}

impl Shelf {
    pub(crate) fn new(store: SnapshotStore) -> Self {
        Shelf { store, newest: Mutex::new(None) }
    }

    /// Drops what may take its time, on a thread for work that can wait.
    pub(crate) fn let_go(&self, old: impl Send + 'static) {
        if self.store.has_threads() {
            // Where there is no thread it is dropped here.
            drop(muster_storage::begin_gently(move || drop(old)));
        }
    }

    pub(crate) async fn load_state(&self) -> Result<Option<(SnapshotMeta, Contents)>, StorageError> {
        let Some((meta, reader)) = self.read()? else { return Ok(None) };
        *self.newest.lock().await = meta.last_log_id;
        self.durable(&meta);
        let contents = self.decode(&meta, reader.stream()).await?;
        Ok(Some((meta, contents)))
    }

    #[expect(clippy::result_large_err, reason = "openraft's error is as large as it is")]
    pub(crate) fn current(&self) -> Result<Option<Snapshot<TypeConfig>>, StorageError> {
        let read = self.read()?;
        Ok(read.map(|(meta, reader)| Snapshot { meta, snapshot: Box::new(SnapshotData::Stored(reader)) }))
    }

    /// Where one that arrives may be put, if openraft asks: [`crate::receiving`] does not need it to.
    pub(crate) fn begin_receiving(&self) -> SnapshotData {
        SnapshotData::Arrived(Box::new(self.store.begin(Pace::Full)), None)
    }

    /// Checks an arrived snapshot, makes it durable and returns its state.
    pub(crate) async fn install(
        &self,
        meta: &SnapshotMeta,
        data: SnapshotData,
        versions: &Versions,
    ) -> Result<Contents, StorageError> {
        let installed = async {
            let (mut draft, decoding) = match data {
                SnapshotData::Arrived(draft, decoding) => (*draft, decoding),
                SnapshotData::Stored(reader) => (self.copy(meta, reader).await?, None),
            };
            draft.seal().await.map_err(|e| write_error(meta, &e))?;
            let decoded = match decoding {
                Some(decoding) => decoding.ended().await,
                None => None,
            };
            let contents = match decoded {
                Some(contents) => contents,
                None => self.decode(meta, draft.stream()).await?,
            };
            versions.check(&contents.state).map_err(|unsupported| read_error(Some(meta), &unsupported))?;
            self.finish(meta, draft).await?;
            Ok(contents)
        }
        .await;
        if installed.is_err() {
            // The purge of the log that openraft has asked for already must never be.
            self.store.arrivals().failed();
        }
        installed
    }

    /// Copies another store's snapshot.
    async fn copy(&self, meta: &SnapshotMeta, reader: SnapshotReader) -> Result<Draft, StorageError> {
        let mut draft = self.store.begin(Pace::Full);
        let reader = Arc::new(reader);
        while draft.held() < reader.bytes() {
            let part =
                reader.read(draft.held(), SLICE_BYTES).await.map_err(|e| read_error(Some(meta), &e))?;
            draft.append(&part).await.map_err(|e| write_error(meta, &e))?;
        }
        Ok(draft)
    }

    /// Encodes a state into the store. Returns at the end of it, or once a newer one is there.
    pub(crate) async fn build(&self, meta: &SnapshotMeta, contents: Contents) -> Result<(), StorageError> {
        let mut draft = self.store.begin(Pace::Gentle);
        if self.store.has_threads() {
            let (slices, ready) = mpsc::channel::<Vec<u8>>(1);
            let send = move |slice| slices.blocking_send(slice).map_err(|_| io::ErrorKind::BrokenPipe.into());
            let storing = async {
                let mut ready = ready;
                while let Some(slice) = ready.recv().await {
                    draft.append(&slice).await?;
                }
                Ok::<_, StoreError>(())
            };
            let encoding = self.store.offload_gently(move || contents.encode(send));
            let (encoded, stored) = tokio::join!(encoding, storing);
            stored.map_err(|e| write_error(meta, &e))?;
            encoded.map_err(|e| write_error(meta, &e))?;
        } else {
            // A store in memory keeps to one thread, and its states are small.
            let mut all = Vec::new();
            let sink = |slice| {
                all.push(slice);
                Ok(())
            };
            contents.encode(sink).map_err(|e| write_error(meta, &e))?;
            for slice in all {
                draft.append(&slice).await.map_err(|e| write_error(meta, &e))?;
            }
        }
        draft.seal().await.map_err(|e| write_error(meta, &e))?;
        self.finish(meta, draft).await
    }

    async fn finish(&self, meta: &SnapshotMeta, draft: Draft) -> Result<(), StorageError> {
        let mut newest = self.newest.lock().await;
        if *newest > meta.last_log_id {
            draft.discard();
            return Ok(());
        }
        let encoded = codec::encode(META_FORMAT, meta).map_err(|e| write_error(meta, &e))?;
        draft.finish(&encoded).await.map_err(|e| write_error(meta, &e))?;
        *newest = meta.last_log_id;
        self.durable(meta);
        Ok(())
    }

    /// Lets the log be purged up to there.
    fn durable(&self, meta: &SnapshotMeta) {
        self.store.arrivals().durable(meta.last_log_id.map_or(0, |last| last.index));
    }

    #[expect(clippy::result_large_err, reason = "openraft's error is as large as it is")]
    fn read(&self) -> Result<Option<(SnapshotMeta, SnapshotReader)>, StorageError> {
        let Some(reader) = self.store.current() else { return Ok(None) };
        let meta =
            codec::decode(&[META_FORMAT], META_MAX, reader.meta()).map_err(|e| read_error(None, &e))?;
        Ok(Some((meta, reader)))
    }

    /// Decodes a state. A node that starts, or has fallen behind, leads nobody: its instances, and others on the same
    /// host, serve meanwhile.
    async fn decode(&self, meta: &SnapshotMeta, mut stream: Stream) -> Result<Contents, StorageError> {
        let decode = move || {
            Contents::decode(&mut stream)
                .map_err(|error| stream.failure().map_or(DecodeError::Codec(error), DecodeError::Store))
        };
        self.store.offload_gently(decode).await.map_err(|e| read_error(Some(meta), &e))
    }
}

/// Encodes one state, taken when the builder was made.
#[derive(Debug)]
pub struct Builder {
    shelf: Arc<Shelf>,
    contents: Contents,
    applied: Option<LogId>,
    membership: StoredMembership,
    vital: Vital,
}

impl Builder {
    pub(crate) fn new(
        shelf: Arc<Shelf>,
        contents: Contents,
        applied: Option<LogId>,
        membership: StoredMembership,
        vital: Vital,
    ) -> Self {
        Builder { shelf, contents, applied, membership, vital }
    }

    async fn build(&self) -> Result<Snapshot<TypeConfig>, StorageError> {
        let snapshot_id = match self.applied {
            Some(id) => format!("{}-{}", id.leader_id, id.index),
            None => "empty".to_owned(),
        };
        let meta =
            SnapshotMeta { last_log_id: self.applied, last_membership: self.membership.clone(), snapshot_id };
        let mut contents = self.contents.clone();
        if mutant!("snapshot-omits-the-ledger") {
            contents.state.ledger = Ledger::default();
        }
        self.shelf.build(&meta, contents).await?;
        // This one, or a newer one that has arrived meanwhile.
        Ok(self.shelf.current()?.expect("a snapshot was just finished"))
    }
}

impl RaftSnapshotBuilder<TypeConfig> for Builder {
    async fn build_snapshot(&mut self) -> Result<Snapshot<TypeConfig>, StorageError> {
        // openraft waits for it for ever: no other snapshot would be built, and the log never be purged.
        self.vital.clone().watch(self.build()).await
    }
}

pub(crate) fn write_error<E: std::error::Error + 'static>(meta: &SnapshotMeta, error: &E) -> StorageError {
    StorageIOError::write_snapshot(Some(meta.signature()), openraft::AnyError::new(error)).into()
}

pub(crate) fn read_error<E: std::error::Error + 'static>(
    meta: Option<&SnapshotMeta>,
    error: &E,
) -> StorageError {
    StorageIOError::read_snapshot(meta.map(SnapshotMeta::signature), openraft::AnyError::new(error)).into()
}

#[cfg(test)]
mod tests {
    use muster_core::ids::NodeId;
    use muster_core::units::Timestamp;
    use muster_storage::{Memory, Options, Store};
    use openraft::CommittedLeaderId;

    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_snapshot_can_be_read_while_the_next_is_saved() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let store = Store::open(dir.path(), Options::default()).expect("a fresh store opens");
        let shelf = Arc::new(Shelf::new(store.snapshots()));
        let meta = |index| SnapshotMeta {
            last_log_id: Some(LogId::new(CommittedLeaderId::new(1, NodeId(1)), index)),
            ..SnapshotMeta::default()
        };
        shelf.build(&meta(0), Contents::default()).await.expect("saved");
        let saving = tokio::spawn({
            let shelf = Arc::clone(&shelf);
            async move {
                for index in 1..=100 {
                    shelf.build(&meta(index), Contents::default()).await.expect("saved");
                }
            }
        });
        let mut last = None;
        while !saving.is_finished() {
            let (meta, reader) = shelf.read().expect("readable").expect("there is always one");
            assert!(meta.last_log_id >= last, "an older one came back");
            shelf.decode(&meta, reader.stream()).await.expect("it stays while it is read");
            last = meta.last_log_id;
        }
        saving.await.expect("saving does not panic");
        // An older one that took longer replaces nothing.
        shelf.build(&meta(50), Contents::default()).await.expect("given up");
        let (found, reader) = shelf.read().expect("readable").expect("there is always one");
        assert_eq!(found.last_log_id, meta(100).last_log_id);
        drop(reader);
        tokio::task::spawn_blocking(move || store.close()).await.expect("closed");
    }

    #[tokio::test]
    async fn what_was_decoded_as_it_came_is_installed_and_the_whole_where_nothing_was() {
        let store = Store::in_memory(&Memory::new()).expect("a store in memory opens");
        let shelf = Shelf::new(store.snapshots());
        let contents = |clock| {
            let mut contents = Contents::default();
            contents.state.clock = Timestamp(clock);
            contents
        };
        // One that differs, so that it shows where a state is from.
        for (name, ahead, clock) in
            [("decoded", Some(Some(2)), 2), ("in vain", Some(None), 1), ("never", None, 1)]
        {
            let mut bytes = Vec::new();
            let sink = |slice: Vec<u8>| {
                bytes.extend(slice);
                Ok(())
            };
            contents(1).encode(sink).expect("plain data");
            let mut draft = store.snapshots().begin(Pace::Full);
            draft.append(&bytes).await.expect("stored");
            let decoding = ahead.map(|ahead| {
                let (done, result) = oneshot::channel();
                done.send(ahead.map(contents)).expect("it is waited for");
                Decoding(result)
            });
            let arrived = SnapshotData::Arrived(Box::new(draft), decoding);
            let installed = shelf.install(&SnapshotMeta::default(), arrived, &Versions::of_release()).await;
            assert_eq!(installed.expect("installed").state.clock, Timestamp(clock), "{name}");
        }
    }
}
