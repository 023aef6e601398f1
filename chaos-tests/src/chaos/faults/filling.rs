//! What the faults of snapshots share: the log grows until a node needs one, or makes one, and its own
//! log tells when.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use muster_client::Client;
use tokio::task::JoinSet;

use crate::{Cluster, functions};

/// openraft's engine says when a snapshot is begun, built or installed.
pub(super) const LOG: &str = "info,openraft=off,openraft::engine=info";
const FILLERS: u64 = 8;
/// One after the other: no entry holds two of them.
const WRITES: u64 = 16;

/// Writes through `nodes` until it is `enough`, which is asked between two rounds.
///
/// # Errors
/// Where it is not within the time.
pub(super) async fn write_until<F>(
    cluster: &Cluster,
    nodes: &[u64],
    within: Duration,
    mut enough: impl FnMut() -> F,
) -> Result<()>
where
    F: Future<Output = Result<bool>>,
{
    let client = cluster.client_of(nodes, cluster.root_key());
    let began = Instant::now();
    let mut turn = 0;
    while !enough().await? {
        ensure!(began.elapsed() < within, "too little was written within {within:?}");
        let mut writes = JoinSet::new();
        for filler in 0..FILLERS {
            turn += 1;
            writes.spawn(write(client.clone(), filler, turn));
        }
        while let Some(written) = writes.join_next().await {
            // Whether it was written, the index tells.
            let _in_doubt = written?;
        }
    }
    Ok(())
}

async fn write(client: Client, filler: u64, turn: u64) -> Result<()> {
    for part in 0..WRITES {
        let mut spec = functions::command("/never/launched");
        spec.env.insert("TURN".into(), format!("{turn}-{part}"));
        client.put_function(&format!("filler-{filler}"), &spec).await?;
    }
    Ok(())
}
