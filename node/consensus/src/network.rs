//! Calls to peers: bincode over a [`Transport`].

use std::sync::Arc;
use std::time::Duration;

use muster_core::ids::NodeId;
use muster_core::version::Support;
use muster_storage::Durable;
use openraft::Snapshot;
use openraft::error::{
    Fatal, NetworkError, RPCError, RaftError, RemoteError, ReplicationClosed, StreamingError, Unreachable,
};
use openraft::network::{Backoff, RPCOption, RaftNetwork, RaftNetworkFactory};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::RPC_PREFIX;
use crate::formats;
use crate::handover::{HandOverError, Resignation};
use crate::identities::Identities;
use crate::leases::Holder;
use crate::messages::{self, Proposal, ProposalOutcome, ReadIndex};
use crate::moved::MOVED;
use crate::own_copy::OwnCopy;
use crate::sending;
use crate::snapshots::{SnapshotData, read_error};
use crate::standing::{STANDING, Standing};
use crate::transport::{CallError, Transport};
use crate::types::{Member, TypeConfig, Vote};
use crate::versions::Notice;

/// A peer that cannot be reached is tried again this often.
const UNREACHABLE_BACKOFF: Duration = Duration::from_millis(100);

/// Makes calls to peers. A clone is a handle to the same connections.
#[derive(Clone, Debug)]
pub(crate) struct Peers {
    transport: Arc<dyn Transport>,
    identities: Identities,
}

impl Peers {
    pub(crate) fn new(transport: Arc<dyn Transport>, identities: Identities) -> Self {
        Peers { transport, identities }
    }

    pub(crate) async fn propose(
        &self,
        target: NodeId,
        address: &str,
        proposal: &Proposal,
        limit: Duration,
    ) -> Result<ProposalOutcome, CallError> {
        self.call(target, address, "propose", proposal, limit).await
    }

    pub(crate) async fn read_index(
        &self,
        target: NodeId,
        address: &str,
        limit: Duration,
    ) -> Result<ReadIndex, CallError> {
        self.call(target, address, "read-index", &(), limit).await
    }

    pub(crate) async fn leases(
        &self,
        target: NodeId,
        address: &str,
        limit: Duration,
    ) -> Result<Option<Vec<Holder>>, CallError> {
        self.call(target, address, "leases", &(), limit).await
    }

    /// Whether a node has applied everything up to `index`, within the limit.
    pub(crate) async fn applied(
        &self,
        target: NodeId,
        address: &str,
        index: u64,
        limit: Duration,
    ) -> Result<bool, CallError> {
        self.call(target, address, "applied", &index, limit).await
    }

    /// Brings a leader's resignation to a voter.
    pub(crate) async fn resigned(
        &self,
        target: NodeId,
        address: &str,
        method: &str,
        resignation: &Resignation,
        limit: Duration,
    ) -> Result<bool, CallError> {
        self.call(target, address, method, resignation, limit).await
    }

    /// Asks the leader to give its place away.
    pub(crate) async fn hand_over(
        &self,
        target: NodeId,
        address: &str,
        to: Option<NodeId>,
        limit: Duration,
    ) -> Result<Result<NodeId, HandOverError>, CallError> {
        self.call(target, address, "hand-over", &to, limit).await
    }

    /// Asks a member what it supports, and tells it what is known.
    pub(crate) async fn support(
        &self,
        target: NodeId,
        address: &str,
        notice: &Notice,
        limit: Duration,
    ) -> Result<Support, CallError> {
        self.call(target, address, "support", notice, limit).await
    }

    /// Tells a member where this node is now; whether that is committed.
    pub(crate) async fn moved(
        &self,
        target: NodeId,
        address: &str,
        own: &Member,
        limit: Duration,
    ) -> Result<bool, CallError> {
        self.call(target, address, MOVED, own, limit).await
    }

    /// What this node is to another.
    pub(crate) async fn standing(
        &self,
        target: NodeId,
        address: &str,
        limit: Duration,
    ) -> Result<Standing, CallError> {
        self.call(target, address, STANDING, &(), limit).await
    }

