//! Snapshots: whole or not at all.

use std::future::{Future, poll_fn};
use std::io::{self, Read};
use std::path::Path;
use std::pin::pin;
use std::sync::mpsc;
use std::task::Poll;
use std::time::Duration;

use sled::IVec;
use tempfile::TempDir;

use super::{block_on, open, wait_until};
use crate::keys::{Key, Kind, last_id};
use crate::snapshot::{CHUNK_BYTES, Stream};
use crate::{Draft, Memory, Options, Pace, Snapshot, Store, StoreError, Transfer};

/// A test that waits for as long has failed.
const LONG: Duration = Duration::from_secs(60);

/// Several slices and a short last chunk.
const BYTES: usize = 2_600_001;

fn snapshot(version: u8) -> Snapshot {
    let data = (0..=250).cycle().take(BYTES).map(|byte: u8| byte ^ version).collect();
    Snapshot { meta: vec![version; 9_000], data }
}

async fn save(store: &Store, version: u8) {
    let Snapshot { meta, data } = snapshot(version);
    store.snapshots().save(&meta, &data).await.unwrap();
}

fn chunks(store: &Store) -> Vec<(IVec, IVec)> {
    let db = store.inner().db.sled();
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
    let want = BYTES.div_ceil(CHUNK_BYTES);
    wait_until("the old chunks are removed", || chunks(&store).len() == want);

    let empty = Snapshot { meta: vec![], data: vec![] };
    block_on(store.snapshots().save(&empty.meta, &empty.data)).unwrap();
    assert_eq!(store.snapshots().load().unwrap(), Some(empty));
}

#[test]
fn work_that_can_wait_is_done_though_no_thread_can_be_started() {
    let dir = TempDir::new().unwrap();
    let store = open(dir.path());
    let snapshots = store.snapshots();
    let here = std::thread::current().id();
    let work = || std::thread::current().id();
    assert_ne!(block_on(snapshots.offload_gently(work)), here);
    let none = |_| Err(io::ErrorKind::WouldBlock.into());
    assert_ne!(block_on(snapshots.offload_to(none, work)), here);
}

#[test]
fn an_interrupted_save_leaves_the_old_snapshot() {
    // Polls before the future is dropped: one for each slice, the last chunk and the manifest.
    let all = BYTES.div_ceil(Pace::Full.slice()) + 2;
    for polls in 1..=all + 1 {
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
        assert!(found == snapshot(1) || polls >= all && found == snapshot(2), "after {polls} polls");
        let want = BYTES.div_ceil(CHUNK_BYTES);
        wait_until("orphans are removed", || chunks(&store).len() == want);
        block_on(save(&store, 3));
        assert_eq!(store.snapshots().load().unwrap(), Some(snapshot(3)));
    }
}

#[test]
fn damage_is_detected() {
    type Damage = fn(&Store);
    let cases: [(&str, Damage); 5] = [
        ("a flipped bit", |store| {
            let (key, value) = chunks(store).swap_remove(5);
            let mut value = value.to_vec();
            value[100] ^= 4;
            store.inner().db.sled().insert(key, value).unwrap();
        }),
        ("a flipped bit in a checksum", |store| {
            let (key, value) = chunks(store).swap_remove(5);
            let mut value = value.to_vec();
            *value.last_mut().unwrap() ^= 4;
            store.inner().db.sled().insert(key, value).unwrap();
        }),
        ("two chunks changed places", |store| {
            let all = chunks(store);
            store.inner().db.sled().insert(&all[3].0, &all[4].1).unwrap();
            store.inner().db.sled().insert(&all[4].0, &all[3].1).unwrap();
        }),
        ("a chunk in the middle is gone", |store| {
            store.inner().db.sled().remove(&chunks(store)[7].0).unwrap();
        }),
        ("the last chunk is gone", |store| {
            store.inner().db.sled().remove(&chunks(store).last().unwrap().0).unwrap();
        }),
    ];
    let dir = TempDir::new().unwrap();
    let store = open(dir.path());
    for (name, damage) in cases {
        block_on(save(&store, 1));
        wait_until("one generation", || chunks(&store).len() == BYTES.div_ceil(CHUNK_BYTES));
        damage(&store);
        let error = store.snapshots().load().unwrap_err();
        let names_dir = |dir: &Path| error.to_string().contains(dir.to_str().unwrap());
        assert!(matches!(error, StoreError::Corrupt { .. }) && names_dir(dir.path()), "{name}: {error}");
    }
    // A manifest is read as the store is opened.
    block_on(save(&store, 1));
    let inner = store.inner();
    let generation = last_id(&inner.db, &inner.dir, Kind::SnapshotManifest).unwrap().unwrap();
    let half = inner.db.sled().remove(Key::new(Kind::SnapshotManifest, generation, 1)).unwrap();
    assert!(half.is_some());
    drop(store);
    let error = Store::open(dir.path(), Options::default()).unwrap_err();
    assert!(
        matches!(error, StoreError::Corrupt { .. })
            && error.to_string().contains("the snapshot in its database file"),
        "{error}"
    );
}

