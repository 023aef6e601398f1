//! Limits, and what happens when the disk fails.

use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};

use openraft::storage::{RaftLogStorage, RaftLogStorageExt};
use tempfile::TempDir;

use super::{Log, append, block_on, entry, expect_entries, id, open};
use crate::durability::{Fatal, SyncPolicy};
use crate::keys::RECORD_MAX;
use crate::{Options, Store, StoreError, codec};

fn blobs(dir: &Path) -> usize {
    fs::read_dir(dir.join("blobs")).unwrap().count()
}

#[test]
fn records_above_the_limit_are_refused() {
    let dir = TempDir::new().unwrap();
    let store = open(dir.path());
    let mut log: Log = store.log().unwrap();
    block_on(async {
        // The largest entry that fits, by its encoded size, and one byte more.
        let overhead = codec::encoded_len(&(0_u32, entry(0, vec![0; 60_000]))).unwrap() - 60_000;
        log.blocking_append([entry(0, vec![0; RECORD_MAX - overhead])]).await.unwrap();
        let error = log.blocking_append([entry(1, vec![0; RECORD_MAX - overhead + 1])]).await.unwrap_err();
        assert!(error.to_string().contains("above the limit of 65536"), "{error}");
        assert_eq!(log.get_log_state().await.unwrap().last_log_id, Some(id(0)));

        let journal = store.journal();
        journal.append(vec![0; RECORD_MAX]).await.unwrap();
        for bytes in [0, RECORD_MAX + 1] {
            let error = journal.append(vec![0; bytes]).await.unwrap_err();
            assert!(matches!(error, StoreError::TooLarge { .. }), "{error}");
        }
        let error = store.snapshots().save(&vec![0; RECORD_MAX], &[]).await.unwrap_err();
        assert!(matches!(error, StoreError::TooLarge { .. }), "{error}");
    });
}

/// sled never syncs its blob files, so nothing may ever be in one.
#[test]
fn the_largest_records_make_no_blobs() {
    let dir = TempDir::new().unwrap();
    let store = open(dir.path());
    let mut log: Log = store.log().unwrap();
    block_on(async {
        for index in 0..150 {
            log.blocking_append([entry(index, vec![1; RECORD_MAX - 100])]).await.unwrap();
            store.journal().append(vec![2; RECORD_MAX]).await.unwrap();
            if index % 25 == 24 {
                store.snapshots().save(&[3; 60_000], &vec![4; 3 << 20]).await.unwrap();
                store.journal().remove_through(index - 10).unwrap();
                log.purge(id(index - 10)).await.unwrap();
                assert_eq!(blobs(dir.path()), 0, "after {index} records");
            }
        }
    });
    store.close();
    assert_eq!(blobs(dir.path()), 0);
}

/// Why records are cut into parts: sled itself does put values of 64 KiB into blobs, a leaf at a time.
#[test]
fn sled_does_make_blobs_of_values_below_its_threshold() {
    let dir = TempDir::new().unwrap();
    let db = sled::Config::new().path(dir.path()).flush_every_ms(None).open().unwrap();
    for key in 0..50_u64 {
        db.insert(key.to_be_bytes(), vec![0; RECORD_MAX]).unwrap();
    }
    db.flush().unwrap();
    assert!(blobs(dir.path()) > 0);
}

#[test]
fn a_failed_sync_is_fatal_and_never_retried() {
    let dir = TempDir::new().unwrap();
    let messages = Arc::new(Mutex::new(Vec::new()));
    let fatal = Fatal(Arc::new({
        let messages = messages.clone();
        move |message: &str| messages.lock().unwrap().push(message.to_owned())
    }));
    let options = Options { sync: SyncPolicy::Fail, fatal, ..Options::default() };
    let store = Store::open(dir.path(), options).unwrap();
    let mut log: Log = store.log().unwrap();
    block_on(async {
        log.blocking_append([entry(0, vec![1])]).await.unwrap_err();
        log.blocking_append([entry(1, vec![1])]).await.unwrap_err();
        store.journal().append(vec![1]).await.unwrap_err();
        assert!(matches!(store.snapshots().save(&[], &[1]).await, Err(StoreError::Closed)));
        assert!(matches!(store.begin_incarnation(), Err(StoreError::Closed)));
    });
    let messages = messages.lock().unwrap();
    assert_eq!(messages.len(), 1);
    assert!(messages[0].contains("cannot sync the store in") && messages[0].contains("injected"));
    assert_eq!(store.stats().barriers, 0);
}

#[test]
fn a_closed_store_refuses_writes_and_can_be_read() {
    let dir = TempDir::new().unwrap();
    let store = open(dir.path());
    let mut log: Log = store.log().unwrap();
    block_on(async {
        append(&mut log, 0..3).await;
        store.close();
        store.close();
        log.blocking_append([entry(3, vec![1])]).await.unwrap_err();
        expect_entries(&mut log, 0..3).await;
        assert!(matches!(store.journal().append(vec![1]).await, Err(StoreError::Closed)));
    });
}
