//! The leader's loop: observe, plan, propose. On other nodes it idles, and asks the leader.
//!
//! Reports from hosts are soft state: a new leader begins without any and hears everyone within a
//! fraction of a second. The plan is `muster-core`'s; only its commands, once committed, act.

mod membership;
mod observe;
mod rpc;
mod version;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use muster_consensus::{Consensus, ProposeError, Transport};
use muster_core::Command;
use muster_core::ids::{InstanceId, NodeId};
use muster_core::ledger::{Retention, Sweep};
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

/// A quorum's word that is older than this part of the silence after which a node is down is asked for again before a
/// plan.
const QUORUM_FRESH: u32 = 4;

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
    voters_max: usize,
    retention: Retention,
}

impl Controller {
    pub(crate) fn new(config: &Config, consensus: Consensus, transport: Arc<dyn Transport>) -> Self {
        let limits = Limits {
            down_after: Millis(config.controller.down_after_ms),
            returning_after: Millis(config.controller.returning_after_ms),
            ..Limits::default()
        };
        Controller(Arc::new(Inner {
            leader: LeaderClient::new(transport, consensus.clone()),
            consensus,
            observations: Observations::default(),
            urgent: Notify::new(),
            plan_every: Duration::from_millis(config.controller.plan_every_ms),
            limits,
            voters_max: config.raft.voters_max,
            retention: Retention {
                hours_for_days: config.ledger.hours_for_days,
                days_for_months: config.ledger.days_for_months,
            },
        }))
    }

    /// Brings a host's report to the leader, wherever that is. Lost reports are made up for by the next.
    pub(crate) async fn report(&self, report: NodeReport) {
        let Some((leader, member)) = self.0.consensus.leader() else { return };
        if leader == self.0.consensus.node() {
            self.take(report);
        } else if let Err(error) = self.0.leader.submit(leader, &member.peer, &report).await {
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
            Some((leader, member)) => {
                self.0.leader.view(leader, &member.peer).await.unwrap_or_else(|error| {
                    tracing::debug!(%error, %leader, "the leader did not say what it sees");
                    View::default()
                })
            }
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
        tokio::select! {
            () = self.plan_for_a_term(term) => {}
            () = membership::Changes::default().run(&self.0.consensus, self.0.voters_max) => {}
            () = version::run(&self.0.consensus) => {}
        }
    }

    /// Plans until another leads.
    async fn plan_for_a_term(&self, term: u64) {
        // What leaders before it committed must be applied here first; what is committed from now on, it commits.
        while self.leads(term) && self.0.consensus.linearize().await.is_err() {
            tokio::time::sleep(self.0.plan_every).await;
        }
        let mut memory = Memory::new(self.0.limits);
        let mut sweep = Sweep::default();
        let mut again = false;
        loop {
            if !again {
                // Both a plan in time and a plan at once are plans.
                let _elapsed = tokio::time::timeout(self.0.plan_every, self.0.urgent.notified()).await;
            }
            if !self.leads(term) {
                tracing::info!(term, "this node no longer leads");
                return;
            }
            again = self.plan(&mut memory).await;
            self.roll_up(&mut sweep).await;
        }
    }

    fn leads(&self, term: u64) -> bool {
        let leadership = self.0.consensus.leadership();
        let metrics = leadership.borrow();
        metrics.current_leader == Some(self.0.consensus.node()) && metrics.current_term == term
    }

    /// One step of adding up old usage, if any is due.
    async fn roll_up(&self, sweep: &mut Sweep) {
        let published = self.0.consensus.state();
        let due = sweep.next(&published.state, self.0.retention, self.0.consensus.now());
        let Some(command) = due else { return };
        match self.0.consensus.propose(Command::Ledger(command)).await {
            Ok(Ok(_)) => {}
            Ok(Err(rejection)) => tracing::warn!(%rejection, "rolling up usage was refused"),
            Err(error @ ProposeError::TooNew { .. }) => tracing::debug!(%error, "rolling up usage waits"),
            Err(error) => tracing::warn!(%error, "rolling up usage could not be committed"),
        }
    }

    /// Whether the next plan is due at once: this one was full, and all of it was done.
    async fn plan(&self, memory: &mut Memory) -> bool {
        // Only a leader that a quorum follows plans: one that is cut off would take all others for dead. A request
        // may wait for this plan, so a word from a moment ago will do.
        let (consensus, fresh) = (&self.0.consensus, self.0.limits.down_after.to_duration() / QUORUM_FRESH);
        if !consensus.heard_quorum_within(fresh) && consensus.linearize().await.is_err() {
            return false;
        }
        let published = self.0.consensus.state();
        let observed = self.0.observations.observed();
        let now = self.0.consensus.now();
        let commands = planner::plan(&published.state, &observed, memory, now, &mut random::id);
        if commands.is_empty() {
            return false;
        }
        match self.0.consensus.propose_all(commands).await {
            Ok(answers) => {
                let mut refused = answers.into_iter().filter_map(Result::err).peekable();
                let done = refused.peek().is_none();
                for rejection in refused {
                    tracing::debug!(%rejection, "a planned command was refused; the next plan sees why");
                }
                done && memory.is_full()
            }
            Err(error) => {
                match error {
                    ProposeError::TooNew { .. } => tracing::debug!(%error, "a plan waits for all members"),
                    _ => tracing::warn!(%error, "a plan could not be committed"),
                }
                false
            }
        }
    }
}
