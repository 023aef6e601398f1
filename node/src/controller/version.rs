//! The leader asks every member what it supports, and raises the cluster version once all support the next one. When
//! to is `muster_core::version`'s to say.

use std::time::Duration;

use muster_consensus::Consensus;
use muster_core::Command;
use muster_core::version::{self, Step};

/// How often the members are asked. Also how long a node that is too old may go on unaware at most.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Looks and raises without end.
pub(super) async fn run(consensus: &Consensus) {
    let mut said_last = None;
    loop {
        let raised = look(consensus, &mut said_last).await;
        if !raised {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

/// Answers whether the version was raised: there may be another step.
async fn look(consensus: &Consensus, said_last: &mut Option<Step>) -> bool {
    // Only a leader that a quorum follows decides, and by all that was committed before it led.
    if consensus.linearize().await.is_err() {
        return false;
    }
    let in_effect = consensus.version();
    let step = version::next(in_effect, &consensus.ask_members().await);
    let to = match &step {
        Step::Raise { to } => Some(*to),
        Step::Held { to, by } if said_last.as_ref() != Some(&step) => {
            let by: Vec<String> = by.iter().map(|(node, why)| format!("node {node} {why}")).collect();
            tracing::info!(%in_effect, %to, held_back_by = by.join(", "), "the cluster version is not raised yet");
            None
        }
        Step::Held { .. } | Step::Newest => None,
    };
    *said_last = Some(step);
    let Some(to) = to else { return false };
    match consensus.propose(Command::Version(version::Command::Raise { to })).await {
        Ok(Ok(_)) => {
            tracing::info!(version = %to, "the cluster version was raised: all members support it");
            true
        }
        Ok(Err(rejection)) => {
            tracing::debug!(%rejection, "the version was raised by another");
            false
        }
        Err(error) => {
            tracing::warn!(%error, "the cluster version could not be raised");
            false
        }
    }
}
