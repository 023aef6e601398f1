//! What the faults of instances have in common: one instance of each node, once it has one.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::Hit;
use crate::Cluster;
use crate::cluster::Body;
use crate::wait::until;

/// A node that is down has no instances; one that is ready gets some when they are asked for there.
const FOUND_WITHIN: Duration = Duration::from_secs(45);

/// Does `blow` to one instance of each node. It answers whether the instance was struck; one that
/// was just ending is replaced by another. Answers those that were.
pub(super) async fn each<F>(cluster: &Cluster, hit: &Hit, blow: impl Fn(Body) -> F) -> Result<Vec<Body>>
where
    F: Future<Output = Result<bool>>,
{
    let mut struck = Vec::new();
    for node in &hit.nodes {
        let look = || async {
            let mut bodies = cluster.bodies().await?;
            bodies.retain(|body| body.node == *node);
            ensure!(!bodies.is_empty(), "node {node} runs no instance");
            let chosen = usize::try_from(hit.choice % bodies.len() as u64).expect("an index");
            let body = bodies.swap_remove(chosen);
            ensure!(blow(body.clone()).await?, "{} is no more", body.instance);
            Ok(body)
        };
        // In vain or not: who was struck tells.
        struck.extend(until("an instance is struck", FOUND_WITHIN, look).await.ok());
    }
    Ok(struck)
}
