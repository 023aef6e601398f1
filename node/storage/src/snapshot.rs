//! Snapshots of the state machine: one whole, valid snapshot at any time.
//!
//! A snapshot is a *generation*: its chunks, each with a CRC-32, and a manifest, written last, with a
//! BLAKE3 hash over all. A new generation takes the old one's place in the moment its manifest is
//! stored, which also removes the old manifest; only then are the old chunks removed. Chunks without
//! a manifest are what an interruption left, and are removed at the next open.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;

use crate::codec;
use crate::durability::{Change, Writer};
use crate::error::StoreError;
use crate::keys::{self, Key, Kind, PART_MAX, RECORD_MAX};
use crate::store::{Inner, Store};

/// Format of the manifest. History: 1, 2026-11: metadata, sizes and hash.
pub(crate) const MANIFEST_FORMAT: u8 = 1;

/// The most bytes of data in a snapshot: it is held in memory as a whole.
pub const DATA_MAX: usize = 1 << 30;

/// The most bytes of metadata, so that the manifest is one record.
pub const META_MAX: usize = RECORD_MAX - 256;

const CRC_BYTES: usize = 4;

/// Bytes of data in one chunk.
const CHUNK_BYTES: usize = PART_MAX - CRC_BYTES;

/// Chunks written at once: appends to the log wait for no more than this.
const SLICE_CHUNKS: usize = 48;

/// A snapshot as it was saved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    pub meta: Vec<u8>,
    pub data: Vec<u8>,
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

pub(crate) struct State {
    /// The last generation that was begun. One that was given up keeps its number.
    begun: Mutex<u64>,
    /// The generation that is valid; zero if there is none.
    current: AtomicU64,
}

impl SnapshotStore {
    pub(crate) fn new(store: Store) -> SnapshotStore {
        SnapshotStore(store)
    }

    /// Replaces the snapshot; durable before it returns. If it is interrupted, by a crash or because
    /// the future is dropped, the old snapshot stays. Saves happen one after the other.
    ///
    /// # Errors
    /// [`StoreError::TooLarge`], [`StoreError::Closed`].
    pub async fn save(&self, meta: &[u8], data: &[u8]) -> Result<(), StoreError> {
        check("a snapshot's metadata", meta.len(), META_MAX)?;
        check("a snapshot", data.len(), DATA_MAX)?;
        let inner = self.0.inner();
        let mut begun = inner.snapshots.begun.lock().await;
        *begun += 1;
        let generation = *begun;

        let mut hash = blake3::Hasher::new();
        let mut chunks = 0_u32;
        for slice in data.chunks(SLICE_CHUNKS * CHUNK_BYTES) {
            hash.update(slice);
            let changes = slice
                .chunks(CHUNK_BYTES)
                .zip(chunks..)
                .map(|(bytes, number)| put_chunk(generation, number, bytes));
            let changes: Vec<Change> = changes.collect();
            chunks += u32::try_from(changes.len()).expect("a slice has few chunks");
            inner.writer.write_in_background(changes).await?;
        }
        let hash = hash.finalize().into();
        let manifest = Manifest { meta: meta.to_vec(), bytes: data.len() as u64, chunks, hash };
        let record = codec::encode(MANIFEST_FORMAT, &manifest)
            .map_err(|source| StoreError::Encode { what: "a snapshot's manifest", source })?;
        let old = (Key::first(Kind::SnapshotManifest, 0), Key::first(Kind::SnapshotManifest, generation));
        let mut changes = vec![Change::Remove { from: old.0, to: old.1 }];
        changes.extend(keys::put(Kind::SnapshotManifest, generation, &record));
        inner.writer.write(changes).await?;

        inner.snapshots.current.store(generation, Ordering::Release);
        inner.writer.remove_in_background(
            Key::first(Kind::SnapshotChunk, 0),
            Key::first(Kind::SnapshotChunk, generation),
        )
    }

