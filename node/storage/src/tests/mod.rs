//! Tests of the whole store, by what they would catch.

mod barrier;
mod boundaries;
mod corruption;
mod crash;
mod fuzz;
mod golden;
mod injection;
mod journal;
mod limits;
mod log;
mod open;
mod snapshot;
mod suite;
mod upgrade;

use std::io::Cursor;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use muster_core::ids::NodeId;
use openraft::storage::RaftLogStorageExt;
use openraft::testing::log_id;
use openraft::{Entry, EntryPayload, LogId, RaftLogReader};

use crate::{LogStore, Options, Store};

openraft::declare_raft_types!(
    pub(crate) TypeConfig:
        D = Vec<u8>,
        R = (),
        NodeId = NodeId,
        Node = openraft::BasicNode,
        Entry = Entry<TypeConfig>,
        SnapshotData = Cursor<Vec<u8>>,
        AsyncRuntime = openraft::TokioRuntime,
);

pub(crate) type Log = LogStore<TypeConfig>;

/// How long to wait for something that must happen.
const PATIENCE: Duration = Duration::from_secs(30);

fn open(dir: &Path) -> Store {
    #[cfg(feature = "mutants")]
    muster_core::mutants::choose(std::env::var("MUSTER_MUTANT").ok());
    Store::open(dir, Options::default()).unwrap()
}

fn id(index: u64) -> LogId<NodeId> {
    log_id(1, NodeId(1), index)
}

fn entry(index: u64, data: Vec<u8>) -> Entry<TypeConfig> {
    Entry { log_id: id(index), payload: EntryPayload::Normal(data) }
}

/// Data that depends on the index, so that one entry cannot pass for another.
fn data(index: u64) -> Vec<u8> {
    let bytes = 1 + usize::try_from(index * 37 % 700).unwrap();
    index.to_le_bytes().into_iter().cycle().take(bytes).collect()
}

async fn append(log: &mut Log, indexes: std::ops::Range<u64>) {
    log.blocking_append(indexes.map(|index| entry(index, data(index)))).await.unwrap();
}

/// Asserts that exactly these entries can be read, with the data they were written with.
async fn expect_entries(log: &mut Log, indexes: std::ops::Range<u64>) {
    let found = log.try_get_log_entries(..).await.unwrap();
    let want: Vec<_> = indexes.map(|index| entry(index, data(index))).collect();
    assert_eq!(found.len(), want.len());
    assert!(found == want, "an entry differs from what was appended");
}

fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "{what}: still not after {PATIENCE:?}");
        std::thread::yield_now();
    }
}

fn block_on<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

/// Set in a child process: the directory of the store it works on.
const CHILD_DIR: &str = "MUSTER_STORAGE_TEST_DIR";

/// Makes a command run one test of this binary, as a child that finds its directory in [`CHILD_DIR`].
fn as_child<'a>(command: &'a mut Command, test: &str, dir: &Path) -> &'a mut Command {
    command.args([test, "--exact", "--nocapture", "--test-threads=1"]).env(CHILD_DIR, dir)
}

/// Writes a line to stdout in one system call, around the capture of test output.
fn say(line: &str) {
    use std::io::Write;
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(format!("{line}\n").as_bytes()).unwrap();
    stdout.flush().unwrap();
}
