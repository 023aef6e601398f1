//! `disk-full`: first what grows a file is refused with ENOSPC; if that hurts nobody for a while, every
//! write. A node that cannot write must end and say why, and recover when there is room again.

use std::time::Duration;

use anyhow::Result;
use async_trait::async_trait;
use muster_faultdisk::Command;

use super::{Fault, Frame, Hit, Layer, Needs, ending};
use crate::Cluster;

const LAST_WORDS: &[&str] = &["No space left on device"];
/// A store that reuses its room may take long until it wants more.
const GROWS_WITHIN: Duration = Duration::from_secs(2);

const FRAME: Frame =
    Frame::new("disk-full", Layer::Disk, (200, 5_000)).needing(Needs::Disks).with_last_words(LAST_WORDS);

pub(super) struct DiskFull;

#[async_trait]
impl Fault for DiskFull {
    fn frame(&self) -> &Frame {
        &FRAME
    }

    async fn strike(&self, cluster: &Cluster, hit: &Hit) -> Result<Vec<u64>> {
        let mut before = Vec::new();
        for node in &hit.nodes {
            cluster.let_end(*node, true);
            let counters = cluster.disk(*node).tell(&Command::Full { overwrites: false })?;
            before.push((*node, counters.refused_full));
        }
        let mut felt = Vec::new();
        for (node, before) in before {
            let refused = |within| ending::grows(cluster, node, before, within, |c| c.refused_full);
            if !refused(GROWS_WITHIN).await? {
                cluster.disk(node).tell(&Command::Full { overwrites: true })?;
                if !refused(ending::FELT_WITHIN).await? {
                    continue;
                }
            }
            felt.push(node);
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
