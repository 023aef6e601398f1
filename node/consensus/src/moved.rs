//! A node that listens elsewhere than before. No leader can reach it there, so it hears of none, and cannot have
//! its new address committed as it has everything else: it tells the members it knows of, and the one that leads
//! changes Raft's membership.

use std::time::Duration;

use futures_util::future::join_all;
use muster_core::ids::NodeId;
use openraft::ChangeMembers;

use crate::consensus::Consensus;
use crate::rpc::Server;
use crate::types::Member;

/// The request that tells of it. A release that does not know it refuses it.
pub(crate) const MOVED: &str = "moved";
const TELL_EVERY: Duration = Duration::from_millis(500);
/// For a member to answer: a commit.
const TELL_LIMIT: Duration = Duration::from_secs(2);

impl Consensus {
    /// Has the others find this node at its addresses `own` from now on. Returns once that is committed, as far as
    /// it has heard; at once where its addresses are known.
    pub async fn move_to(&self, own: Member) {
        let node = self.node();
        let mut told = false;
        loop {
            let members = self.status().members;
            let known = members.get(&node).map(|known| &known.member);
            if known == Some(&own) {
                if told {
                    tracing::info!(peer = own.peer, "the cluster knows where this node is now");
                }
                return;
            }
            told = true;
            let others = members.iter().filter(|(id, _)| **id != node);
            let others =
                others.map(|(id, status)| self.peers.moved(*id, &status.member.peer, &own, TELL_LIMIT));
            let (at_home, elsewhere) = tokio::join!(self.server.moved(node, own.clone()), join_all(others));
            let done = at_home || elsewhere.into_iter().any(|answer| answer.unwrap_or(false));
            tracing::debug!(done, "told the members where this node is now");
            tokio::time::sleep(TELL_EVERY).await;
        }
    }
}

impl Server {
    /// Has a member be sent to elsewhere, if this node leads; whether that is committed.
    pub(crate) async fn moved(&self, node: NodeId, member: Member) -> bool {
        let known = {
            let metrics = self.raft.metrics();
            let metrics = metrics.borrow();
            let leads = metrics.current_leader == Some(self.identities.own().node);
            let known = metrics.membership_config.membership().get_node(&node).cloned();
            known.filter(|_| leads)
        };
        // Nobody comes in this way.
        let Some(known) = known else { return false };
        if known == member {
            return true;
        }
        tracing::info!(%node, from = known.peer, to = member.peer, "a member has moved");
        let change = ChangeMembers::SetNodes([(node, member)].into());
        match self.raft.change_membership(change, true).await {
            Ok(_) => true,
            Err(error) => {
                tracing::warn!(%node, %error, "the member's new address was not committed; it will ask again");
                false
            }
        }
    }
}
