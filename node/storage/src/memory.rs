//! A disk that is memory, for tests and simulations: it keeps apart what was synced and what was only
//! written, and forgets the second when its power fails.
//!
//! It promises what sled does: a batch is there as a whole or not at all, and what survives of the
//! batches after the last sync is a prefix of them. So code that relies on more is found out.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sled::IVec;

use crate::keys::Key;

/// One disk. A clone is a handle to the same; it outlives the stores that are opened on it.
#[derive(Clone, Default)]
pub struct Memory(Arc<Mutex<Disk>>);

type Map = BTreeMap<IVec, IVec>;
pub(crate) type Batch = Vec<(IVec, Option<IVec>)>;

/// What has happened to a disk, for tests that stop it after any of these.
#[cfg(test)]
#[derive(Clone)]
pub(crate) enum Operation {
    Write(Batch),
    Sync,
}

#[derive(Default)]
struct Disk {
    /// As a reader sees it.
    written: Map,
    /// As it would be after a power cut.
    synced: Map,
    /// What leads from `synced` to `written`.
    unsynced: Vec<Batch>,
    barrier: Duration,
    forgetful: bool,
    /// The next sync fails.
    failing: bool,
    /// Why whoever wrote must end, as a process with a real disk does.
    failure: Option<String>,
    #[cfg(test)]
    operations: Vec<Operation>,
}

impl Memory {
    /// An empty disk, whose barriers take no time.
    pub fn new() -> Memory {
        Memory::default()
    }

    /// From now on a barrier takes this long.
    pub fn set_barrier(&self, barrier: Duration) {
        self.lock().barrier = barrier;
    }

    /// From now on barriers return without making anything durable: only to prove that checks see it.
    pub fn set_forgetful(&self, forgetful: bool) {
        self.lock().forgetful = forgetful;
    }

    /// The next sync fails, and what it was for is lost though it still reads as written: as on Linux, whose
    /// later syncs succeed.
    pub fn fail_next_sync(&self) {
        self.lock().failing = true;
    }

    /// The next sync succeeds after all.
    pub fn stop_failing(&self) {
        self.lock().failing = false;
    }

    /// Why the store that writes here has given up, if it has since this was last asked. Its process must
    /// end, as an abort would have it.
    pub fn take_failure(&self) -> Option<String> {
        self.lock().failure.take()
    }

    /// Cuts the power. `surviving` is given the number of batches that were not synced, and says how
    /// many of them, the first ones, reached the disk all the same. The store must not be used again.
    pub fn cut_power(&self, surviving: impl FnOnce(usize) -> usize) {
        let mut disk = self.lock();
        let batches = std::mem::take(&mut disk.unsynced);
        let count = surviving(batches.len());
        for batch in batches.into_iter().take(count) {
            change(&mut disk.synced, batch);
        }
        disk.written = disk.synced.clone();
    }

    /// Every record that starts with these bytes, as it is written: for checks that read the disk by
    /// the documented layout rather than through a store.
    pub fn records(&self, prefix: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)> {
        let disk = self.lock();
        let from = disk.written.range(IVec::from(prefix)..);
        from.take_while(|(key, _)| key.starts_with(prefix)).map(|(k, v)| (k.to_vec(), v.to_vec())).collect()
    }

    pub(crate) fn barrier_time(&self) -> Duration {
        self.lock().barrier
    }

    pub(crate) fn range(&self, from: Key, to: Key) -> Pairs {
        Pairs { memory: self.clone(), from: from.into(), to: to.into() }
    }

    pub(crate) fn apply(&self, batch: Batch) {
        let mut disk = self.lock();
        #[cfg(test)]
        disk.operations.push(Operation::Write(batch.clone()));
        change(&mut disk.written, batch.clone());
        disk.unsynced.push(batch);
    }

    /// Makes what reads as written durable, whatever became of earlier syncs.
    pub(crate) fn write_again(&self) {
        let mut disk = self.lock();
        disk.unsynced.clear();
        disk.synced = disk.written.clone();
    }

    pub(crate) fn give_up(&self, message: &str) {
        self.lock().failure = Some(message.to_owned());
    }

    pub(crate) fn sync(&self) -> Result<(), std::io::Error> {
        let mut disk = self.lock();
        if disk.forgetful {
            return Ok(());
        }
        if std::mem::take(&mut disk.failing) {
            disk.unsynced.clear();
            return Err(std::io::Error::other("the simulated disk fails"));
        }
        #[cfg(test)]
        disk.operations.push(Operation::Sync);
        for batch in std::mem::take(&mut disk.unsynced) {
            change(&mut disk.synced, batch);
        }
        Ok(())
    }

    #[cfg(test)]
    pub(crate) fn operations(&self) -> Vec<Operation> {
        self.lock().operations.clone()
    }

    #[cfg(test)]
    pub(crate) fn count_operations(&self) -> usize {
        self.lock().operations.len()
    }

    fn lock(&self) -> MutexGuard<'_, Disk> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Memory")
    }
}

fn change(map: &mut Map, batch: Batch) {
    for (key, value) in batch {
        match value {
            Some(value) => map.insert(key, value),
            None => map.remove(&key),
        };
    }
}

/// The records of a range. Sees what is written while it is read, as sled's do.
pub(crate) struct Pairs {
    memory: Memory,
    from: IVec,
    to: IVec,
}

impl Iterator for Pairs {
    type Item = (IVec, IVec);

    fn next(&mut self) -> Option<Self::Item> {
        if self.from >= self.to {
            return None;
        }
        let disk = self.memory.lock();
        let (key, value) = disk.written.range(self.from.clone()..self.to.clone()).next()?;
        let pair = (key.clone(), value.clone());
        drop(disk);
        // The next key in order: this one and a zero byte.
        self.from = [&pair.0[..], &[0]].concat().into();
        Some(pair)
    }
}

impl DoubleEndedIterator for Pairs {
    fn next_back(&mut self) -> Option<Self::Item> {
        if self.from >= self.to {
            return None;
        }
        let disk = self.memory.lock();
        let (key, value) = disk.written.range(self.from.clone()..self.to.clone()).next_back()?;
        let pair = (key.clone(), value.clone());
        drop(disk);
        self.to = pair.0.clone();
        Some(pair)
    }
}