#[test]
fn a_snapshot_stays_for_as_long_as_it_is_read() {
    let dir = TempDir::new().unwrap();
    let store = open(dir.path());
    let one = BYTES.div_ceil(CHUNK_BYTES);
    block_on(save(&store, 1));
    let readers = [store.snapshots().current().unwrap(), store.snapshots().current().unwrap()];
    block_on(save(&store, 2));
    block_on(save(&store, 3));
    wait_until("the one that nobody reads is removed", || chunks(&store).len() == 2 * one);
    let Snapshot { meta, data } = snapshot(1);
    for reader in readers {
        assert_eq!((reader.meta(), reader.bytes()), (&meta[..], BYTES as u64));
        for (offset, limit) in
            [(0, 1), (0, BYTES), (CHUNK_BYTES, CHUNK_BYTES), (7, 70_000), (BYTES - 1, 9), (BYTES, 9)]
        {
            let read = reader.read_at(offset as u64, limit).unwrap();
            assert_eq!(read, data[offset..(offset + limit).min(BYTES)], "{limit} bytes at {offset}");
        }
        let mut whole = Vec::new();
        reader.stream().read_to_end(&mut whole).unwrap();
        assert!(whole == data);
    }
    wait_until("nobody reads it any more", || chunks(&store).len() == one);
    assert_eq!(store.snapshots().load().unwrap(), Some(snapshot(3)));
}

/// What a peer says of a version it sends.
fn transfer(version: u8) -> Transfer {
    let hash = *blake3::hash(&snapshot(version).data).as_bytes();
    Transfer { id: format!("version {version}"), bytes: BYTES as u64, hash }
}

/// Sizes of parts that meet no boundary of chunks or slices.
const PART: usize = 77_777;

async fn send(draft: &mut Draft, version: u8, parts: usize) {
    let data = snapshot(version).data;
    for _ in 0..parts {
        let held = usize::try_from(draft.held()).unwrap();
        draft.append(&data[held..BYTES.min(held + PART)]).await.unwrap();
    }
}

#[test]
fn a_power_cut_while_a_snapshot_arrives_leaves_the_old_one_and_what_has_arrived() {
    let all = BYTES.div_ceil(PART);
    for (parts, surviving) in
        (0..=all).flat_map(|parts| [0, 1, usize::MAX].map(|surviving| (parts, surviving)))
    {
        let memory = Memory::new();
        block_on(async {
            let store = Store::in_memory(&memory).unwrap();
            save(&store, 1).await;
            let mut draft = store.snapshots().receive(transfer(2)).await.unwrap();
            send(&mut draft, 2, parts).await;
            assert_eq!(draft.held(), (parts * PART).min(BYTES) as u64);
            // As a crash does it: nothing is dropped in order.
            std::mem::forget(draft);
        });
        memory.cut_power(|unsynced| unsynced.min(surviving));
        block_on(async {
            let store = Store::in_memory(&memory).unwrap();
            assert_eq!(store.snapshots().load().unwrap(), Some(snapshot(1)), "after {parts} parts");
            let mut draft = store.snapshots().receive(transfer(2)).await.unwrap();
            let held = usize::try_from(draft.held()).unwrap();
            assert!(
                held <= parts * PART && held + 2 * Pace::Full.slice() > (parts * PART).min(BYTES),
                "{held} of {parts} parts"
            );
            send(&mut draft, 2, all).await;
            draft.finish(&snapshot(2).meta).await.unwrap();
            assert_eq!(store.snapshots().load().unwrap(), Some(snapshot(2)), "after {parts} parts");
            assert_eq!(records(&memory, Kind::SnapshotPending), 0);
            while records(&memory, Kind::SnapshotChunk) != BYTES.div_ceil(CHUNK_BYTES) {
                tokio::task::yield_now().await;
            }
        });
    }
}

