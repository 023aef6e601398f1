//! `kill`: SIGKILL, and after a while the node is started again. Its child processes die with it.

use std::time::Duration;

use anyhow::Result;
use async_trait::async_trait;
use http::Method;

use super::Fault;
use crate::Cluster;

/// A refused connection is refused at once; a listener that is still there may take a moment.
const ASK_LIMIT: Duration = Duration::from_millis(500);

pub(super) struct Kill;

#[async_trait]
impl Fault for Kill {
    fn name(&self) -> &'static str {
        "kill"
    }

    fn span_ms(&self) -> (u64, u64) {
        (100, 5_000)
    }

    async fn strike(&self, cluster: &Cluster, node: u64) -> Result<bool> {
        // It waits for the end of the process, a few milliseconds.
        tokio::task::block_in_place(|| cluster.kill(node))?;
        let gone = !cluster.running().contains(&node);
        let answer = cluster.request(node, Method::GET, "/livez", None).timeout(ASK_LIMIT).send().await;
        Ok(gone && answer.is_err())
    }

    async fn mend(&self, cluster: &Cluster, node: u64) -> Result<()> {
        cluster.begin(node)
    }

    async fn back(&self, cluster: &Cluster, node: u64) -> Result<()> {
        // Ready is not enough: its host must have registered anew to take instances.
        cluster.await_ready(node).await
    }
}
