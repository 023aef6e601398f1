//! The usage journal.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Waker};

use tempfile::TempDir;

use super::{block_on, data, open};

#[test]
fn records_stay_until_they_are_removed() {
    let dir = TempDir::new().unwrap();
    block_on(async {
        let store = open(dir.path());
        let journal = store.journal();
        for want in 1..=10 {
            assert_eq!(journal.append(data(want)).await.unwrap(), want);
        }
        journal.remove_through(4).unwrap();
        journal.remove_through(2).unwrap();
        let want: Vec<_> = (5..=10).map(|sequence| (sequence, data(sequence))).collect();
        assert_eq!(journal.pending(99).unwrap(), want);
        assert_eq!(journal.pending(2).unwrap(), want[..2]);
        assert_eq!(store.stats().journal_records, 6);
        store.close();
        drop((store, journal));

        let store = open(dir.path());
        let journal = store.journal();
        assert_eq!(journal.pending(99).unwrap(), want);
        // A number is not used again, even when all records are gone.
        journal.remove_through(u64::MAX).unwrap();
        store.close();
        drop((store, journal));
        let journal = open(dir.path()).journal();
        assert_eq!(journal.pending(99).unwrap(), []);
        assert_eq!(journal.append(data(11)).await.unwrap(), 11);
        assert_eq!(journal.pending(99).unwrap(), [(11, data(11))]);
    });
}

/// How many share one depends on who is faster, the appends or the thread that syncs.
#[test]
fn many_appends_share_one_sync() {
    assert!((0..5).any(|_| barriers_of_256_appends() < 64), "they hardly ever share one");
}

fn barriers_of_256_appends() -> u64 {
    let dir = TempDir::new().unwrap();
    let store = open(dir.path());
    let journal = store.journal();
    block_on(async {
        let mut appends = tokio::task::JoinSet::new();
        for index in 0..256 {
            let journal = journal.clone();
            appends.spawn(async move { journal.append(data(index)).await.unwrap() });
        }
        let mut sequences = appends.join_all().await;
        sequences.sort_unstable();
        assert_eq!(sequences, (1..=256).collect::<Vec<_>>());
    });
    let stats = store.stats();
    assert_eq!(stats.writes, 256);
    stats.barriers
}

/// Whoever asked may be gone; the record is kept all the same.
#[test]
fn an_abandoned_append_is_still_kept() {
    let dir = TempDir::new().unwrap();
    let store = open(dir.path());
    let journal = store.journal();
    {
        let append = pin!(journal.append(data(1)));
        assert!(append.poll(&mut Context::from_waker(Waker::noop())).is_pending());
    }
    super::wait_until("the record is durable", || journal.pending(9).unwrap() == [(1, data(1))]);
}