    async fn call<Q: Serialize, A: DeserializeOwned>(
        &self,
        target: NodeId,
        address: &str,
        method: &str,
        request: &Q,
        limit: Duration,
    ) -> Result<A, CallError> {
        let format = formats::of(self.identities.version()).message;
        let message = (self.identities.header(target), request);
        let body = messages::encode(format, &message).map_err(CallError::Codec)?;
        let path = format!("{RPC_PREFIX}{method}");
        let bytes = self.transport.call(target, address, &path, body, limit).await?;
        messages::decode(&bytes).map_err(CallError::Codec)
    }
}

/// Makes the peers that openraft calls.
#[derive(Debug)]
pub(crate) struct Network {
    pub(crate) peers: Peers,
    pub(crate) durable: Durable<TypeConfig>,
    /// A leader whose disk takes nothing for this long falls silent.
    pub(crate) patience: Duration,
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Peer;

    async fn new_client(&mut self, target: NodeId, node: &Member) -> Peer {
        let own_copy = OwnCopy::new(self.durable.clone(), self.patience);
        Peer { target, address: node.peer.clone(), peers: self.peers.clone(), own_copy }
    }
}

/// One peer, as openraft calls it.
#[derive(Debug)]
pub(crate) struct Peer {
    target: NodeId,
    address: String,
    peers: Peers,
    own_copy: OwnCopy,
}

pub(crate) type RaftRpcError<E = openraft::error::Infallible> =
    RPCError<NodeId, Member, RaftError<NodeId, E>>;

impl Peer {
    pub(crate) fn target(&self) -> NodeId {
        self.target
    }

    pub(crate) async fn call<Q: Serialize, A: DeserializeOwned>(
        &self,
        method: &str,
        request: &Q,
        option: &RPCOption,
    ) -> Result<A, CallError> {
        self.peers.call(self.target, &self.address, method, request, option.hard_ttl()).await
    }

    pub(crate) fn failed<E: std::error::Error>(error: CallError) -> RaftRpcError<E> {
        match error {
            error @ CallError::Unreachable(_) => RPCError::Unreachable(Unreachable::new(&error)),
            error => RPCError::Network(NetworkError::new(&error)),
        }
    }

    pub(crate) async fn raft_call<Q, A, E>(
        &self,
        method: &str,
        request: &Q,
        option: &RPCOption,
    ) -> Result<A, RaftRpcError<E>>
    where
        Q: Serialize,
        A: DeserializeOwned,
        E: std::error::Error + DeserializeOwned,
    {
        match self.call::<Q, Result<A, RaftError<NodeId, E>>>(method, request, option).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(remote)) => Err(RPCError::RemoteError(RemoteError::new(self.target, remote))),
            Err(error) => Err(Peer::failed(error)),
        }
    }
}

impl RaftNetwork<TypeConfig> for Peer {
    async fn append_entries(
        &mut self,
        mut rpc: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<NodeId>, RaftRpcError> {
        let committed = self.own_copy.committed(rpc.leader_commit, option.hard_ttl() / 2).await;
        rpc.leader_commit = committed.map_err(|silence| RPCError::Network(NetworkError::new(&silence)))?;
        self.raft_call("append", &rpc, &option).await
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<NodeId>,
        option: RPCOption,
    ) -> Result<VoteResponse<NodeId>, RaftRpcError> {
        self.raft_call("vote", &rpc, &option).await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot<TypeConfig>,
        cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<NodeId>, StreamingError<TypeConfig, Fatal<NodeId>>> {
        let Snapshot { meta, snapshot } = snapshot;
        let reader = match *snapshot {
            SnapshotData::Stored(reader) => reader,
            SnapshotData::Arrived(..) => {
                let error = std::io::Error::other("a snapshot that is not installed cannot be sent");
                return Err(read_error(Some(&meta), &error).into());
            }
        };
        tokio::select! {
            biased;
            closed = cancel => Err(closed.into()),
            sent = sending::send(self, vote, meta, reader, option) => sent,
        }
    }

    fn backoff(&self) -> Backoff {
        Backoff::new(std::iter::repeat(UNREACHABLE_BACKOFF))
    }
}
