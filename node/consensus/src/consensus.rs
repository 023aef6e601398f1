//! The handle the rest of the node holds.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use muster_core::ids::NodeId;
use muster_core::units::Timestamp;
use muster_core::version::{Support, Unsupported};
use muster_core::{Answer, ClusterState, Command};
use muster_storage::Store;
use openraft::error::{Fatal, InitializeError, RaftError};
use tokio::sync::watch;
use tokio::time::{Instant, timeout, timeout_at};

use crate::clock::ClusterClock;
use crate::config::Config;
use crate::error::{ProposeError, ReadError, RpcError, StartError};
use crate::handover::{HandOverError, Yielding};
use crate::identities::{Identities, Identity};
use crate::leases::{Grants, Holder, margin};
use crate::machine::{Machine, Published};
use crate::network::{Network, Peers};
use crate::proposer::{Gate, Proposer, Worker};
use crate::reads::Reads;
use crate::receiving::Receiver;
use crate::rpc::{self, Server};
use crate::standing;
use crate::transport::Transport;
use crate::types::{Member, Raft, TypeConfig};
use crate::versions::{Versions, raised_beyond};
use crate::vital::Vital;

/// How long the leader may take to give its place away.
const HAND_OVER_LIMIT: Duration = Duration::from_secs(5);
/// Why one takes part no more.
const PANICKED: &str = "a task of it panicked";
/// The pause before a peer is asked again.
const RETRY_PAUSE: Duration = Duration::from_millis(50);

/// One node's part in the replicated log. A clone is a handle to the same.
#[derive(Clone)]
pub struct Consensus {
    pub(crate) server: Server,
    pub(crate) peers: Peers,
    pub(crate) raft: Raft,
    clock: ClusterClock,
    published: Arc<ArcSwap<Published>>,
    changes: watch::Receiver<u64>,
    proposer: Proposer,
    reads: Reads,
    removed: watch::Receiver<bool>,
    quorum_fresh: Duration,
    lease: Duration,
    propose_timeout: Duration,
    read_timeout: Duration,
    pub(crate) versions: Versions,
    vital: Vital,
}

impl std::fmt::Debug for Consensus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Consensus").field("node", &self.node()).finish_non_exhaustive()
    }
}

/// The cluster as one node sees it.
#[derive(Clone, Debug)]
pub struct Status {
    pub leader: Option<NodeId>,
    pub term: u64,
    pub members: BTreeMap<NodeId, MemberStatus>,
}

#[derive(Clone, Debug)]
pub struct MemberStatus {
    pub member: Member,
    pub voter: bool,
    /// The last index known to be on that node; only the leader and the node itself know.
    pub matched: Option<u64>,
}

