//! A directory of the first store format, as its release wrote it, record by record.

use std::fs;
use std::path::Path;

use muster_core::ids::{Incarnation, NodeId, StoreId};
use openraft::Vote;
use openraft::storage::RaftLogStorage;
use serde::Serialize;
use tempfile::TempDir;

use super::{Log, append, block_on, data, entry, expect_entries, id, open};
use crate::durability::Change;
use crate::keys::{Key, Kind};
use crate::snapshot::{self, CHUNK_BYTES, Manifest};
use crate::{Snapshot, codec};

const FIRST: u64 = 100;
const END: u64 = 140;

fn snapshot_of_old() -> Snapshot {
    Snapshot { meta: b"meta".to_vec(), data: (0..=250).cycle().take(2 * CHUNK_BYTES + 9).collect() }
}

/// Everything a node had stored: no seals, entries without links, no witness beside the database.
fn write_old(dir: &Path) {
    let db = sled::Config::new().path(dir).flush_every_ms(None).open().unwrap();
    let put = |kind, at, record: &[u8]| {
        let value = [&[0], record].concat();
        db.insert(Key::first(kind, at), value).unwrap();
    };
    fn encode(value: &impl Serialize) -> Vec<u8> {
        codec::encode(1, value).unwrap()
    }
    put(Kind::Format, 0, &encode(&1_u32));
    put(Kind::Vote, 0, &encode(&Vote::new_committed(7, NodeId(9))));
    put(Kind::Committed, 0, &encode(&id(END - 1)));
    put(Kind::Purged, 0, &encode(&id(FIRST - 1)));
    // Who, and how often it was started; stores had no ids.
    put(Kind::Identity, 0, &encode(&(Some(NodeId(9)), Incarnation(251))));
    for index in FIRST..END {
        put(Kind::Log, index, &encode(&entry(index, data(index))));
    }
    // The third was removed, and a crash has brought it back.
    put(Kind::JournalRemoved, 0, &encode(&3_u64));
    for number in 3..6 {
        put(Kind::Journal, number, format!("usage {number}").as_bytes());
    }
    let Snapshot { meta, data } = snapshot_of_old();
    let chunks: Vec<_> = data.chunks(CHUNK_BYTES).collect();
    let hash = *blake3::hash(&data).as_bytes();
    let manifest = Manifest { meta, bytes: data.len() as u64, chunks: 3, hash };
    put(Kind::SnapshotManifest, 4, &encode(&manifest));
    for (number, chunk) in (0..).zip(chunks) {
        if let Change::Put { key, value } = snapshot::put_chunk(4, number, chunk) {
            db.insert(key, value).unwrap();
        }
    }
    db.flush().unwrap();
    fs::write(dir.join("format"), "muster-storage 1\n").unwrap();
}

#[test]
fn a_directory_of_the_first_format_goes_on_as_one_of_the_latest() {
    let dir = TempDir::new().unwrap();
    write_old(dir.path());
    for start in 1..=2_u64 {
        let store = open(dir.path());
        assert_eq!(store.snapshots().load().unwrap(), Some(snapshot_of_old()), "start {start}");
        let usage = [4, 5].map(|number| (number, format!("usage {number}").into_bytes()));
        assert_eq!(store.journal().pending(9).unwrap(), usage, "start {start}");
        block_on(async {
            let mut log: Log = store.log().unwrap();
            assert_eq!(log.read_vote().await.unwrap(), Some(Vote::new_committed(7, NodeId(9))));
            assert_eq!(log.read_committed().await.unwrap(), Some(id(END - 1)));
            let state = log.get_log_state().await.unwrap();
            let end = END + 10 * (start - 1);
            assert_eq!(
                (state.last_purged_log_id, state.last_log_id),
                (Some(id(FIRST - 1)), Some(id(end - 1)))
            );
            expect_entries(&mut log, FIRST..end).await;
            append(&mut log, end..end + 10).await;
            expect_entries(&mut log, FIRST..end + 10).await;
        });
        assert_eq!(store.begin_incarnation().unwrap(), Incarnation(251 + start));
        let identity = store.identity();
        assert_eq!(identity.node, Some(NodeId(9)));
        assert_eq!(identity.store, (start > 1).then_some(StoreId(5)), "stores had no ids then");
        store.claim_node(NodeId(9), StoreId(5)).unwrap();
        store.close();
        drop(store);
        assert_eq!(fs::read_to_string(dir.path().join("format")).unwrap(), "muster-storage 2\n");
    }
}
