//! A store's files are damaged at many places, each in a copy of one small store that was closed in order. Opened,
//! the copy either has all that was acknowledged, or is refused by name; it never has anything else.
//!
//! `MUSTER_CORRUPTIONS` says how many places of each kind are tried; `MUSTER_SEED` chooses others.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};

use muster_core::ids::{NodeId, StoreId};
use openraft::storage::{RaftLogStorage, RaftLogStorageExt};
use openraft::testing::log_id;
use openraft::{Entry, EntryPayload, LogId, RaftLogReader, Vote};
use tempfile::TempDir;

use super::{Log, TypeConfig, block_on, data, open};
use crate::durability::Fatal;
use crate::{Identity, Options, Snapshot, Store, StoreError};

/// sled's segments.
const SEGMENT: u64 = 512 << 10;

/// All that a store has.
#[derive(Debug, PartialEq)]
struct Contents {
    vote: Option<Vote<NodeId>>,
    purged: Option<LogId<NodeId>>,
    entries: Vec<Entry<TypeConfig>>,
    journal: Vec<(u64, Vec<u8>)>,
    snapshot: Option<Snapshot>,
    identity: Identity,
}

fn contents(store: &Store) -> Result<Contents, StoreError> {
    let mut log: Log = store.log()?;
    let read = |error: openraft::StorageError<NodeId>| StoreError::Corrupt {
        dir: store.dir().to_owned(),
        what: error.to_string(),
    };
    block_on(async {
        Ok(Contents {
            vote: log.read_vote().await.map_err(read)?,
            purged: log.get_log_state().await.map_err(read)?.last_purged_log_id,
            entries: log.try_get_log_entries(..).await.map_err(read)?,
            journal: store.journal().pending(usize::MAX)?,
            snapshot: store.snapshots().load()?,
            identity: store.identity(),
        })
    })
}

/// A store with a past: several segments, reused ones, a database that was opened more than once.
fn original() -> &'static (TempDir, Contents) {
    static ORIGINAL: OnceLock<(TempDir, Contents)> = OnceLock::new();
    ORIGINAL.get_or_init(|| {
        let dir = TempDir::new().unwrap();
        let at = |term, index| log_id(term, NodeId(1), index);
        for term in 1..=3_u64 {
            let store = open(dir.path());
            store.claim_node(NodeId(1), StoreId(7)).unwrap();
            store.begin_incarnation().unwrap();
            let mut log: Log = store.log().unwrap();
            block_on(async {
                log.save_vote(&Vote::new(term, NodeId(1))).await.unwrap();
                let next = log.get_log_state().await.unwrap().last_log_id.map_or(0, |id| id.index + 1);
                for start in (next..next + 300).step_by(20) {
                    let entry =
                        |index| Entry { log_id: at(term, index), payload: EntryPayload::Normal(data(index)) };
                    log.blocking_append((start..start + 20).map(entry)).await.unwrap();
                    store.journal().append(data(start)).await.unwrap();
                }
                // A tail that was replaced by another.
                log.truncate(at(term, next + 290)).await.unwrap();
                let other =
                    Entry { log_id: at(term, next + 290), payload: EntryPayload::Normal(vec![9; 50]) };
                log.blocking_append([other]).await.unwrap();
                let meta = vec![u8::try_from(term).unwrap(); 300];
                store.snapshots().save(&meta, &data(term).repeat(2_000)).await.unwrap();
                log.purge(at(term, next + 100)).await.unwrap();
                store.journal().remove_through(5 * term).unwrap();
                log.save_vote(&Vote::new_committed(term, NodeId(1))).await.unwrap();
            });
            store.close();
        }
        let store = open(dir.path());
        let contents = contents(&store).unwrap();
        assert!(contents.entries.len() > 150 && contents.journal.len() > 20 && contents.snapshot.is_some());
        store.close();
        drop(store);
        let bytes = fs::metadata(dir.path().join("db")).unwrap().len();
        assert!(bytes >= 3 * SEGMENT, "only {bytes} bytes: too few segments to be damaged");
        (dir, contents)
    })
}

/// What became of a damaged copy.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fate {
    Whole,
    Refused,
}