impl Consensus {
    /// Opens the log and the last snapshot, and takes part.
    pub async fn start(
        identity: Identity,
        config: &Config,
        store: &Store,
        transport: Arc<dyn Transport>,
    ) -> Result<Self, StartError> {
        let Identity { node, incarnation, .. } = identity;
        let versions = Versions::new(Support { range: config.versions, holds: config.hold_version });
        let machine = Machine::open(node, incarnation, store.snapshots(), versions.clone())
            .await
            .map_err(StartError::Storage)?;
        let (published, changes, pending) = (machine.published(), machine.changes(), machine.pending());
        let remembered = store.identity().cluster;
        let identities = Identities::new(identity, remembered, Arc::clone(&published));
        let peers = Peers::new(transport, identities.clone());
        let clock = ClusterClock::new(Arc::clone(&published));
        let raft_config = config.for_openraft().map_err(StartError::Config)?;
        let log = store.log::<TypeConfig>().map_err(StartError::Log)?.running_ahead(&node);
        let durable = log.durable();
        let vital = Vital::default();
        let machine = machine.behind(durable.clone()).watched(vital.clone());
        let patience = Duration::from_millis(config.election_max_ms);
        let network = Network { peers: peers.clone(), durable: durable.clone(), patience };
        // Too new a snapshot before anything is done; too old a one only once the log behind it is read again.
        if let Err(unsupported @ Unsupported::TooNew { .. }) = versions.check(&published.load().state) {
            return Err(unsupported.into());
        }
        let (readable, behind) = (log.clone(), published.load().applied.map_or(0, |id| id.index + 1));
        let raft = match Raft::new(node, raft_config, network, log, machine).await {
            Ok(raft) => raft,
            Err(fatal) => {
                // It ended at the first version that is too new for it; more may have come since.
                let last = raised_beyond(readable, versions.range(), behind).await;
                let ended = last.or(*versions.ended().borrow());
                return Err(ended.map_or_else(|| StartError::Raft(Box::new(fatal)), StartError::from));
            }
        };
        if let Err(unsupported) = versions.check(&published.load().state) {
            let _ends_anyway = raft.shutdown().await;
            return Err(unsupported.into());
        }
        let propose_timeout = Duration::from_millis(config.propose_timeout_ms);
        let yielding = Yielding::default();
        let worker = Worker {
            node,
            incarnation,
            raft: raft.clone(),
            peers: peers.clone(),
            pending,
            clock: clock.clone(),
            timeout: propose_timeout,
            yielding: yielding.clone(),
            gate: Gate { published: Arc::clone(&published), versions: versions.clone() },
        };
        let proposer = Proposer::spawn(worker, &vital);
        let lease = Duration::from_millis(config.permission_lease_ms);
        let server = Server {
            raft: raft.clone(),
            arrivals: store.snapshots().arrivals(),
            receiver: Receiver::new(store.snapshots()),
            identities,
            durable,
            grants: Grants::new(lease),
            clock: clock.clone(),
            applied: changes.clone(),
            published: Arc::clone(&published),
            peers: peers.clone(),
            yielding: yielding.clone(),
            versions: versions.clone(),
        };
        let read_timeout = Duration::from_millis(config.read_timeout_ms);
        let reads = Reads::spawn(server.clone(), peers.clone(), read_timeout, &vital);
        let removed = standing::watch(server.clone(), reads.clone(), &vital);
        let quorum_fresh = Duration::from_millis(config.quorum_fresh_ms);
        Ok(Consensus {
            server,
            peers,
            raft,
            clock,
            published,
            changes,
            proposer,
            reads,
            removed,
            quorum_fresh,
            lease,
            propose_timeout,
            read_timeout,
            versions,
            vital,
        })
    }

    /// Makes a pristine node the first of a cluster with these voters. Harmless where there is one already.
    pub async fn initialize(&self, members: BTreeMap<NodeId, Member>) -> Result<(), StartError> {
        let initialized = self.raft.is_initialized().await;
        if initialized.map_err(|fatal| StartError::Raft(Box::new(fatal)))? {
            return Ok(());
        }
        match self.raft.initialize(members).await {
            Ok(()) | Err(RaftError::APIError(InitializeError::NotAllowed(_))) => Ok(()),
            Err(error) => Err(StartError::Raft(Box::new(error))),
        }
    }

    pub fn node(&self) -> NodeId {
        self.server.identities.own().node
    }

    /// Has a command replicated; the answer comes after it is applied here.
    pub async fn propose(&self, command: Command) -> Result<Answer, ProposeError> {
        let mut answers = self.propose_all(vec![command]).await?;
        Ok(answers.pop().expect("one answer for one command"))
    }

    /// Has commands replicated in their order; the answers come after all are applied here. They may
    /// take several entries. On an error the first of them may be applied; none is unless all before
    /// it were. Waiting for a proposal that is under way counts, too: nobody waits for longer than
    /// `propose_timeout_ms`.
    pub async fn propose_all(&self, commands: Vec<Command>) -> Result<Vec<Answer>, ProposeError> {
        let end = Instant::now() + self.propose_timeout;
        let receivers = self.proposer.submit(commands)?;
        let mut answers = Vec::with_capacity(receivers.len());
        for receiver in receivers {
            let answer = timeout_at(end, receiver).await.map_err(|_elapsed| ProposeError::Unknown)?;
            answers.push(answer.map_err(|_| ProposeError::Stopping)??);
        }
        Ok(answers)
    }

    /// Whether every member understands a command, for whoever has work to do before it is proposed.
    pub fn check(&self, command: &Command) -> Result<(), ProposeError> {
        self.proposer.check(command)
    }

    /// Queues a command whose answer nobody waits for. It keeps its place before later ones.
    pub fn propose_detached(&self, command: Command) -> Result<(), ProposeError> {
        self.proposer.submit(vec![command]).map(drop)
    }

