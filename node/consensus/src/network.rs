//! Calls to peers: bincode over HTTP, with the cluster's peer secret.

use std::time::Duration;

use muster_core::ids::NodeId;
use openraft::error::{InstallSnapshotError, NetworkError, RPCError, RaftError, RemoteError, Unreachable};
use openraft::network::{Backoff, RPCOption, RaftNetwork, RaftNetworkFactory};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest, InstallSnapshotResponse,
    VoteRequest, VoteResponse,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::RPC_PREFIX;
use crate::messages::{self, Proposal, ProposalOutcome, ReadIndex};
use crate::types::{Member, TypeConfig};

/// A peer that cannot be reached is tried again this often.
const UNREACHABLE_BACKOFF: Duration = Duration::from_millis(100);
const CONNECT_TIMEOUT: Duration = Duration::from_millis(500);

/// Why a call to a peer brought no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    /// The connection was not made: the peer saw nothing.
    #[error("cannot connect to the peer")]
    Unreachable(#[source] reqwest::Error),
    #[error("the peer did not answer")]
    Broken(#[source] reqwest::Error),
    #[error("the peer refused the call with status {0}")]
    Refused(reqwest::StatusCode),
    #[error("cannot encode or decode a peer message")]
    Codec(#[source] muster_storage::codec::CodecError),
}

/// Makes calls to peers. A clone is a handle to the same connections.
#[derive(Clone, Debug)]
pub(crate) struct Peers {
    http: reqwest::Client,
    secret: Secret,
}

/// Kept out of logs.
#[derive(Clone)]
struct Secret(String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl Peers {
    pub(crate) fn new(secret: String) -> Result<Self, reqwest::Error> {
        let http = reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true)
            .pool_idle_timeout(Duration::from_secs(60))
            .no_proxy()
            .build()?;
        Ok(Peers { http, secret: Secret(secret) })
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

    async fn call<Q: Serialize, A: DeserializeOwned>(
        &self,
        target: NodeId,
        address: &str,
        method: &str,
        request: &Q,
        limit: Duration,
    ) -> Result<A, CallError> {
        let body = messages::encode(&(target, request)).map_err(CallError::Codec)?;
        let sent = self.http.post(format!("http://{address}{RPC_PREFIX}{method}"));
        let sent = sent.bearer_auth(&self.secret.0).timeout(limit).body(body).send().await;
        let answer = sent.map_err(|e| match e.is_connect() {
            true => CallError::Unreachable(e),
            false => CallError::Broken(e),
        })?;
        if !answer.status().is_success() {
            return Err(CallError::Refused(answer.status()));
        }
        let bytes = answer.bytes().await.map_err(CallError::Broken)?;
        messages::decode(&bytes).map_err(CallError::Codec)
    }
}

impl RaftNetworkFactory<TypeConfig> for Peers {
    type Network = Peer;

    async fn new_client(&mut self, target: NodeId, node: &Member) -> Peer {
        Peer { target, address: node.peer.clone(), peers: self.clone() }
    }
}

/// One peer, as openraft calls it.
#[derive(Debug)]
pub(crate) struct Peer {
    target: NodeId,
    address: String,
    peers: Peers,
}

type RaftRpcError<E = openraft::error::Infallible> = RPCError<NodeId, Member, RaftError<NodeId, E>>;

impl Peer {
    async fn raft_call<Q, A, E>(
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
        let answer: Result<Result<A, RaftError<NodeId, E>>, CallError> =
            self.peers.call(self.target, &self.address, method, request, option.hard_ttl()).await;
        match answer {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(remote)) => Err(RPCError::RemoteError(RemoteError::new(self.target, remote))),
            Err(error @ CallError::Unreachable(_)) => Err(RPCError::Unreachable(Unreachable::new(&error))),
            Err(error) => Err(RPCError::Network(NetworkError::new(&error))),
        }
    }
}

impl RaftNetwork<TypeConfig> for Peer {
    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<NodeId>, RaftRpcError> {
        self.raft_call("append", &rpc, &option).await
    }

    async fn install_snapshot(
        &mut self,
        rpc: InstallSnapshotRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<InstallSnapshotResponse<NodeId>, RaftRpcError<InstallSnapshotError>> {
        self.raft_call("snapshot", &rpc, &option).await
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<NodeId>,
        option: RPCOption,
    ) -> Result<VoteResponse<NodeId>, RaftRpcError> {
        self.raft_call("vote", &rpc, &option).await
    }

    fn backoff(&self) -> Backoff {
        Backoff::new(std::iter::repeat(UNREACHABLE_BACKOFF))
    }
}
