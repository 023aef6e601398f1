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
//!   that someone else starts, and come before anything queued after them.
//!
//! A write, flush or sync that fails is never retried: after a failed `fsync` Linux may drop the
//! dirty pages and report success the next time. The process aborts; the log is what recovers it.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use sled::Batch;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use crate::error::StoreError;
use crate::keys::Key;

/// A round takes no more than this from the foreground (at least one write, whatever its size): it
/// bounds how long the first in a round waits for the last.
const GROUP_BYTES: usize = 4 << 20;
const GROUP_WRITES: usize = 4096;

/// The most bytes queued before callers wait.
const QUEUE_BYTES: u32 = 16 << 20;

/// A write counts for at least this much of [`QUEUE_BYTES`], so that their number is bounded too.
const WRITE_COST_MIN: usize = 1024;

/// The most keys that one round removes in the background.
const REMOVE_SLICE: usize = 512;

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
    pub(crate) db: sled::Db,
    pub(crate) db_file: File,
    pub(crate) dir: PathBuf,
    pub(crate) sync: SyncPolicy,
    pub(crate) fatal: Fatal,
}

/// The handle on the thread.
pub(crate) struct Writer {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// What the thread has done so far.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Progress {
    pub(crate) barriers: u64,
    pub(crate) writes: u64,
    pub(crate) barrier_micros: u64,
    pub(crate) queued_bytes: u64,
}

struct Shared {
    queue: Mutex<Queue>,
    wake: Condvar,
    room: Arc<Semaphore>,
    /// The number of the last foreground write that is durable.
    durable: AtomicU64,
    barriers: AtomicU64,
    barrier_micros: AtomicU64,
}

#[derive(Default)]
struct Queue {
    foreground: VecDeque<Write>,
    background: VecDeque<Background>,
    lazy: BTreeMap<Key, Vec<u8>>,
    /// Foreground writes ever accepted; the number of the last one.
    accepted: u64,
    closing: bool,
    stopped: bool,
}

struct Write {
    changes: Vec<Change>,
    done: Done,
    /// Gives its share of the queue back when the write is done with.
    _room: Option<OwnedSemaphorePermit>,
}

enum Background {
    Write(Write),
    Remove { from: Key, to: Key },
}

#[derive(Default)]
struct Round {
    lazy: BTreeMap<Key, Vec<u8>>,
    foreground: Vec<Write>,
    background: Option<Background>,
    last: bool,
}

/// A step that failed, and how.
struct Failure {
    step: &'static str,
    cause: String,
}

impl Writer {
    /// Starts the thread.
    pub(crate) fn start(engine: Engine) -> Result<Writer, StoreError> {
        let shared = Arc::new(Shared {
            queue: Mutex::default(),
            wake: Condvar::new(),
            room: Arc::new(Semaphore::new(QUEUE_BYTES as usize)),
            durable: AtomicU64::new(0),
            barriers: AtomicU64::new(0),
            barrier_micros: AtomicU64::new(0),
        });
        let dir = engine.dir.clone();
        let thread = thread::Builder::new()
            .name("durability".into())
            .spawn({
                let shared = shared.clone();
                move || run(&shared, &engine)
            })
            .map_err(|source| StoreError::Io {
                action: "start the durability thread of",
                path: dir,
                source,
            })?;
        Ok(Writer { shared, thread: Mutex::new(Some(thread)) })
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
        self.shared.wake.notify_one();
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
        let (done, durable) = mpsc::sync_channel(1);
        self.submit(changes, None, Box::new(move || _ = done.send(())))?;
        durable.recv().map_err(|_| StoreError::Closed)
    }

    /// Writes one slice in the background, and waits until it is durable. The caller keeps it small.
    pub(crate) async fn write_in_background(&self, changes: Vec<Change>) -> Result<(), StoreError> {
        let (done, durable) = oneshot::channel();
        let done: Done = Box::new(move || _ = done.send(()));
        self.submit_background(Background::Write(Write { changes, done, _room: None }))?;
        durable.await.map_err(|_| StoreError::Closed)
    }

    /// Removes `from..to` bit by bit. Nothing may be written there afterwards.
    pub(crate) fn remove_in_background(&self, from: Key, to: Key) -> Result<(), StoreError> {
        self.submit_background(Background::Remove { from, to })
    }

    /// Stores a value with the next round, whoever starts it.
    pub(crate) fn put_lazily(&self, key: Key, value: Vec<u8>) -> Result<(), StoreError> {
        self.shared.accepting()?.lazy.insert(key, value);
        Ok(())
    }

    /// The number of the last foreground write that is durable, and so can be read from the database.
    pub(crate) fn durable(&self) -> u64 {
        self.shared.durable.load(Ordering::Acquire)
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
        self.shared.wake.notify_one();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        // The last handle may be dropped by a callback, on the thread itself.
        if let Some(thread) = thread.filter(|thread| thread.thread().id() != thread::current().id()) {
            // A panic on the thread has been dealt with there.
            let _ = thread.join();
        }
    }

    fn submit_background(&self, work: Background) -> Result<(), StoreError> {
        self.shared.accepting()?.background.push_back(work);
        self.shared.wake.notify_one();
        Ok(())
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.close();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        // The queue is consistent between any two statements that could panic.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn accepting(&self) -> Result<MutexGuard<'_, Queue>, StoreError> {
        let queue = self.lock();
        if queue.closing || queue.stopped { Err(StoreError::Closed) } else { Ok(queue) }
    }

