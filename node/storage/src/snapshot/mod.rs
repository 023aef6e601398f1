//! Snapshots of the state machine: one whole, valid snapshot at any time, never in memory as a whole.
//!
//! A snapshot is a *generation*: its chunks, each with a CRC-32, and a manifest, written last, with a
//! BLAKE3 hash over all. A new generation takes the old one's place in the moment its manifest is
//! stored, which also removes the old manifest; only then are the old chunks removed, and not before
//! whoever still [reads](SnapshotReader) them is done. Chunks without a manifest are a [`Draft`]: one that
//! is being built, or one that arrives from a peer. What an interruption leaves of the first is removed
//! at the next open. Of the second it is kept, with a note of what it is part of, so that the same
//! transfer goes on where it broke off.

mod arrivals;
mod draft;
mod reader;

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

pub use self::arrivals::Arrivals;
#[cfg(test)]
pub(crate) use self::draft::put_chunk;
pub use self::draft::{Draft, Pace};
pub use self::reader::{SnapshotReader, Stream};
use crate::codec;
use crate::database::Database;
use crate::durability::Writer;
use crate::error::StoreError;
use crate::keys::{self, Key, Kind, PART_MAX, RECORD_MAX};
use crate::store::Store;

/// Format of the manifest. History: 1, 2026-11: metadata, sizes and hash.
pub(crate) const MANIFEST_FORMAT: u8 = 1;

/// Format of the note on an arriving snapshot. History: 1, 2026-11: generation and transfer.
pub(crate) const PENDING_FORMAT: u8 = 1;

/// The most bytes of data in a snapshot. Far more than the state in memory can be; it bounds what a
/// peer can make this node write.
pub const DATA_MAX: u64 = codec::STREAM_MAX;

/// The most bytes of metadata, so that the manifest is one record.
pub const META_MAX: usize = RECORD_MAX - 256;

/// The most bytes in the name of a transfer.
const TRANSFER_ID_MAX: usize = 1024;

const CRC_BYTES: usize = 4;

/// How far work that can wait lowers its thread's priority: a tenth of what another busy thread gets, so
/// that it is done in the end on a machine that is never idle.
const GENTLE_NICE: i32 = 10;

/// Bytes of data in one chunk. All chunks but the last are full.
pub(crate) const CHUNK_BYTES: usize = PART_MAX - CRC_BYTES;

/// A snapshot as it was saved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    pub meta: Vec<u8>,
    pub data: Vec<u8>,
}

/// What a peer sends: its name for the snapshot, and what proves that all of it is here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transfer {
    pub id: String,
    pub bytes: u64,
    /// BLAKE3 over all bytes.
    pub hash: [u8; 32],
}

/// A node's snapshots. Cheap to clone.
#[derive(Clone, Debug)]
pub struct SnapshotStore(Store);

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Manifest {
    pub(crate) meta: Vec<u8>,
    pub(crate) bytes: u64,
    pub(crate) chunks: u32,
    pub(crate) hash: [u8; 32],
}

/// The chunks that are here of a snapshot that has not arrived as a whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Pending {
    pub(crate) generation: u64,
    pub(crate) transfer: Transfer,
}

pub(crate) struct State {
    /// The last generation that was begun. One that was given up keeps its number.
    begun: AtomicU64,
    books: Mutex<Books>,
    /// Held while a manifest is on its way, so that the books and the database change in one order.
    finishing: tokio::sync::Mutex<()>,
    pub(crate) arrivals: Arrivals,
}

#[derive(Default)]
struct Books {
    current: Option<(u64, Arc<Manifest>)>,
    /// How many readers each generation has.
    readers: BTreeMap<u64, usize>,
    /// What nobody writes to at the moment.
    pending: Option<Pending>,
}

impl SnapshotStore {
    pub(crate) fn new(store: Store) -> SnapshotStore {
        SnapshotStore(store)
    }

    /// What the store must be told of snapshots that arrive from peers.
    pub fn arrivals(&self) -> Arrivals {
        self.0.inner().snapshots.arrivals.clone()
    }

    /// Begins a snapshot of this node's own.
    pub fn begin(&self, pace: Pace) -> Draft {
        Draft::new(self.0.clone(), pace, None)
    }

