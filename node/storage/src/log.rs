//! The Raft log and vote, as openraft's `RaftLogStorage`.
//!
//! The tail of the log is kept in memory: entries that are not durable yet, always, and as many of
//! the durable ones as `CACHE_BYTES` and `CACHE_ENTRIES` allow. Replication and apply read it
//! from there; what is older comes from the database, which by then has it.
//!
//! Each entry's record names the checksum of the one before. So a log that was put together from what was
//! written at different times, or that lacks something, is found to be corrupt when it is opened.

mod ahead;
mod cache;

use std::fmt::{self, Debug};
use std::ops::{Bound, RangeBounds};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use muster_core::mutant;
use openraft::storage::{LogFlushed, RaftLogStorage};
use openraft::{AnyError, Entry, LogId, LogState, OptionalSend, RaftLogReader, RaftTypeConfig, StorageError};
use openraft::{StorageIOError, Vote};
use serde::Serialize;
use serde::de::DeserializeOwned;

pub use self::ahead::Durable;
use self::cache::{Cache, Stored};
use crate::codec;
use crate::database::Database;
use crate::durability::{Change, Done};
use crate::error::StoreError;
use crate::keys::{self, Key, Kind, RECORD_MAX};
use crate::store::{Inner, Store};

/// Format of log entries. History:
/// * 1, 2026-11: `openraft::Entry` of 0.9;
/// * 2, 2026-11: before it the CRC-32 of the record of the entry before; zero where there was none.
pub(crate) const ENTRY_FORMAT: u8 = 2;
pub(crate) const UNLINKED_ENTRY_FORMAT: u8 = 1;

/// Format of the vote and of log ids (committed, purged). History: 1, 2026-11: those of openraft 0.9.
pub(crate) const MARK_FORMAT: u8 = 1;

/// The most bytes of durable entries kept in memory, encoded size.
pub(crate) const CACHE_BYTES: usize = 8 << 20;

/// The most durable entries kept in memory.
pub(crate) const CACHE_ENTRIES: usize = 4096;

/// The most bytes of entries that one message to a follower is made of, encoded size.
const READ_BYTES: usize = 1 << 20;

/// The Raft log of one node. Cheap to clone; clones share everything.
pub struct LogStore<C: RaftTypeConfig> {
    store: Store,
    state: Arc<Mutex<State<C>>>,
}

struct State<C: RaftTypeConfig> {
    vote: Option<Vote<C::NodeId>>,
    committed: Option<LogId<C::NodeId>>,
    purged: Option<LogId<C::NodeId>>,
    last: Option<LogId<C::NodeId>>,
    /// The checksum of the last entry's record; none if the log is empty.
    last_crc: Option<u32>,
    cache: Cache<Entry<C>>,
    /// The number of the last write that appended or truncated.
    written: u64,
    /// Whether appends are called back before they are durable.
    ahead: bool,
}

impl<C> LogStore<C>
where
    C: RaftTypeConfig<Entry = Entry<C>>,
    C::D: Clone,
{
    pub(crate) fn load(store: Store) -> Result<LogStore<C>, StoreError> {
        let Inner { db, dir, writer, .. } = store.inner();
        let vote = load_mark(db, dir, Kind::Vote, "the vote")?;
        let committed = load_mark(db, dir, Kind::Committed, "the committed log id")?;
        let purged: Option<LogId<C::NodeId>> = load_mark(db, dir, Kind::Purged, "the purged log id")?;
        let first = purged.as_ref().map_or(0, |id| id.index + 1);
        let (last, last_crc) = match check_links(db, dir, first)? {
            Some((index, crc)) => (read_id(db, dir, index)?, Some(crc)),
            None => (purged.clone(), None),
        };
        // What a crash kept from being removed.
        writer.remove_in_background(Key::first(Kind::Log, 0), Key::first(Kind::Log, first))?;
        let cache = Cache::new(CACHE_BYTES, CACHE_ENTRIES);
        let (written, ahead) = (0, false);
        let state = State { vote, committed, purged, last, last_crc, cache, written, ahead };
        let state = Arc::new(Mutex::new(state));
        Ok(LogStore { store, state })
    }

    fn lock(&self) -> MutexGuard<'_, State<C>> {
        lock(&self.state)
    }

    /// The checksum of an entry's record, if there is one.
    fn crc_of(&self, index: u64) -> Result<Option<u32>, StoreError> {
        if let Some(crc) = self.lock().cache.crc(index) {
            return Ok(Some(crc));
        }
        let Inner { db, dir, .. } = self.store.inner();
        Ok(keys::get(db, dir, Kind::Log, index)?.map(|record| crc32fast::hash(&record)))
    }

    /// The entries of `start..end` that exist, in order, until `limit` bytes are reached.
    fn entries(&self, start: u64, end: u64, limit: usize) -> Result<Vec<Entry<C>>, StoreError> {
        let (start, middle, cached) = {
            let state = self.lock();
            let start = start.max(state.purged.as_ref().map_or(0, |id| id.index + 1));
            let end = end.min(state.last.as_ref().map_or(0, |id| id.index + 1));
            let middle = state.cache.first().unwrap_or(end).clamp(start.min(end), end);
            // Taken now, since an append may evict it while the rest is read. A limited read that
            // begins in the database ends there.
            let wanted = start >= middle || limit == usize::MAX;
            let cached = if wanted { state.cache.range(start.max(middle)..end, limit) } else { Vec::new() };
            (start, middle, cached)
        };
        if start >= middle {
            return Ok(cached);
        }
        // Not under the lock: this may read from disk.
        let mut entries: Vec<Entry<C>> = read(self.store.inner(), start, middle, limit)?;
        entries.extend(cached);
        Ok(entries)
    }
}

