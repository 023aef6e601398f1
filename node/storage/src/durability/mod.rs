//! The durability thread: it owns every write to the database.
//!
//! A round: take what is queued, apply it as one sled batch, `flush`, `fdatasync`, then call back, in
//! order. Everything queued while a round runs shares the next one (group commit).
//!
//! Three lanes, by what the caller waits for:
//!
//! * **foreground**: appends, votes, journal records. In order; durable before the callback.
//! * **background**: snapshot chunks and removals. At most one bounded slice a round, so that none
//!   of it holds up an append for long.
//! * **lazy**: hints that are useful when they survive and harmless when not. They wait for a round
//!   that someone else starts, and come before anything queued after them, unless they name a write that they
//!   must come after.
//!
//! A write, flush or sync that fails is never retried: after a failed `fsync` Linux may drop the
//! dirty pages and report success the next time. The process aborts; the log is what recovers it, and
//! `open` sees to it that what it recovers from is on the disk.
//!
//! A store in memory has a task in the thread's place: the same rounds, and barriers that take the
//! runtime's time. Whoever owns that runtime, and its clock, can repeat every step.
//!
//! [`queue`] is what waits, [`round`] one turn of the thread, [`batch`] what it writes at once.

mod batch;
mod queue;
mod round;

use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError, mpsc};
use std::thread::{self, JoinHandle};

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot, watch};

use crate::database::Database;
use crate::error::StoreError;
use crate::keys::Key;
use crate::memory::Memory;
use crate::witness::Witness;
use batch::Pending;
pub(crate) use queue::Reached;
use queue::{Background, Shared, Write};
use round::{run, run_as_task};

/// The most bytes queued before callers wait.
const QUEUE_BYTES: u32 = 16 << 20;

/// A write counts for at least this much of [`QUEUE_BYTES`], so that their number is bounded too.
const WRITE_COST_MIN: usize = 1024;

/// One change to the database.
pub(crate) enum Change {
    Put {
        key: Key,
        value: Vec<u8>,
    },
    /// Removes what was stored in `from..to` before this change.
    Remove {
        from: Key,
        to: Key,
    },
}

impl Change {
    fn bytes(&self) -> usize {
        match self {
            Change::Put { value, .. } => value.len(),
            Change::Remove { .. } => 0,
        }
    }
}

/// Called on the durability thread once the write is durable. Dropped uncalled if it never will be.
pub(crate) type Done = Box<dyn FnOnce() + Send>;

/// What the barrier after a batch consists of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SyncPolicy {
    /// sled's `flush`, then `fdatasync` of its file.
    FlushAndSync,
    /// Not durable: only to prove that the checks can see it.
    #[cfg(test)]
    FlushOnly,
    /// The sync fails.
    #[cfg(test)]
    Fail,
}

/// What to do when a write fails.
#[derive(Clone)]
pub(crate) struct Fatal(pub(crate) Arc<dyn Fn(&str) + Send + Sync>);

impl Fatal {
    pub(crate) fn abort() -> Fatal {
        Fatal(Arc::new(|_| std::process::abort()))
    }
}

impl fmt::Debug for Fatal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Fatal")
    }
}

/// What the thread works on.
pub(crate) struct Engine {
    pub(crate) db: Database,
    pub(crate) dir: PathBuf,
    pub(crate) fatal: Fatal,
    /// Notes each round; a store in memory has none.
    pub(crate) witness: Option<Witness>,
}

/// The handle on the thread.
pub(crate) struct Writer {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
    /// In place of a thread to wait for.
    memory: Option<Memory>,
}

/// What the thread has done so far.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Progress {
    pub(crate) barriers: u64,
    pub(crate) writes: u64,
    pub(crate) barrier_micros: u64,
    pub(crate) queued_bytes: u64,
}

impl Writer {
    /// Starts the thread; for a store in memory, a task on the runtime that this is called in.
    pub(crate) fn start(engine: Engine) -> Result<Writer, StoreError> {
        let shared = Arc::new(Shared {
            queue: Mutex::default(),
            wake: Condvar::new(),
            wake_task: Notify::new(),
            room: Arc::new(Semaphore::new(QUEUE_BYTES as usize)),
            reached: watch::Sender::default(),
            barriers: AtomicU64::new(0),
            barrier_micros: AtomicU64::new(0),
        });
        if let Database::Memory(memory) = &engine.db {
            let memory = memory.clone();
            tokio::spawn(run_as_task(Arc::clone(&shared), engine, memory.clone()));
            return Ok(Writer { shared, thread: Mutex::new(None), memory: Some(memory) });
        }
        let dir = engine.dir.clone();
        let thread = thread::Builder::new()
            .name("durability".into())
            .spawn({
                let shared = shared.clone();
                move || run(&shared, engine)
            })
            .map_err(|source| StoreError::Io {
                action: "start the durability thread of",
                path: dir,
                source,
            })?;
        Ok(Writer { shared, thread: Mutex::new(Some(thread)), memory: None })
    }

