//! Every persisted record, byte for byte. A difference means that stores in the field can no longer
//! be read: add a format and keep reading the old one. `UPDATE_GOLDEN=1` writes the files anew.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{Debug, Write as _};
use std::fs;
use std::path::{Path, PathBuf};

use muster_core::ids::{ClusterId, Incarnation, NodeId, StoreId};
use openraft::{BasicNode, Entry, EntryPayload, Membership, Vote};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{TypeConfig, entry, id};
use crate::durability::Change;
use crate::keys::{self, Kind, RECORD_MAX};
use crate::snapshot::{self, Manifest, Pending};
use crate::witness::{self, Note};
use crate::{Identity, Transfer, codec, identity, journal, log, open};

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(format!("{name}.hex"))
}

/// The bytes of a golden file.
fn golden(name: &str) -> Vec<u8> {
    let text = fs::read_to_string(path(name)).unwrap().replace(char::is_whitespace, "");
    let byte = |at| u8::from_str_radix(&text[at..at + 2], 16).unwrap();
    (0..text.len()).step_by(2).map(byte).collect()
}

/// Compares bytes with a golden file of hexadecimal lines.
fn check_bytes(name: &str, bytes: &[u8]) {
    let mut hex = String::new();
    for line in bytes.chunks(32) {
        for byte in line {
            write!(hex, "{byte:02x}").unwrap();
        }
        hex.push('\n');
    }
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(path(name), &hex).unwrap();
    }
    let golden = fs::read_to_string(path(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
    assert_eq!(hex, golden, "{name} is stored differently");
}

fn check<T: Serialize + DeserializeOwned + PartialEq + Debug>(name: &str, format: u8, value: &T) {
    let bytes = codec::encode(format, value).unwrap();
    check_bytes(name, &bytes);
    assert_eq!(codec::decode::<T>(&[format], RECORD_MAX, &bytes).unwrap(), *value, "{name}");
}

#[test]
fn records_are_stored_as_ever() {
    check("format.v1", open::RECORD_FORMAT, &1_u32);
    check("vote.v1", log::MARK_FORMAT, &Vote::new_committed(300, NodeId(70_000)));
    check("log_id.v1", log::MARK_FORMAT, &id(1 << 40));
    check("identity_new.v3", identity::FORMAT, &Identity::default());
    check("identity.v3", identity::FORMAT, &Identity { cluster: Some(ClusterId(0x0fed)), ..known() });
    check("round.v1", witness::ROUND_FORMAT, &812_u64);
    let note = Note { round: 812, marks: 0x0123_4567, log: Some((70_000, 7)), journal: None };
    check("witness.v1", witness::FORMAT, &note);
    check("journal_mark.v1", journal::MARK_FORMAT, &65_536_u64);
    let manifest = Manifest { meta: b"meta".to_vec(), bytes: 5117, chunks: 2, hash: [0xab; 32] };
    check("snapshot_manifest.v1", snapshot::MANIFEST_FORMAT, &manifest);
    let transfer = Transfer { id: "T3-N1-70000".into(), bytes: 1 << 33, hash: [0xcd; 32] };
    check("snapshot_pending.v1", snapshot::PENDING_FORMAT, &Pending { generation: 300, transfer });
}

fn known() -> Identity {
    let store = Some(StoreId(0x0123_4567_89ab_cdef));
    Identity { node: Some(NodeId(9)), incarnation: Incarnation(251), store, cluster: None }
}

#[test]
fn identities_of_earlier_formats_are_read() {
    let dir = Path::new("/nowhere");
    for (name, want) in [
        ("identity.v1", Identity { store: None, ..known() }),
        ("identity_new.v1", Identity::default()),
        ("identity.v2", known()),
        ("identity_new.v2", Identity::default()),
    ] {
        assert_eq!(identity::decode(dir, &golden(name)).unwrap(), want, "{name}");
    }
}

#[test]
fn log_entries_are_stored_as_ever() {
    let nodes =
        BTreeMap::from([(NodeId(1), BasicNode::new("10.0.0.1:8081")), (NodeId(2), BasicNode::new(""))]);
    let membership = Membership::new(vec![BTreeSet::from([NodeId(1)])], nodes);
    let with = |payload| Entry::<TypeConfig> { log_id: id(7), payload };
    for (name, entry) in [
        ("entry_blank", with(EntryPayload::Blank)),
        ("entry_normal", entry(7, b"command".to_vec())),
        ("entry_membership", with(EntryPayload::Membership(membership))),
    ] {
        let linked = (0x0123_4567_u32, entry.clone());
        check(&format!("{name}.v2"), log::ENTRY_FORMAT, &linked);
        for format in ["v1", "v2"] {
            let record = golden(&format!("{name}.{format}"));
            let read: Entry<TypeConfig> = log::decode(Path::new("/nowhere"), 7, &record).unwrap();
            assert_eq!(read, entry, "{name}.{format}");
        }
    }
}

#[test]
fn keys_and_parts_are_laid_out_as_ever() {
    let mut bytes = Vec::new();
    let kinds = [
        Kind::Format,
        Kind::Vote,
        Kind::Committed,
        Kind::Purged,
        Kind::Identity,
        Kind::JournalRemoved,
        Kind::SnapshotManifest,
        Kind::Round,
        Kind::Log,
        Kind::Journal,
        Kind::SnapshotChunk,
    ];
    let mut add = |change: Change| match change {
        Change::Put { key, value } => {
            bytes.extend_from_slice(key.as_ref());
            bytes.extend_from_slice(&value);
        }
        Change::Remove { .. } => unreachable!("only puts are given"),
    };
    kinds.into_iter().flat_map(|kind| keys::put(kind, 0x0102, b"record")).for_each(&mut add);
    // Two parts: the first is full.
    keys::put(Kind::Log, 1, &[0x11; keys::PART_MAX]).for_each(&mut add);
    add(snapshot::put_chunk(3, 4, b"chunk"));
    check_bytes("layout.v2", &bytes);
    bytes.clear();
    keys::put(Kind::SnapshotPending, 0, b"record").for_each(|change| match change {
        Change::Put { key, value } => bytes.extend([key.as_ref(), &value].concat()),
        Change::Remove { .. } => unreachable!("only puts are given"),
    });
    check_bytes("layout_pending.v2", &bytes);
}
