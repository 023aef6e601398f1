//! The log: what survives a reopen, what a reader sees, what a crash may not mix up.

use openraft::storage::{RaftLogStorage, RaftLogStorageExt};
use openraft::{LogState, RaftLogReader, Vote};
use tempfile::TempDir;
use tokio::time::{Duration, timeout};

use super::{Log, NodeId, TypeConfig, append, block_on, data, entry, expect_entries, id, open};
use crate::log::{CACHE_BYTES, CACHE_ENTRIES};
use crate::{Memory, Store, StoreError, keys};

/// Ends a store with `close`, or just drops it.
fn end(store: Store, log: Log, closed: bool) {
    if closed {
        store.close();
    }
    drop((store, log));
}

#[test]
fn a_reopened_log_is_the_same() {
    for closed in [true, false] {
        let dir = TempDir::new().unwrap();
        let vote = Vote::new(7, NodeId(3));
        block_on(async {
            let store = open(dir.path());
            let mut log: Log = store.log().unwrap();
            append(&mut log, 0..40).await;
            log.save_vote(&vote).await.unwrap();
            log.truncate(id(30)).await.unwrap();
            log.save_committed(Some(id(20))).await.unwrap();
            log.purge(id(9)).await.unwrap();
            // Marks wait for a write to go with.
            append(&mut log, 30..32).await;
            expect_entries(&mut log, 10..32).await;
            end(store, log, closed);

            let store = open(dir.path());
            let mut log: Log = store.log().unwrap();
            expect_entries(&mut log, 10..32).await;
            assert_eq!(log.read_vote().await.unwrap(), Some(vote));
            assert_eq!(log.read_committed().await.unwrap(), Some(id(20)));
            let state = LogState { last_purged_log_id: Some(id(9)), last_log_id: Some(id(31)) };
            assert_eq!(log.get_log_state().await.unwrap(), state);
            append(&mut log, 32..33).await;
            expect_entries(&mut log, 10..33).await;
        });
    }
}

#[test]
fn close_makes_marks_durable_too() {
    let dir = TempDir::new().unwrap();
    block_on(async {
        let store = open(dir.path());
        let mut log: Log = store.log().unwrap();
        append(&mut log, 0..5).await;
        log.save_committed(Some(id(3))).await.unwrap();
        log.purge(id(2)).await.unwrap();
        end(store, log, true);

        let mut log: Log = open(dir.path()).log().unwrap();
        assert_eq!(log.read_committed().await.unwrap(), Some(id(3)));
        expect_entries(&mut log, 3..5).await;
    });
}

/// A snapshot from the leader ends beyond the follower's log.
#[test]
fn a_purge_beyond_the_end_leaves_no_hole() {
    let dir = TempDir::new().unwrap();
    block_on(async {
        let store = open(dir.path());
        let mut log: Log = store.log().unwrap();
        append(&mut log, 0..5).await;
        log.purge(id(99)).await.unwrap();
        let state = LogState { last_purged_log_id: Some(id(99)), last_log_id: Some(id(99)) };
        assert_eq!(log.get_log_state().await.unwrap(), state);
        append(&mut log, 100..103).await;
        end(store, log, false);

        let mut log: Log = open(dir.path()).log().unwrap();
        expect_entries(&mut log, 100..103).await;
    });
}

/// openraft purges what an arrived snapshot covers while that is still being stored.
#[test]
fn a_purge_waits_for_the_snapshot_that_covers_it() {
    let dir = TempDir::new().unwrap();
    block_on(async {
        let store = open(dir.path());
        let (log, snapshots): (Log, _) = (store.log().unwrap(), store.snapshots().arrivals());
        let purge = |index| {
            let mut log = log.clone();
            tokio::spawn(async move { log.purge(id(index)).await })
        };
        append(&mut log.clone(), 0..5).await;
        snapshots.arrived(99);
        let early = purge(99);
        purge(2).await.unwrap().unwrap();
        assert!(!early.is_finished(), "another purge overtakes it");
        assert_eq!(log.clone().get_log_state().await.unwrap().last_purged_log_id, Some(id(2)));
        snapshots.durable(99);
        early.await.unwrap().unwrap();
        snapshots.declined(99);

        // Not needed: the log goes on as it would have.
        snapshots.arrived(120);
        let purge_on = purge(120);
        snapshots.declined(120);
        purge_on.await.unwrap().unwrap();

        snapshots.arrived(150);
        let never = purge(150);
        snapshots.failed();
        assert!(never.await.unwrap().is_err());
        assert_eq!(log.clone().get_log_state().await.unwrap().last_purged_log_id, Some(id(120)));
    });
}

