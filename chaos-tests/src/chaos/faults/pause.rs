//! `pause`: SIGSTOP, as a virtual machine that is moved or a host that swaps. The node keeps its
//! connections, answers nothing, and believes afterwards that no time has passed.

use std::time::Duration;

use anyhow::Result;
use async_trait::async_trait;
use http::Method;

use super::{Fault, Frame, Hit, Layer};
use crate::Cluster;

/// Shorter than the shortest pause: the node must be seen not to answer while it is paused.
const ASK_LIMIT: Duration = Duration::from_millis(120);

/// Each that does not tell fails or answers at once.
const ASKED_MAX: usize = 30;

const FRAME: Frame = Frame::new("pause", Layer::Process, (200, 30_000));

pub(super) struct Pause;

#[async_trait]
impl Fault for Pause {
    fn frame(&self) -> &Frame {
        &FRAME
    }

    async fn strike(&self, cluster: &Cluster, hit: &Hit) -> Result<Vec<u64>> {
        hit.nodes.iter().try_for_each(|node| cluster.pause(*node))?;
        let mut felt = Vec::new();
        for node in &hit.nodes {
            if is_silent(cluster, *node).await {
                felt.push(*node);
            }
        }
        Ok(felt)
    }

    async fn mend(&self, cluster: &Cluster, hit: &Hit) -> Result<()> {
        hit.nodes.iter().try_for_each(|node| cluster.resume(*node))
    }
}

/// What was under way when the signal came may still be answered, and connections from before a
/// restart break. A node that is paused takes a connection and says nothing.
async fn is_silent(cluster: &Cluster, node: u64) -> bool {
    for _ in 0..ASKED_MAX {
        let answer = cluster.request(node, Method::GET, "/livez", None).timeout(ASK_LIMIT).send().await;
        if answer.is_err_and(|error| error.is_timeout()) {
            return true;
        }
    }
    false
}
