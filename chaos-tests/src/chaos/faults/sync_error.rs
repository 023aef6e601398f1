//! `sync-error`: the next sync answers EIO and, as on Linux, its data is lost though a second attempt
//! would succeed. The node must end at once with a clear message: a retry would acknowledge what is
//! not on disk.

use anyhow::Result;
use async_trait::async_trait;
use muster_faultdisk::Command;

use super::{Fault, Frame, Hit, Layer, Needs, ending};
use crate::Cluster;

const LAST_WORDS: &[&str] = &["Input/output error"];

const FRAME: Frame =
    Frame::new("sync-error", Layer::Disk, (100, 3_000)).needing(Needs::Disks).with_last_words(LAST_WORDS);

pub(super) struct SyncError;

#[async_trait]
impl Fault for SyncError {
    fn frame(&self) -> &Frame {
        &FRAME
    }

    async fn strike(&self, cluster: &Cluster, hit: &Hit) -> Result<Vec<u64>> {
        let mut before = Vec::new();
        for node in &hit.nodes {
            cluster.let_end(*node, true);
            let counters = cluster.disk(*node).tell(&Command::SyncError { syncs: 1 })?;
            before.push((*node, counters.failed_syncs));
        }
        let mut felt = Vec::new();
        for (node, before) in before {
            if ending::grows(cluster, node, before, ending::FELT_WITHIN, |c| c.failed_syncs).await? {
                ending::ends(cluster, node).await?;
                felt.push(node);
            }
        }
        Ok(felt)
    }

    async fn mend(&self, cluster: &Cluster, hit: &Hit) -> Result<()> {
        ending::heal(cluster, hit, LAST_WORDS)
    }

    async fn back(&self, cluster: &Cluster, hit: &Hit) -> Result<()> {
        ending::back(cluster, hit, LAST_WORDS).await
    }
}
