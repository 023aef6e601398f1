//! Answers to peers. The listener has made certain who calls; here it must be who the message says.

use std::collections::BTreeSet;
use std::sync::Arc;

use arc_swap::ArcSwap;
use muster_core::ids::NodeId;
use muster_core::{Entry, mutant};
use muster_storage::{Arrivals, Durable};
use openraft::Snapshot;
use openraft::error::{Fatal, RaftError};
use openraft::raft::{AppendEntriesRequest, InstallSnapshotResponse, VoteRequest};
use serde::Serialize;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::clock::ClusterClock;
use crate::error::RpcError;
use crate::handover::{Resignation, Yielding};
use crate::identities::{Header, Identities};
use crate::leases::{Grants, Holder};
use crate::machine::Published;
use crate::messages::{self, Part, Proposal, ProposalOutcome, ReadIndex};
use crate::moved::MOVED;
use crate::network::Peers;
use crate::receiving::{Offer, Receiver, Refusal};
use crate::snapshots::SnapshotData;
use crate::standing::{self, STANDING};
use crate::types::{Member, Raft, TypeConfig, Vote};
use crate::versions::{Notice, Versions};

/// What answering takes. A clone is a handle to the same.
#[derive(Clone)]
pub(crate) struct Server {
    pub(crate) raft: Raft,
    pub(crate) arrivals: Arrivals,
    pub(crate) receiver: Receiver,
    pub(crate) identities: Identities,
    pub(crate) durable: Durable<TypeConfig>,
    pub(crate) grants: Grants,
    pub(crate) clock: ClusterClock,
    pub(crate) applied: watch::Receiver<u64>,
    pub(crate) published: Arc<ArcSwap<Published>>,
    pub(crate) peers: Peers,
    pub(crate) yielding: Yielding,
    pub(crate) versions: Versions,
}

/// Handles one request of the peer `caller`: the path's last segment and the body, to the answer's body.
pub(crate) async fn handle(
    server: &Server,
    caller: NodeId,
    method: &str,
    body: &[u8],
) -> Result<Vec<u8>, RpcError> {
    let Server { raft, identities, clock, .. } = server;
    let format = messages::format_of(body);
    match method {
        "append" => {
            let request: AppendEntriesRequest<TypeConfig> = decode(identities, caller, body)?;
            matches(caller, request.vote.leader_id.node_id)?;
            let appended = raft.append_entries(request).await;
            // The log runs ahead of the disk, and the leader counts what this says.
            if !mutant!("appends-answered-before-sync") {
                server.durable.all().await.map_err(RpcError::Log)?;
            }
            answer(format, &appended)
        }
        "vote" => {
            let request: VoteRequest<NodeId> = decode(identities, caller, body)?;
            matches(caller, request.vote.leader_id.node_id)?;
            answer(format, &raft.vote(request).await)
        }
        "snapshot-held" => {
            let offer: Offer = decode(identities, caller, body)?;
            matches(caller, offer.vote.leader_id.node_id)?;
            answer(format, &server.held(offer).await)
        }
        "snapshot" => {
            let part: Part = decode(identities, caller, body)?;
            matches(caller, part.vote.leader_id.node_id)?;
            answer(format, &install(server, part).await)
        }
        "propose" => {
            let proposal: Proposal = decode(identities, caller, body)?;
            matches(caller, proposal.id.node)?;
            if server.yielding.is_set() {
                return answer(format, &ProposalOutcome::NotLeader);
            }
            answer(format, &propose(raft, identities.own().node, clock, proposal).await)
        }
        "read-index" => {
            let () = decode(identities, caller, body)?;
            answer(format, &server.read_index(caller).await)
        }
        "leases" => {
            let () = decode(identities, caller, body)?;
            answer(format, &server.holders().await)
        }
        "applied" => answer(format, &server.has_applied(decode(identities, caller, body)?).await),
        MOVED => {
            let member: Member = decode(identities, caller, body)?;
            answer(format, &server.moved(caller, member).await)
        }
        "hand-over" => answer(format, &server.hand_over(decode(identities, caller, body)?).await),
        "stand-aside" | "campaign" => {
            let resignation: Resignation = decode(identities, caller, body)?;
            answer(format, &server.obey(caller, resignation, method == "campaign").await)
        }
        "support" => {
            let notice: Notice = decode(identities, caller, body)?;
            answer(format, &server.versions.answer(notice))
        }
        STANDING => {
            // Also for those who are not heard otherwise.
            let (_, ()): (Header, ()) = messages::decode(body).map_err(RpcError::Decode)?;
            answer(format, &standing::of(&server.published.load().state, caller))
        }
        unknown => Err(RpcError::UnknownPath(unknown.to_owned())),
    }
}

type SnapshotAnswer = Result<InstallSnapshotResponse<NodeId>, Refusal>;

/// Takes a part of a snapshot. In a task of its own, since who asked may hang up, and the store must
/// learn how it ended.
async fn install(server: &Server, part: Part) -> SnapshotAnswer {
    let server = server.clone();
    let installing = tokio::spawn(async move { server.install(part).await });
    installing.await.expect("openraft does not panic as it is asked")
}

