//! `pause`: SIGSTOP, as a virtual machine that is moved or a host that swaps. The node keeps its
//! connections, answers nothing, and believes afterwards that no time has passed.

use std::time::Duration;

use anyhow::Result;
use async_trait::async_trait;
use http::Method;

use super::Fault;
use crate::Cluster;

/// Shorter than the shortest pause: the node must be seen not to answer while it is paused.
const ASK_LIMIT: Duration = Duration::from_millis(120);

/// Each that does not tell fails or answers at once.
const ASKED_MAX: usize = 30;

pub(super) struct Pause;

#[async_trait]
impl Fault for Pause {
    fn name(&self) -> &'static str {
        "pause"
    }

    fn span_ms(&self) -> (u64, u64) {
        (200, 10_000)
    }

    async fn strike(&self, cluster: &Cluster, node: u64) -> Result<bool> {
        cluster.pause(node)?;
        // What was under way when the signal came may still be answered, and connections from before
        // a restart break. A node that is paused takes a connection and says nothing.
        for _ in 0..ASKED_MAX {
            let answer = cluster.request(node, Method::GET, "/livez", None).timeout(ASK_LIMIT).send().await;
            if answer.is_err_and(|error| error.is_timeout()) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    async fn mend(&self, cluster: &Cluster, node: u64) -> Result<()> {
        cluster.resume(node)
    }
}
