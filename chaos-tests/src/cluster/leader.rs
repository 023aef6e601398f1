//! Who leads.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use http::Method;
use tokio::task::JoinSet;

use super::{Cluster, READY_WITHIN};
use crate::wait::until;

/// A node that does not say who leads within this is not asked for longer.
const ASK_LIMIT: Duration = Duration::from_millis(500);

impl Cluster {
    /// Who leads, once a running node that is ready says it does, and no running node knows of a
    /// later term.
    ///
    /// # Errors
    /// Where nobody leads within [`READY_WITHIN`].
    pub async fn leader(&self) -> Result<u64> {
        until("there is a leader", READY_WITHIN, || self.present_leader()).await
    }

    async fn present_leader(&self) -> Result<u64> {
        // All at once: one that cannot be reached must not keep the others waiting.
        let asked = self.running().into_iter().map(|n| {
            let path = "/v1/cluster?consistency=local";
            let request = self.request(n, Method::GET, path, Some(&self.root_key)).timeout(ASK_LIMIT);
            async move {
                let answer = request.send().await?.error_for_status()?;
                answer.json::<muster_api::Cluster>().await.map(|view| (view.term, n, view.leader))
            }
        });
        let asked: JoinSet<Result<_, reqwest::Error>> = asked.collect();
        let views: Vec<(u64, u64, Option<u64>)> = asked.join_all().await.into_iter().flatten().collect();
        let term = views.iter().map(|(term, ..)| *term).max().context("no node answers")?;
        let newest = views.iter().find(|(t, n, leader)| *t == term && *leader == Some(*n));
        let (_, leader, _) = newest.with_context(|| format!("(term, node, leader): {views:?}"))?;
        let answer = self.request(*leader, Method::GET, "/readyz", None).send().await?;
        ensure!(answer.status() == 200, "the leader {leader} is not ready");
        Ok(*leader)
    }
}
