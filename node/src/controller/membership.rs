//! The leader brings Raft's membership to what it should be, one change at a time. What to change is
//! `muster_core::membership`'s to say.

use std::collections::BTreeMap;
use std::time::Duration;

use muster_consensus::{Consensus, Member};
use muster_core::ids::NodeId;
use muster_core::membership::{self, Limits, Since, Step};
use muster_core::units::Millis;
use tokio::time::{Instant, timeout};

/// A change that is not committed within this is looked at anew; it may be all the same.
const CHANGE_LIMIT: Duration = Duration::from_secs(10);
/// A leader that has nothing to change looks this often.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// What one term of leadership remembers.
#[derive(Debug, Default)]
pub(super) struct Changes {
    /// The last entry as of the last look.
    round: Option<u64>,
    refused: BTreeMap<NodeId, Instant>,
    expelled: BTreeMap<NodeId, Instant>,
}

impl Changes {
    /// Looks and changes without end.
    pub(super) async fn run(mut self, consensus: &Consensus, voters_max: usize) {
        let lease = consensus.lease_and_margin();
        let limits = Limits { voters_max, lease: millis(lease) };
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            // Only a leader that a quorum follows decides, and by all that was committed before it led.
            if consensus.linearize().await.is_err() {
                continue;
            }
            let Some(step) = self.look(consensus, &limits) else { continue };
            tracing::info!(?step, "the membership is to change");
            match timeout(CHANGE_LIMIT, perform(consensus, step)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::warn!("{error:#}"),
                Err(_elapsed) => tracing::warn!("a change of the membership is not committed yet"),
            }
        }
    }

    fn look(&mut self, consensus: &Consensus, limits: &Limits) -> Option<Step> {
        let round = self.round.replace(consensus.last_index())?;
        let view = consensus.membership(round)?;
        let published = consensus.state();
        let members = &published.state.members;
        let now = Instant::now();
        let due = members.removing().filter(|(_, removal)| removal.is_due()).map(|(node, _)| node);
        keep(&mut self.refused, due, now);
        let expelled = view.members.keys().copied().filter(|node| members.is_removed(*node));
        keep(&mut self.expelled, expelled, now);
        let since = Since { refused: spans(&self.refused, now), expelled: spans(&self.expelled, now) };
        membership::next(&published.state, &view, &since, limits)
    }
}

/// Remembers since when each is there, and forgets those that are not.
fn keep(known: &mut BTreeMap<NodeId, Instant>, there: impl Iterator<Item = NodeId>, now: Instant) {
    let there = there.map(|node| (node, known.get(&node).copied().unwrap_or(now))).collect();
    *known = there;
}

fn spans(known: &BTreeMap<NodeId, Instant>, now: Instant) -> BTreeMap<NodeId, Millis> {
    known.iter().map(|(node, since)| (*node, millis(now.saturating_duration_since(*since)))).collect()
}

fn millis(span: Duration) -> Millis {
    Millis(u64::try_from(span.as_millis()).unwrap_or(u64::MAX))
}

async fn perform(consensus: &Consensus, step: Step) -> anyhow::Result<()> {
    match step {
        Step::FinishJoint => consensus.finish_joint().await?,
        Step::AddLearner { node, addresses } => {
            let member = Member { http: addresses.http, peer: addresses.peer };
            consensus.add_learner(node, member).await?;
        }
        Step::SetVoters(voters) => consensus.set_voters(voters).await?,
        Step::HandOver { to } => drop(consensus.transfer(Some(to)).await?),
        Step::TakeOut(node) => consensus.take_out(node).await?,
        Step::Propose(command) => {
            if let Err(rejection) = consensus.propose(command).await? {
                tracing::debug!(%rejection, "a change was refused; the next look sees why");
            }
        }
    }
    Ok(())
}