    /// Returns once this node has applied everything acknowledged before the call, anywhere.
    pub async fn linearize(&self) -> Result<(), ReadError> {
        // A round that is under way may take all of the time by itself.
        timeout(self.read_timeout, self.reads.linearize()).await.unwrap_or(Err(ReadError::NoQuorum))
    }

    /// The newest applied state. Never waits, takes no lock.
    pub fn state(&self) -> Arc<Published> {
        self.published.load_full()
    }

    /// Reads the newest applied state without counting a reference to it.
    pub fn with_state<R>(&self, read: impl FnOnce(&ClusterState) -> R) -> R {
        read(&self.published.load().state)
    }

    /// The time by which a leader decides: its host's clock, never behind the replicated one, which it
    /// keeps going.
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Carries the last applied index; changes after each apply.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.clone()
    }

    /// Whether all that was acknowledged until a moment ago is applied here, on a quorum's word.
    pub fn has_quorum(&self) -> bool {
        self.reads.quorum_age().is_some_and(|age| age <= self.quorum_fresh)
    }

    /// Whether everything acknowledged up to `within` ago is applied here, by a quorum's word.
    pub fn heard_quorum_within(&self, within: Duration) -> bool {
        self.reads.quorum_age().is_some_and(|age| age <= within)
    }

    /// Whether this node holds a permission lease: it knows of every right that was taken away more
    /// than a lease ago.
    pub fn holds_lease(&self) -> bool {
        self.reads.quorum_age().is_some_and(|age| age <= self.lease)
    }

    /// Returns once no node admits anyone by a right that was taken away before the call and is known
    /// to be so here. At once where all nodes are well, else after a lease and a margin at the latest.
    pub async fn settle_permissions(&self) {
        let index = self.state().applied_index();
        let end = Instant::now() + self.lease + margin(self.lease);
        // Leases of before the call are over by the end, whoever holds them.
        let Ok(holders) = timeout_at(end, self.holders()).await else { return };
        let asked = Instant::now();
        let left = holders.into_iter().filter(|holder| holder.node != self.node()).map(|holder| {
            let until = (asked + holder.left + margin(self.lease)).min(end);
            timeout_at(until, self.has_applied(holder.node, index))
        });
        // In time or not: either way that lease no longer matters.
        let _settled = futures_util::future::join_all(left).await;
    }

    async fn holders(&self) -> Vec<Holder> {
        loop {
            let holders = match self.leader() {
                Some((leader, _)) if leader == self.node() => self.server.holders().await,
                Some((leader, member)) => {
                    self.peers.leases(leader, &member.peer, self.lease).await.ok().flatten()
                }
                None => None,
            };
            match holders {
                Some(holders) => return holders,
                None => tokio::time::sleep(RETRY_PAUSE).await,
            }
        }
    }

    async fn has_applied(&self, node: NodeId, index: u64) {
        loop {
            let address = self.status().members.get(&node).map(|status| status.member.peer.clone());
            if let Some(address) = address
                && self.peers.applied(node, &address, index, self.lease).await.is_ok_and(|applied| applied)
            {
                return;
            }
            tokio::time::sleep(RETRY_PAUSE).await;
        }
    }

    /// Whether this node believes it leads. A hint: only committed commands act.
    pub fn is_leader(&self) -> bool {
        self.raft.metrics().borrow().current_leader == Some(self.node())
    }

    /// Resolves when the node that this one believes to lead, or the term, has changed.
    pub fn leadership(&self) -> watch::Receiver<openraft::RaftMetrics<NodeId, Member>> {
        self.raft.metrics()
    }

    pub fn leader(&self) -> Option<(NodeId, Member)> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow();
        let leader = metrics.current_leader?;
        let member = metrics.membership_config.membership().get_node(&leader)?;
        Some((leader, member.clone()))
    }

    pub fn status(&self) -> Status {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow();
        let membership = metrics.membership_config.membership();
        let voters: Vec<NodeId> = membership.voter_ids().collect();
        let matched = |id: NodeId| match &metrics.replication {
            _ if id == self.node() => metrics.last_applied.map(|log| log.index),
            Some(replication) => replication.get(&id).copied().flatten().map(|log| log.index),
            None => None,
        };
        let status = |(id, member): (&NodeId, &Member)| {
            let voter = voters.contains(id);
            (*id, MemberStatus { member: member.clone(), voter, matched: matched(*id) })
        };
        Status {
            leader: metrics.current_leader,
            term: metrics.current_term,
            members: membership.nodes().map(status).collect(),
        }
    }

    /// For how long a right that was taken away may still be used somewhere at most: a lease, and what
    /// clocks may differ by over one.
    pub fn lease_and_margin(&self) -> Duration {
        self.lease + margin(self.lease)
    }

    /// Has the leadership given to a voter, to the fittest if none is named; answers who leads then.
    ///
    /// # Errors
    /// Where the leader cannot be asked, or has nobody to give it to.
    pub async fn transfer(&self, to: Option<NodeId>) -> Result<NodeId, HandOverError> {
        let (leader, member) = self.leader().ok_or(HandOverError::Unreachable)?;
        if leader == self.node() {
            return self.server.hand_over(to).await;
        }
        let asked = self.peers.hand_over(leader, &member.peer, to, HAND_OVER_LIMIT).await;
        asked.unwrap_or(Err(HandOverError::Unreachable))
    }

    /// Gives the leadership away if this node has it and another can take it, and does not stand for it
    /// any more. For a node that is about to stop.
    pub async fn retire(&self) {
        self.server.yielding.retire();
        if self.is_leader() {
            match self.server.hand_over(None).await {
                Ok(successor) => tracing::info!(%successor, "gave the leadership away"),
                Err(error) => tracing::info!(%error, "the leadership was not given away"),
            }
        }
        self.raft.runtime_config().elect(false);
    }

    /// Whether this node was removed from the cluster, as far as it has heard.
    pub fn is_removed(&self) -> bool {
        *self.removed.borrow()
    }

    /// Resolves once this node was removed from the cluster, as it learned by itself or from another.
    pub async fn removed(&self) {
        let mut removed = self.removed.clone();
        if removed.wait_for(|removed| *removed).await.is_err() {
            // The log has stopped; what is said of that is said elsewhere.
            std::future::pending().await
        }
    }

    /// Answers a request under [`crate::RPC_PREFIX`] of the peer that is `caller` for certain; `method` is what
    /// follows the prefix.
    pub async fn handle_rpc(&self, caller: NodeId, method: &str, body: &[u8]) -> Result<Vec<u8>, RpcError> {
        rpc::handle(&self.server, caller, method, body).await
    }

    /// Resolves, with the reason, when this node can no longer take part: its log failed, its data is not
    /// what the cluster knows, a task of it panicked, or it was shut down.
    pub async fn stopped(&self) -> String {
        let mut disowned = self.server.identities.disowned();
        let mut outdated = self.versions.ended();
        tokio::select! {
            // First: it is also why the log has stopped then.
            biased;
            Ok(reason) = outdated.wait_for(Option::is_some) => reason.expect("it was waited for").to_string(),
            reason = self.log_stopped() => reason,
            Ok(reason) = disowned.wait_for(Option::is_some) => reason.clone().expect("it was waited for"),
            () = self.vital.panicked() => PANICKED.to_owned(),
        }
    }

    async fn log_stopped(&self) -> String {
        let mut metrics = self.raft.metrics();
        let ended = metrics.wait_for(|metrics| metrics.running_state.is_err()).await;
        let told = ended.ok().and_then(|metrics| metrics.running_state.clone().err());
        let fatal = match told {
            Some(fatal) => fatal,
            // It ended without a last word.
            None => self.raft.with_raft_state(|_| ()).await.err().unwrap_or(Fatal::Stopped),
        };
        match fatal {
            Fatal::Stopped => "it was shut down".to_owned(),
            Fatal::Panicked => PANICKED.to_owned(),
            Fatal::StorageError(error) => error.to_string(),
        }
    }

    /// Metrics of the log in Prometheus' text format are the node's to render from these.
    pub fn log_metrics(&self) -> openraft::RaftMetrics<NodeId, Member> {
        self.raft.metrics().borrow().clone()
    }

    /// Leaves the conversation. The store stays open: its owner closes it after this.
    pub async fn shutdown(&self) {
        if let Err(error) = self.raft.shutdown().await {
            tracing::warn!(%error, "raft did not stop cleanly");
        }
        self.server.receiver.close().await;
    }
}
