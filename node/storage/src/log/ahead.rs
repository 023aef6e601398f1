//! A log that runs ahead of the disk: an append is called back as soon as its entries can be read, and
//! whoever answers for them waits here until they are durable.
//!
//! So a leader's entries are on their way to the followers while its own disk takes them in.

use std::fmt;
use std::sync::{Arc, Mutex};

use muster_core::mutant;
use openraft::{Entry, LogId, RaftTypeConfig};
use tokio::sync::watch;

use super::{LogStore, State, lock};
use crate::durability::Reached;
use crate::error::StoreError;

/// What of a log is durable. A clone is a handle to the same; none keeps the store open.
pub struct Durable<C: RaftTypeConfig> {
    state: Arc<Mutex<State<C>>>,
    reached: watch::Receiver<Reached>,
}

impl<C> LogStore<C>
where
    C: RaftTypeConfig<Entry = Entry<C>>,
    C::D: Clone,
{
    /// Has [`append`](openraft::storage::RaftLogStorage::append) call back before its entries are durable, for the
    /// node `own`. What is said on the strength of an entry, to peers or clients, must wait for it: see
    /// [`durable`](Self::durable).
    ///
    /// A power cut takes entries from a leader that it has sent. It may not give others their places in the same
    /// term, so the vote that made it the leader is read as one it stood for election with: it leads again
    /// once it is elected.
    #[must_use]
    pub fn running_ahead(self, own: &C::NodeId) -> Self {
        {
            let mut state = self.lock();
            state.ahead = true;
            let voted = state.vote.as_mut().filter(|vote| vote.leader_id().voted_for().as_ref() == Some(own));
            if let Some(vote) = voted.filter(|_| !mutant!("leads-on-after-restart")) {
                vote.committed = false;
            }
        }
        self
    }

    /// For whoever waits until entries are durable.
    pub fn durable(&self) -> Durable<C> {
        Durable { state: Arc::clone(&self.state), reached: self.store.inner().writer.reached() }
    }
}

impl<C> Durable<C>
where
    C: RaftTypeConfig<Entry = Entry<C>>,
    C::D: Clone,
{
    /// Returns once everything that was appended or truncated before the call is durable.
    ///
    /// # Errors
    /// [`StoreError::Closed`].
    pub async fn all(&self) -> Result<(), StoreError> {
        let written = lock(&self.state).written;
        self.reach(written).await
    }

    /// Returns once the entry of this index, and all before it, are durable.
    ///
    /// # Errors
    /// [`StoreError::Closed`].
    pub async fn up_to(&self, index: u64) -> Result<(), StoreError> {
        // What is not in memory has been durable for long.
        let Some(write) = lock(&self.state).cache.write(index) else { return Ok(()) };
        self.reach(write).await
    }

    /// The last durable entry up to `id`. None if no such entry is in memory.
    pub fn last(&self, id: &LogId<C::NodeId>) -> Option<LogId<C::NodeId>> {
        let durable = self.reached.borrow().write;
        let state = lock(&self.state);
        if state.cache.write(id.index).is_none_or(|write| write <= durable) {
            return Some(id.clone());
        }
        state.cache.last_durable(id.index, durable).map(|entry| entry.log_id.clone())
    }

    async fn reach(&self, number: u64) -> Result<(), StoreError> {
        if self.reached.borrow().write >= number {
            return Ok(());
        }
        let mut reached = self.reached.clone();
        let reached = reached.wait_for(|reached| reached.write >= number || reached.stopped).await;
        let durable = reached.is_ok_and(|reached| reached.write >= number);
        if durable { Ok(()) } else { Err(StoreError::Closed) }
    }
}

impl<C: RaftTypeConfig> Clone for Durable<C> {
    fn clone(&self) -> Self {
        Durable { state: Arc::clone(&self.state), reached: self.reached.clone() }
    }
}

impl<C: RaftTypeConfig> fmt::Debug for Durable<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Durable").field("reached", &*self.reached.borrow()).finish_non_exhaustive()
    }
}
