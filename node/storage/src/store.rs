//! The store: one directory, one database, one durability thread.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use openraft::{Entry, RaftTypeConfig};

use crate::database::Database;
use crate::durability::{Engine, Fatal, Progress, SyncPolicy, Writer};
use crate::error::StoreError;
use crate::identity::{self, Identity};
use crate::journal::{self, Journal};
use crate::log::LogStore;
use crate::memory::Memory;
use crate::open;
use crate::snapshot::{self, SnapshotStore};
use crate::witness::Witness;

/// sled's default is 1 GiB; the log's tail is cached outside of sled, so this serves rare reads.
const CACHE_BYTES: u64 = 64 << 20;

/// How to open a store.
#[derive(Clone, Debug)]
pub struct Options {
    /// sled's page cache.
    pub(crate) cache_bytes: u64,
    pub(crate) sync: SyncPolicy,
    pub(crate) fatal: Fatal,
}

impl Default for Options {
    fn default() -> Self {
        Options { cache_bytes: CACHE_BYTES, sync: SyncPolicy::FlushAndSync, fatal: Fatal::abort() }
    }
}

impl Options {
    /// Sets the size of the database's page cache (default 64 MiB).
    #[must_use]
    pub fn cache_bytes(mut self, bytes: u64) -> Self {
        self.cache_bytes = bytes;
        self
    }
}

/// Figures for metrics. Counters start at zero when the store is opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Size of the database's files.
    pub disk_bytes: u64,
    /// Bytes that wait for the durability thread.
    pub queued_bytes: u64,
    /// Writes that were acknowledged.
    pub writes: u64,
    /// Flushes with sync. Less than `writes` when several writes shared one.
    pub barriers: u64,
    /// Time spent in them, in microseconds.
    pub barrier_micros: u64,
    /// Usage records not yet removed from the journal.
    pub journal_records: u64,
}

/// A node's durable storage. Cheap to clone. The directory is free again once every clone, and
/// everything obtained from one, is dropped.
#[derive(Clone)]
pub struct Store(Arc<Inner>);

/// Fields drop in this order: the thread ends before the database closes, and the lock goes last.
pub(crate) struct Inner {
    pub(crate) writer: Writer,
    pub(crate) db: Database,
    pub(crate) dir: PathBuf,
    pub(crate) snapshots: snapshot::State,
    pub(crate) journal: Arc<journal::State>,
    pub(crate) identity: identity::State,
    log_taken: AtomicBool,
    _lock: Option<open::Lock>,
}

impl Store {
    /// Opens the store in `dir`, creating the directory (mode 0700) if need be.
    ///
    /// # Errors
    /// [`StoreError::InUse`], [`StoreError::NewerFormat`], [`StoreError::Corrupt`] (this replica is
    /// lost), or what the file system says.
    pub fn open(dir: &Path, options: Options) -> Result<Store, StoreError> {
        let opened = open::open(dir, options.cache_bytes, options.sync)?;
        Store::load(opened.db, dir, options.fatal, Some((opened.lock, opened.witness)))
    }

    /// Opens a store in a directory that is empty or not there, to be filled with what did not come from a
    /// log. Until [`end_filling`](Self::end_filling), [`open`](Self::open) refuses the directory.
    ///
    /// # Errors
    /// [`StoreError::NotEmpty`], and those of [`open`](Self::open).
    pub fn begin_filling(dir: &Path, options: Options) -> Result<Store, StoreError> {
        open::mark_as_filling(dir)?;
        let opened = open::open_marked(dir, options.cache_bytes, options.sync)?;
        Store::load(opened.db, dir, options.fatal, Some((opened.lock, opened.witness)))
    }

    /// Says that a store is filled; it must be closed. Durable when it returns.
    ///
    /// # Errors
    /// What the file system says.
    pub fn end_filling(dir: &Path) -> Result<(), StoreError> {
        open::unmark_as_filling(dir)
    }

    /// Opens the store on a disk that is memory. Its writes are made by a task on the runtime that
    /// this is called in, in that runtime's time, and there is no thread: whoever owns the runtime's
    /// clock can repeat every step.
    ///
    /// # Errors
    /// What is stored cannot be read.
    pub fn in_memory(memory: &Memory) -> Result<Store, StoreError> {
        memory.write_again();
        let owned = memory.clone();
        let fatal = Fatal(Arc::new(move |message| owned.give_up(message)));
        Store::load(Database::Memory(memory.clone()), Path::new("memory"), fatal, None)
    }

    fn load(
        db: Database,
        dir: &Path,
        fatal: Fatal,
        files: Option<(open::Lock, Witness)>,
    ) -> Result<Store, StoreError> {
        let (lock, witness) = files.unzip();
        let snapshots = snapshot::State::load(&db, dir)?;
        let journal = Arc::new(journal::State::load(&db, dir)?);
        let identity = identity::State::load(&db, dir)?;
        let writer = Writer::start(Engine { db: db.clone(), dir: dir.to_owned(), fatal, witness })?;
        snapshots.remove_orphans(&writer)?;
        journal.remove_leftovers(&writer)?;
        Ok(Store(Arc::new(Inner {
            writer,
            db,
            dir: dir.to_owned(),
            snapshots,
            journal,
            identity,
            log_taken: AtomicBool::new(false),
            _lock: lock,
        })))
    }

    /// The Raft log and vote. Call it once and clone what it returns: the log's state is in memory.
    ///
    /// # Errors
    /// When what is stored cannot be read.
    ///
    /// # Panics
    /// When called twice.
    pub fn log<C>(&self) -> Result<LogStore<C>, StoreError>
    where
        C: RaftTypeConfig<Entry = Entry<C>>,
        C::D: Clone,
    {
        let again = self.0.log_taken.swap(true, Ordering::SeqCst);
        assert!(!again, "two log stores on one store would not see each other's writes");
        LogStore::load(self.clone())
    }

    /// The state machine's snapshots.
    pub fn snapshots(&self) -> SnapshotStore {
        SnapshotStore::new(self.clone())
    }

    /// The usage journal.
    pub fn journal(&self) -> Journal {
        Journal::new(self.clone())
    }

    /// Who this directory belongs to, and how often it was started.
    pub fn identity(&self) -> Identity {
        self.0.identity.get()
    }

    /// Its directory.
    pub fn dir(&self) -> &Path {
        &self.0.dir
    }

    /// The figures of this moment.
    pub fn stats(&self) -> Stats {
        let Progress { barriers, writes, barrier_micros, queued_bytes } = self.0.writer.progress();
        Stats {
            disk_bytes: self.0.db.disk_bytes(),
            queued_bytes,
            writes,
            barriers,
            barrier_micros,
            journal_records: self.0.journal.len(),
        }
    }

    /// Finishes what is queued, makes it durable, and ends the durability thread. Every later write
    /// fails with [`StoreError::Closed`]. Blocks for as long as that takes.
    pub fn close(&self) {
        self.0.writer.close();
    }

    pub(crate) fn inner(&self) -> &Inner {
        &self.0
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("dir", &self.0.dir).finish_non_exhaustive()
    }
}
