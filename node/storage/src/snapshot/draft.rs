//! A snapshot that is not whole yet: chunks without a manifest.

use std::fmt;
use std::sync::mpsc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::reader::{Chunks, Growing, Sizes, Stream};
use super::{
    CHUNK_BYTES, CRC_BYTES, MANIFEST_FORMAT, META_MAX, Manifest, PENDING_FORMAT, Pending, Transfer, check,
    check_bytes, remove_chunks,
};
use crate::codec;
use crate::durability::Change;
use crate::error::StoreError;
use crate::keys::{self, Key, Kind};
use crate::store::Store;

/// Pauses between two slices of a draft that is gentle, in the time that the one before took.
const PAUSE_TIMES: u32 = 7;

/// The longest of them: a disk that is slow for a moment is not slow for ever.
const PAUSE_MAX: Duration = Duration::from_millis(100);

/// How a draft shares the disk with the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// As fast as it goes: who writes waits for it.
    Full,
    /// After each slice it leaves the disk and the processor alone for seven times as long as the slice took.
    Gentle,
}

impl Pace {
    /// Bytes written at once: appends to the log wait for no more than this. Each slice is a sync, so who has no
    /// appends to hold up takes larger ones.
    pub(crate) const fn slice(self) -> usize {
        let chunks = match self {
            Pace::Full => 24,
            Pace::Gentle => 8,
        };
        chunks * CHUNK_BYTES
    }
}

/// A snapshot on its way into the store. Dropped before it is [finished](Draft::finish) it leaves the
/// old one as it was; what it held of a [`Transfer`] stays for when that goes on, the rest is removed.
///
/// Dropping the future of any of its methods is harmless, too: calling it again goes on.
pub struct Draft {
    store: Store,
    pace: Pace,
    generation: u64,
    /// Those that are written, all of them full; durable but for those of the slice under way.
    chunks: u32,
    /// Over those.
    hash: blake3::Hasher,
    /// What comes behind them, less than a slice.
    tail: Vec<u8>,
    /// The one slice that the disk takes in while the next one is put together.
    under_way: Option<oneshot::Receiver<()>>,
    /// Told how many chunks can be read, by who [follows](Self::follow).
    follower: Option<mpsc::Sender<u32>>,
    transfer: Option<Transfer>,
    /// Set once no more can be appended.
    sealed: Option<Sizes>,
    finished: bool,
}

impl Draft {
    pub(super) fn new(store: Store, pace: Pace, transfer: Option<Transfer>) -> Draft {
        let generation = store.inner().snapshots.next_generation();
        Draft {
            store,
            pace,
            generation,
            chunks: 0,
            hash: blake3::Hasher::new(),
            tail: Vec::new(),
            under_way: None,
            follower: None,
            transfer,
            sealed: None,
            finished: false,
        }
    }

    /// Goes on with what an earlier draft has left: its chunks up to the first that is missing, not
    /// full or damaged.
    pub(super) fn resume(store: Store, pending: Pending) -> Result<Draft, StoreError> {
        let Pending { generation, transfer } = pending;
        let mut hash = blake3::Hasher::new();
        let mut chunks = 0;
        let mut found = Chunks::new(&store, generation, 0);
        loop {
            match found.next_chunk() {
                Ok(bytes) if bytes.len() == CHUNK_BYTES => hash.update(&bytes),
                Ok(_) | Err(StoreError::Corrupt { .. }) => break,
                Err(error) => return Err(error),
            };
            chunks += 1;
        }
        Ok(Draft {
            store,
            pace: Pace::Full,
            generation,
            chunks,
            hash,
            tail: Vec::new(),
            under_way: None,
            follower: None,
            transfer: Some(transfer),
            sealed: None,
            finished: false,
        })
    }

    /// Bytes it holds so far. After a crash those of the last two slices may be missing.
    pub fn held(&self) -> u64 {
        u64::from(self.chunks) * CHUNK_BYTES as u64 + self.tail.len() as u64
    }

    /// What it is part of, if a peer sends it.
    pub fn transfer(&self) -> Option<&Transfer> {
        self.transfer.as_ref()
    }

