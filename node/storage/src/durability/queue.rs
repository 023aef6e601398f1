//! What waits for the durability thread, and what one round takes of it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, watch};

use super::{Change, Done};
use crate::error::StoreError;
use crate::keys::Key;

/// A round takes no more than this from the foreground (at least one write, whatever its size): it
/// bounds how long the first in a round waits for the last.
const GROUP_BYTES: usize = 4 << 20;
const GROUP_WRITES: usize = 4096;

pub(super) struct Shared {
    pub(super) queue: Mutex<Queue>,
    pub(super) wake: Condvar,
    /// Wakes the task that stands in for the thread.
    pub(super) wake_task: Notify,
    pub(super) room: Arc<Semaphore>,
    pub(super) reached: watch::Sender<Reached>,
    pub(super) barriers: AtomicU64,
    pub(super) barrier_micros: AtomicU64,
}

/// How far the thread has come.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Reached {
    /// The number of the last foreground write that is durable.
    pub(crate) write: u64,
    /// Nothing more will be.
    pub(crate) stopped: bool,
}

#[derive(Default)]
pub(super) struct Queue {
    pub(super) foreground: VecDeque<Write>,
    pub(super) background: VecDeque<Background>,
    /// Each with the number of the foreground write that must be taken before it.
    pub(super) lazy: BTreeMap<Key, (u64, Vec<u8>)>,
    /// Foreground writes ever accepted; the number of the last one.
    pub(super) accepted: u64,
    pub(super) closing: bool,
    pub(super) stopped: bool,
}

pub(super) struct Write {
    pub(super) changes: Vec<Change>,
    pub(super) done: Done,
    /// Gives its share of the queue back when the write is done with.
    pub(super) _room: Option<OwnedSemaphorePermit>,
}

pub(super) enum Background {
    Write(Write),
    Remove { from: Key, to: Key },
}

#[derive(Default)]
pub(super) struct Round {
    pub(super) lazy: BTreeMap<Key, Vec<u8>>,
    pub(super) foreground: Vec<Write>,
    pub(super) background: Option<Background>,
    pub(super) last: bool,
}

impl Queue {
    pub(super) fn is_idle(&self) -> bool {
        self.foreground.is_empty() && self.background.is_empty() && !self.closing
    }

    pub(super) fn take_round(&mut self) -> Round {
        let taken = self.accepted - self.foreground.len() as u64;
        let lazy = self.lazy.extract_if(.., |_, (after, _)| *after <= taken);
        let lazy = lazy.map(|(key, (_, value))| (key, value)).collect();
        let mut round = Round { lazy, ..Round::default() };
        let mut bytes = 0;
        while round.foreground.len() < GROUP_WRITES && bytes < GROUP_BYTES {
            let Some(write) = self.foreground.pop_front() else { break };
            bytes += write.changes.iter().map(Change::bytes).sum::<usize>();
            round.foreground.push(write);
        }
        round.background = self.background.pop_front();
        let nothing_left = self.foreground.is_empty() && self.background.is_empty() && self.lazy.is_empty();
        round.last = self.closing && nothing_left;
        round
    }
}

impl Shared {
    pub(super) fn lock(&self) -> MutexGuard<'_, Queue> {
        // The queue is consistent between any two statements that could panic.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn accepting(&self) -> Result<MutexGuard<'_, Queue>, StoreError> {
        let queue = self.lock();
        if queue.closing || queue.stopped { Err(StoreError::Closed) } else { Ok(queue) }
    }

    pub(super) fn notify(&self) {
        self.wake.notify_one();
        self.wake_task.notify_one();
    }

    pub(super) fn next_round(&self) -> Round {
        let mut queue = self.lock();
        while queue.is_idle() {
            queue = self.wake.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
        queue.take_round()
    }

    pub(super) async fn next_round_of_task(&self) -> Round {
        loop {
            {
                let mut queue = self.lock();
                if !queue.is_idle() {
                    return queue.take_round();
                }
            }
            self.wake_task.notified().await;
        }
    }

    /// Refuses everything from now on; what is queued is dropped, its callbacks uncalled.
    pub(super) fn stop(&self) {
        let mut queue = self.lock();
        queue.stopped = true;
        self.room.close();
        let abandoned = (std::mem::take(&mut queue.foreground), std::mem::take(&mut queue.background));
        drop(queue);
        self.reached.send_modify(|reached| reached.stopped = true);
        drop(abandoned);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::Kind;

    #[test]
    fn a_hint_comes_in_a_round_after_the_write_that_it_names() {
        let mut queue = Queue::default();
        let key = |kind| Key::first(kind, 0);
        queue.accepted = 1;
        queue.foreground.push_back(Write { changes: Vec::new(), done: Box::new(|| ()), _room: None });
        queue.lazy.insert(key(Kind::Purged), (0, vec![0]));
        queue.lazy.insert(key(Kind::Committed), (1, vec![1]));
        queue.closing = true;
        let round = queue.take_round();
        let hints = |round: &Round| round.lazy.values().cloned().collect::<Vec<_>>();
        assert_eq!((round.foreground.len(), hints(&round), round.last), (1, vec![vec![0]], false));
        let round = queue.take_round();
        assert_eq!((round.foreground.len(), hints(&round), round.last), (0, vec![vec![1]], true));
    }
}
