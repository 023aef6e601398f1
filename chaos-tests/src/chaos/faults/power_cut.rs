//! `power-cut`: the disk forgets what is not synced, in the midst of a write, and the node dies with it.
//! By the plan's choice nothing unsynced survives, or a part: whole writes, torn ones, some of the
//! directory's changes.

use std::time::Duration;

use anyhow::Result;
use async_trait::async_trait;
use muster_faultdisk::{Command, Survivors};

use super::{Fault, Frame, Hit, Layer, Needs, ending};
use crate::Cluster;

/// In its last moments a node may still see its disk fail.
const LAST_WORDS: &[&str] = &["Input/output error"];
/// A node under load writes all the time; one that does not loses its power all the same.
const WRITES_WITHIN: Duration = Duration::from_secs(1);

const FRAME: Frame = Frame::new("power-cut", Layer::Process, (100, 5_000))
    .needing(Needs::Disks)
    .restarting()
    .with_last_words(LAST_WORDS);

pub(super) struct PowerCut;

#[async_trait]
impl Fault for PowerCut {
    fn frame(&self) -> &Frame {
        &FRAME
    }

    async fn strike(&self, cluster: &Cluster, hit: &Hit) -> Result<Vec<u64>> {
        let survivors = match hit.choice % 2 {
            0 => Survivors::None,
            _ => Survivors::Some { seed: hit.choice },
        };
        let mut before = Vec::new();
        for node in &hit.nodes {
            let counters = cluster.disk(*node).tell(&Command::CutAtWrite { survivors })?;
            before.push((*node, counters.cuts));
        }
        let mut felt = Vec::new();
        for (node, before) in before {
            if !ending::grows(cluster, node, before, WRITES_WITHIN, |c| c.cuts).await? {
                cluster.disk(node).tell(&Command::Cut { survivors })?;
            }
            tokio::task::block_in_place(|| cluster.kill(node))?;
            let after = cluster.disk(node).tell(&Command::Counters)?;
            if after.cuts == before + 1 && !cluster.running().contains(&node) {
                felt.push(node);
            }
        }
        Ok(felt)
    }

    async fn mend(&self, cluster: &Cluster, hit: &Hit) -> Result<()> {
        hit.nodes.iter().try_for_each(|node| cluster.begin(*node))
    }
}