impl<C> RaftLogReader<C> for LogStore<C>
where
    C: RaftTypeConfig<Entry = Entry<C>>,
    C::D: Clone,
{
    async fn try_get_log_entries<R: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: R,
    ) -> Result<Vec<Entry<C>>, StorageError<C::NodeId>> {
        let start = match range.start_bound() {
            Bound::Included(&index) => index,
            Bound::Excluded(&index) => index.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(&index) => index.saturating_add(1),
            Bound::Excluded(&index) => index,
            Bound::Unbounded => u64::MAX,
        };
        self.entries(start, end, usize::MAX).map_err(StoreError::reading_logs)
    }

    /// The first entries of the range, at least one of them and about a megabyte at most. Nothing
    /// if the first was purged: openraft takes that for a heartbeat, and it must never get a later
    /// entry in its place.
    async fn limited_get_log_entries(
        &mut self,
        start: u64,
        end: u64,
    ) -> Result<Vec<Entry<C>>, StorageError<C::NodeId>> {
        let entries = self.entries(start, end, READ_BYTES).map_err(StoreError::reading_logs)?;
        let begins = entries.first().is_some_and(|entry| entry.log_id.index == start);
        Ok(if begins { entries } else { Vec::new() })
    }
}

impl<C> RaftLogStorage<C> for LogStore<C>
where
    C: RaftTypeConfig<Entry = Entry<C>>,
    C::D: Clone,
{
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<C>, StorageError<C::NodeId>> {
        let state = self.lock();
        Ok(LogState { last_purged_log_id: state.purged.clone(), last_log_id: state.last.clone() })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote<C::NodeId>) -> Result<(), StorageError<C::NodeId>> {
        let record = encode("the vote", MARK_FORMAT, vote).map_err(StoreError::writing_vote)?;
        let changes = keys::put(Kind::Vote, 0, &record).filter(|_| !mutant!("vote-not-saved")).collect();
        let writer = &self.store.inner().writer;
        if mutant!("vote-not-synced") {
            writer.submit(changes, None, Box::new(|| ())).map_err(StoreError::writing_vote)?;
        } else {
            writer.write(changes).await.map_err(StoreError::writing_vote)?;
        }
        self.lock().vote = Some(vote.clone());
        Ok(())
    }

    async fn read_vote(&mut self) -> Result<Option<Vote<C::NodeId>>, StorageError<C::NodeId>> {
        Ok(self.lock().vote.clone())
    }

    /// Persisted with the next write, whose-ever it is: a crash may bring back an older one, from
    /// which the node merely learns again what is committed.
    async fn save_committed(
        &mut self,
        committed: Option<LogId<C::NodeId>>,
    ) -> Result<(), StorageError<C::NodeId>> {
        if let Some(id) = &committed {
            // After its entry, which may not be durable yet: a mark never names what is not there.
            let entry = self.lock().cache.write(id.index).unwrap_or(0);
            self.put_mark(Kind::Committed, "the committed log id", id, entry)
                .map_err(StoreError::writing_logs)?;
        }
        self.lock().committed = committed;
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId<C::NodeId>>, StorageError<C::NodeId>> {
        Ok(self.lock().committed.clone())
    }

    async fn append<I>(&mut self, entries: I, callback: LogFlushed<C>) -> Result<(), StorageError<C::NodeId>>
    where
        I: IntoIterator<Item = Entry<C>> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut changes = Vec::new();
        let mut fresh = Vec::new();
        // Only this and `truncate` change it, and openraft calls them one after the other.
        let mut link = self.lock().last_crc;
        for entry in entries {
            let linked = (link.unwrap_or(0), &entry);
            let record = encode("a log entry", ENTRY_FORMAT, &linked).map_err(|error| {
                StorageIOError::write_log_entry(entry.log_id.clone(), AnyError::new(&error))
            })?;
            changes.extend(keys::put(Kind::Log, entry.log_id.index, &record));
            let crc = crc32fast::hash(&record);
            link = Some(crc);
            fresh.push((entry, record.len(), crc));
        }
        let writer = &self.store.inner().writer;
        let bytes = fresh.iter().map(|(_, bytes, _)| bytes).sum();
        let room = writer.room(bytes).await.map_err(StoreError::writing_logs)?;

        let mut state = self.lock();
        let called_back = move || callback.log_io_completed(Ok(()));
        let (at_once, done): (_, Done) =
            if state.ahead { (Some(called_back), Box::new(|| ())) } else { (None, Box::new(called_back)) };
        let number = writer.submit(changes, Some(room), done).map_err(StoreError::writing_logs)?;
        state.written = number;
        for (entry, bytes, crc) in fresh {
            state.last = Some(entry.log_id.clone());
            state.last_crc = Some(crc);
            state.cache.insert(entry.log_id.index, entry, Stored { bytes, crc, write: number });
        }
        state.cache.evict(writer.durable());
        drop(state);
        if let Some(call_back) = at_once {
            call_back();
        }
        Ok(())
    }

    /// Durable with the next append, which comes after it: until then a crash brings back entries
    /// that were never acknowledged as removed.
    async fn truncate(&mut self, log_id: LogId<C::NodeId>) -> Result<(), StorageError<C::NodeId>> {
        let previous = match log_id.index.checked_sub(1) {
            Some(index) => {
                self.entries(index, index + 1, usize::MAX).map_err(StoreError::reading_logs)?.pop()
            }
            None => None,
        };
        let crc = match &previous {
            Some(entry) => self.crc_of(entry.log_id.index).map_err(StoreError::reading_logs)?,
            None => None,
        };
        let remove = Change::Remove { from: Key::first(Kind::Log, log_id.index), to: Key::end(Kind::Log) };
        let mut state = self.lock();
        let writer = &self.store.inner().writer;
        state.written =
            writer.submit(vec![remove], None, Box::new(|| ())).map_err(StoreError::writing_logs)?;
        state.cache.truncate(log_id.index);
        state.last_crc = crc;
        state.last = previous.map(|entry| entry.log_id).or_else(|| state.purged.clone());
        Ok(())
    }

    async fn purge(&mut self, log_id: LogId<C::NodeId>) -> Result<(), StorageError<C::NodeId>> {
        let arrivals = &self.store.inner().snapshots.arrivals;
        arrivals.purgeable(log_id.index).await.map_err(StoreError::writing_logs)?;
        // The mark is stored before anything appended from now on, so no crash leaves a hole; the
        // entries go bit by bit.
        self.put_mark(Kind::Purged, "the purged log id", &log_id, 0).map_err(StoreError::writing_logs)?;
        let mut state = self.lock();
        state.cache.purge(log_id.index);
        if state.last.as_ref().is_none_or(|last| last.index <= log_id.index) {
            state.last = Some(log_id.clone());
            state.last_crc = None;
        }
        let end = Key::first(Kind::Log, log_id.index + 1);
        state.purged = Some(log_id);
        drop(state);
        let writer = &self.store.inner().writer;
        writer.remove_in_background(Key::first(Kind::Log, 0), end).map_err(StoreError::writing_logs)
    }
}