    fn next_round(&self) -> Round {
        let mut queue = self.lock();
        while queue.foreground.is_empty() && queue.background.is_empty() && !queue.closing {
            queue = self.wake.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
        let mut round = Round { lazy: std::mem::take(&mut queue.lazy), ..Round::default() };
        let mut bytes = 0;
        while round.foreground.len() < GROUP_WRITES && bytes < GROUP_BYTES {
            let Some(write) = queue.foreground.pop_front() else { break };
            bytes += write.changes.iter().map(Change::bytes).sum::<usize>();
            round.foreground.push(write);
        }
        round.background = queue.background.pop_front();
        round.last = queue.closing && queue.foreground.is_empty() && queue.background.is_empty();
        round
    }

    /// Refuses everything from now on; what is queued is dropped, its callbacks uncalled.
    fn stop(&self) {
        let mut queue = self.lock();
        queue.stopped = true;
        self.room.close();
        let abandoned = (std::mem::take(&mut queue.foreground), std::mem::take(&mut queue.background));
        drop(queue);
        drop(abandoned);
    }
}

fn run(shared: &Shared, engine: &Engine) {
    loop {
        let round = shared.next_round();
        let outcome = catch_unwind(AssertUnwindSafe(|| perform(shared, engine, round)));
        let failure = match outcome {
            Ok(Ok(true)) => break shared.stop(),
            Ok(Ok(false)) => continue,
            Ok(Err(failure)) => failure,
            Err(_) => Failure { step: "write to", cause: "a panic, reported above".into() },
        };
        let message = format!(
            "cannot {} the store in {}: {}. Nothing that was not acknowledged may be assumed written: \
             aborting, to recover from the log at the next start",
            failure.step,
            engine.dir.display(),
            failure.cause
        );
        tracing::error!("{message}");
        eprintln!("{message}");
        (engine.fatal.0)(&message);
        break shared.stop();
    }
}

/// Performs one round; true if it was the last.
fn perform(shared: &Shared, engine: &Engine, round: Round) -> Result<bool, Failure> {
    let mut batch = Pending { db: &engine.db, batch: Batch::default(), changes: 0 };
    for (key, value) in round.lazy {
        batch.put(key, value);
    }
    let mut waiting = Vec::with_capacity(round.foreground.len() + 1);
    let count = round.foreground.len() as u64;
    for write in round.foreground {
        batch.add(write.changes)?;
        waiting.push((write.done, write._room));
    }
    let mut remainder = None;
    match round.background {
        Some(Background::Write(write)) => {
            batch.add(write.changes)?;
            waiting.push((write.done, write._room));
        }
        Some(Background::Remove { from, to }) => {
            batch.apply()?;
            if !batch.remove(from, to, REMOVE_SLICE)? {
                remainder = Some(Background::Remove { from, to });
            }
        }
        None => {}
    }
    batch.apply()?;
    if !waiting.is_empty() || round.last {
        barrier(shared, engine)?;
    }
    shared.durable.fetch_add(count, Ordering::Release);
    for (done, room) in waiting {
        done();
        drop(room);
    }
    let finished = remainder.is_none();
    if let Some(work) = remainder {
        shared.lock().background.push_front(work);
    }
    Ok(round.last && finished)
}

/// The batch being put together.
struct Pending<'a> {
    db: &'a sled::Db,
    batch: Batch,
    changes: usize,
}

impl Pending<'_> {
    /// Adds one write. Its changes stay in one batch, so they take effect together.
    fn add(&mut self, changes: Vec<Change>) -> Result<(), Failure> {
        // A removal looks at the database, so what comes before it must be there.
        if changes.iter().any(|change| matches!(change, Change::Remove { .. })) {
            self.apply()?;
        }
        for change in changes {
            match change {
                Change::Put { key, value } => self.put(key, value),
                Change::Remove { from, to } => {
                    self.remove(from, to, usize::MAX)?;
                }
            }
        }
        Ok(())
    }

    fn put(&mut self, key: Key, value: Vec<u8>) {
        self.batch.insert(key, value);
        self.changes += 1;
    }

    /// Adds the removal of at most `limit` keys of `from..to`; true if these were all.
    fn remove(&mut self, from: Key, to: Key, limit: usize) -> Result<bool, Failure> {
        for (count, key) in self.db.range(from..to).keys().enumerate() {
            if count == limit {
                return Ok(false);
            }
            self.batch.remove(key.map_err(failed("read"))?);
            self.changes += 1;
        }
        Ok(true)
    }

    fn apply(&mut self) -> Result<(), Failure> {
        if std::mem::take(&mut self.changes) == 0 {
            return Ok(());
        }
        self.db.apply_batch(std::mem::take(&mut self.batch)).map_err(failed("write to"))
    }
}

fn barrier(shared: &Shared, engine: &Engine) -> Result<(), Failure> {
    let start = Instant::now();
    // Never `flush_async`: it can deadlock in sled 0.34.7.
    engine.db.flush().map_err(failed("flush"))?;
    match engine.sync {
        SyncPolicy::FlushAndSync => engine.db_file.sync_data().map_err(failed("sync"))?,
        #[cfg(test)]
        SyncPolicy::FlushOnly => {}
        #[cfg(test)]
        SyncPolicy::Fail => return Err(failed("sync")(std::io::Error::other("injected"))),
    }
    shared.barriers.fetch_add(1, Ordering::Relaxed);
    let micros = u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX);
    shared.barrier_micros.fetch_add(micros, Ordering::Relaxed);
    Ok(())
}

fn failed<E: fmt::Display>(step: &'static str) -> impl FnOnce(E) -> Failure {
    move |cause| Failure { step, cause: cause.to_string() }
}
