//! `build-kill`: a node is killed as it builds a snapshot: between the moment at which it begins and the one at
//! which the snapshot counts. Its log tells both.

use std::time::{Duration, Instant};

use anyhow::Result;
use async_trait::async_trait;

use super::{Fault, Frame, Hit, Layer, Needs, filling};
use crate::Cluster;

/// What openraft's engine says as it has a snapshot built, and once it is.
const BEGINS: &str = "push snapshot building command";
const BUILT: &str = "update_snapshot: ";
/// Other faults may keep the cluster from writing: then nothing is tested.
const BEGINS_WITHIN: Duration = Duration::from_secs(20);
/// A debug build takes some ten milliseconds to encode and to store one. A node that was too quick has less time
/// with each further try.
const BUILDS_MAX_MS: u64 = 25;
const POLL: Duration = Duration::from_millis(1);
/// A node that was too quick is killed all the same, and tried once more.
const KILLS: u64 = 4;

const FRAME: Frame =
    Frame::new("build-kill", Layer::Process, (50, 2_000)).needing(Needs::Log(filling::LOG)).restarting();

pub(super) struct BuildKill;

#[async_trait]
impl Fault for BuildKill {
    fn frame(&self) -> &Frame {
        &FRAME
    }

    async fn strike(&self, cluster: &Cluster, hit: &Hit) -> Result<Vec<u64>> {
        let mut felt = Vec::new();
        let mut killed = None;
        for node in &hit.nodes {
            // Without a majority nobody writes, and so nobody builds one.
            killed.replace(*node).map_or(Ok(()), |before| start_again(cluster, before))?;
            for kill in 0..KILLS {
                start_again(cluster, *node)?;
                let longest_ms = BUILDS_MAX_MS >> (2 * kill);
                let delay = Duration::from_millis((hit.choice >> (8 * kill)) % longest_ms.max(1));
                if kill_in_building(cluster, *node, delay).await? {
                    felt.push(*node);
                    break;
                }
            }
        }
        Ok(felt)
    }

    async fn mend(&self, cluster: &Cluster, hit: &Hit) -> Result<()> {
        hit.nodes.iter().try_for_each(|node| start_again(cluster, *node))
    }
}

fn start_again(cluster: &Cluster, node: u64) -> Result<()> {
    if cluster.running().contains(&node) { Ok(()) } else { cluster.begin(node) }
}

/// Writes until a node builds a snapshot, and kills it so long after. Answers whether it was not through.
async fn kill_in_building(cluster: &Cluster, node: u64, delay: Duration) -> Result<bool> {
    let from = cluster.log_bytes(node);
    let counts = || {
        let said = cluster.log_since(node, from);
        (said.matches(BEGINS).count(), said.matches(BUILT).count())
    };
    let watched = async {
        let began = Instant::now();
        while began.elapsed() < BEGINS_WITHIN {
            let (begun, built) = counts();
            if begun > built {
                tokio::time::sleep(delay).await;
                tokio::task::block_in_place(|| cluster.kill(node))?;
                return Ok(true);
            }
            tokio::time::sleep(POLL).await;
        }
        anyhow::Ok(false)
    };
    let nodes = cluster.running();
    let filled = filling::write_until(cluster, &nodes, BEGINS_WITHIN, || async { Ok(false) });
    let killed = tokio::select! {
        killed = watched => killed?,
        // It ends only in vain: nobody could write.
        _in_vain = filled => false,
    };
    let (begun, built) = counts();
    Ok(killed && begun > built)
}
