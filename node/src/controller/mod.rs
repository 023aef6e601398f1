//! The leader's loop: observe, plan, propose. On other nodes it idles, and asks the leader.
//!
//! Reports from hosts are soft state: a new leader begins without any and hears everyone within a
//! fraction of a second. The plan is `muster-core`'s; only its commands, once committed, act.

mod observe;
mod rpc;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use muster_consensus::Consensus;
use muster_core::ids::{InstanceId, NodeId};
use muster_core::observation::NodeReport;
use muster_core::planner::{self, Limits, Memory};
use muster_core::units::Millis;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::random;
use observe::Observations;
pub(crate) use observe::{Load, View};
use rpc::LeaderClient;
pub(crate) use rpc::REPORT_PREFIX;

/// A clone is a handle to the same.
#[derive(Clone, Debug)]
pub(crate) struct Controller(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    consensus: Consensus,
    leader: LeaderClient,
    observations: Observations,
    /// A queue formed somewhere: plan now.
    urgent: Notify,
    plan_every: Duration,
    limits: Limits,
}

impl Controller {
    pub(crate) fn new(config: &Config, consensus: Consensus, peer_secret: String) -> Self {
        let limits = Limits {
            down_after: Millis(config.controller.down_after_ms),
            returning_after: Millis(config.controller.returning_after_ms),
            ..Limits::default()
        };
        Controller(Arc::new(Inner {
            leader: LeaderClient::new(peer_secret),
            consensus,
            observations: Observations::default(),
            urgent: Notify::new(),
            plan_every: Duration::from_millis(config.controller.plan_every_ms),
            limits,
        }))
    }

    /// Brings a host's report to the leader, wherever that is. Lost reports are made up for by the next.
    pub(crate) async fn report(&self, report: NodeReport) {
        let Some((leader, member)) = self.0.consensus.leader() else { return };
        if leader == self.0.consensus.node() {
            self.take(report);
        } else if let Err(error) = self.0.leader.submit(&member.peer, &report).await {
            tracing::debug!(%error, %leader, "a report did not reach the leader");
        }
    }

    /// Load by instance as the leader knows it; empty where it cannot be asked.
    pub(crate) async fn loads(&self) -> BTreeMap<InstanceId, Load> {
        self.view().await.loads
    }

    /// How far each node has applied the log, as the leader knows it.
    pub(crate) async fn applied_by_node(&self) -> BTreeMap<NodeId, u64> {
        self.view().await.applied
    }

    async fn view(&self) -> View {
        match self.0.consensus.leader() {
            Some((leader, _)) if leader == self.0.consensus.node() => self.own_view(),
            Some((leader, member)) => self.0.leader.view(&member.peer).await.unwrap_or_else(|error| {
                tracing::debug!(%error, %leader, "the leader did not say what it sees");
                View::default()
            }),
            None => View::default(),
        }
    }

    fn own_view(&self) -> View {
        let status = self.0.consensus.status();
        let applied = status.members.iter().filter_map(|(id, member)| Some((*id, member.matched?))).collect();
        let published = self.0.consensus.state();
        View { loads: self.0.observations.loads(&published.state), applied }
    }

    fn take(&self, report: NodeReport) {
        let urgent = report.queues.iter().any(|queue| queue.waiting > 0);
        self.0.observations.take(report);
        if urgent {
            self.0.urgent.notify_one();
        }
    }

    /// Plans while this node leads, until stopped.
    pub(crate) async fn run(self, stop: CancellationToken) {
        tokio::select! {
            () = self.lead_when_elected() => {}
            () = stop.cancelled() => {}
        }
    }

    async fn lead_when_elected(&self) {
        let mut leadership = self.0.consensus.leadership();
        loop {
            let term = {
                let metrics = leadership.borrow_and_update();
                (metrics.current_leader == Some(self.0.consensus.node())).then_some(metrics.current_term)
            };
            match term {
                Some(term) => self.lead(term).await,
                None => {
                    if leadership.changed().await.is_err() {
                        return;
                    }
                }
            }
        }
    }

    /// One term of leadership. Everything remembered is forgotten with it.
    async fn lead(&self, term: u64) {
        tracing::info!(term, "this node leads");
        self.0.observations.begin();
        let mut memory = Memory::new(self.0.limits);
        loop {
            // Both a plan in time and a plan at once are plans.
            let _elapsed = tokio::time::timeout(self.0.plan_every, self.0.urgent.notified()).await;
            let leadership = self.0.consensus.leadership();
            let still = {
                let metrics = leadership.borrow();
                metrics.current_leader == Some(self.0.consensus.node()) && metrics.current_term == term
            };
            if !still {
                tracing::info!(term, "this node no longer leads");
                return;
            }
            self.plan(&mut memory).await;
        }
    }

    async fn plan(&self, memory: &mut Memory) {
        // Only a leader that a quorum follows plans: it must see all that was committed before it.
        if self.0.consensus.linearize().await.is_err() {
            return;
        }
        let published = self.0.consensus.state();
        let observed = self.0.observations.observed();
        let now = muster_consensus::now();
        let commands = planner::plan(&published.state, &observed, memory, now, &mut random::id);
        if commands.is_empty() {
            return;
        }
        match self.0.consensus.propose_all(commands).await {
            Ok(answers) => {
                for rejection in answers.into_iter().filter_map(Result::err) {
                    tracing::debug!(%rejection, "a planned command was refused; the next plan sees why");
                }
            }
            Err(error) => tracing::warn!(%error, "a plan could not be committed"),
        }
    }
}
