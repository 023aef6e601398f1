//! How fast the log takes entries, each batch durable before the next begins, with purge.
//!
//!     cargo run --release -p muster-storage --example append_bench [ENTRIES [DIRECTORY [BATCH]]]
//!
//! Without a directory it works in a temporary one; what matters is the file system that is on. Without a size
//! of batches it tries several.

use std::io::Cursor;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use muster_core::ids::NodeId;
use muster_storage::{LogStore, Options, Store};
use openraft::storage::{RaftLogStorage, RaftLogStorageExt};
use openraft::testing::log_id;
use openraft::{Entry, EntryPayload};

openraft::declare_raft_types!(
    TypeConfig:
        D = Vec<u8>,
        R = (),
        NodeId = NodeId,
        Node = openraft::BasicNode,
        Entry = Entry<TypeConfig>,
        SnapshotData = Cursor<Vec<u8>>,
        AsyncRuntime = openraft::TokioRuntime,
);

const ENTRY_BYTES: usize = 300;

/// The log is purged when it is twice this long.
const KEPT: u64 = 10_000;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let entries: u64 = arguments.next().map_or(Ok(200_000), |text| text.parse())?;
    let parent = arguments.next().map_or_else(std::env::temp_dir, PathBuf::from);
    let batches =
        arguments.next().map_or(Ok(vec![1, 16, 64]), |text| text.parse().map(|batch| vec![batch]))?;
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    println!("{entries} entries of {ENTRY_BYTES} B in {}", parent.display());
    println!(
        "{:>6} {:>12} {:>10} {:>10} {:>10} {:>9}",
        "batch", "entries/s", "p50 µs", "p99 µs", "barriers", "disk MB"
    );
    for batch in batches {
        let dir = tempfile::tempdir_in(&parent)?;
        let store = Store::open(dir.path(), Options::default())?;
        let log = store.log()?;
        // Single entries are slow enough to be measured with fewer.
        let count = if batch == 1 { entries / 8 } else { entries };
        let (took, mut latencies) = runtime.block_on(run(log, count, batch))?;
        latencies.sort_unstable();
        let percentile = |percent: usize| latencies[(latencies.len() - 1) * percent / 100].as_micros();
        let stats = store.stats();
        println!(
            "{batch:>6} {:>12.0} {:>10} {:>10} {:>10} {:>9.1}",
            latencies.len() as f64 * batch as f64 / took.as_secs_f64(),
            percentile(50),
            percentile(99),
            stats.barriers,
            stats.disk_bytes as f64 / 1e6,
        );
        store.close();
    }
    Ok(())
}

type Measured = (Duration, Vec<Duration>);

async fn run(
    mut log: LogStore<TypeConfig>,
    count: u64,
    batch: u64,
) -> Result<Measured, openraft::StorageError<NodeId>> {
    let id = |index| log_id(1, NodeId(1), index);
    let mut latencies = Vec::new();
    let mut purged = 0;
    let start = Instant::now();
    for first in (0..count.max(batch)).step_by(usize::try_from(batch).expect("64 at most")) {
        let entries = (first..first + batch)
            .map(|index| Entry { log_id: id(index), payload: EntryPayload::Normal(vec![7; ENTRY_BYTES]) });
        let began = Instant::now();
        log.blocking_append(entries).await?;
        latencies.push(began.elapsed());
        if first >= purged + 2 * KEPT {
            purged = first - KEPT;
            log.purge(id(purged)).await?;
        }
    }
    Ok((start.elapsed(), latencies))
}
