//! What the faults of a Docker Engine have in common: each node reaches it through a proxy, which
//! misbehaves and counts.

use std::time::Duration;

use anyhow::{Result, ensure};
use async_trait::async_trait;

use super::{Fault, Frame, Hit, Layer, Needs};
use crate::Cluster;
use crate::cluster::Trouble;
use crate::wait::until;

/// A node lists its containers every second, and one that starts asks at once; but a node that is
/// paused asks nothing until it goes on.
const FELT_WITHIN: Duration = Duration::from_secs(45);

/// A fault that is a trouble with requests to Docker.
pub(super) struct OnDocker {
    frame: Frame,
    /// By the plan's choice.
    trouble: fn(u64) -> Trouble,
}

impl OnDocker {
    pub(super) const fn new(name: &'static str, span_ms: (u64, u64), trouble: fn(u64) -> Trouble) -> Self {
        let frame = Frame::new(name, Layer::Engine, span_ms).needing(Needs::DockerProxy);
        OnDocker { frame, trouble }
    }
}

#[async_trait]
impl Fault for OnDocker {
    fn frame(&self) -> &Frame {
        &self.frame
    }

    async fn strike(&self, cluster: &Cluster, hit: &Hit) -> Result<Vec<u64>> {
        for node in &hit.nodes {
            cluster.docker_link(*node).set((self.trouble)(hit.choice));
        }
        let felt = |node: &u64| cluster.docker_link(*node).felt() > 0;
        let all = until("all nodes suffer it", FELT_WITHIN, || async {
            ensure!(hit.nodes.iter().all(felt), "a node has asked nothing");
            Ok(())
        });
        // In vain or not: the counters tell.
        let _all = all.await;
        Ok(hit.nodes.iter().filter(|node| felt(node)).copied().collect())
    }

    async fn mend(&self, cluster: &Cluster, hit: &Hit) -> Result<()> {
        for node in &hit.nodes {
            cluster.docker_link(*node).set(Trouble::None);
        }
        Ok(())
    }
}
