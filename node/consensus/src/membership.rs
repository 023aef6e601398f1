//! Raft's membership: how its leader sees it, and how it is changed. What to change is decided in
//! `muster_core::membership`.

use std::collections::{BTreeMap, BTreeSet};

use muster_core::ids::NodeId;
use muster_core::membership;
use openraft::ChangeMembers;

use crate::consensus::Consensus;
use crate::rpc::Server;
use crate::types::Member;

/// A follower within this many entries has as good as caught up: they take a fraction of a second.
pub(crate) const LAG_MAX: u64 = 1_000;

/// A change of the membership was not made, or whether it was is not known: another leads, or the last
/// change is not committed yet.
#[derive(Debug, thiserror::Error)]
#[error("the membership was not changed: {0}")]
pub struct ChangeError(String);

impl Server {
    /// The membership as this leader sees it, none if it does not lead. Who has all up to `round` has
    /// caught up.
    pub(crate) fn view(&self, round: u64) -> Option<membership::View> {
        let own = self.identities.own().node;
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow();
        let replication = metrics.replication.as_ref().filter(|_| metrics.current_leader == Some(own))?;
        let config = metrics.membership_config.membership();
        let joint = config.get_joint_config();
        let member = |id: NodeId| {
            let matched = replication.get(&id).copied().flatten().map(|log| log.index);
            membership::Member { caught_up: id == own || matched.is_some_and(|matched| matched >= round) }
        };
        Some(membership::View {
            leader: own,
            voters: joint.last().cloned().unwrap_or_default(),
            joint: joint.len() > 1,
            members: config.nodes().map(|(id, _)| (*id, member(*id))).collect(),
        })
    }

    pub(crate) fn last_index(&self) -> u64 {
        self.raft.metrics().borrow().last_log_index.unwrap_or(0)
    }
}

impl Consensus {
    /// The index of the last entry in this node's log.
    pub fn last_index(&self) -> u64 {
        self.server.last_index()
    }

    /// The membership as this node sees it if it leads, else none. Who has all entries up to `round` has
    /// caught up.
    pub fn membership(&self, round: u64) -> Option<membership::View> {
        self.server.view(round)
    }

    /// Has the log sent to a node.
    ///
    /// # Errors
    /// Where this node does not lead, or another change is not committed yet. The change may yet be made.
    pub async fn add_learner(&self, node: NodeId, member: Member) -> Result<(), ChangeError> {
        self.change(ChangeMembers::AddNodes(BTreeMap::from([(node, member)]))).await
    }

    /// Sets who votes, all of them members; who does not any more goes on learning.
    ///
    /// # Errors
    /// As [`add_learner`](Self::add_learner).
    pub async fn set_voters(&self, voters: BTreeSet<NodeId>) -> Result<(), ChangeError> {
        self.change(ChangeMembers::ReplaceAllVoters(voters)).await
    }

    /// Ends a change of the voters that is half done.
    ///
    /// # Errors
    /// As [`add_learner`](Self::add_learner).
    pub async fn finish_joint(&self) -> Result<(), ChangeError> {
        self.change(ChangeMembers::AddVoterIds(BTreeSet::new())).await
    }

    /// Stops sending the log to a learner.
    ///
    /// # Errors
    /// As [`add_learner`](Self::add_learner).
    pub async fn take_out(&self, node: NodeId) -> Result<(), ChangeError> {
        self.change(ChangeMembers::RemoveNodes(BTreeSet::from([node]))).await
    }

    async fn change(&self, change: ChangeMembers<NodeId, Member>) -> Result<(), ChangeError> {
        let changed = self.raft.change_membership(change, true).await;
        changed.map(drop).map_err(|error| ChangeError(error.to_string()))
    }
}
