//! A node that is to go takes its leave: it lets its instances be moved, finishes its requests, brings its
//! usage to the ledger, says that it serves nobody any more, and waits until it is told that it is out. One that
//! was put out without all that, as dead, leaves no instances on its host either: nobody knows of them any more.

use std::time::Duration;

use anyhow::Context;
use futures_util::future::join_all;
use muster_consensus::Consensus;
use muster_core::ids::{ClusterId, Incarnation, NodeId};
use muster_core::members::Command as Members;
use muster_core::units::Millis;
use muster_core::{Command, mutant};
use muster_engine::{Engine, EngineError};
use tokio::time::timeout;

use crate::agent::Engines;
use crate::meter::Meter;
use crate::parts;

/// The pause before something that needs a quorum is tried again.
const RETRY_PAUSE: Duration = Duration::from_millis(100);
/// How long usage may take to reach the ledger before it is looked at again.
const SETTLE_LIMIT: Duration = Duration::from_secs(2);
/// Instances that nobody knows of any more serve nobody.
const GRACE: Millis = Millis(1_000);
/// How long the end of a removed node's instances may take: nobody waits for it, and an engine may be busy.
const CLEAR_LIMIT: Duration = Duration::from_secs(60);
/// For what else is to end, requests of peers above all.
const SLACK: Duration = Duration::from_secs(7);
/// How long a node that stops may take to remove what it has prepared. The next start removes the rest.
const RETIRE_LIMIT: Duration = Duration::from_secs(3);

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

/// As long as a node that stops may take for its last tasks.
pub(crate) fn stop_limit(is_removed: bool) -> Duration {
    let clearing = if is_removed { CLEAR_LIMIT } else { RETIRE_LIMIT };
    clearing + SLACK
}

/// Ends all instances of a node that was removed, and removes what was prepared for others.
pub(crate) async fn clear(engines: &Engines) {
    in_time(async {
        clear_engines(engines).await;
        Ok(())
    })
    .await;
}

/// As [`clear`], for a node that has not come to host anything since it started.
pub(crate) async fn clear_unhosted(engines: &dyn parts::Engines, cluster: ClusterId) {
    in_time(async {
        clear_engines(&engines.connect(cluster).await?).await;
        Ok(())
    })
    .await;
}

async fn in_time(clearing: impl Future<Output = anyhow::Result<()>>) {
    if mutant!("removed-leaves-instances") {
        return;
    }
    let cleared = timeout(CLEAR_LIMIT, clearing).await;
    if let Err(error) = cleared.context("it was not removed in time").flatten() {
        tracing::warn!("something may be left of this node's instances: {error:#}");
    }
}

async fn clear_engines(engines: &Engines) {
    join_all(engines.values().map(|engine| clear_engine(engine.as_ref()))).await;
}

async fn clear_engine(engine: &dyn Engine) {
    loop {
        match clear_listed(engine).await {
            Ok(0) => return,
            Ok(instances) => tracing::info!(kind = %engine.kind(), instances, "ended what ran on this host"),
            Err(error) => {
                tracing::warn!(kind = %engine.kind(), "some instances have not ended: {}", error.reason());
            }
        }
        // What was being launched may show only now.
        tokio::time::sleep(RETRY_PAUSE).await;
    }
}

/// How many there were.
async fn clear_listed(engine: &dyn Engine) -> Result<usize, EngineError> {
    let running = engine.list().await?;
    let stopped = join_all(running.iter().map(|running| engine.stop(running.instance, GRACE))).await;
    stopped.into_iter().collect::<Result<Vec<()>, _>>()?;
    engine.clear().await?;
    Ok(running.len())
}

/// Lets go of what was prepared for instances that will not come in this life of the node.
pub(crate) async fn retire(engines: &Engines) {
    let retired = join_all(engines.values().map(|engine| engine.retire()));
    if timeout(RETIRE_LIMIT, retired).await.is_err() {
        tracing::warn!("what was prepared for instances was not removed in time");
    }
}