    /// Begins a snapshot that a peer sends, or goes on with it: what the draft holds already need not be
    /// sent again. What is here of another transfer is given up.
    ///
    /// # Errors
    /// [`StoreError::TooLarge`] if it can never be stored; or what is here cannot be read.
    pub async fn receive(&self, transfer: Transfer) -> Result<Draft, StoreError> {
        check("a transfer's name", transfer.id.len(), TRANSFER_ID_MAX)?;
        check_bytes(transfer.bytes)?;
        let inner = self.0.inner();
        let found = inner.snapshots.books().pending.take();
        match found {
            Some(pending) if pending.transfer == transfer => {
                let store = self.0.clone();
                self.offload(move || Draft::resume(store, pending)).await
            }
            other => {
                if let Some(pending) = other {
                    remove_chunks(&inner.writer, pending.generation)?;
                }
                Ok(Draft::new(self.0.clone(), Pace::Full, Some(transfer)))
            }
        }
    }

    /// The snapshot, if one was ever saved. Its chunks stay for as long as the reader is there.
    pub fn current(&self) -> Option<SnapshotReader> {
        SnapshotReader::of_current(&self.0)
    }

    /// Replaces the snapshot by one that is in memory; durable before it returns. If it is interrupted,
    /// by a crash or because the future is dropped, the old snapshot stays.
    ///
    /// # Errors
    /// [`StoreError::TooLarge`], [`StoreError::Closed`].
    pub async fn save(&self, meta: &[u8], data: &[u8]) -> Result<(), StoreError> {
        let mut draft = self.begin(Pace::Full);
        draft.append(data).await?;
        draft.finish(meta).await
    }

    /// The snapshot as a whole, in memory, if one was ever saved.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] if it is not, byte for byte, what was saved.
    pub fn load(&self) -> Result<Option<Snapshot>, StoreError> {
        let Some(reader) = self.current() else { return Ok(None) };
        let data = reader.stream().read_all()?;
        Ok(Some(Snapshot { meta: reader.meta().to_vec(), data }))
    }

    /// Whether work that blocks has a thread to do it on: not where the store is in memory.
    pub fn has_threads(&self) -> bool {
        matches!(self.0.inner().db, Database::Sled { .. })
    }

    /// Does work that takes its time away from the runtime's threads; at once where nothing here
    /// blocks: a store in memory.
    ///
    /// # Panics
    /// When the work does.
    pub async fn offload<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        if self.has_threads() {
            tokio::task::spawn_blocking(work).await.expect("work that is offloaded does not panic")
        } else {
            work()
        }
    }

    /// As [`offload`](Self::offload), on a thread that gives way to every other one: for work that can wait.
    ///
    /// # Panics
    /// When the work does.
    pub async fn offload_gently<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        self.offload_to(begin_gently, work).await
    }

    /// Has what `begin` starts do some work, or does it like any other.
    pub(crate) async fn offload_to<T: Send + 'static>(
        &self,
        begin: impl FnOnce(Work<Option<T>>) -> io::Result<oneshot::Receiver<Option<T>>>,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> T {
        if !self.has_threads() {
            return work();
        }
        let work = Arc::new(Mutex::new(Some(work)));
        let take = move |work: &Mutex<Option<_>>| work.lock().unwrap_or_else(PoisonError::into_inner).take();
        let taken = Arc::clone(&work);
        match begin(Box::new(move || take(&taken).map(|work| work()))) {
            Ok(result) => result.await.ok().flatten().expect("work that is offloaded does not panic"),
            Err(error) => {
                tracing::warn!(%error, "no thread could be started: work that can wait is done like any other");
                let work = take(&work).expect("no thread has taken it");
                self.offload(work).await
            }
        }
    }
}

type Work<T> = Box<dyn FnOnce() -> T + Send>;

/// Has a thread that gives way to every other one do some work; nothing comes of it if it panics.
///
/// # Errors
/// Where no thread can be started.
pub fn begin_gently<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<oneshot::Receiver<T>> {
    let (done, result) = oneshot::channel();
    let gently = move || {
        // Linux keeps a priority for each thread. Where it cannot be lowered, the work is done all the same.
        if let Err(error) = rustix::process::nice(GENTLE_NICE) {
            tracing::debug!(%error, "a thread's priority could not be lowered");
        }
        // Nobody waits for it any more if this fails.
        let _unheard = done.send(work());
    };
    std::thread::Builder::new().name("gentle".into()).spawn(gently)?;
    Ok(result)
}

