//! `wipe`: a node loses its data and comes back under its old id. It has forgotten what it voted and
//! acknowledged, so it must take no part; it is itself again once its data is back.

use std::time::Duration;

use anyhow::{Result, ensure};
use async_trait::async_trait;

use super::{Fault, Frame, Hit, Layer};
use crate::Cluster;
use crate::wait::until;

/// The node learns what it is not from the first message of a peer.
const REFUSED_WITHIN: Duration = Duration::from_secs(20);
/// What the node says when it leaves.
const REASON: &str = "was lost or replaced";

const FRAME: Frame = Frame::new("wipe", Layer::Process, (100, 3_000))
    .sparing_a_majority()
    .restarting()
    .with_last_words(&[REASON]);

pub(super) struct Wipe;

#[async_trait]
impl Fault for Wipe {
    fn frame(&self) -> &Frame {
        &FRAME
    }

    async fn strike(&self, cluster: &Cluster, hit: &Hit) -> Result<Vec<u64>> {
        let mut logged = Vec::new();
        for node in &hit.nodes {
            tokio::task::block_in_place(|| cluster.kill(*node))?;
            logged.push((*node, cluster.log(*node).len()));
            cluster.set_data_aside(*node)?;
            cluster.begin(*node)?;
        }
        let mut felt = Vec::new();
        for (node, from) in logged {
            let refused = || async {
                cluster.ended(node, Duration::ZERO).await?;
                let log = cluster.log(node);
                let said = log.get(from..).is_some_and(|said| said.contains(REASON));
                ensure!(said, "its process ended without a word of its data");
                Ok(())
            };
            // Peers that suffer, too, may not speak to it in time: then nothing was tested.
            if until("a wiped node leaves", REFUSED_WITHIN, refused).await.is_ok() {
                felt.push(node);
            }
        }
        Ok(felt)
    }

    async fn mend(&self, cluster: &Cluster, hit: &Hit) -> Result<()> {
        for node in &hit.nodes {
            tokio::task::block_in_place(|| cluster.kill(*node))?;
            cluster.put_data_back(*node)?;
            cluster.begin(*node)?;
        }
        Ok(())
    }
}
