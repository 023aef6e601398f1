//! `snapshot-kill`: a node is kept away until the others have removed from their logs what it misses,
//! and comes back and is killed again and again at seeded moments: as it receives a snapshot, and as it
//! installs one. Its log tells when that begins.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use async_trait::async_trait;

use super::{Fault, Frame, Hit, Layer, Needs, filling};
use crate::Cluster;
use crate::wait::until;

/// More than the others keep, whatever they have when it begins: see `run`.
const BEHIND_ENTRIES: u64 = 1_200;
/// Other faults may keep the cluster from writing: then nothing is tested.
const FILLED_WITHIN: Duration = Duration::from_secs(30);
const STARTS_WITHIN: Duration = Duration::from_secs(20);
const KILLS: u64 = 3;
/// From its first answer to the first kill, at most.
const LIVES_MAX_MS: u64 = 60;
/// From the beginning of the installation to a later kill, at most.
const INSTALLS_MAX_MS: u64 = 12;
/// What openraft's engine says as it begins, and how long that is waited for.
const INSTALLS: &str = "install_full_snapshot";
const INSTALLS_WITHIN: Duration = Duration::from_secs(15);

const FRAME: Frame = Frame::new("snapshot-kill", Layer::Process, (50, 500))
    .needing(Needs::Log(filling::LOG))
    .sparing_a_majority()
    .restarting();

pub(super) struct SnapshotKill;

#[async_trait]
impl Fault for SnapshotKill {
    fn frame(&self) -> &Frame {
        &FRAME
    }

    async fn strike(&self, cluster: &Cluster, hit: &Hit) -> Result<Vec<u64>> {
        for node in &hit.nodes {
            tokio::task::block_in_place(|| cluster.kill(*node))?;
        }
        if fill(cluster, &hit.nodes).await.is_err() {
            return Ok(Vec::new());
        }
        let mut felt = Vec::new();
        for node in &hit.nodes {
            let from = cluster.log_bytes(*node);
            let installs = || cluster.log_since(*node, from).contains(INSTALLS);
            for kill in 0..KILLS {
                cluster.begin(*node)?;
                let moment = hit.choice >> (8 * kill);
                if kill == 0 {
                    let answers = || async { cluster.applied(*node).await };
                    let _late = until("it answers", STARTS_WITHIN, answers).await;
                    tokio::time::sleep(Duration::from_millis(moment % LIVES_MAX_MS)).await;
                } else {
                    let began = Instant::now();
                    while !installs() && began.elapsed() < INSTALLS_WITHIN {
                        tokio::time::sleep(Duration::from_millis(2)).await;
                    }
                    tokio::time::sleep(Duration::from_millis(moment % INSTALLS_MAX_MS)).await;
                }
                tokio::task::block_in_place(|| cluster.kill(*node))?;
                if installs() {
                    // What is installed is not installed again.
                    felt.push(*node);
                    break;
                }
            }
        }
        Ok(felt)
    }

    async fn mend(&self, cluster: &Cluster, hit: &Hit) -> Result<()> {
        hit.nodes.iter().try_for_each(|node| cluster.begin(*node))
    }
}

/// Writes until the log has grown by so much that nothing of its present end is kept.
async fn fill(cluster: &Cluster, absent: &[u64]) -> Result<()> {
    let present: Vec<u64> = cluster.running().into_iter().filter(|node| !absent.contains(node)).collect();
    let asked = *present.first().context("no node is left")?;
    let from = cluster.applied(asked).await?;
    let enough = || async { Ok(cluster.applied(asked).await? >= from + BEHIND_ENTRIES) };
    filling::write_until(cluster, &present, FILLED_WITHIN, enough).await
}
