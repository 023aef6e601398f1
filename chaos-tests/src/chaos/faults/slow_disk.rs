//! `slow-disk`: every sync takes tens to hundreds of milliseconds longer, and not always as long.

use anyhow::Result;
use async_trait::async_trait;
use muster_faultdisk::Command;

use super::{Fault, Frame, Hit, Layer, Needs, ending};
use crate::Cluster;

/// From a busy disk to one that is about to fail: longer than an election takes.
const SYNC_MS: [u64; 4] = [20, 80, 250, 800];

const FRAME: Frame = Frame::new("slow-disk", Layer::Disk, (500, 10_000)).needing(Needs::Disks);

pub(super) struct SlowDisk;

#[async_trait]
impl Fault for SlowDisk {
    fn frame(&self) -> &Frame {
        &FRAME
    }

    async fn strike(&self, cluster: &Cluster, hit: &Hit) -> Result<Vec<u64>> {
        let choice = usize::try_from(hit.choice % SYNC_MS.len() as u64).expect("an index");
        let sync_ms = SYNC_MS[choice];
        let mut before = Vec::new();
        for node in &hit.nodes {
            let slow = Command::Slow { sync_ms, jitter_ms: sync_ms / 2 };
            before.push((*node, cluster.disk(*node).tell(&slow)?.slowed_syncs));
        }
        let mut felt = Vec::new();
        for (node, before) in before {
            if ending::grows(cluster, node, before, ending::FELT_WITHIN, |c| c.slowed_syncs).await? {
                felt.push(node);
            }
        }
        Ok(felt)
    }

    async fn mend(&self, cluster: &Cluster, hit: &Hit) -> Result<()> {
        for node in &hit.nodes {
            cluster.disk(*node).tell(&Command::Heal)?;
        }
        Ok(())
    }
}