impl State {
    pub(crate) fn load(db: &Database, dir: &Path) -> Result<State, StoreError> {
        let current = match keys::last_id(db, dir, Kind::SnapshotManifest)? {
            Some(generation) => Some((generation, Arc::new(read_manifest(db, dir, generation)?))),
            None => None,
        };
        let pending = keys::get(db, dir, Kind::SnapshotPending, 0)?;
        let pending: Option<Pending> = pending
            .map(|record| keys::decode(dir, "the note on an arriving snapshot", &[PENDING_FORMAT], &record))
            .transpose()?;
        let begun = [
            keys::last_id(db, dir, Kind::SnapshotChunk)?,
            current.as_ref().map(|(generation, _)| *generation),
            pending.as_ref().map(|pending| pending.generation),
        ];
        let begun = begun.into_iter().flatten().max().unwrap_or(0);
        let books = Books { current, readers: BTreeMap::new(), pending };
        Ok(State {
            begun: AtomicU64::new(begun),
            books: Mutex::new(books),
            finishing: tokio::sync::Mutex::default(),
            arrivals: Arrivals::default(),
        })
    }

    /// Removes the chunks of every generation but the valid one and the one that arrives.
    pub(crate) fn remove_orphans(&self, writer: &Writer) -> Result<(), StoreError> {
        let books = self.books();
        let kept = [
            books.current.as_ref().map(|(generation, _)| *generation),
            books.pending.as_ref().map(|pending| pending.generation),
        ];
        let mut kept: Vec<u64> = kept.into_iter().flatten().collect();
        kept.sort_unstable();
        let mut from = Key::first(Kind::SnapshotChunk, 0);
        for generation in kept {
            writer.remove_in_background(from, Key::first(Kind::SnapshotChunk, generation))?;
            from = Key::first(Kind::SnapshotChunk, generation + 1);
        }
        writer.remove_in_background(from, Key::end(Kind::SnapshotChunk))
    }

    fn next_generation(&self) -> u64 {
        self.begun.fetch_add(1, Ordering::Relaxed) + 1
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        // Consistent between any two statements that could panic.
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a generation in the place of the current one.
    fn replace(&self, writer: &Writer, generation: u64, manifest: Manifest) -> Result<(), StoreError> {
        let mut books = self.books();
        let old = books.current.replace((generation, Arc::new(manifest)));
        match old {
            Some((old, _)) if !books.readers.contains_key(&old) => remove_chunks(writer, old),
            _ => Ok(()),
        }
    }

    /// A reader is done with a generation.
    fn release(&self, writer: &Writer, generation: u64) {
        let mut books = self.books();
        let left = books.readers.get_mut(&generation).map_or(0, |count| {
            *count -= 1;
            *count
        });
        if left > 0 {
            return;
        }
        books.readers.remove(&generation);
        if books.current.as_ref().is_none_or(|(current, _)| *current != generation) {
            // A store that is closed removes them at its next open.
            let _closed = remove_chunks(writer, generation);
        }
    }

    /// Keeps what there is of a transfer for when it goes on; there is room for one.
    fn park(&self, writer: &Writer, pending: Pending) {
        let replaced = self.books().pending.replace(pending);
        if let Some(replaced) = replaced {
            let _closed = remove_chunks(writer, replaced.generation);
        }
    }
}

fn remove_chunks(writer: &Writer, generation: u64) -> Result<(), StoreError> {
    let chunks = |generation| Key::first(Kind::SnapshotChunk, generation);
    writer.remove_in_background(chunks(generation), chunks(generation + 1))
}

fn read_manifest(db: &Database, dir: &Path, generation: u64) -> Result<Manifest, StoreError> {
    let record = keys::get(db, dir, Kind::SnapshotManifest, generation)?.ok_or_else(|| {
        StoreError::Corrupt { dir: dir.to_owned(), what: "the snapshot's manifest is missing".into() }
    })?;
    keys::decode(dir, "the snapshot's manifest", &[MANIFEST_FORMAT], &record)
}

fn check(what: &'static str, bytes: usize, limit: usize) -> Result<(), StoreError> {
    if bytes > limit { Err(StoreError::TooLarge { what, bytes, limit }) } else { Ok(()) }
}

fn check_bytes(bytes: u64) -> Result<(), StoreError> {
    let size = |bytes| usize::try_from(bytes).unwrap_or(usize::MAX);
    check("a snapshot", size(bytes), size(DATA_MAX))
}
