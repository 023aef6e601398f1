//! Reading a snapshot: chunk by chunk, each with its checksum, the whole with its hash.

use std::fmt;
use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use super::{CHUNK_BYTES, CRC_BYTES, Manifest, Transfer};
use crate::database::Pairs;
use crate::error::StoreError;
use crate::keys::{Key, Kind};
use crate::store::Store;

/// What all chunks together must come to.
#[derive(Clone, Debug)]
pub(super) struct Sizes {
    pub(super) bytes: u64,
    pub(super) chunks: u32,
    pub(super) hash: [u8; 32],
}

/// A snapshot, which stays for as long as this does, also where a newer one takes its place.
pub struct SnapshotReader {
    store: Store,
    generation: u64,
    manifest: Arc<Manifest>,
}

impl SnapshotReader {
    pub(super) fn of_current(store: &Store) -> Option<SnapshotReader> {
        let mut books = store.inner().snapshots.books();
        let (generation, manifest) = books.current.clone()?;
        *books.readers.entry(generation).or_default() += 1;
        drop(books);
        Some(SnapshotReader { store: store.clone(), generation, manifest })
    }

    pub fn meta(&self) -> &[u8] {
        &self.manifest.meta
    }

    /// Bytes of data.
    pub fn bytes(&self) -> u64 {
        self.manifest.bytes
    }

    /// What to announce to a peer that gets it.
    pub fn transfer(&self, id: &str) -> Transfer {
        Transfer { id: id.to_owned(), bytes: self.manifest.bytes, hash: self.manifest.hash }
    }

    /// Reads `limit` bytes from `offset` on, fewer only at the end.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] if a chunk is not what was saved.
    pub fn read_at(&self, offset: u64, limit: usize) -> Result<Vec<u8>, StoreError> {
        let left = self.manifest.bytes.saturating_sub(offset);
        let wanted = usize::try_from(left).unwrap_or(usize::MAX).min(limit);
        let mut data = Vec::with_capacity(wanted);
        let chunk = CHUNK_BYTES as u64;
        let first = u32::try_from(offset / chunk).unwrap_or(u32::MAX);
        let mut skip = usize::try_from(offset % chunk).expect("less than a chunk");
        let mut chunks = Chunks::new(&self.store, self.generation, first);
        while data.len() < wanted {
            let bytes = chunks.next_chunk()?;
            let rest = bytes.get(skip..).filter(|rest| !rest.is_empty());
            let rest = rest.ok_or_else(|| chunks.corrupt("is cut off"))?;
            data.extend_from_slice(&rest[..rest.len().min(wanted - data.len())]);
            skip = 0;
        }
        Ok(data)
    }

    /// As [`SnapshotReader::read_at`], away from the runtime's threads.
    ///
    /// # Errors
    /// As that.
    pub async fn read(self: &Arc<Self>, offset: u64, limit: usize) -> Result<Vec<u8>, StoreError> {
        let reader = Arc::clone(self);
        self.store.snapshots().offload(move || reader.read_at(offset, limit)).await
    }

    /// All of it, from its beginning.
    pub fn stream(&self) -> Stream {
        let Manifest { bytes, chunks, hash, .. } = *self.manifest;
        Stream::new(&self.store, self.generation, Sizes { bytes, chunks, hash })
    }
}

impl Drop for SnapshotReader {
    fn drop(&mut self) {
        let inner = self.store.inner();
        inner.snapshots.release(&inner.writer, self.generation);
    }
}

impl fmt::Debug for SnapshotReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SnapshotReader").field("generation", &self.generation).finish_non_exhaustive()
    }
}

/// What can be read of a snapshot that arrives.
pub(super) struct Growing {
    /// Chunks.
    pub(super) ready: u32,
    /// How many they are now, again and again.
    pub(super) grown: mpsc::Receiver<u32>,
    /// How long to wait for that.
    pub(super) patience: Duration,
}

/// The chunks of one generation, in order.
pub(super) struct Chunks {
    pairs: Pairs,
    dir: PathBuf,
    generation: u64,
    /// The next one's.
    number: u32,
}

impl Chunks {
    pub(super) fn new(store: &Store, generation: u64, first: u32) -> Chunks {
        let (from, to) = (
            Key::new(Kind::SnapshotChunk, generation, first),
            Key::first(Kind::SnapshotChunk, generation + 1),
        );
        let inner = store.inner();
        Chunks { pairs: inner.db.range(from, to), dir: inner.dir.clone(), generation, number: first }
    }

