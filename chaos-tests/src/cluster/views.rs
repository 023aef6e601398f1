//! What nodes know, asked of each for itself.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use http::Method;
use muster_api::Instance;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::Cluster;
use crate::wait::until;

/// How long a read that needs a quorum is repeated where there is none, and how often.
const QUORUM_WITHIN: Duration = Duration::from_secs(15);
const ASK_AGAIN: Duration = Duration::from_millis(100);

/// What every replica must answer alike.
const VIEWS: [&str; 6] = [
    "/v1/functions?consistency=local",
    "/v1/accounts?consistency=local",
    "/v1/nodes?consistency=local",
    "/v1/instances?consistency=local&all=true",
    "/v1/usage?consistency=local&by=hour",
    "/v1/decisions?consistency=local",
];

impl Cluster {
    /// What node `n` answers the root key, as JSON.
    ///
    /// # Errors
    /// For any status but 200, with the answer.
    pub async fn get<T: DeserializeOwned>(&self, n: u64, path: &str) -> Result<T> {
        let began = Instant::now();
        loop {
            let answer = self.request(n, Method::GET, path, Some(&self.root_key)).send().await?;
            let status = answer.status();
            let text = answer.text().await?;
            // The quorum may be away for a moment on a busy machine: then the same question is asked again.
            if status == 503 && !path.contains("consistency=local") && began.elapsed() < QUORUM_WITHIN {
                tokio::time::sleep(ASK_AGAIN).await;
                continue;
            }
            ensure!(status == 200, "node {n} answers {path} with {status}: {text}");
            return serde_json::from_str(&text)
                .with_context(|| format!("node {n} answers {path} with {text}"));
        }
    }

    /// All instances of a function, those that have ended too, as a quorum knows them.
    ///
    /// # Errors
    /// Where no node answers.
    pub async fn instances_ever(&self, function: &str) -> Result<Vec<Instance>> {
        let path = format!("/v1/instances?all=true&function={function}");
        self.get(self.running_node()?, &path).await
    }

    /// One of a node's metrics without labels.
    ///
    /// # Errors
    /// Where the node does not answer or has no such metric.
    pub async fn metric(&self, n: u64, name: &str) -> Result<u64> {
        let answer = self.request(n, Method::GET, "/metrics", None).send().await?;
        let text = answer.error_for_status()?.text().await?;
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.with_context(|| format!("node {n} has no metric {name}"))?.trim().parse().context("not a number")
    }

    /// The index of the last log entry that node `n` has applied.
    ///
    /// # Errors
    /// Where it does not answer.
    pub async fn applied(&self, n: u64) -> Result<u64> {
        self.metric(n, "muster_raft_applied_index").await
    }

    /// Waits until all running nodes have applied the same entries and know the same by themselves.
    ///
    /// # Errors
    /// What still differed when time was up.
    pub async fn converged(&self, within: Duration) -> Result<()> {
        until("all nodes know the same", within, || self.agree()).await
    }

    async fn agree(&self) -> Result<()> {
        let nodes = self.running();
        let before = self.applied_by_node(&nodes).await?;
        ensure!(before.values().max() == before.values().min(), "applied by node: {before:?}");
        for path in VIEWS {
            let mut first = None;
            for n in &nodes {
                let view = without_soft_state(self.get(*n, path).await?);
                match &first {
                    None => first = Some((*n, view)),
                    Some((other, known)) if *known != view => {
                        // Entries may have been applied between the two answers: then look again.
                        let after = self.applied_by_node(&nodes).await?;
                        ensure!(before == after, "the log goes on");
                        bail!("at {path} nodes {other} and {n} differ: {known} and {view}");
                    }
                    Some(_) => {}
                }
            }
        }
        Ok(())
    }

    async fn applied_by_node(&self, nodes: &[u64]) -> Result<BTreeMap<u64, u64>> {
        let mut applied = BTreeMap::new();
        for n in nodes {
            applied.insert(*n, self.applied(*n).await?);
        }
        Ok(applied)
    }
}

/// Loads are the leader's soft state, which changes without the log.
fn without_soft_state(mut view: Value) -> Value {
    for row in view.as_array_mut().into_iter().flatten().filter_map(Value::as_object_mut) {
        row.remove("utilization");
        row.remove("in_flight");
    }
    view
}
