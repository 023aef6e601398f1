//! Snapshots of the state: encoded away from the apply path, kept in the store, one at a time.

use std::io::Cursor;
use std::sync::Arc;

use muster_core::ClusterState;
use muster_storage::{SnapshotStore, codec};
use openraft::storage::RaftSnapshotBuilder;
use openraft::{Snapshot, StorageIOError};
use tokio::sync::Mutex;

use crate::types::{LogId, SnapshotMeta, StorageError, StoredMembership, TypeConfig};

/// The format of a snapshot's data and of its metadata.
const FORMAT: u8 = 1;
/// As much as the store takes in one snapshot.
const STATE_MAX: usize = codec::DECODE_MAX;
const META_MAX: usize = 64 * 1024;

/// Where the last snapshot lies. Saves take turns, and an older one never replaces a newer one.
#[derive(Debug)]
pub(crate) struct Shelf {
    store: SnapshotStore,
    newest: Mutex<Option<LogId>>,
}

impl Shelf {
    pub(crate) fn new(store: SnapshotStore) -> Self {
        Shelf { store, newest: Mutex::new(None) }
    }

    pub(crate) async fn load_state(&self) -> Result<Option<(SnapshotMeta, ClusterState)>, StorageError> {
        let Some((meta, data)) = self.load().await? else { return Ok(None) };
        *self.newest.lock().await = meta.last_log_id;
        let state = decode_state(&meta, data).await?;
        Ok(Some((meta, state)))
    }

    pub(crate) async fn current(&self) -> Result<Option<Snapshot<TypeConfig>>, StorageError> {
        let loaded = self.load().await?;
        Ok(loaded.map(|(meta, data)| Snapshot { meta, snapshot: Box::new(Cursor::new(data)) }))
    }

    /// Checks a received snapshot, makes it durable and returns its state.
    pub(crate) async fn install(
        &self,
        meta: &SnapshotMeta,
        data: Vec<u8>,
    ) -> Result<ClusterState, StorageError> {
        let data: Arc<[u8]> = data.into();
        let state = decode_state(meta, Arc::clone(&data)).await?;
        self.save(meta, data).await?;
        Ok(state)
    }

    async fn save(&self, meta: &SnapshotMeta, data: Arc<[u8]>) -> Result<(), StorageError> {
        let mut newest = self.newest.lock().await;
        if *newest > meta.last_log_id {
            return Ok(());
        }
        let encoded = codec::encode(FORMAT, meta).map_err(|e| write_error(meta, &e))?;
        self.store.save(&encoded, &data).await.map_err(|e| write_error(meta, &e))?;
        *newest = meta.last_log_id;
        Ok(())
    }

    async fn load(&self) -> Result<Option<(SnapshotMeta, Vec<u8>)>, StorageError> {
        match self.read().await {
            // A save that is about to end has removed the old snapshot and does not tell of the new one
            // before that is durable. An error here would end this node's part in the log, so it
            // must not come of that: who holds the lock sees no save.
            Err(_) => {
                let _no_save = self.newest.lock().await;
                self.read().await
            }
            found => found,
        }
    }

    async fn read(&self) -> Result<Option<(SnapshotMeta, Vec<u8>)>, StorageError> {
        let store = self.store.clone();
        let loaded = blocking(move || store.load()).await.map_err(|e| read_error(None, &e))?;
        let Some(muster_storage::Snapshot { meta, data }) = loaded else { return Ok(None) };
        let meta = codec::decode(&[FORMAT], META_MAX, &meta).map_err(|e| read_error(None, &e))?;
        Ok(Some((meta, data)))
    }
}

/// Encodes one state, taken when the builder was made.
#[derive(Debug)]
pub struct Builder {
    shelf: Arc<Shelf>,
    state: ClusterState,
    applied: Option<LogId>,
    membership: StoredMembership,
}

impl Builder {
    pub(crate) fn new(
        shelf: Arc<Shelf>,
        state: ClusterState,
        applied: Option<LogId>,
        membership: StoredMembership,
    ) -> Self {
        Builder { shelf, state, applied, membership }
    }
}

impl RaftSnapshotBuilder<TypeConfig> for Builder {
    async fn build_snapshot(&mut self) -> Result<Snapshot<TypeConfig>, StorageError> {
        let snapshot_id = match self.applied {
            Some(id) => format!("{}-{}", id.leader_id, id.index),
            None => "empty".to_owned(),
        };
        let meta =
            SnapshotMeta { last_log_id: self.applied, last_membership: self.membership.clone(), snapshot_id };
        let state = self.state.clone();
        let data =
            blocking(move || codec::encode(FORMAT, &state)).await.map_err(|e| write_error(&meta, &e))?;
        let data: Arc<[u8]> = data.into();
        self.shelf.save(&meta, Arc::clone(&data)).await?;
        Ok(Snapshot { meta, snapshot: Box::new(Cursor::new(data.to_vec())) })
    }
}

async fn decode_state<D>(meta: &SnapshotMeta, data: D) -> Result<ClusterState, StorageError>
where
    D: AsRef<[u8]> + Send + 'static,
{
    blocking(move || codec::decode(&[FORMAT], STATE_MAX, data.as_ref()))
        .await
        .map_err(|e| read_error(Some(meta), &e))
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.expect("encoding and decoding do not panic")
}

fn write_error<E: std::error::Error + 'static>(meta: &SnapshotMeta, error: &E) -> StorageError {
    StorageIOError::write_snapshot(Some(meta.signature()), openraft::AnyError::new(error)).into()
}

fn read_error<E: std::error::Error + 'static>(meta: Option<&SnapshotMeta>, error: &E) -> StorageError {
    StorageIOError::read_snapshot(meta.map(SnapshotMeta::signature), openraft::AnyError::new(error)).into()
}

#[cfg(test)]
mod tests {
    use muster_core::ids::NodeId;
    use muster_storage::{Options, Store};
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
        shelf.save(&meta(0), Arc::from([0; 100])).await.expect("saved");
        let saving = tokio::spawn({
            let shelf = Arc::clone(&shelf);
            async move {
                for index in 1..=100 {
                    shelf.save(&meta(index), Arc::from([0; 100])).await.expect("saved");
                }
            }
        });
        let mut last = None;
        while !saving.is_finished() {
            let (meta, _) = shelf.load().await.expect("readable").expect("there is always one");
            assert!(meta.last_log_id >= last, "an older one came back");
            last = meta.last_log_id;
        }
        saving.await.expect("saving does not panic");
        tokio::task::spawn_blocking(move || store.close()).await.expect("closed");
    }
}
