//! A node that is to go takes its leave: it lets its instances be moved, finishes its requests, brings its
//! usage to the ledger, says that it serves nobody any more, and waits until it is told that it is out.

use std::time::Duration;

use muster_consensus::Consensus;
use muster_core::Command;
use muster_core::ids::{Incarnation, NodeId};
use muster_core::members::Command as Members;

use crate::meter::Meter;

/// The pause before something that needs a quorum is tried again.
const RETRY_PAUSE: Duration = Duration::from_millis(100);
/// How long usage may take to reach the ledger before it is looked at again.
const SETTLE_LIMIT: Duration = Duration::from_secs(2);

/// Resolves once the node is to go and has no instances any more. Never for one that goes as it is.
pub(crate) async fn drained(consensus: &Consensus) {
    let node = consensus.node();
    let mut changes = consensus.changes();
    loop {
        let drained = consensus.with_state(|state| {
            let wanted = state.members.removal(node).is_some_and(|removal| !removal.force);
            wanted && state.instances.on_node(node).next().is_none()
        });
        if drained {
            return;
        }
        if changes.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}

/// Says that this node serves nobody any more. Its requests have ended.
pub(crate) async fn leave(consensus: &Consensus, incarnation: Incarnation, meter: &Meter) {
    let node: NodeId = consensus.node();
    while !meter.settle(SETTLE_LIMIT).await {
        tracing::info!("waiting for a quorum to take the last usage");
    }
    loop {
        match consensus.propose(Command::Members(Members::Leave { node, incarnation })).await {
            Ok(Ok(_)) => return tracing::info!("this node serves nobody any more and waits to be let go"),
            Ok(Err(rejection)) => tracing::warn!(%rejection, "this node may not leave"),
            Err(error) => tracing::info!(%error, "waiting for a quorum to leave"),
        }
        tokio::time::sleep(RETRY_PAUSE).await;
    }
}