    /// Waits until the queue has room for this many bytes.
    pub(crate) async fn room(&self, bytes: usize) -> Result<OwnedSemaphorePermit, StoreError> {
        let cost = u32::try_from(bytes.max(WRITE_COST_MIN)).map_or(QUEUE_BYTES, |cost| cost.min(QUEUE_BYTES));
        self.shared.room.clone().acquire_many_owned(cost).await.map_err(|_| StoreError::Closed)
    }

    /// Queues a foreground write and returns its number: writes become durable in this order.
    pub(crate) fn submit(
        &self,
        changes: Vec<Change>,
        room: Option<OwnedSemaphorePermit>,
        done: Done,
    ) -> Result<u64, StoreError> {
        let mut queue = self.shared.accepting()?;
        queue.accepted += 1;
        queue.foreground.push_back(Write { changes, done, _room: room });
        let number = queue.accepted;
        drop(queue);
        self.shared.notify();
        Ok(number)
    }

    /// Writes, and waits until it is durable.
    pub(crate) async fn write(&self, changes: Vec<Change>) -> Result<(), StoreError> {
        let room = self.room(changes.iter().map(Change::bytes).sum()).await?;
        let (done, durable) = oneshot::channel();
        self.submit(changes, Some(room), Box::new(move || _ = done.send(())))?;
        durable.await.map_err(|_| StoreError::Closed)
    }

    /// As [`Writer::write`], for callers outside of a runtime. The changes must be few and small,
    /// since this does not wait for room in the queue.
    pub(crate) fn write_blocking(&self, changes: Vec<Change>) -> Result<(), StoreError> {
        if let Some(memory) = &self.memory {
            let db = Database::Memory(memory.clone());
            let mut batch = Pending::new(&db);
            let written = batch.add(changes).and_then(|()| batch.apply()).and_then(|()| db.barrier());
            return written.map_err(|failure| {
                memory.give_up(&failure.cause);
                StoreError::Closed
            });
        }
        let (done, durable) = mpsc::sync_channel(1);
        self.submit(changes, None, Box::new(move || _ = done.send(())))?;
        durable.recv().map_err(|_| StoreError::Closed)
    }

    /// Writes one slice in the background, and tells when it is durable. The caller keeps it small, and has
    /// one under way at a time.
    pub(crate) fn begin_in_background(
        &self,
        changes: Vec<Change>,
    ) -> Result<oneshot::Receiver<()>, StoreError> {
        let (done, durable) = oneshot::channel();
        let done: Done = Box::new(move || _ = done.send(()));
        self.submit_background(Background::Write(Write { changes, done, _room: None }))?;
        Ok(durable)
    }

    /// As [`Writer::begin_in_background`], and waits for it.
    pub(crate) async fn write_in_background(&self, changes: Vec<Change>) -> Result<(), StoreError> {
        self.begin_in_background(changes)?.await.map_err(|_| StoreError::Closed)
    }

    /// Removes `from..to` bit by bit. Nothing may be written there afterwards.
    pub(crate) fn remove_in_background(&self, from: Key, to: Key) -> Result<(), StoreError> {
        self.submit_background(Background::Remove { from, to })
    }

    /// Stores a value with the next round, whoever starts it, that comes after the foreground write numbered
    /// `after`.
    pub(crate) fn put_lazily(&self, key: Key, value: Vec<u8>, after: u64) -> Result<(), StoreError> {
        self.shared.accepting()?.lazy.insert(key, (after, value));
        Ok(())
    }

    /// The number of the last foreground write that is durable, and so can be read from the database.
    pub(crate) fn durable(&self) -> u64 {
        self.shared.reached.borrow().write
    }

    /// How far the thread has come, for those who wait without a callback of their own.
    pub(crate) fn reached(&self) -> watch::Receiver<Reached> {
        self.shared.reached.subscribe()
    }

    pub(crate) fn progress(&self) -> Progress {
        let taken = QUEUE_BYTES as usize - self.shared.room.available_permits();
        Progress {
            barriers: self.shared.barriers.load(Ordering::Relaxed),
            writes: self.durable(),
            barrier_micros: self.shared.barrier_micros.load(Ordering::Relaxed),
            queued_bytes: taken as u64,
        }
    }

    /// Lets the thread finish what is queued, sync, and end. Later writes are refused.
    pub(crate) fn close(&self) {
        self.shared.lock().closing = true;
        self.shared.room.close();
        self.shared.notify();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        // The last handle may be dropped by a callback, on the thread itself.
        if let Some(thread) = thread.filter(|thread| thread.thread().id() != thread::current().id()) {
            // A panic on the thread has been dealt with there.
            let _ = thread.join();
        }
    }

    fn submit_background(&self, work: Background) -> Result<(), StoreError> {
        self.shared.accepting()?.background.push_back(work);
        self.shared.notify();
        Ok(())
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.close();
    }
}
