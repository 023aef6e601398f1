//! Opening: what is created, what is refused and in which words, what is repaired.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use muster_core::ids::{Incarnation, NodeId, StoreId};
use tempfile::TempDir;

use super::{Log, append, block_on, expect_entries, open};
use crate::{Options, Store, StoreError};

/// A directory with a store that has been used and closed.
fn used() -> TempDir {
    let dir = TempDir::new().unwrap();
    let store = open(dir.path());
    let mut log: Log = store.log().unwrap();
    block_on(async {
        for start in 0..40 {
            append(&mut log, start * 100..(start + 1) * 100).await;
        }
    });
    store.close();
    dir
}

#[test]
fn a_new_directory_belongs_to_its_owner_alone() {
    let parent = TempDir::new().unwrap();
    let dir = parent.path().join("a/b");
    drop(open(&dir));
    for path in [&dir, &parent.path().join("a")] {
        assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o700);
    }
    assert_eq!(fs::read_to_string(dir.join("format")).unwrap(), "muster-storage 2\n");
}

#[test]
fn a_store_is_opened_once_at_a_time() {
    let dir = TempDir::new().unwrap();
    let store = open(dir.path());
    let error = Store::open(dir.path(), Options::default()).unwrap_err();
    assert!(matches!(error, StoreError::InUse { .. }), "{error}");
    assert!(error.to_string().contains(dir.path().to_str().unwrap()), "{error}");
    drop(store);
    open(dir.path());
}

/// A child that is being forked has copies of the store's file handles until it executes.
#[test]
fn a_closed_store_opens_again_while_children_are_started() {
    let dir = TempDir::new().unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                Command::new("true").status().unwrap();
            }
        });
        let failed = (0..100).find_map(|_| Store::open(dir.path(), Options::default()).err());
        stop.store(true, Ordering::Relaxed);
        assert!(failed.is_none(), "{failed:?}");
    });
}

#[test]
fn damage_is_reported() {
    type Damage = fn(&Path);
    let cases: [(&str, Damage, &str); 10] = [
        ("newer", |dir| fs::write(dir.join("format"), "muster-storage 3\n").unwrap(), "has format 3"),
        ("not a format", |dir| fs::write(dir.join("format"), "x").unwrap(), "replica is lost"),
        ("no format", |dir| fs::remove_file(dir.join("format")).unwrap(), "replica is lost"),
        ("no witness", |dir| fs::remove_file(dir.join("witness")).unwrap(), "`witness` is missing"),
        ("an empty witness", |dir| fs::write(dir.join("witness"), "").unwrap(), "`witness` is damaged"),
        ("no database", |dir| fs::remove_file(dir.join("db")).unwrap(), "replica is lost"),
        ("empty database", |dir| fs::write(dir.join("db"), "").unwrap(), "replica is lost"),
        (
            "garbled database",
            |dir| {
                let bytes: Vec<u8> =
                    fs::read(dir.join("db")).unwrap().iter().map(|byte| byte ^ 0x55).collect();
                fs::write(dir.join("db"), bytes).unwrap();
            },
            "replica is lost",
        ),
        (
            "bad sled snapshot",
            |dir| fs::write(dir.join("snap.00000000FFFFFFFF"), "x").unwrap(),
            "replica is lost",
        ),
        (
            "bad sled conf",
            |dir| fs::write(dir.join("conf"), "nonsense, but long enough").unwrap(),
            "replica is lost",
        ),
    ];
    for (name, damage, want) in cases {
        let dir = used();
        damage(dir.path());
        let error = Store::open(dir.path(), Options::default()).unwrap_err().to_string();
        assert!(error.contains(want) && error.contains(dir.path().to_str().unwrap()), "{name}: {error}");
    }
}

#[test]
fn what_a_crash_left_half_written_is_removed() {
    let dir = used();
    for name in ["snap.00000000FFFFFFFF.generating", "snap.00000000FFFFFFFE.in___motion", "format.partial"] {
        fs::write(dir.path().join(name), "half").unwrap();
    }
    let store = open(dir.path());
    block_on(expect_entries(&mut store.log().unwrap(), 0..4000));
    assert!(fs::read_dir(dir.path()).unwrap().all(|entry| {
        let name = entry.unwrap().file_name().into_string().unwrap();
        !name.ends_with(".generating") && !name.ends_with("motion") && !name.ends_with("partial")
    }));
}

/// A crash in the first open, before sled's files were complete.
#[test]
fn an_interrupted_first_open_is_no_corruption() {
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("conf"), "segment_size: 524288\nuse_compression: false\nversion: 0.34\n")
        .unwrap();
    fs::write(dir.path().join("db"), "").unwrap();
    open(dir.path());
}

#[test]
fn identity_is_kept_and_defended() {
    let dir = TempDir::new().unwrap();
    for start in 1..=3 {
        let store = open(dir.path());
        assert_eq!(store.begin_incarnation().unwrap(), Incarnation(start));
        let id = store.claim_node(NodeId(4), StoreId(start)).unwrap();
        assert_eq!(id, StoreId(1), "the first stays");
        let error = store.claim_node(NodeId(5), StoreId(start)).unwrap_err();
        assert!(matches!(error, StoreError::OtherNode { owner: NodeId(4), .. }), "{error}");
        assert_eq!(store.identity().node, Some(NodeId(4)));
    }
    let identity = open(dir.path()).identity();
    assert_eq!((identity.node, identity.incarnation), (Some(NodeId(4)), Incarnation(3)));
}
