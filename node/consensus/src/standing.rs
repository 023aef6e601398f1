//! A node that was removed while it could not be told finds nobody who speaks with it. It asks what it is
//! to the others, and ends.

use std::time::Duration;

use muster_core::ClusterState;
use muster_core::ids::NodeId;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::reads::Reads;
use crate::rpc::Server;
use crate::vital::Vital;

/// The one request that is answered to a node that was removed.
pub(crate) const STANDING: &str = "standing";
/// A node that has heard of no quorum for this long asks.
const LONELY_AFTER: Duration = Duration::from_millis(1_000);
/// It asks this often, all members it knows of.
const ASK_EVERY: Duration = Duration::from_millis(500);
const ASK_LIMIT: Duration = Duration::from_millis(500);

/// What a node is to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Standing {
    /// As far as that one knows, it may take part.
    Admitted,
    /// It was removed for ever.
    Removed,
}

pub(crate) fn of(state: &ClusterState, node: NodeId) -> Standing {
    match state.members.is_removed(node) {
        true => Standing::Removed,
        false => Standing::Admitted,
    }
}

/// Carries whether this node was removed, by what it has applied or by what another says.
pub(crate) fn watch(server: Server, reads: Reads, vital: &Vital) -> watch::Receiver<bool> {
    let removed = watch::Sender::new(false);
    let told = removed.subscribe();
    vital.spawn(async move {
        let mut applied = server.applied.clone();
        loop {
            let own = server.identities.own().node;
            let known = match tokio::time::timeout(ASK_EVERY, applied.changed()).await {
                Ok(Ok(())) => server.published.load().state.members.is_removed(own),
                Ok(Err(_closed)) => return,
                Err(_elapsed) => {
                    let lonely = reads.quorum_age().is_none_or(|age| age > LONELY_AFTER);
                    lonely && asked(&server).await
                }
            };
            if known {
                removed.send_replace(true);
                return;
            }
        }
    });
    told
}

/// Whether any member says that this node was removed.
async fn asked(server: &Server) -> bool {
    let own = server.identities.own().node;
    let members: Vec<(NodeId, String)> = {
        let metrics = server.raft.metrics();
        let metrics = metrics.borrow();
        let members = metrics.membership_config.membership().nodes();
        members.filter(|(id, _)| **id != own).map(|(id, member)| (*id, member.peer.clone())).collect()
    };
    let asked = members.iter().map(|(id, peer)| server.peers.standing(*id, peer, ASK_LIMIT));
    let said = futures_util::future::join_all(asked).await;
    said.into_iter().any(|standing| matches!(standing, Ok(Standing::Removed)))
}