    /// # Errors
    /// [`StoreError::Corrupt`] if it is missing, cut off or damaged.
    pub(super) fn next_chunk(&mut self) -> Result<Vec<u8>, StoreError> {
        let pair = self.pairs.next().transpose();
        let pair = pair.map_err(|source| StoreError::read(&self.dir, "a snapshot's chunk", source))?;
        let expected = Key::new(Kind::SnapshotChunk, self.generation, self.number);
        let value = pair.filter(|(key, _)| Key::parse(key) == Some(expected)).map(|(_, value)| value);
        let value = value.ok_or_else(|| self.corrupt("is missing"))?;
        let (bytes, crc) = value.split_last_chunk::<CRC_BYTES>().ok_or_else(|| self.corrupt("is cut off"))?;
        if crc32fast::hash(bytes) != u32::from_le_bytes(*crc) {
            return Err(self.corrupt("has a wrong checksum"));
        }
        self.number += 1;
        Ok(bytes.to_vec())
    }

    fn corrupt(&self, how: &str) -> StoreError {
        let what = format!("chunk {} of the snapshot {how}", self.number);
        StoreError::Corrupt { dir: self.dir.clone(), what }
    }
}

/// Reads a snapshot from its beginning, and fails at its end if the whole is not what was saved. A
/// failure of the store comes as an [`io::Error`]; [`Stream::failure`] has it as it was.
pub struct Stream {
    chunks: Chunks,
    /// While it arrives: where from, and how far it is.
    growing: Option<(Store, Growing)>,
    sizes: Sizes,
    hash: blake3::Hasher,
    bytes: u64,
    chunk: Vec<u8>,
    /// How much of the chunk was handed out.
    at: usize,
    ended: bool,
    failure: Option<StoreError>,
}

impl Stream {
    pub(super) fn new(store: &Store, generation: u64, sizes: Sizes) -> Stream {
        Stream {
            chunks: Chunks::new(store, generation, 0),
            growing: None,
            sizes,
            hash: blake3::Hasher::new(),
            bytes: 0,
            chunk: Vec::new(),
            at: 0,
            ended: false,
            failure: None,
        }
    }

    pub(super) fn following(store: &Store, generation: u64, sizes: Sizes, growing: Growing) -> Stream {
        Stream { growing: Some((store.clone(), growing)), ..Stream::new(store, generation, sizes) }
    }

    /// Why reading failed, once.
    pub fn failure(&mut self) -> Option<StoreError> {
        self.failure.take()
    }

    pub(super) fn read_all(mut self) -> Result<Vec<u8>, StoreError> {
        let mut data = Vec::new();
        while self.advance()? {
            data.extend_from_slice(&self.chunk);
        }
        Ok(data)
    }

    /// Goes on to the next chunk; false at the end, when the whole is right.
    fn advance(&mut self) -> Result<bool, StoreError> {
        self.at = 0;
        if self.chunks.number < self.sizes.chunks {
            self.wait_for_chunk()?;
            self.chunk = self.chunks.next_chunk()?;
            self.hash.update(&self.chunk);
            self.bytes += self.chunk.len() as u64;
            return Ok(true);
        }
        self.chunk.clear();
        let whole = self.bytes == self.sizes.bytes
            && self.hash.finalize() == blake3::Hash::from_bytes(self.sizes.hash);
        if !whole && !self.ended {
            let what = "the snapshot as a whole is not what was saved".to_owned();
            return Err(StoreError::Corrupt { dir: self.chunks.dir.clone(), what });
        }
        self.ended = true;
        Ok(false)
    }

    /// Waits until the next chunk can be read.
    fn wait_for_chunk(&mut self) -> Result<(), StoreError> {
        let Some((store, growing)) = &mut self.growing else { return Ok(()) };
        let number = self.chunks.number;
        while growing.ready <= number {
            growing.ready =
                growing.grown.recv_timeout(growing.patience).map_err(|_| StoreError::Abandoned)?;
            // What looks at a range does not see what has come into it since.
            self.chunks = Chunks::new(store, self.chunks.generation, number);
        }
        Ok(())
    }
}

impl Read for Stream {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.at == self.chunk.len() && !self.ended {
            if let Err(error) = self.advance() {
                let told = io::Error::other(error.to_string());
                self.failure = Some(error);
                return Err(told);
            }
        }
        let rest = &self.chunk[self.at..];
        let count = rest.len().min(into.len());
        into[..count].copy_from_slice(&rest[..count]);
        self.at += count;
        Ok(count)
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream").field("bytes", &self.bytes).finish_non_exhaustive()
    }
}