#[test]
fn what_was_purged_leaves_the_database() {
    let dir = TempDir::new().unwrap();
    let store = open(dir.path());
    block_on(async {
        let mut log: Log = store.log().unwrap();
        append(&mut log, 0..3000).await;
        log.purge(id(2899)).await.unwrap();
        // At once for readers, bit by bit in the database.
        expect_entries(&mut log, 2900..3000).await;
        assert!(log.limited_get_log_entries(2899, 2950).await.unwrap().is_empty());
    });
    let first = || keys::scan(&store.inner().db, dir.path(), keys::Kind::Log, 0, 3000).next();
    super::wait_until("purged entries are removed", || first().unwrap().unwrap().0 == 2900);
}

#[test]
fn what_left_the_cache_is_read_from_the_database() {
    let dir = TempDir::new().unwrap();
    block_on(async {
        let store = open(dir.path());
        let mut log: Log = store.log().unwrap();
        // More than the cache holds, by number and by size.
        let many = CACHE_ENTRIES as u64 + 2000;
        for start in (0..many).step_by(500) {
            append(&mut log, start..start + 500).await;
        }
        let end = many.div_ceil(500) * 500;
        expect_entries(&mut log, 0..end).await;
        for start in [0, 1999, 2000, 3000, end - 1] {
            let found = log.limited_get_log_entries(start, end).await.unwrap();
            let bytes: usize = found.iter().map(|entry| crate::codec::encoded_len(entry).unwrap()).sum();
            assert!(bytes <= 1 << 20, "{bytes} bytes in one message");
            let want: Vec<_> = (start..).take(found.len()).map(|index| entry(index, data(index))).collect();
            assert!(!found.is_empty() && found == want, "from {start}");
        }

        let big = vec![7; 60_000];
        let count = (CACHE_BYTES / big.len() + 10) as u64;
        for index in end..end + count {
            log.blocking_append([entry(index, big.clone())]).await.unwrap();
        }
        let found = log.try_get_log_entries(end..).await.unwrap();
        assert!(
            found.len() as u64 == count && found.iter().all(|e| *e == entry(e.log_id.index, big.clone()))
        );
        // From the cache a message is filled to the limit; from the database, up to the cache.
        for (start, least) in [(end, 1), (end + count - 30, (1 << 20) / 60_016)] {
            let found = log.limited_get_log_entries(start, end + count).await.unwrap();
            assert!((least..=(1 << 20) / 60_000).contains(&found.len()), "{} from {start}", found.len());
        }
    });
}

/// Readers see entries before these are durable, and the later of two at one index.
#[test]
fn a_rewritten_tail_is_the_one_that_is_read() {
    let dir = TempDir::new().unwrap();
    block_on(async {
        let store = open(dir.path());
        let mut log: Log = store.log().unwrap();
        append(&mut log, 0..10).await;
        for round in 0..50_u64 {
            log.truncate(id(5)).await.unwrap();
            assert_eq!(log.get_log_state().await.unwrap().last_log_id, Some(id(4)));
            let tail: Vec<_> = (5..10).map(|index| entry(index, data(index + round))).collect();
            let mut reader = log.get_log_reader().await;
            let (written, ()) = tokio::join!(log.blocking_append(tail.clone()), async {
                assert!(reader.try_get_log_entries(5..10).await.unwrap() == tail, "round {round}");
            });
            written.unwrap();
        }
        end(store, log, false);
        let mut log: Log = open(dir.path()).log().unwrap();
        let tail: Vec<_> = (5..10).map(|index| entry(index, data(index + 49))).collect();
        assert!(log.try_get_log_entries(5..10).await.unwrap() == tail);
        assert_eq!(log.get_log_state().await.unwrap().last_log_id, Some(id(9)));
    });
}