    /// The snapshot, if one was ever saved. Reads all of it: not for a path that
    /// must be fast.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] if it is not, byte for byte, what was saved.
    pub fn load(&self) -> Result<Option<Snapshot>, StoreError> {
        let inner = self.0.inner();
        loop {
            let generation = inner.snapshots.current.load(Ordering::Acquire);
            let found = read(inner, generation);
            // A save that ended meanwhile has removed what was being read.
            if inner.snapshots.current.load(Ordering::Acquire) == generation {
                return found;
            }
        }
    }
}

impl State {
    pub(crate) fn load(db: &sled::Db, dir: &Path) -> Result<State, StoreError> {
        let current = keys::last_id(db, dir, Kind::SnapshotManifest)?.unwrap_or(0);
        let begun = keys::last_id(db, dir, Kind::SnapshotChunk)?.unwrap_or(0).max(current);
        Ok(State { begun: Mutex::new(begun), current: AtomicU64::new(current) })
    }

    /// Removes the chunks of every generation but the valid one.
    pub(crate) fn remove_orphans(&self, writer: &Writer) -> Result<(), StoreError> {
        let current = self.current.load(Ordering::Acquire);
        let chunks = |generation| Key::first(Kind::SnapshotChunk, generation);
        writer.remove_in_background(chunks(0), chunks(current))?;
        writer.remove_in_background(chunks(current + 1), Key::end(Kind::SnapshotChunk))
    }
}

fn check(what: &'static str, bytes: usize, limit: usize) -> Result<(), StoreError> {
    if bytes > limit { Err(StoreError::TooLarge { what, bytes, limit }) } else { Ok(()) }
}

pub(crate) fn put_chunk(generation: u64, number: u32, bytes: &[u8]) -> Change {
    let mut value = Vec::with_capacity(bytes.len() + CRC_BYTES);
    value.extend_from_slice(bytes);
    value.extend_from_slice(&crc32fast::hash(bytes).to_le_bytes());
    Change::Put { key: Key::new(Kind::SnapshotChunk, generation, number), value }
}

fn read(inner: &Inner, generation: u64) -> Result<Option<Snapshot>, StoreError> {
    let corrupt = |what: String| StoreError::Corrupt { dir: inner.dir.clone(), what };
    if generation == 0 {
        return Ok(None);
    }
    let record = keys::get(&inner.db, &inner.dir, Kind::SnapshotManifest, generation)?
        .ok_or_else(|| corrupt("the snapshot's manifest is missing".into()))?;
    let manifest: Manifest =
        keys::decode(&inner.dir, "the snapshot's manifest", &[MANIFEST_FORMAT], &record)?;

    let mut data = Vec::with_capacity(usize::try_from(manifest.bytes).unwrap_or(0).min(DATA_MAX));
    let range = Key::first(Kind::SnapshotChunk, generation)..Key::first(Kind::SnapshotChunk, generation + 1);
    let mut pairs = inner.db.range(range);
    for number in 0..manifest.chunks {
        let pair = pairs.next().transpose();
        let pair = pair.map_err(|source| StoreError::read(&inner.dir, "a snapshot's chunk", source))?;
        let expected = Key::new(Kind::SnapshotChunk, generation, number);
        let value = pair.filter(|(key, _)| Key::parse(key) == Some(expected)).map(|(_, value)| value);
        let value = value.ok_or_else(|| corrupt(format!("chunk {number} of the snapshot is missing")))?;
        let (bytes, crc) = value
            .split_last_chunk::<CRC_BYTES>()
            .ok_or_else(|| corrupt(format!("chunk {number} of the snapshot is cut off")))?;
        if crc32fast::hash(bytes) != u32::from_le_bytes(*crc) {
            return Err(corrupt(format!("chunk {number} of the snapshot has a wrong checksum")));
        }
        data.extend_from_slice(bytes);
    }
    if data.len() as u64 != manifest.bytes || blake3::hash(&data) != blake3::Hash::from_bytes(manifest.hash) {
        return Err(corrupt("the snapshot as a whole is not what was saved".into()));
    }
    Ok(Some(Snapshot { meta: manifest.meta, data }))
}