    /// Adds bytes at the end.
    ///
    /// # Errors
    /// [`StoreError::TooLarge`] for more than a snapshot, or the transfer, may have;
    /// [`StoreError::Closed`].
    ///
    /// # Panics
    /// When it is sealed.
    pub async fn append(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        assert!(self.sealed.is_none(), "a sealed snapshot is whole");
        let after = self.held() + bytes.len() as u64;
        check_bytes(after)?;
        if let Some(transfer) = self.transfer.as_ref().filter(|transfer| after > transfer.bytes) {
            let size = |bytes| usize::try_from(bytes).unwrap_or(usize::MAX);
            let (bytes, limit) = (size(after), size(transfer.bytes));
            return Err(StoreError::TooLarge { what: "an arriving snapshot", bytes, limit });
        }
        let slice = self.pace.slice();
        for piece in bytes.chunks(slice) {
            self.tail.extend_from_slice(piece);
            while self.tail.len() >= slice {
                self.write(slice).await?;
            }
        }
        Ok(())
    }

    /// Writes what is left, and checks that a peer's snapshot is what it sent.
    ///
    /// # Errors
    /// [`StoreError::Mismatch`] if it is not: it must be [discarded](Draft::discard);
    /// [`StoreError::Closed`].
    pub async fn seal(&mut self) -> Result<(), StoreError> {
        if self.sealed.is_some() {
            return Ok(());
        }
        while self.tail.len() > CHUNK_BYTES {
            let full = self.tail.len().min(self.pace.slice()) / CHUNK_BYTES;
            self.write(full * CHUNK_BYTES).await?;
        }
        self.settle().await?;
        let (bytes, mut hash, mut chunks) = (self.held(), self.hash.clone(), self.chunks);
        if !self.tail.is_empty() {
            hash.update(&self.tail);
            chunks += 1;
            let last = put_chunk(self.generation, self.chunks, &self.tail);
            let mut changes = self.note()?;
            changes.push(last);
            self.store.inner().writer.write_in_background(changes).await?;
            self.tell(chunks);
        }
        let hash: [u8; 32] = hash.finalize().into();
        if let Some(sent) = self.transfer.as_ref().filter(|sent| (sent.bytes, sent.hash) != (bytes, hash)) {
            let id = sent.id.clone();
            return Err(StoreError::Mismatch { id, bytes, sent_bytes: sent.bytes });
        }
        self.sealed = Some(Sizes { bytes, chunks, hash });
        Ok(())
    }

    /// All of it, from its beginning.
    ///
    /// # Panics
    /// When it is not sealed.
    pub fn stream(&self) -> Stream {
        let sizes = self.sealed.clone().expect("only a sealed snapshot is whole");
        Stream::new(&self.store, self.generation, sizes)
    }

    /// All of it, from its beginning, while it arrives: reads wait for what is not here yet. They fail once
    /// nothing has come for as long as `patience`, and once it is given up. None where nobody has said how
    /// large it will be, or it is followed already.
    pub fn follow(&mut self, patience: Duration) -> Option<Stream> {
        let transfer = self.transfer.as_ref()?;
        if self.follower.is_some() || self.under_way.is_some() || self.sealed.is_some() {
            return None;
        }
        let chunks = u32::try_from(transfer.bytes.div_ceil(CHUNK_BYTES as u64)).ok()?;
        let sizes = Sizes { bytes: transfer.bytes, chunks, hash: transfer.hash };
        let (follower, grown) = mpsc::channel();
        self.follower = Some(follower);
        Some(Stream::following(
            &self.store,
            self.generation,
            sizes,
            Growing { ready: self.chunks, grown, patience },
        ))
    }