const BARRIER: Duration = Duration::from_millis(100);

/// Whether something is so at once, on a clock that stands still until everybody waits.
async fn at_once<F: Future>(what: F) -> bool {
    timeout(BARRIER / 100, what).await.is_ok()
}

fn synced(log: &Log, up_to: u64) -> Option<u64> {
    log.durable().last(&id(up_to)).map(|id| id.index)
}

#[tokio::test(start_paused = true)]
async fn a_log_that_runs_ahead_tells_what_is_durable() {
    let disk = Memory::new();
    let store = Store::in_memory(&disk).unwrap();
    let mut log: Log = store.log::<TypeConfig>().unwrap().running_ahead(&NodeId(1));
    append(&mut log, 0..5).await;
    log.durable().all().await.unwrap();
    disk.set_barrier(BARRIER);
    assert!(at_once(append(&mut log, 5..8)).await, "called back only when durable");
    // What is not durable is read all the same.
    expect_entries(&mut log, 0..8).await;
    assert!(at_once(log.durable().up_to(4)).await);
    assert!(!at_once(log.durable().up_to(5)).await && !at_once(log.durable().all()).await, "before the sync");
    assert_eq!([synced(&log, 3), synced(&log, 7)], [Some(3), Some(4)]);
    log.durable().up_to(7).await.unwrap();
    assert!(at_once(log.durable().all()).await);
    assert_eq!(synced(&log, 7), Some(7));

    // A removal is waited for as well, and an index counts for the entry that has it now.
    log.truncate(id(6)).await.unwrap();
    assert!(!at_once(log.durable().all()).await);
    append(&mut log, 6..9).await;
    assert_eq!([synced(&log, 5), synced(&log, 8)], [Some(5), Some(5)]);

    disk.cut_power(|_| 0);
    drop((store, log));
    disk.set_barrier(Duration::ZERO);
    let store = Store::in_memory(&disk).unwrap();
    let mut log: Log = store.log().unwrap();
    expect_entries(&mut log, 0..8).await;
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_a_sync_hears_that_it_failed() {
    let disk = Memory::new();
    let store = Store::in_memory(&disk).unwrap();
    let mut log: Log = store.log::<TypeConfig>().unwrap().running_ahead(&NodeId(1));
    append(&mut log, 0..1).await;
    log.durable().all().await.unwrap();
    disk.set_barrier(BARRIER);
    disk.fail_next_sync();
    append(&mut log, 1..2).await;
    assert!(matches!(log.durable().up_to(1).await, Err(StoreError::Closed)));
    assert_eq!(synced(&log, 1), Some(0));
}

/// Its entries may be elsewhere, and no longer here.
#[tokio::test]
async fn a_leader_that_ran_ahead_does_not_lead_on_when_it_restarts() {
    #[cfg(feature = "mutants")]
    muster_core::mutants::choose(std::env::var("MUSTER_MUTANT").ok());
    let disk = Memory::new();
    for (vote, read) in [
        (Vote::new_committed(3, NodeId(1)), Vote::new(3, NodeId(1))),
        (Vote::new(4, NodeId(1)), Vote::new(4, NodeId(1))),
        (Vote::new_committed(4, NodeId(2)), Vote::new_committed(4, NodeId(2))),
    ] {
        let store = Store::in_memory(&disk).unwrap();
        store.log::<TypeConfig>().unwrap().save_vote(&vote).await.unwrap();
        drop(store);
        let store = Store::in_memory(&disk).unwrap();
        let mut log: Log = store.log::<TypeConfig>().unwrap().running_ahead(&NodeId(1));
        assert_eq!(log.read_vote().await.unwrap(), Some(read));
    }
}
