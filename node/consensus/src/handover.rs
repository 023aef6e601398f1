//! The leader gives its place to another voter, so that a planned stop costs no election timeout.
//!
//! openraft has no such thing, and its voters refuse to vote for as long as they have heard a leader lately.
//! So the leader takes back its word: it takes no more proposals, waits until its successor has all
//! of its log and all of it is committed, gives up its place, and has the voters forget that they have
//! heard it. Then the successor stands for election. Every vote is still asked for and given by the rules,
//! log check included; all that is skipped is the waiting. Whatever breaks off half-way is an
//! ordinary election.
//!
//! What the voters are told is what a candidate of the next term would tell them by any message: that
//! there is one. They take the term from an empty snapshot, which installs nothing. (Section 3.10 of the
//! Raft dissertation sends the successor to stand for election at once, with a mark that voters
//! obey, which openraft's message has no room for.)

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use muster_core::ids::NodeId;
use muster_core::membership;
use openraft::Snapshot;
use serde::{Deserialize, Serialize};
use tokio::time::timeout;

use crate::membership::LAG_MAX;
use crate::rpc::Server;
use crate::types::{SnapshotMeta, Vote};

/// How long any voter may take to be heard from.
const FIT_LIMIT: Duration = Duration::from_millis(300);
/// How long the successor may take for what it lacks. Meanwhile writes wait.
const CATCH_UP_LIMIT: Duration = Duration::from_millis(1_000);
/// How long a voter may take to answer; one that does not will vote by its timer.
const TELL_LIMIT: Duration = Duration::from_millis(200);
/// How long the successor may take to be elected.
const ELECTION_LIMIT: Duration = Duration::from_millis(2_000);

/// Why the leadership was not given away.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum HandOverError {
    #[error("the asked node does not lead")]
    NotLeader,
    #[error("the leadership is being given away already")]
    UnderWay,
    #[error("node {0} has no vote")]
    NoVoter(NodeId),
    #[error("no other voter is there that has caught up")]
    NoSuccessor,
    #[error("node {0} did not catch up in time")]
    Behind(NodeId),
    #[error("node {0} was not elected; another may have been")]
    NotElected(NodeId),
    #[error("the leader could not be asked")]
    Unreachable,
    #[error("the node is shutting down")]
    Stopping,
}

/// Whether this node is giving its place away and takes no proposals, and whether it will take none again.
/// A clone is a handle to the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct Yielding {
    yields: Arc<AtomicBool>,
    retired: Arc<AtomicBool>,
}

impl Yielding {
    pub(crate) fn is_set(&self) -> bool {
        self.yields.load(Ordering::SeqCst)
    }

    /// From now on this node takes nobody's place.
    pub(crate) fn retire(&self) {
        self.retired.store(true, Ordering::SeqCst);
    }

    fn has_retired(&self) -> bool {
        self.retired.load(Ordering::SeqCst)
    }

    /// Set until it is dropped; none if it is set already.
    fn set(&self) -> Option<Set> {
        (!self.yields.swap(true, Ordering::SeqCst)).then(|| Set(Arc::clone(&self.yields)))
    }
}

struct Set(Arc<AtomicBool>);

impl Drop for Set {
    fn drop(&mut self) {
        self.0.store(false, Ordering::SeqCst);
    }
}

/// What a leader asks as it gives up its place.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Resignation {
    /// Its term.
    pub(crate) term: u64,
    pub(crate) successor: NodeId,
}

impl Resignation {
    fn vote(self) -> Vote {
        Vote::new(self.term + 1, self.successor)
    }
}

impl Server {
    /// Gives the leadership to `to`, or to whoever is fit for it; answers who leads then.
    pub(crate) async fn hand_over(&self, to: Option<NodeId>) -> Result<NodeId, HandOverError> {
        let own = self.identities.own().node;
        let view = self.view(0).ok_or(HandOverError::NotLeader)?;
        if to == Some(own) {
            return Ok(own);
        }
        let successor = match to {
            Some(to) if !view.voters.contains(&to) => return Err(HandOverError::NoVoter(to)),
            Some(to) => to,
            None => {
                let fit = timeout(FIT_LIMIT, self.until_one_is_fit());
                fit.await.map_err(|_elapsed| HandOverError::NoSuccessor)??
            }
        };
        let _until_it_is_done = self.yielding.set().ok_or(HandOverError::UnderWay)?;
        let term = timeout(CATCH_UP_LIMIT, self.until_it_has_all(successor));
        let term = term.await.map_err(|_elapsed| HandOverError::Behind(successor))??;
        let resignation = Resignation { term, successor };
        if !self.resign(resignation).await {
            return Err(HandOverError::NotElected(successor));
        }
        timeout(ELECTION_LIMIT, self.until_another_leads())
            .await
            .map_err(|_elapsed| HandOverError::NotElected(successor))?
    }