impl<C: RaftTypeConfig> LogStore<C> {
    fn put_mark<T: Serialize>(
        &self,
        kind: Kind,
        what: &'static str,
        mark: &T,
        after: u64,
    ) -> Result<(), StoreError> {
        keys::put_lazily(&self.store.inner().writer, kind, &encode(what, MARK_FORMAT, mark)?, after)
    }
}

impl<C: RaftTypeConfig> Clone for LogStore<C> {
    fn clone(&self) -> Self {
        LogStore { store: self.store.clone(), state: self.state.clone() }
    }
}

impl<C: RaftTypeConfig> Debug for LogStore<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogStore").field("store", &self.store).finish_non_exhaustive()
    }
}

fn lock<C: RaftTypeConfig>(state: &Mutex<State<C>>) -> MutexGuard<'_, State<C>> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn encode<T: Serialize>(what: &'static str, format: u8, value: &T) -> Result<Vec<u8>, StoreError> {
    let record = codec::encode(format, value).map_err(|source| StoreError::Encode { what, source })?;
    if record.len() > RECORD_MAX {
        return Err(StoreError::TooLarge { what, bytes: record.len(), limit: RECORD_MAX });
    }
    Ok(record)
}

fn load_mark<T: DeserializeOwned>(
    db: &Database,
    dir: &Path,
    kind: Kind,
    what: &'static str,
) -> Result<Option<T>, StoreError> {
    keys::get(db, dir, kind, 0)?.map(|record| keys::decode(dir, what, &[MARK_FORMAT], &record)).transpose()
}