fn records(memory: &Memory, kind: Kind) -> usize {
    memory.records(&[kind as u8]).len()
}

#[test]
fn a_transfer_that_broke_off_goes_on_and_another_begins_anew() {
    let dir = TempDir::new().unwrap();
    let store = open(dir.path());
    block_on(async {
        save(&store, 1).await;
        let mut draft = store.snapshots().receive(transfer(2)).await.unwrap();
        send(&mut draft, 2, 9).await;
    });
    store.close();
    drop(store);
    // Damage behind the fifth chunk: the rest is sent again.
    let store = open(dir.path());
    let generation = chunks(&store).last().map(|(key, _)| Key::parse(key).unwrap().id()).unwrap();
    let fifth = Key::new(Kind::SnapshotChunk, generation, 5);
    store.inner().db.sled().insert(fifth, vec![0; CHUNK_BYTES + 4]).unwrap();
    block_on(async {
        let mut draft = store.snapshots().receive(transfer(2)).await.unwrap();
        assert_eq!(draft.held(), 5 * CHUNK_BYTES as u64);
        send(&mut draft, 2, 3).await;
        drop(draft);
        let draft = store.snapshots().receive(transfer(3)).await.unwrap();
        assert_eq!(draft.held(), 0, "another snapshot has another beginning");
        drop(draft);
        let one = BYTES.div_ceil(CHUNK_BYTES);
        wait_until("what was here of the other is removed", || chunks(&store).len() == one);
        let mut draft = store.snapshots().receive(transfer(3)).await.unwrap();
        send(&mut draft, 3, BYTES.div_ceil(PART)).await;
        draft.seal().await.unwrap();
        let mut whole = Vec::new();
        draft.stream().read_to_end(&mut whole).unwrap();
        assert!(whole == snapshot(3).data);
        draft.finish(&snapshot(3).meta).await.unwrap();
    });
    assert_eq!(store.snapshots().load().unwrap(), Some(snapshot(3)));
}

#[test]
fn what_arrives_can_be_read_meanwhile() {
    let dir = TempDir::new().unwrap();
    let store = open(dir.path());
    let all = BYTES.div_ceil(PART);
    let (so_far, read) = mpsc::channel();
    let following = block_on(async {
        let mut draft = store.snapshots().receive(transfer(2)).await.unwrap();
        // It goes on with what an interruption has left.
        send(&mut draft, 2, 9).await;
        drop(draft);
        let mut draft = store.snapshots().receive(transfer(2)).await.unwrap();
        let held = usize::try_from(draft.held()).unwrap();
        assert!(held > 5 * CHUNK_BYTES, "{held} bytes are no test");
        let mut stream = draft.follow(LONG).unwrap();
        assert!(draft.follow(LONG).is_none(), "one is enough");
        let following = std::thread::spawn(move || {
            let mut whole = vec![0; held];
            stream.read_exact(&mut whole).unwrap();
            so_far.send(()).unwrap();
            stream.read_to_end(&mut whole).unwrap();
            whole
        });
        read.recv_timeout(LONG).unwrap();
        send(&mut draft, 2, all).await;
        draft.seal().await.unwrap();
        assert!(draft.follow(LONG).is_none(), "all of it is here");
        draft.finish(&snapshot(2).meta).await.unwrap();
        following
    });
    assert!(following.join().unwrap() == snapshot(2).data);
}