/// Damages a copy, opens it, and holds what it has against what was there.
fn try_damage(name: &str, damage: impl FnOnce(&Path)) -> Fate {
    let (original, want) = original();
    let copy = TempDir::new().unwrap();
    copy_dir(original.path(), copy.path());
    damage(copy.path());
    // In a node it ends the process.
    let ends = Arc::new(Mutex::new(Vec::new()));
    let fatal = Fatal(Arc::new({
        let ends = ends.clone();
        move |message: &str| ends.lock().unwrap().push(message.to_owned())
    }));
    let opened = Store::open(copy.path(), Options { fatal: fatal.clone(), ..Options::default() });
    let found = opened.and_then(|store| {
        let found = contents(&store);
        store.close();
        found
    });
    if let Some(said) = ends.lock().unwrap().first() {
        assert!(said.contains(copy.path().to_str().unwrap()) && said.contains("corrupt"), "{name}: {said}");
        return Fate::Refused;
    }
    match found {
        Ok(found) => {
            assert!(found == *want, "{name}: opened, and has something else than what was acknowledged");
            Fate::Whole
        }
        Err(error) => {
            let said = error.to_string();
            let named = said.contains(copy.path().to_str().unwrap());
            let refused = matches!(error, StoreError::Corrupt { .. } | StoreError::NewerFormat { .. });
            assert!(named && refused, "{name}: {error:?}");
            // The way out stands in it, and a second try does no better.
            assert!(
                said.contains("muster cluster replace") || said.contains("newer build"),
                "{name}: {said}"
            );
            let options = Options { fatal, ..Options::default() };
            let again = Store::open(copy.path(), options).and_then(|store| contents(&store));
            assert!(
                again.is_err() || again.unwrap() == *want,
                "{name}: the second try opened something else"
            );
            Fate::Refused
        }
    }
}

