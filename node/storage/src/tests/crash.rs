//! Kill -9 at any moment: everything that was acknowledged is there when the store is opened again.

use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use openraft::RaftLogReader;
use openraft::storage::RaftLogStorage;
use tempfile::TempDir;

use super::{CHILD_DIR, Log, append, as_child, block_on, data, entry, id, open, say};
use crate::{Options, Store, StoreError};

const ROUNDS: usize = 8;

#[test]
fn acknowledged_writes_survive_a_kill() {
    if let Some(dir) = std::env::var_os(CHILD_DIR) {
        write_until_killed(Path::new(&dir));
    }
    let dir = TempDir::new().unwrap();
    for round in 0..ROUNDS {
        let acknowledged = kill_after(dir.path(), 40 + 61 * round);
        check(dir.path(), &acknowledged, &format!("round {round}"));
    }
}

/// The last number that was acknowledged of each kind.
pub(super) type Acknowledged = HashMap<String, u64>;

/// Opens the store and looks for all that was acknowledged.
pub(super) fn check(dir: &Path, acknowledged: &Acknowledged, when: &str) {
    let store = open(dir);
    let mut log: Log = store.log().unwrap();
    block_on(async {
        let state = log.get_log_state().await.unwrap();
        let last = state.last_log_id.map(|id| id.index);
        assert!(last >= acknowledged.get("log").copied(), "{when}: {last:?} of {acknowledged:?}");
        let Some(last) = last else { return };
        let first = state.last_purged_log_id.map_or(0, |purged| purged.index + 1);
        let found = log.try_get_log_entries(first..=last).await.unwrap();
        let want: Vec<_> = (first..=last).map(|index| entry(index, data(index))).collect();
        assert!(found == want, "{when}: {first}..={last} are not what was appended");
    });
    let journaled = store.journal().pending(usize::MAX).unwrap();
    assert!(journaled.iter().all(|(sequence, record)| *record == data(*sequence)), "{when}");
    let numbers: Vec<u64> = journaled.iter().map(|(sequence, _)| *sequence).collect();
    assert!(numbers.is_sorted() && numbers.last() >= acknowledged.get("journal"), "{when}");
    let snapshot = store.snapshots().load().unwrap();
    let version = snapshot.as_ref().map(|found| u64::from_le_bytes(found.meta[..8].try_into().unwrap()));
    assert!(version >= acknowledged.get("snapshot").copied(), "{when}: snapshot {version:?}");
    assert!(snapshot.is_none_or(|found| found.data == snapshot_data(version.unwrap())), "{when}");
}

/// Notes what a child says it has done.
pub(super) fn note(acknowledged: &mut Acknowledged, line: &str) {
    let words: Vec<&str> = line.split(' ').collect();
    if let ["ack", kind, number] = words[..] {
        acknowledged.insert(kind.to_owned(), number.parse().unwrap());
    }
}

/// Lets a child write until it has acknowledged so many writes, kills it, and returns the last number
/// that it acknowledged of each kind.
fn kill_after(dir: &Path, writes: usize) -> Acknowledged {
    let mut command = Command::new(std::env::current_exe().unwrap());
    as_child(&mut command, "tests::crash::acknowledged_writes_survive_a_kill", dir);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    let mut acknowledged = HashMap::new();
    let mut note = |line: String| note(&mut acknowledged, &line);
    lines.by_ref().take(writes).for_each(&mut note);
    let other = Store::open(dir, Options::default()).map(|_| ());
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(matches!(other, Err(StoreError::InUse { .. })), "opened while another process had it: {other:?}");
    lines.for_each(&mut note);
    assert!(acknowledged.contains_key("log"), "the child wrote nothing");
    acknowledged
}

fn snapshot_data(version: u64) -> Vec<u8> {
    version.to_le_bytes().repeat(50_000)
}

pub(super) fn write_until_killed(dir: &Path) -> ! {
    let store = open(dir);
    let mut log: Log = store.log().unwrap();
    block_on(async {
        let logging = async {
            let last = log.get_log_state().await.unwrap().last_log_id;
            let mut next = last.map_or(0, |last| last.index + 1);
            loop {
                let end = next + 1 + next % 7;
                append(&mut log, next..end).await;
                say(&format!("ack log {}", end - 1));
                next = end;
                if next % 5 == 0 && next > 300 {
                    log.save_committed(Some(id(next - 1))).await.unwrap();
                    log.purge(id(next - 200)).await.unwrap();
                }
            }
        };
        let journaling = async {
            let mut next = store.journal().pending(usize::MAX).unwrap().last().map_or(0, |last| last.0) + 1;
            loop {
                // Records depend on the number they get, which the test relies on.
                let sequence = store.journal().append(data(next)).await.unwrap();
                assert_eq!(sequence, next);
                say(&format!("ack journal {sequence}"));
                store.journal().remove_through(sequence.saturating_sub(20)).unwrap();
                next += 1;
            }
        };
        let saving = async {
            let saved = store.snapshots().load().unwrap();
            let mut version =
                saved.map_or(0, |saved| u64::from_le_bytes(saved.meta[..8].try_into().unwrap()));
            loop {
                version += 1;
                store.snapshots().save(&version.to_le_bytes(), &snapshot_data(version)).await.unwrap();
                say(&format!("ack snapshot {version}"));
            }
        };
        tokio::join!(logging, journaling, saving).0
    })
}
