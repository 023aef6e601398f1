//! Answers to peers. The listener has checked the peer secret already.

use muster_core::Entry;
use muster_core::ids::NodeId;
use serde::Serialize;

use crate::clock;
use crate::error::RpcError;
use crate::messages::{self, Proposal, ProposalOutcome, ReadIndex};
use crate::types::{LogId, Raft, Vote};

/// The term that this process resumed as its leader, and the last entry it then had.
///
/// openraft lets a leader that restarts go on in its term at once, with the committed index it has on
/// disk, which may be older than what it acknowledged; and from that it derives the index for reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Resumed {
    term: u64,
    last: u64,
}

impl Resumed {
    pub(crate) fn new(node: NodeId, vote: Option<Vote>, last: Option<LogId>) -> Option<Self> {
        let vote = vote.filter(|vote| vote.committed && vote.leader_id.node_id == node)?;
        Some(Resumed { term: vote.leader_id.term, last: last?.index })
    }

    /// What a read must wait for in `term`. A metric's term, which may lag: the last entry was this
    /// leader's own, so waiting for it without need is only slow.
    fn read_index(self, term: u64, index: u64) -> u64 {
        if term <= self.term { index.max(self.last) } else { index }
    }
}

/// Handles one peer request: the path's last segment and the body, to the answer's body.
pub(crate) async fn handle(
    raft: &Raft,
    node: NodeId,
    resumed: Option<Resumed>,
    method: &str,
    body: &[u8],
) -> Result<Vec<u8>, RpcError> {
    match method {
        "append" => answer(&raft.append_entries(decode(node, body)?).await),
        "vote" => answer(&raft.vote(decode(node, body)?).await),
        "snapshot" => answer(&raft.install_snapshot(decode(node, body)?).await),
        "propose" => answer(&propose(raft, node, decode(node, body)?).await),
        "read-index" => {
            let () = decode(node, body)?;
            answer(&read_index(raft, resumed).await)
        }
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

pub(crate) async fn read_index(raft: &Raft, resumed: Option<Resumed>) -> ReadIndex {
    match raft.get_read_log_id().await {
        Ok((at, _)) => {
            let index = at.map_or(0, |id| id.index);
            let term = raft.metrics().borrow().current_term;
            ReadIndex::At(resumed.map_or(index, |resumed| resumed.read_index(term, index)))
        }
        Err(error) if error.forward_to_leader().is_some() => ReadIndex::NotLeader,
        Err(_) => ReadIndex::NoQuorum,
    }
}

/// Each message names the node it is for. Addresses change hands, and what one node acknowledges must
/// not count for another: a quorum could then be less than one.
fn decode<T: serde::de::DeserializeOwned>(node: NodeId, body: &[u8]) -> Result<T, RpcError> {
    let (target, message): (NodeId, T) = messages::decode(body).map_err(RpcError::Decode)?;
    if target == node { Ok(message) } else { Err(RpcError::Misdirected(node)) }
}

fn answer<T: Serialize>(message: &T) -> Result<Vec<u8>, RpcError> {
    messages::encode(message).map_err(RpcError::Encode)
}

#[cfg(test)]
mod tests {
    use openraft::CommittedLeaderId;

    use super::*;

    #[test]
    fn what_is_meant_for_another_node_is_refused() {
        let body = messages::encode(&(NodeId(2), 7_u64)).expect("encodable");
        assert_eq!(decode::<u64>(NodeId(2), &body).expect("for this one"), 7);
        assert!(matches!(decode::<u64>(NodeId(1), &body), Err(RpcError::Misdirected(NodeId(1)))));
    }

    #[test]
    fn a_leader_that_restarts_reads_no_further_back_than_its_log() {
        let last = Some(LogId::new(CommittedLeaderId::new(3, NodeId(1)), 100));
        let resumed = |vote| Resumed::new(NodeId(1), vote, last);
        assert_eq!(resumed(None), None);
        assert_eq!(resumed(Some(Vote::new(3, NodeId(1)))), None, "it stood for election");
        assert_eq!(resumed(Some(Vote::new_committed(3, NodeId(2)))), None, "it followed");
        let resumed = resumed(Some(Vote::new_committed(3, NodeId(1)))).expect("it led");
        for (term, index, expected) in [(3, 90, 100), (3, 110, 110), (0, 90, 100), (4, 90, 90)] {
            assert_eq!(resumed.read_index(term, index), expected, "{index} in term {term}");
        }
    }
}
