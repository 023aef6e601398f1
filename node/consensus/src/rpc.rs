//! Answers to peers. The listener has checked the peer secret already.

use muster_core::Entry;
use muster_core::ids::NodeId;
use serde::Serialize;

use crate::clock;
use crate::error::RpcError;
use crate::messages::{self, Proposal, ProposalOutcome, ReadIndex};
use crate::types::Raft;

/// Handles one peer request: the path's last segment and the body, to the answer's body.
pub(crate) async fn handle(
    raft: &Raft,
    node: NodeId,
    method: &str,
    body: &[u8],
) -> Result<Vec<u8>, RpcError> {
    match method {
        "append" => answer(&raft.append_entries(decode(body)?).await),
        "vote" => answer(&raft.vote(decode(body)?).await),
        "snapshot" => answer(&raft.install_snapshot(decode(body)?).await),
        "propose" => answer(&propose(raft, node, decode(body)?).await),
        "read-index" => answer(&read_index(raft).await),
        unknown => Err(RpcError::UnknownPath(unknown.to_owned())),
    }
}

/// Commits a proposal if this node, `node`, leads. The leader's clock gives the entry its time.
pub(crate) async fn propose(raft: &Raft, node: NodeId, proposal: Proposal) -> ProposalOutcome {
    // openraft answers "forward it to the leader" also where it took the entry and a later leader
    // replaced it here, while other replicas may still bring it in. So that answer certifies nothing.
    if raft.metrics().borrow().current_leader != Some(node) {
        return ProposalOutcome::NotLeader;
    }
    let entry = Entry { at: clock::now(), proposal: proposal.id, commands: proposal.commands };
    match raft.client_write(entry).await {
        Ok(_) => ProposalOutcome::Committed,
        Err(error) => {
            tracing::debug!(%error, "a proposal was taken but not seen committed");
            ProposalOutcome::Unknown
        }
    }
}

pub(crate) async fn read_index(raft: &Raft) -> ReadIndex {
    match raft.get_read_log_id().await {
        Ok((at, _)) => ReadIndex::At(at.map_or(0, |id| id.index)),
        Err(error) if error.forward_to_leader().is_some() => ReadIndex::NotLeader,
        Err(_) => ReadIndex::NoQuorum,
    }
}

fn decode<T: serde::de::DeserializeOwned>(body: &[u8]) -> Result<T, RpcError> {
    messages::decode(body).map_err(RpcError::Decode)
}

fn answer<T: Serialize>(message: &T) -> Result<Vec<u8>, RpcError> {
    messages::encode(message).map_err(RpcError::Encode)
}
