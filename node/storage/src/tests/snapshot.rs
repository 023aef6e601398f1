//! Snapshots: whole or not at all.

use std::future::{Future, poll_fn};
use std::path::Path;
use std::pin::pin;
use std::task::Poll;

use sled::IVec;
use tempfile::TempDir;

use super::{block_on, open, wait_until};
use crate::keys::{Key, Kind, last_id};
use crate::{Snapshot, Store, StoreError};

/// Several slices and a short last chunk.
const BYTES: usize = 1_500_001;

fn snapshot(version: u8) -> Snapshot {
    let data = (0..=250).cycle().take(BYTES).map(|byte: u8| byte ^ version).collect();
    Snapshot { meta: vec![version; 9_000], data }
}

async fn save(store: &Store, version: u8) {
    let Snapshot { meta, data } = snapshot(version);
    store.snapshots().save(&meta, &data).await.unwrap();
}

fn chunks(store: &Store) -> Vec<(IVec, IVec)> {
    let db = &store.inner().db;
    db.range(Key::first(Kind::SnapshotChunk, 0)..Key::end(Kind::SnapshotChunk)).map(Result::unwrap).collect()
}

#[test]
fn the_last_snapshot_is_kept() {
    let dir = TempDir::new().unwrap();
    let store = open(dir.path());
    assert_eq!(store.snapshots().load().unwrap(), None);
    for version in 1..=3 {
        block_on(save(&store, version));
        assert_eq!(store.snapshots().load().unwrap(), Some(snapshot(version)));
    }
    drop(store);
    let store = open(dir.path());
    assert_eq!(store.snapshots().load().unwrap(), Some(snapshot(3)));
    let want = BYTES.div_ceil(crate::keys::PART_MAX - 4);
    wait_until("the old chunks are removed", || chunks(&store).len() == want);

    let empty = Snapshot { meta: vec![], data: vec![] };
    block_on(store.snapshots().save(&empty.meta, &empty.data)).unwrap();
    assert_eq!(store.snapshots().load().unwrap(), Some(empty));
}

#[test]
fn an_interrupted_save_leaves_the_old_snapshot() {
    // Polls before the future is dropped: one for each slice, one for the manifest.
    for polls in 1..=8 {
        let dir = TempDir::new().unwrap();
        let store = open(dir.path());
        block_on(async {
            save(&store, 1).await;
            let mut second = pin!(save(&store, 2));
            let mut left = polls;
            poll_fn(|context| {
                if left == 0 {
                    return Poll::Ready(());
                }
                left -= 1;
                second.as_mut().poll(context)
            })
            .await;
        });
        drop(store);
        let store = open(dir.path());
        // Once the manifest is queued, the new one may have won.
        let found = store.snapshots().load().unwrap().unwrap();
        assert!(found == snapshot(1) || polls >= 7 && found == snapshot(2), "after {polls} polls");
        let want = BYTES.div_ceil(crate::keys::PART_MAX - 4);
        wait_until("orphans are removed", || chunks(&store).len() == want);
        block_on(save(&store, 3));
        assert_eq!(store.snapshots().load().unwrap(), Some(snapshot(3)));
    }
}

#[test]
fn damage_is_detected() {
    type Damage = fn(&Store);
    let cases: [(&str, Damage); 6] = [
        ("a flipped bit", |store| {
            let (key, value) = chunks(store).swap_remove(5);
            let mut value = value.to_vec();
            value[100] ^= 4;
            store.inner().db.insert(key, value).unwrap();
        }),
        ("a flipped bit in a checksum", |store| {
            let (key, value) = chunks(store).swap_remove(5);
            let mut value = value.to_vec();
            *value.last_mut().unwrap() ^= 4;
            store.inner().db.insert(key, value).unwrap();
        }),
        ("two chunks changed places", |store| {
            let all = chunks(store);
            store.inner().db.insert(&all[3].0, &all[4].1).unwrap();
            store.inner().db.insert(&all[4].0, &all[3].1).unwrap();
        }),
        ("a chunk in the middle is gone", |store| {
            store.inner().db.remove(&chunks(store)[7].0).unwrap();
        }),
        ("the last chunk is gone", |store| {
            store.inner().db.remove(&chunks(store).last().unwrap().0).unwrap();
        }),
        ("half of the manifest is gone", |store| {
            let db = &store.inner().db;
            let generation = last_id(db, &store.inner().dir, Kind::SnapshotManifest).unwrap().unwrap();
            assert!(db.remove(Key::new(Kind::SnapshotManifest, generation, 1)).unwrap().is_some());
        }),
    ];
    let dir = TempDir::new().unwrap();
    let store = open(dir.path());
    for (name, damage) in cases {
        block_on(save(&store, 1));
        wait_until("one generation", || chunks(&store).len() == BYTES.div_ceil(crate::keys::PART_MAX - 4));
        damage(&store);
        let error = store.snapshots().load().unwrap_err();
        let names_dir = |dir: &Path| error.to_string().contains(dir.to_str().unwrap());
        assert!(matches!(error, StoreError::Corrupt { .. }) && names_dir(dir.path()), "{name}: {error}");
    }
}