fn copy_dir(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            fs::create_dir(&target).unwrap();
            copy_dir(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// `SplitMix64`: good enough to choose places.
struct Dice(u64);

impl Dice {
    fn new(purpose: u64) -> Dice {
        let seed = std::env::var("MUSTER_SEED").map_or(1, |seed| seed.parse::<u64>().unwrap());
        Dice(seed.wrapping_mul(1_000_003).wrapping_add(purpose))
    }

    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % end
    }
}

fn places(default: u64) -> u64 {
    std::env::var("MUSTER_CORRUPTIONS").map_or(default, |count| count.parse().unwrap())
}

fn change(path: &Path, at: u64, change: impl FnOnce(&mut [u8]), bytes: usize) {
    let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut content = vec![0; bytes];
    let read = file.read_at(&mut content, at).unwrap();
    change(&mut content[..read]);
    file.write_all_at(&content[..read], at).unwrap();
}

/// The part of the file that was ever written, roughly: most of the last segment may be empty.
fn db_bytes() -> u64 {
    fs::metadata(original().0.path().join("db")).unwrap().len()
}

#[test]
fn a_flipped_bit_anywhere_in_the_database_is_seen_or_harmless() {
    let mut dice = Dice::new(1);
    let (mut refused, least) = (0, places(50));
    // How much of the file is in use depends on how its writes were grouped, so on the clock: where little is, more
    // places are tried, until enough were seen.
    for tried in 0.. {
        if tried >= least && refused > 3 {
            break;
        }
        assert!(tried < 10 * least, "only {refused} were seen: the places are badly chosen");
        let bit = dice.below(db_bytes() * 8);
        let fate = try_damage(&format!("bit {bit}"), |dir| {
            change(&dir.join("db"), bit / 8, |bytes| bytes[0] ^= 1 << (bit % 8), 1);
        });
        refused += u64::from(fate == Fate::Refused);
    }
}

#[test]
fn overwritten_and_swapped_stretches_of_the_database_are_seen_or_harmless() {
    let mut dice = Dice::new(2);
    for _ in 0..places(15) {
        let (at, length) = (dice.below(db_bytes()), 1 + usize::try_from(dice.below(6_000)).unwrap());
        let fill = u8::try_from(dice.below(3) * 0x55).unwrap();
        try_damage(&format!("{length} bytes of {fill} at {at}"), |dir| {
            change(&dir.join("db"), at, |bytes| bytes.fill(fill), length);
        });
    }
    let segments = db_bytes() / SEGMENT;
    for first in 0..segments {
        try_damage(&format!("segment {first} replaced by another"), |dir| {
            let path = dir.join("db");
            let other = (first + 1) % segments;
            let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
            let mut segment = vec![0; usize::try_from(SEGMENT).unwrap()];
            let read = file.read_at(&mut segment, other * SEGMENT).unwrap();
            file.write_all_at(&segment[..read], first * SEGMENT).unwrap();
        });
        try_damage(&format!("segment {first} gone"), |dir| {
            change(
                &dir.join("db"),
                first * SEGMENT,
                |bytes| bytes.fill(0),
                usize::try_from(SEGMENT).unwrap(),
            );
        });
    }
}

#[test]
fn a_database_cut_off_anywhere_is_seen_or_harmless() {
    let mut dice = Dice::new(3);
    let end = db_bytes();
    let edges = (0..=end / SEGMENT)
        .flat_map(|n| [-1_i64, 0, 1, 20, 21].map(|d| (n * SEGMENT).saturating_add_signed(d)));
    let places: Vec<u64> =
        edges.chain((0..places(12)).map(|_| dice.below(end))).filter(|at| *at < end).collect();
    for at in places {
        try_damage(&format!("cut off after {at} bytes"), |dir| {
            OpenOptions::new().write(true).open(dir.join("db")).unwrap().set_len(at).unwrap();
        });
    }
    let refused = try_damage("half of it gone", |dir| {
        OpenOptions::new().write(true).open(dir.join("db")).unwrap().set_len(end / 2).unwrap();
    });
    assert_eq!(refused, Fate::Refused);
}

/// The files beside the database: sled's `conf` and `snap.*`, and ours.
fn others(dir: &Path) -> Vec<PathBuf> {
    let names = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> = names.filter(|path| path.is_file() && !path.ends_with("db")).collect();
    files.retain(|path| !path.ends_with("lock"));
    files.sort();
    files
}

#[test]
fn damage_to_the_files_beside_the_database_is_seen_or_harmless() {
    let mut dice = Dice::new(4);
    for path in others(original().0.path()) {
        let (name, length) = (path.file_name().unwrap().to_owned(), fs::metadata(&path).unwrap().len());
        let shown = name.to_string_lossy().into_owned();
        for _ in 0..places(5) {
            let bit = dice.below(length * 8);
            try_damage(&format!("bit {bit} of {shown}"), |dir| {
                change(&dir.join(&name), bit / 8, |bytes| bytes[0] ^= 1 << (bit % 8), 1);
            });
        }
        for at in [0, 1, length / 2, length.saturating_sub(1)] {
            try_damage(&format!("{shown} cut off after {at} bytes"), |dir| {
                OpenOptions::new().write(true).open(dir.join(&name)).unwrap().set_len(at).unwrap();
            });
        }
        try_damage(&format!("{shown} is gone"), |dir| fs::remove_file(dir.join(&name)).unwrap());
    }
}

#[test]
fn what_a_crash_leaves_beside_the_database_is_harmless() {
    let snapshot = others(original().0.path())
        .into_iter()
        .find(|path| path.file_name().unwrap().to_string_lossy().starts_with("snap."));
    let snapshot = snapshot.expect("sled has written a snapshot of its own");
    let bytes = fs::read(snapshot).unwrap();
    for part in [0, 1, bytes.len() / 2, bytes.len()] {
        let fate = try_damage(&format!("{part} bytes of a new snapshot of sled's"), |dir| {
            fs::write(dir.join("snap.00000000FFFFFFFF.generating"), &bytes[..part]).unwrap();
        });
        assert_eq!(fate, Fate::Whole);
    }
    let fate =
        try_damage("a half-written format", |dir| fs::write(dir.join("format.partial"), "mus").unwrap());
    assert_eq!(fate, Fate::Whole);
    try_damage("a stray blob", |dir| fs::write(dir.join("blobs").join("12345"), "x").unwrap());
    try_damage("no blobs folder", |dir| fs::remove_dir(dir.join("blobs")).unwrap());
}
