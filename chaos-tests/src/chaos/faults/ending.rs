//! What faults share that make a node end by itself: each must see it end with the right words, and
//! start it again, whatever else befalls the node meanwhile.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use muster_faultdisk::{Command, Counters};

use super::Hit;
use crate::Cluster;
use crate::cluster::READY_WITHIN;
use crate::wait::until;

/// What other faults hold down or stop suffers a fault of its disk only once it is back.
pub(super) const FELT_WITHIN: Duration = Duration::from_secs(45);
/// A failed write or sync ends a node at once: the rest is for a busy machine.
const ENDS_WITHIN: Duration = Duration::from_secs(10);
pub(super) const POLL: Duration = Duration::from_millis(5);

/// Waits until a counter of a node's disk has grown past `before`; answers whether it has.
pub(super) async fn grows(
    cluster: &Cluster,
    node: u64,
    before: u64,
    within: Duration,
    counter: impl Fn(Counters) -> u64,
) -> Result<bool> {
    let began = Instant::now();
    while counter(cluster.disk(node).tell(&Command::Counters)?) <= before {
        if began.elapsed() >= within {
            return Ok(false);
        }
        tokio::time::sleep(POLL).await;
    }
    Ok(true)
}

/// Waits until each node's count has grown past what it was before; answers those of which it has. For
/// what a node asks for several times a second, unless something else holds it.
pub(super) async fn told(before: Vec<(u64, u64)>, count: impl Fn(u64) -> Result<u64>) -> Result<Vec<u64>> {
    let mut felt = Vec::new();
    for (node, before) in before {
        let began = Instant::now();
        while began.elapsed() < FELT_WITHIN {
            if count(node)? > before {
                felt.push(node);
                break;
            }
            tokio::time::sleep(POLL).await;
        }
    }
    Ok(felt)
}

/// Sees to it that a node that has suffered ends: it must not go on with what it could not write.
///
/// # Errors
/// Where it does go on.
pub(super) async fn ends(cluster: &Cluster, node: u64) -> Result<()> {
    until(&format!("node {node} ends"), ENDS_WITHIN, || async {
        // One that is stopped, or was killed and started again, shows nothing.
        let shows = cluster.running().contains(&node) && cluster.ended(node, Duration::ZERO).await.is_err();
        ensure!(!shows, "it goes on though its disk has failed");
        Ok(())
    })
    .await
}

/// Ends the trouble of the disks and starts the nodes that have ended of it.
pub(super) fn heal(cluster: &Cluster, hit: &Hit, last_words: &[&str]) -> Result<()> {
    for node in &hit.nodes {
        cluster.disk(*node).tell(&Command::Heal)?;
        cluster.revive(*node, last_words)?;
    }
    Ok(())
}

/// Waits until all are ready; one that was about to end when its disk was healed is started again.
pub(super) async fn back(cluster: &Cluster, hit: &Hit, last_words: &[&str]) -> Result<()> {
    for node in &hit.nodes {
        until(&format!("node {node} is back"), READY_WITHIN, || async {
            cluster.revive(*node, last_words)?;
            super::readyz(cluster, *node).await
        })
        .await?;
        cluster.let_end(*node, false);
        cluster.await_ready(*node).await?;
    }
    Ok(())
}
