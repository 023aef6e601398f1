//! The handle the rest of the node holds.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use muster_core::ids::{Incarnation, NodeId};
use muster_core::{Answer, ClusterState, Command};
use muster_storage::Store;
use openraft::error::{InitializeError, RaftError};
use openraft::storage::RaftLogStorage;
use tokio::sync::watch;

use crate::config::Config;
use crate::error::{ProposeError, ReadError, RpcError, StartError};
use crate::machine::{Machine, Published};
use crate::network::Peers;
use crate::proposer::{Proposer, Worker};
use crate::reads::Reads;
use crate::rpc::{self, Resumed};
use crate::types::{Member, Raft, TypeConfig};

/// One node's part in the replicated log. A clone is a handle to the same.
#[derive(Clone)]
pub struct Consensus {
    node: NodeId,
    raft: Raft,
    resumed: Option<Resumed>,
    published: Arc<ArcSwap<Published>>,
    changes: watch::Receiver<u64>,
    proposer: Proposer,
    reads: Reads,
    quorum_fresh: Duration,
}

impl std::fmt::Debug for Consensus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Consensus").field("node", &self.node).finish_non_exhaustive()
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
        node: NodeId,
        incarnation: Incarnation,
        config: &Config,
        store: &Store,
        peer_secret: String,
    ) -> Result<Self, StartError> {
        let peers = Peers::new(peer_secret).map_err(StartError::Http)?;
        let machine =
            Machine::open(node, incarnation, store.snapshots()).await.map_err(StartError::Storage)?;
        let (published, changes, pending) = (machine.published(), machine.changes(), machine.pending());
        let raft_config = config.for_openraft().map_err(StartError::Config)?;
        let mut log = store.log::<TypeConfig>().map_err(StartError::Log)?;
        let vote = log.read_vote().await.map_err(StartError::Storage)?;
        let last = log.get_log_state().await.map_err(StartError::Storage)?.last_log_id;
        let resumed = Resumed::new(node, vote, last);
        let raft = Raft::new(node, raft_config, peers.clone(), log, machine)
            .await
            .map_err(|fatal| StartError::Raft(Box::new(fatal)))?;
        let proposer = Proposer::spawn(Worker {
            node,
            incarnation,
            raft: raft.clone(),
            peers: peers.clone(),
            pending,
            timeout: Duration::from_millis(config.propose_timeout_ms),
        });
        let read_timeout = Duration::from_millis(config.read_timeout_ms);
        let reads = Reads::spawn(node, raft.clone(), resumed, peers, changes.clone(), read_timeout);
        let quorum_fresh = Duration::from_millis(config.quorum_fresh_ms);
        Ok(Consensus { node, raft, resumed, published, changes, proposer, reads, quorum_fresh })
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
        self.node
    }

    /// Has a command replicated; the answer comes after it is applied here.
    pub async fn propose(&self, command: Command) -> Result<Answer, ProposeError> {
        let mut answers = self.propose_all(vec![command]).await?;
        Ok(answers.pop().expect("one answer for one command"))
    }

    /// Has commands replicated in their order; the answers come after all are applied here. They may
    /// take several entries. On an error the first of them may be applied; none is unless all before
    /// it were.
    pub async fn propose_all(&self, commands: Vec<Command>) -> Result<Vec<Answer>, ProposeError> {
        let receivers = self.proposer.submit(commands)?;
        let mut answers = Vec::with_capacity(receivers.len());
        for receiver in receivers {
            answers.push(receiver.await.map_err(|_| ProposeError::Stopping)??);
        }
        Ok(answers)
    }

    /// Queues a command whose answer nobody waits for. It keeps its place before later ones.
    pub fn propose_detached(&self, command: Command) -> Result<(), ProposeError> {
        self.proposer.submit(vec![command]).map(drop)
    }

    /// Returns once this node has applied everything acknowledged before the call, anywhere.
    pub async fn linearize(&self) -> Result<(), ReadError> {
        self.reads.linearize().await
    }

    /// The newest applied state. Never waits, takes no lock.
    pub fn state(&self) -> Arc<Published> {
        self.published.load_full()
    }

    /// Reads the newest applied state without counting a reference to it.
    pub fn with_state<R>(&self, read: impl FnOnce(&ClusterState) -> R) -> R {
        read(&self.published.load().state)
    }

    /// Carries the last applied index; changes after each apply.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.clone()
    }

    /// Whether all that was acknowledged until a moment ago is applied here, on a quorum's word.
    pub fn has_quorum(&self) -> bool {
        self.reads.quorum_age().is_some_and(|age| age <= self.quorum_fresh)
    }

    /// Whether this node believes it leads. A hint: only committed commands act.
    pub fn is_leader(&self) -> bool {
        self.raft.metrics().borrow().current_leader == Some(self.node)
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
            _ if id == self.node => metrics.last_applied.map(|log| log.index),
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

    /// Answers a peer's request under [`crate::RPC_PREFIX`]; `method` is what follows it.
    pub async fn handle_rpc(&self, method: &str, body: &[u8]) -> Result<Vec<u8>, RpcError> {
        rpc::handle(&self.raft, self.node, self.resumed, method, body).await
    }

    /// Resolves, with the reason, when this node can no longer take part: its log failed, or it was
    /// shut down.
    pub async fn stopped(&self) -> String {
        let mut metrics = self.raft.metrics();
        match metrics.wait_for(|metrics| metrics.running_state.is_err()).await {
            Ok(metrics) => match &metrics.running_state {
                Err(fatal) => fatal.to_string(),
                Ok(()) => unreachable!("it was waited for"),
            },
            Err(_closed) => "it was shut down".to_owned(),
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
    }
}