    /// Makes it the snapshot; durable before it returns. Sealed, if it is not yet.
    ///
    /// # Errors
    /// As [`Draft::seal`], and [`StoreError::TooLarge`] for the metadata.
    pub async fn finish(mut self, meta: &[u8]) -> Result<(), StoreError> {
        check("a snapshot's metadata", meta.len(), META_MAX)?;
        self.seal().await?;
        let Sizes { bytes, chunks, hash } = self.sealed.clone().expect("it was just sealed");
        let manifest = Manifest { meta: meta.to_vec(), bytes, chunks, hash };
        let record = codec::encode(MANIFEST_FORMAT, &manifest)
            .map_err(|source| StoreError::Encode { what: "a snapshot's manifest", source })?;
        let all = |kind| Change::Remove { from: Key::first(kind, 0), to: Key::end(kind) };
        let mut changes = vec![all(Kind::SnapshotManifest)];
        if self.transfer.is_some() {
            changes.push(all(Kind::SnapshotPending));
        }
        changes.extend(keys::put(Kind::SnapshotManifest, self.generation, &record));
        let inner = self.store.inner();
        let _alone = inner.snapshots.finishing.lock().await;
        // From here on its chunks may be the snapshot's, whether or not anybody waits to hear of it.
        self.finished = true;
        inner.writer.write(changes).await?;
        inner.snapshots.replace(&inner.writer, self.generation, manifest)
    }

    /// Gives it up for good.
    pub fn discard(mut self) {
        self.transfer = None;
    }

    /// Writes so many bytes of the tail, whole chunks. At full pace the disk takes them in while more comes.
    async fn write(&mut self, bytes: usize) -> Result<(), StoreError> {
        self.settle().await?;
        let began = Instant::now();
        let mut changes = self.note()?;
        let slice = self.tail[..bytes].chunks(CHUNK_BYTES);
        changes.extend(slice.zip(self.chunks..).map(|(chunk, at)| put_chunk(self.generation, at, chunk)));
        self.under_way = Some(self.store.inner().writer.begin_in_background(changes)?);
        self.hash.update(&self.tail[..bytes]);
        self.chunks += u32::try_from(bytes / CHUNK_BYTES).expect("a slice has few chunks");
        self.tail.drain(..bytes);
        if self.pace == Pace::Gentle {
            self.settle().await?;
            tokio::time::sleep((began.elapsed() * PAUSE_TIMES).min(PAUSE_MAX)).await;
        }
        Ok(())
    }

    /// Waits until all that is written is durable.
    async fn settle(&mut self) -> Result<(), StoreError> {
        let Some(under_way) = &mut self.under_way else { return Ok(()) };
        // Whoever gives up here leaves the waiting to the next.
        let durable = under_way.await;
        self.under_way = None;
        durable.map_err(|_| StoreError::Closed)?;
        self.tell(self.chunks);
        Ok(())
    }

    fn tell(&self, readable: u32) {
        if let Some(follower) = &self.follower {
            // It may have given up.
            let _unheard = follower.send(readable);
        }
    }

    /// What is stored with a transfer's first chunk, so that an interruption does not lose what it is
    /// part of.
    fn note(&self) -> Result<Vec<Change>, StoreError> {
        let Some(transfer) = self.transfer.as_ref().filter(|_| self.chunks == 0) else {
            return Ok(Vec::new());
        };
        let pending = Pending { generation: self.generation, transfer: transfer.clone() };
        let record = codec::encode(PENDING_FORMAT, &pending)
            .map_err(|source| StoreError::Encode { what: "a note on an arriving snapshot", source })?;
        Ok(keys::put(Kind::SnapshotPending, 0, &record).collect())
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if self.finished {
            return;
        }
        let inner = self.store.inner();
        match self.transfer.take() {
            Some(transfer) => {
                let pending = Pending { generation: self.generation, transfer };
                inner.snapshots.park(&inner.writer, pending);
            }
            // A store that is closed removes them at its next open.
            None => drop(remove_chunks(&inner.writer, self.generation)),
        }
    }
}

impl fmt::Debug for Draft {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let held = self.held();
        f.debug_struct("Draft")
            .field("generation", &self.generation)
            .field("held", &held)
            .finish_non_exhaustive()
    }
}

pub(crate) fn put_chunk(generation: u64, number: u32, bytes: &[u8]) -> Change {
    let mut value = Vec::with_capacity(bytes.len() + CRC_BYTES);
    value.extend_from_slice(bytes);
    value.extend_from_slice(&crc32fast::hash(bytes).to_le_bytes());
    Change::Put { key: Key::new(Kind::SnapshotChunk, generation, number), value }
}