/// Reads entries from the database, until `limit` bytes are reached.
fn read<C: RaftTypeConfig>(
    inner: &Inner,
    start: u64,
    end: u64,
    limit: usize,
) -> Result<Vec<Entry<C>>, StoreError> {
    let mut entries = Vec::new();
    let mut bytes = 0;
    for record in keys::scan(&inner.db, &inner.dir, Kind::Log, start, end) {
        let (index, record) = record?;
        bytes += record.len();
        if bytes > limit && !entries.is_empty() {
            break;
        }
        entries.push(decode(&inner.dir, index, &record)?);
    }
    Ok(entries)
}

/// The id of an entry, whose content may be of a later release.
fn read_id<I: DeserializeOwned>(db: &Database, dir: &Path, index: u64) -> Result<Option<I>, StoreError> {
    let Some(record) = keys::get(db, dir, Kind::Log, index)? else { return Ok(None) };
    let id = match record.first() {
        Some(&UNLINKED_ENTRY_FORMAT) => codec::decode_first(&[UNLINKED_ENTRY_FORMAT], &record),
        _ => codec::decode_first(&[ENTRY_FORMAT], &record).map(|(_link, id): (u32, I)| id),
    };
    id.map(Some).map_err(|error| StoreError::Corrupt {
        dir: dir.to_owned(),
        what: format!("log entry {index}: {error}"),
    })
}

pub(crate) fn decode<E: DeserializeOwned>(dir: &Path, index: u64, record: &[u8]) -> Result<E, StoreError> {
    let what = format!("log entry {index}");
    if record.first() == Some(&UNLINKED_ENTRY_FORMAT) {
        return keys::decode(dir, &what, &[UNLINKED_ENTRY_FORMAT], record);
    }
    let (_link, entry): (u32, E) = keys::decode(dir, &what, &[ENTRY_FORMAT], record)?;
    Ok(entry)
}

/// Checks that the log goes on from `first` without a gap, each entry behind the one it was written behind.
/// Answers the last index and the checksum of its record.
fn check_links(db: &Database, dir: &Path, first: u64) -> Result<Option<(u64, u32)>, StoreError> {
    let corrupt = |what: String| StoreError::Corrupt { dir: dir.to_owned(), what };
    let mut last: Option<(u64, u32)> = None;
    for record in keys::scan(db, dir, Kind::Log, first, u64::MAX) {
        let (index, record) = record?;
        let expected = last.map_or(first, |(index, _)| index + 1);
        if index != expected {
            return Err(corrupt(format!("log entry {expected} is missing from its database file `db`")));
        }
        if record.first() != Some(&UNLINKED_ENTRY_FORMAT) {
            let link: u32 = codec::decode_first(&[ENTRY_FORMAT], &record)
                .map_err(|error| corrupt(format!("log entry {index}: {error}")))?;
            // Before the first, and in the log of the earlier format, there may be nothing to compare.
            if let Some((_, crc)) = last
                && link != crc
            {
                let what = format!("log entry {index} was not written behind the one before it");
                return Err(corrupt(what));
            }
        }
        last = Some((index, crc32fast::hash(&record)));
    }
    Ok(last)
}