#[test]
fn who_reads_what_arrives_does_not_wait_for_ever_and_is_shown_nothing_else() {
    let dir = TempDir::new().unwrap();
    let store = open(dir.path());
    let fails = |mut stream: Stream| {
        let mut some = Vec::new();
        stream.read_to_end(&mut some).unwrap_err();
        (some.len(), stream.failure().unwrap())
    };
    block_on(async {
        let built = store.snapshots().begin(Pace::Full).follow(LONG);
        assert!(built.is_none(), "nobody knows how large it will be");
        // Nothing more comes.
        let mut draft = store.snapshots().receive(transfer(2)).await.unwrap();
        send(&mut draft, 2, 9).await;
        drop(draft);
        let mut draft = store.snapshots().receive(transfer(2)).await.unwrap();
        let held = usize::try_from(draft.held()).unwrap();
        let (read, error) = fails(draft.follow(Duration::from_millis(1)).unwrap());
        assert!(read == held && matches!(error, StoreError::Abandoned), "{read} of {held}: {error}");
        drop(draft);
        // It is given up.
        let mut draft = store.snapshots().receive(transfer(2)).await.unwrap();
        let stream = draft.follow(LONG).unwrap();
        let following = std::thread::spawn(move || fails(stream));
        send(&mut draft, 2, 3).await;
        draft.discard();
        let (read, error) = following.join().unwrap();
        assert!(read >= held && matches!(error, StoreError::Abandoned), "{read} of {held}: {error}");
        // It is not what was sent.
        let mut draft = store.snapshots().receive(Transfer { hash: [7; 32], ..transfer(2) }).await.unwrap();
        let stream = draft.follow(LONG).unwrap();
        let following = std::thread::spawn(move || fails(stream));
        send(&mut draft, 2, BYTES.div_ceil(PART)).await;
        draft.seal().await.unwrap_err();
        let (_, error) = following.join().unwrap();
        assert!(matches!(error, StoreError::Corrupt { .. }), "{error}");
        draft.discard();
    });
}

#[test]
fn what_is_not_what_was_sent_is_refused() {
    let dir = TempDir::new().unwrap();
    let store = open(dir.path());
    block_on(async {
        save(&store, 1).await;
        let all = BYTES.div_ceil(PART);
        for (name, announced) in [
            ("another hash", Transfer { hash: [7; 32], ..transfer(2) }),
            ("more bytes", Transfer { bytes: BYTES as u64 + 1, ..transfer(2) }),
        ] {
            let mut draft = store.snapshots().receive(announced.clone()).await.unwrap();
            send(&mut draft, 2, all).await;
            let error = draft.seal().await.unwrap_err();
            assert!(matches!(error, StoreError::Mismatch { .. }), "{name}: {error}");
            assert!(error.to_string().contains("version 2"), "{error}");
            draft.discard();
            let draft = store.snapshots().receive(announced).await.unwrap();
            assert_eq!(draft.held(), 0, "{name}: nothing of it is kept");
            draft.discard();
        }
        let short = Transfer { bytes: 10, ..transfer(2) };
        let mut draft = store.snapshots().receive(short).await.unwrap();
        let error = draft.append(&[0; 11]).await.unwrap_err();
        assert!(error.to_string().contains("above the limit of 10"), "{error}");
        let endless = Transfer { bytes: u64::MAX, ..transfer(2) };
        let error = store.snapshots().receive(endless).await.unwrap_err();
        assert!(matches!(error, StoreError::TooLarge { .. }), "{error}");
    });
    assert_eq!(store.snapshots().load().unwrap(), Some(snapshot(1)));
}

/// A build and an arrival have each their own chunks, whichever ends first.
#[test]
fn a_build_and_an_arrival_do_not_disturb_each_other() {
    let dir = TempDir::new().unwrap();
    let store = open(dir.path());
    block_on(async {
        let mut arriving = store.snapshots().receive(transfer(2)).await.unwrap();
        send(&mut arriving, 2, 9).await;
        let mut built = store.snapshots().begin(Pace::Gentle);
        built.append(&snapshot(3).data).await.unwrap();
        built.finish(&snapshot(3).meta).await.unwrap();
        assert_eq!(store.snapshots().load().unwrap(), Some(snapshot(3)));
        send(&mut arriving, 2, BYTES.div_ceil(PART)).await;
        arriving.finish(&snapshot(2).meta).await.unwrap();
    });
    // Begun first, finished last: it is the snapshot, now and after a restart.
    assert_eq!(store.snapshots().load().unwrap(), Some(snapshot(2)));
    drop(store);
    let store = open(dir.path());
    assert_eq!(store.snapshots().load().unwrap(), Some(snapshot(2)));
}