/// Commits a proposal if this node, `node`, leads. The leader's clock gives the entry its time.
pub(crate) async fn propose(
    raft: &Raft,
    node: NodeId,
    clock: &ClusterClock,
    proposal: Proposal,
) -> ProposalOutcome {
    // openraft answers "forward it to the leader" also where it took the entry and a later leader
    // replaced it here, while other replicas may still bring it in. So that answer certifies nothing.
    if raft.metrics().borrow().current_leader != Some(node) {
        return ProposalOutcome::NotLeader;
    }
    let entry = Entry { at: clock.now(), proposal: proposal.id, commands: proposal.commands };
    match raft.client_write(entry).await {
        Ok(_) => ProposalOutcome::Committed,
        Err(error) => {
            if mutant!("panic-on-lost-leadership") {
                panic!("a leader commits what it takes: {error}");
            }
            tracing::debug!(%error, "a proposal was taken but not seen committed");
            ProposalOutcome::Unknown
        }
    }
}

impl Server {
    async fn install(&self, part: Part) -> SnapshotAnswer {
        let Part { vote, meta, offset, data, done } = part;
        let own = self.vote().await.map_err(RaftError::Fatal)?;
        // Who sends it leads no more.
        if vote.partial_cmp(&own).is_none_or(std::cmp::Ordering::is_lt) {
            return Ok(InstallSnapshotResponse { vote: own });
        }
        let Some((draft, decoding)) = self.receiver.take(&meta, offset, &data, done).await? else {
            return Ok(InstallSnapshotResponse { vote: own });
        };
        // openraft purges the log as it hands the snapshot on, which must wait for the snapshot.
        let index = meta.last_log_id.map(|last| last.index);
        index.inspect(|index| self.arrivals.arrived(*index));
        let arrived = SnapshotData::Arrived(Box::new(draft), decoding);
        let snapshot = Snapshot { meta, snapshot: Box::new(arrived) };
        let answer = self.raft.install_full_snapshot(vote, snapshot).await;
        index.inspect(|index| self.arrivals.declined(*index));
        let vote = answer.map_err(RaftError::Fatal)?.vote;
        Ok(InstallSnapshotResponse { vote })
    }

    /// How much is here of a snapshot that a leader offers.
    async fn held(&self, offer: Offer) -> Result<u64, RaftError<NodeId>> {
        let Offer { vote, transfer } = offer;
        let own = self.vote().await.map_err(RaftError::Fatal)?;
        if vote.partial_cmp(&own).is_none_or(std::cmp::Ordering::is_lt) {
            // It will hear of the higher vote with the first part.
            return Ok(0);
        }
        self.receiver.held(transfer).await.map_err(RaftError::Fatal)
    }

    async fn vote(&self) -> Result<Vote, Fatal<NodeId>> {
        self.raft.with_raft_state(|state| *state.vote_ref()).await
    }

    /// The index for a read of `reader`, and with it a permission lease from when the reader asked.
    pub(crate) async fn read_index(&self, reader: NodeId) -> ReadIndex {
        // Before it asks: a higher term that is heard of meanwhile is not the one that the quorum confirms.
        let term = self.raft.metrics().borrow().current_term;
        match self.raft.get_read_log_id().await {
            Ok((at, _)) => {
                let index = at.map_or(0, |id| id.index);
                if !self.may_lease(reader) {
                    return ReadIndex::Unleased(index);
                }
                self.grants.note(term, reader, Instant::now());
                ReadIndex::At(index)
            }
            Err(error) if error.forward_to_leader().is_some() => ReadIndex::NotLeader,
            Err(_) => ReadIndex::NoQuorum,
        }
    }

    /// Whether a node may be promised a lease: a later leader must know of it. It knows of every member
    /// whose entry is committed, and takes it for a holder.
    fn may_lease(&self, reader: NodeId) -> bool {
        let published = self.published.load();
        published.members.contains(&reader) && published.state.members.may_serve(reader)
    }

    /// Who may hold a lease, if this node leads and a quorum says so.
    pub(crate) async fn holders(&self) -> Option<Vec<Holder>> {
        self.raft.get_read_log_id().await.ok()?;
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow();
        let published = self.published.load();
        let mut members: BTreeSet<NodeId> = published.members.iter().copied().collect();
        members.extend(metrics.membership_config.membership().nodes().map(|(id, _)| *id));
        members.retain(|node| !published.state.members.holds_no_lease(*node));
        Some(self.grants.holders(metrics.current_term, members.into_iter(), Instant::now()))
    }

    /// Returns once everything up to `index` is applied here. Who asks puts an end to the waiting.
    async fn has_applied(&self, index: u64) -> bool {
        let limit = self.grants.lease();
        let applied = &mut self.applied.clone();
        matches!(tokio::time::timeout(limit, applied.wait_for(|applied| *applied >= index)).await, Ok(Ok(_)))
    }
}

/// What a request of `caller` says, once it is certain that it sent it as itself and to this node.
fn decode<T: serde::de::DeserializeOwned>(
    identities: &Identities,
    caller: NodeId,
    body: &[u8],
) -> Result<T, RpcError> {
    let (header, message): (Header, T) = messages::decode(body).map_err(RpcError::Decode)?;
    matches(caller, header.sender.node)?;
    identities.check(&header)?;
    Ok(message)
}

/// A node votes, leads and proposes as itself alone.
fn matches(caller: NodeId, claimed: NodeId) -> Result<(), RpcError> {
    if caller == claimed { Ok(()) } else { Err(RpcError::Mismatch { caller, claimed }) }
}

/// Answers in the format of the request, which its sender knows for certain.
fn answer<T: Serialize>(format: u8, message: &T) -> Result<Vec<u8>, RpcError> {
    messages::encode(format, message).map_err(RpcError::Encode)
}
