//! Every persisted record, byte for byte. A difference means that stores in the field can no longer
//! be read: add a format and keep reading the old one. `UPDATE_GOLDEN=1` writes the files anew.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{Debug, Write as _};
use std::fs;
use std::path::PathBuf;

use muster_core::ids::{Incarnation, NodeId};
use openraft::{BasicNode, Entry, EntryPayload, Membership, Vote};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{TypeConfig, entry, id};
use crate::durability::Change;
use crate::keys::{self, Kind, RECORD_MAX};
use crate::snapshot::{self, Manifest};
use crate::{Identity, codec, identity, journal, log, open};

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(format!("{name}.hex"))
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
    check("format.v1", open::RECORD_FORMAT, &open::FORMAT);
    check("vote.v1", log::MARK_FORMAT, &Vote::new_committed(300, NodeId(70_000)));
    check("log_id.v1", log::MARK_FORMAT, &id(1 << 40));
    check("identity_new.v1", identity::FORMAT, &Identity::default());
    let identity = Identity { node: Some(NodeId(9)), incarnation: Incarnation(251) };
    check("identity.v1", identity::FORMAT, &identity);
    check("journal_mark.v1", journal::MARK_FORMAT, &65_536_u64);
    let manifest = Manifest { meta: b"meta".to_vec(), bytes: 5117, chunks: 2, hash: [0xab; 32] };
    check("snapshot_manifest.v1", snapshot::MANIFEST_FORMAT, &manifest);
}

#[test]
fn log_entries_are_stored_as_ever() {
    let nodes =
        BTreeMap::from([(NodeId(1), BasicNode::new("10.0.0.1:8081")), (NodeId(2), BasicNode::new(""))]);
    let membership = Membership::new(vec![BTreeSet::from([NodeId(1)])], nodes);
    let with = |payload| Entry::<TypeConfig> { log_id: id(7), payload };
    check("entry_blank.v1", log::ENTRY_FORMAT, &with(EntryPayload::Blank));
    check("entry_normal.v1", log::ENTRY_FORMAT, &entry(7, b"command".to_vec()));
    check("entry_membership.v1", log::ENTRY_FORMAT, &with(EntryPayload::Membership(membership)));
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
    check_bytes("layout.v1", &bytes);
}
