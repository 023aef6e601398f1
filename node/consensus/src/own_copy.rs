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
    use std::sync::Arc;

    use arc_swap::ArcSwap;
    use muster_core::ids::{Incarnation, NodeId, StoreId};
    use muster_storage::{LogStore, Memory, Store};
    use openraft::raft::AppendEntriesRequest;
    use openraft::storage::RaftLogStorageExt;
    use openraft::{CommittedLeaderId, EntryPayload};

    use super::*;
    use crate::identities::{Identities, Identity};
    use crate::messages;
    use crate::transport::{Answer, CallError, Transport};
    use crate::types::Vote;
    use crate::{Config, Consensus};

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
        #[cfg(feature = "mutants")]
        muster_core::mutants::choose(std::env::var("MUSTER_MUTANT").ok());
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

    /// No peer can be reached.
    #[derive(Debug)]
    struct Alone;

    impl Transport for Alone {
        fn call<'a>(&'a self, _: NodeId, _: &'a str, _: &'a str, _: Vec<u8>, _: Duration) -> Answer<'a> {
            Box::pin(async { Err(CallError::Unreachable("nobody is there".into())) })
        }
    }

    /// Sends a follower entries up to `last`, as the leader that says `committed`.
    async fn send(follower: &Consensus, before: Option<u64>, last: Option<u64>, committed: Option<u64>) {
        let first = before.map_or(0, |index| index + 1);
        let blank = |index| openraft::Entry { log_id: id(index), payload: EntryPayload::Blank };
        let request: AppendEntriesRequest<TypeConfig> = AppendEntriesRequest {
            vote: Vote::new_committed(1, NodeId(1)),
            prev_log_id: before.map(id),
            entries: last.map(|last| (first..=last).map(blank).collect()).unwrap_or_default(),
            leader_commit: committed.map(id),
        };
        let own = Identity { node: NodeId(1), store: StoreId(1), incarnation: Incarnation(1) };
        let leader = Identities::new(own, None, Arc::new(ArcSwap::default()));
        let body = messages::encode(messages::FORMAT, &(leader.header(NodeId(2)), request));
        let answer = follower.handle_rpc(NodeId(1), "append", &body.expect("it is encoded")).await;
        answer.expect("it is answered");
    }

    #[tokio::test(start_paused = true)]
    async fn a_follower_answers_for_nothing_and_shows_nothing_that_its_disk_may_lose() {
        #[cfg(feature = "mutants")]
        muster_core::mutants::choose(std::env::var("MUSTER_MUTANT").ok());
        let disk = Memory::new();
        let store = Store::in_memory(&disk).expect("a store in memory opens");
        let own = Identity { node: NodeId(2), store: StoreId(2), incarnation: Incarnation(1) };
        let config = Config::default();
        let follower = Consensus::start(own, &config, &store, Arc::new(Alone)).await.expect("it starts");
        // The vote is synced before anything.
        send(&follower, None, None, None).await;
        disk.set_barrier(BARRIER);

        let start = Instant::now();
        send(&follower, None, Some(3), None).await;
        assert!(start.elapsed() >= BARRIER, "answered after {:?}", start.elapsed());

        let (start, mut changes) = (Instant::now(), follower.changes());
        let shown = async {
            changes.wait_for(|applied| *applied >= 5).await.expect("it lives");
            start.elapsed()
        };
        let ((), shown) = tokio::join!(send(&follower, Some(3), Some(5), Some(5)), shown);
        assert!(shown >= BARRIER, "shown after {shown:?}");
        disk.set_barrier(Duration::ZERO);
        follower.shutdown().await;
    }
}
