//! A durable queue of opaque records: usage that was measured here and not yet committed.
//!
//! A record leaves the journal only by [`Journal::remove_through`], which has no sync of its own: a
//! crash may bring back records that were removed, never lose one that was not. Sequence numbers are
//! not used twice, so whoever receives a record again can tell.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use muster_core::mutant;
use tokio::sync::oneshot;

use crate::codec;
use crate::database::Database;
use crate::durability::Writer;
use crate::error::StoreError;
use crate::keys::{self, Key, Kind, RECORD_MAX};
use crate::store::Store;

/// Format of the mark that says through which sequence number records were removed. History: 1,
/// 2026-11: the number.
pub(crate) const MARK_FORMAT: u8 = 1;

/// The most records that may wait: at one batch every 100 ms, more than a day without a quorum.
pub const RECORDS_MAX: usize = 1 << 20;

/// The most bytes that may wait.
pub const BYTES_MAX: usize = 512 << 20;

/// The usage journal of a node. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Journal(Store);

pub(crate) struct State(Mutex<Waiting>);

/// What is in the journal.
struct Waiting {
    /// Sequence number and size of each record, in order.
    records: VecDeque<(u64, usize)>,
    bytes: usize,
    next: u64,
    /// The last record known to be durable: none after it may be shipped, for a crash could give its
    /// number to another.
    durable: u64,
    removed: u64,
}

impl Journal {
    pub(crate) fn new(store: Store) -> Journal {
        Journal(store)
    }

    /// Appends a record and returns its sequence number once it is durable. Records become durable in
    /// the order of their numbers; many of them share one sync.
    ///
    /// # Errors
    /// [`StoreError::TooLarge`] above [`RECORD_MAX`] or if empty, [`StoreError::JournalFull`],
    /// [`StoreError::Closed`].
    pub async fn append(&self, record: Vec<u8>) -> Result<u64, StoreError> {
        if record.is_empty() || record.len() > RECORD_MAX {
            let what = "a journal record";
            return Err(StoreError::TooLarge { what, bytes: record.len(), limit: RECORD_MAX });
        }
        let inner = self.0.inner();
        let room = inner.writer.room(record.len()).await?;
        let (send, durable) = oneshot::channel();
        {
            // Held while the write is queued, so that numbers and writes are in the same order.
            let mut waiting = inner.journal.lock();
            let sequence = waiting.admit(record.len())?;
            let state = inner.journal.clone();
            let done = Box::new(move || {
                state.lock().durable = sequence;
                // Nobody may be waiting any more.
                let _ = send.send(sequence);
            });
            let changes = keys::put(Kind::Journal, sequence, &record).collect();
            inner.writer.submit(changes, Some(room), done)?;
        }
        durable.await.map_err(|_| StoreError::Closed)
    }

    /// The oldest durable records, at most `limit`, with their sequence numbers.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn pending(&self, limit: usize) -> Result<Vec<(u64, Vec<u8>)>, StoreError> {
        let inner = self.0.inner();
        let (from, to) = {
            let waiting = inner.journal.lock();
            (waiting.removed + 1, waiting.durable + 1)
        };
        keys::scan(&inner.db, &inner.dir, Kind::Journal, from, to).take(limit).collect()
    }

    /// Removes the records up to this sequence number, inclusive.
    ///
    /// # Errors
    /// [`StoreError::Closed`].
    pub fn remove_through(&self, sequence: u64) -> Result<(), StoreError> {
        let inner = self.0.inner();
        let mut waiting = inner.journal.lock();
        let sequence = sequence.min(waiting.durable);
        if sequence <= waiting.removed {
            return Ok(());
        }
        // The mark goes first: it keeps the numbers of removed records from being used again.
        let mark = codec::encode(MARK_FORMAT, &sequence)
            .map_err(|source| StoreError::Encode { what: "the journal's mark", source })?;
        keys::put_lazily(&inner.writer, Kind::JournalRemoved, &mark, 0)?;
        waiting.remove_through(sequence);
        inner
            .writer
            .remove_in_background(Key::first(Kind::Journal, 0), Key::first(Kind::Journal, sequence + 1))
    }
}

impl Waiting {
    /// Makes room for a record, and gives it its number.
    fn admit(&mut self, bytes: usize) -> Result<u64, StoreError> {
        if self.records.len() >= RECORDS_MAX || self.bytes + bytes > BYTES_MAX {
            return Err(StoreError::JournalFull { records: self.records.len(), bytes: self.bytes });
        }
        let sequence = self.next;
        self.next += 1;
        self.bytes += bytes;
        self.records.push_back((sequence, bytes));
        Ok(sequence)
    }

    fn remove_through(&mut self, sequence: u64) {
        self.removed = sequence;
        while let Some(&(_, bytes)) = self.records.front().filter(|(number, _)| *number <= sequence) {
            self.bytes -= bytes;
            self.records.pop_front();
        }
    }
}

impl State {
    pub(crate) fn load(db: &Database, dir: &Path) -> Result<State, StoreError> {
        let removed = match keys::get(db, dir, Kind::JournalRemoved, 0)? {
            Some(mark) => keys::decode(dir, "the journal's mark", &[MARK_FORMAT], &mark)?,
            None => 0,
        };
        let mut waiting = Waiting { records: VecDeque::new(), bytes: 0, next: 0, durable: 0, removed };
        let left = keys::scan(db, dir, Kind::Journal, removed + 1, u64::MAX);
        for record in left.filter(|_| !mutant!("journal-not-replayed")) {
            let (sequence, record) = record?;
            let expected = waiting.records.back().map_or(removed, |(last, _)| *last) + 1;
            if sequence != expected {
                let what = format!("usage record {expected} is missing from its database file `db`");
                return Err(StoreError::Corrupt { dir: dir.to_owned(), what });
            }
            waiting.bytes += record.len();
            waiting.records.push_back((sequence, record.len()));
        }
        waiting.durable = waiting.records.back().map_or(removed, |(sequence, _)| *sequence);
        waiting.next = waiting.durable + 1;
        Ok(State(Mutex::new(waiting)))
    }

    /// Removes what a crash kept from being removed.
    pub(crate) fn remove_leftovers(&self, writer: &Writer) -> Result<(), StoreError> {
        let removed = self.lock().removed;
        writer.remove_in_background(Key::first(Kind::Journal, 0), Key::first(Kind::Journal, removed + 1))
    }

    pub(crate) fn len(&self) -> u64 {
        self.lock().records.len() as u64
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
