//! `kill`: SIGKILL, and after a while the node is started again. Its child processes die with it.

use std::time::Duration;

use anyhow::Result;
use async_trait::async_trait;
use http::Method;

use super::{Fault, Frame, Hit, Layer};
use crate::Cluster;

/// A refused connection is refused at once; a listener that is still there may take a moment.
const ASK_LIMIT: Duration = Duration::from_millis(500);

const FRAME: Frame = Frame::new("kill", Layer::Process, (100, 5_000)).restarting();

pub(super) struct Kill;

#[async_trait]
impl Fault for Kill {
    fn frame(&self) -> &Frame {
        &FRAME
    }

    async fn strike(&self, cluster: &Cluster, hit: &Hit) -> Result<Vec<u64>> {
        let mut felt = Vec::new();
        for node in &hit.nodes {
            // It waits for the end of the process, a few milliseconds.
            tokio::task::block_in_place(|| cluster.kill(*node))?;
            let gone = !cluster.running().contains(node);
            let request = cluster.request(*node, Method::GET, "/livez", None);
            if gone && request.timeout(ASK_LIMIT).send().await.is_err() {
                felt.push(*node);
            }
        }
        Ok(felt)
    }

    async fn mend(&self, cluster: &Cluster, hit: &Hit) -> Result<()> {
        hit.nodes.iter().try_for_each(|node| cluster.begin(*node))
    }
}
