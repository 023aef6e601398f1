//! The leader's own copy of what it sends.
//!
//! Its log runs ahead of its disk ([`muster_storage::LogStore::running_ahead`]), and openraft counts it into the quorum before it
//! is durable there. That is right for as long as the node lives: nobody is elected without what it has. So
//! nothing of it may outlive the node: the state machine waits for its disk, and so does the word to others
//! that an entry is committed.

use std::time::Duration;

use muster_core::mutant;
use muster_storage::{Durable, StoreError};
use tokio::time::{Instant, timeout};

use crate::types::{LogId, TypeConfig};

/// Why nothing is sent to a peer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Silence {
    #[error("the own disk has taken nothing for {0:?}: another node should lead")]
    Stuck(Duration),
    #[error("the own log takes nothing any more")]
    Log(#[from] StoreError),
}

/// What one peer is told of the commits of a leader.
#[derive(Debug)]
pub(crate) struct OwnCopy {
    durable: Durable<TypeConfig>,
    patience: Duration,
    /// The last entry that was durable when the disk was waited for in vain, and since when.
    stuck: Option<(Option<LogId>, Instant)>,
}

impl OwnCopy {
    /// With a leader that is silent once its disk has taken nothing for `patience`.
    pub(crate) fn new(durable: Durable<TypeConfig>, patience: Duration) -> Self {
        OwnCopy { durable, patience, stuck: None }
    }

    /// What may be said to be committed: `committed`, if it is durable here within `limit`, or as much of it
    /// as is.
    pub(crate) async fn committed(
        &mut self,
        committed: Option<LogId>,
        limit: Duration,
    ) -> Result<Option<LogId>, Silence> {
        let Some(id) = committed.filter(|_| !mutant!("commit-told-before-sync")) else {
            return Ok(committed);
        };
        if let Ok(synced) = timeout(limit, self.durable.up_to(id.index)).await {
            synced?;
            self.stuck = None;
            return Ok(committed);
        }
        let (durable, now) = (self.durable.last(&id), Instant::now());
        let since = match self.stuck {
            Some((before, since)) if before == durable => since,
            _ => now,
        };
        self.stuck = Some((durable, since));
        let span = now - since;
        if span > self.patience { Err(Silence::Stuck(span)) } else { Ok(durable) }
    }
}

#[cfg(test)]
mod tests {
    use muster_core::ids::NodeId;
    use muster_storage::{LogStore, Memory, Store};
    use openraft::storage::RaftLogStorageExt;
    use openraft::{CommittedLeaderId, EntryPayload};

    use super::*;

    const BARRIER: Duration = Duration::from_millis(300);
    const LIMIT: Duration = Duration::from_millis(25);

    fn id(index: u64) -> LogId {
        LogId::new(CommittedLeaderId::new(1, NodeId(1)), index)
    }

    async fn append(log: &mut LogStore<TypeConfig>, index: u64) {
        let entry = openraft::Entry { log_id: id(index), payload: EntryPayload::Blank };
        log.blocking_append([entry]).await.expect("the log works");
    }

    #[tokio::test(start_paused = true)]
    async fn a_commit_is_told_once_it_is_durable_and_a_stuck_leader_falls_silent() {
        let disk = Memory::new();
        let store = Store::in_memory(&disk).expect("a store in memory opens");
        let mut log = store.log::<TypeConfig>().expect("a fresh log opens").running_ahead(&NodeId(1));
        let mut own_copy = OwnCopy::new(log.durable(), BARRIER / 2);
        append(&mut log, 0).await;
        assert_eq!(own_copy.committed(None, LIMIT).await.expect("nothing to wait for"), None);
        assert_eq!(own_copy.committed(Some(id(0)), LIMIT).await.expect("durable at once"), Some(id(0)));

        disk.set_barrier(LIMIT / 2);
        append(&mut log, 1).await;
        assert_eq!(own_copy.committed(Some(id(1)), LIMIT).await.expect("durable soon"), Some(id(1)));

        disk.set_barrier(BARRIER);
        append(&mut log, 2).await;
        let (start, mut told) = (Instant::now(), 0);
        let silence = loop {
            match own_copy.committed(Some(id(2)), LIMIT).await {
                Ok(committed) => assert_eq!(committed, Some(id(1)), "what is durable"),
                Err(silence) => break silence,
            }
            told += 1;
        };
        assert!(matches!(silence, Silence::Stuck(_)), "{silence}");
        assert!(told >= 5 && start.elapsed() <= BARRIER, "{told} times in {:?}", start.elapsed());
        // It speaks again with its disk.
        log.durable().all().await.expect("the disk works");
        assert_eq!(own_copy.committed(Some(id(2)), LIMIT).await.expect("durable"), Some(id(2)));
    }
}