    /// Waits for the fittest voter: a leader that was elected a moment ago has not heard from any.
    async fn until_one_is_fit(&self) -> Result<NodeId, HandOverError> {
        let mut metrics = self.raft.metrics();
        loop {
            metrics.borrow_and_update();
            let near = self.last_index().saturating_sub(LAG_MAX);
            let view = self.view(near).ok_or(HandOverError::NotLeader)?;
            if let Some(fit) = membership::successor(&self.published.load().state, &view) {
                return Ok(fit);
            }
            if view.voters.len() == 1 {
                return Err(HandOverError::NoSuccessor);
            }
            metrics.changed().await.map_err(|_closed| HandOverError::Stopping)?;
        }
    }

    /// Waits until everything in the log is applied here and is on the successor, too; answers the term.
    async fn until_it_has_all(&self, successor: NodeId) -> Result<u64, HandOverError> {
        let mut metrics = self.raft.metrics();
        loop {
            {
                let now = metrics.borrow_and_update();
                if now.current_leader != Some(self.identities.own().node) {
                    return Err(HandOverError::NotLeader);
                }
                let matched = now.replication.as_ref().and_then(|r| r.get(&successor).copied().flatten());
                let last = now.last_log_index;
                if last.is_some()
                    && now.last_applied.map(|id| id.index) == last
                    && matched.map(|id| id.index) == last
                {
                    return Ok(now.current_term);
                }
            }
            metrics.changed().await.map_err(|_closed| HandOverError::Stopping)?;
        }
    }

    /// Answers whether the successor stands for election.
    async fn resign(&self, resignation: Resignation) -> bool {
        let own = self.identities.own().node;
        let (others, successor) = {
            let metrics = self.raft.metrics();
            let metrics = metrics.borrow();
            let membership = metrics.membership_config.membership();
            let address = |id: NodeId| membership.get_node(&id).map(|member| (id, member.peer.clone()));
            let voters = membership.voter_ids().filter_map(address);
            voters.filter(|(id, _)| *id != own).partition::<Vec<_>, _>(|(id, _)| *id != resignation.successor)
        };
        self.stand_aside(resignation).await;
        // Not waited for one by one: a voter that does not answer must not hold up those that do.
        let told = others
            .iter()
            .map(|(id, address)| self.peers.resigned(*id, address, "stand-aside", &resignation, TELL_LIMIT));
        let _told = join_all(told).await;
        let Some((id, address)) = successor.first() else { return false };
        let told = self.peers.resigned(*id, address, "campaign", &resignation, TELL_LIMIT).await;
        told.unwrap_or_else(|error| {
            tracing::warn!(%error, successor = %id, "the successor could not be told to stand for election");
            false
        })
    }

    async fn until_another_leads(&self) -> Result<NodeId, HandOverError> {
        let own = self.identities.own().node;
        let mut metrics = self.raft.metrics();
        let leads = |leader: Option<NodeId>| leader.filter(|leader| *leader != own);
        let now = metrics.wait_for(|metrics| leads(metrics.current_leader).is_some()).await;
        let now = now.map_err(|_closed| HandOverError::Stopping)?;
        Ok(leads(now.current_leader).expect("it was waited for"))
    }

    /// Forgets to have heard the leader, if `sender` is it.
    pub(crate) async fn obey(&self, sender: NodeId, resignation: Resignation, campaign: bool) -> bool {
        let follows = {
            let metrics = self.raft.metrics();
            let metrics = metrics.borrow();
            metrics.current_leader == Some(sender) && metrics.current_term == resignation.term
        };
        // One that is about to stop itself would give the place away again.
        if !follows || (campaign && self.yielding.has_retired()) {
            return false;
        }
        match campaign {
            // Its own vote is asked for and given with the others'.
            true => self.raft.trigger().elect().await.is_ok(),
            false => self.stand_aside(resignation).await,
        }
    }

    async fn stand_aside(&self, resignation: Resignation) -> bool {
        // Nothing is installed: it reaches no further than what is committed here.
        let Ok(snapshot) = self.raft.begin_receiving_snapshot().await else { return false };
        let nothing = Snapshot { meta: SnapshotMeta::default(), snapshot };
        let vote = resignation.vote();
        self.raft.install_full_snapshot(vote, nothing).await.is_ok_and(|answer| answer.vote == vote)
    }
}
