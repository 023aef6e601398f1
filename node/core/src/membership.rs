//! The leader's next change to who votes and who learns: what should be, compared with Raft's membership.
//!
//! One change at a time, and the next only once the last is committed. Whatever a leader believes, a
//! change is an entry of the log: a deposed one can make none. The rules:
//!
//! * Who was enrolled becomes a learner. A learner votes once it has caught up, while there are fewer
//!   voters than `voters_max`, an odd number. All that can are promoted in one change, and where one leaves,
//!   those who take its place come in the same change. So voters are even in number only where there is no
//!   learner to make them odd.
//! * Who is to go loses its vote once it has left, or at once with force. Its permission leases are waited
//!   out before it is expelled, and it is taken out once it has been told.
//! * A node that replaces another has that one removed once it has caught up.
//! * No change is begun that the nodes now there could not commit, or that would leave no quorum of them.

use std::collections::{BTreeMap, BTreeSet};

use crate::ids::NodeId;
use crate::members::{Addresses, Command as Members};
use crate::nodes::Condition;
use crate::state::{ClusterState, Command};
use crate::units::Millis;

/// An expelled node that does not answer is told no longer than this before it is taken out of Raft's
/// membership; it will then hear of it when it asks.
pub const TOLD_WITHIN: Millis = Millis::from_secs(3);

/// Raft's membership, as its leader sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View {
    pub leader: NodeId,
    /// Those that are to vote, where a change is half done.
    pub voters: BTreeSet<NodeId>,
    /// Whether a change of the voters is half done: who made it may be gone.
    pub joint: bool,
    /// Everyone the log is sent to, voters and learners.
    pub members: BTreeMap<NodeId, Member>,
}

/// What its leader knows of a member.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Member {
    /// Whether it has everything that the leader had one round ago (section 4.2.1 of the Raft
    /// dissertation, with rounds of the length of a plan).
    pub caught_up: bool,
}

/// How long this leader has seen something be so.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Since {
    /// Nodes that may not serve any more: from then on it has promised them no permission.
    pub refused: BTreeMap<NodeId, Millis>,
    /// Nodes that were expelled and are still members.
    pub expelled: BTreeMap<NodeId, Millis>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Odd.
    pub voters_max: usize,
    /// A permission lease and what clocks may differ by over one.
    pub lease: Millis,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Ends a change of the voters that is half done.
    FinishJoint,
    AddLearner {
        node: NodeId,
        addresses: Addresses,
    },
    /// These vote; who did and does not any more goes on learning.
    SetVoters(BTreeSet<NodeId>),
    /// The leader gives its place to another before it goes.
    HandOver {
        to: NodeId,
    },
    /// Takes a learner out.
    TakeOut(NodeId),
    Propose(Command),
}

/// What to do next; none if all is as it should be, or nothing can be done now.
pub fn next(state: &ClusterState, view: &View, since: &Since, limits: &Limits) -> Option<Step> {
    if view.joint {
        return Some(Step::FinishJoint);
    }
    let steps = [replace(state, view), take_out(state, view, since), add(state, view)];
    steps.into_iter().flatten().next().or_else(|| vote(state, view, limits)).or_else(|| {
        let expelled = state.members.removing().find(|(node, removal)| {
            let refused = since.refused.get(node).is_some_and(|span| *span >= limits.lease);
            removal.is_due() && !view.voters.contains(node) && (removal.left || refused)
        });
        expelled.map(|(node, _)| Step::Propose(Command::Members(Members::Expel { node })))
    })
}

/// The voter that should lead if this leader does not: one that is there, stays and has caught up.
pub fn successor(state: &ClusterState, view: &View) -> Option<NodeId> {
    let able = |node: &NodeId| {
        *node != view.leader
            && stays(state, *node)
            && view.members.get(node).is_some_and(|member| member.caught_up)
    };
    let able = view.voters.iter().copied().filter(able);
    // Where all else is equal the lowest, so that it does not depend on who looks.
    able.min_by_key(|node| (!is_there(state, *node), *node))
}

/// Why a node may not be removed now, if so.
///
/// # Errors
/// The reason, for people.
pub fn check_removal(
    state: &ClusterState,
    voters: &BTreeSet<NodeId>,
    node: NodeId,
    force: bool,
) -> Result<(), String> {
    if !force && !is_there(state, node) {
        return Err(format!(
            "node {node} is down or never came up, so it cannot drain; with `force` it is removed as it \
             is, and its instances are lost"
        ));
    }
    if !voters.contains(&node) {
        return Ok(());
    }
    let leaving = |other: &NodeId| *other == node || state.members.removal(*other).is_some();
    let mut after: BTreeSet<NodeId> = voters.iter().copied().filter(|voter| !leaving(voter)).collect();
    let learners = state.nodes.iter().map(|(id, _)| id).filter(|id| !voters.contains(id));
    after.extend(learners.filter(|id| !leaving(id) && is_there(state, *id)).take(voters.len() - after.len()));
    if after.is_empty() {
        return Err(format!("node {node} is the last voter: without it there is no cluster"));
    }
    // Both the voters of before and those of after must agree to the change.
    for (voters, when) in [(voters, "now"), (&after, "then")] {
        if !has_quorum(state, voters) {
            let named: Vec<String> = voters.iter().map(ToString::to_string).collect();
            let there = voters.iter().filter(|voter| is_there(state, **voter)).count();
            return Err(format!(
                "removing node {node} would lose the quorum: of those that vote {when} ({}) {there} are \
                 there, and {} are needed",
                named.join(", "),
                majority(voters.len())
            ));
        }
    }
    Ok(())
}

fn replace(state: &ClusterState, view: &View) -> Option<Step> {
    let done = state.members.enrolled().find_map(|(node, enrolled)| {
        let old = enrolled.replaces?;
        let wanted = !state.members.is_removed(old)
            && state.members.removal(old).is_none_or(|removal| !removal.force)
            && is_candidate(state, view, node);
        wanted.then_some(old)
    });
    done.map(|node| Step::Propose(Command::Members(Members::Remove { node, force: true })))
}

fn take_out(state: &ClusterState, view: &View, since: &Since) -> Option<Step> {
    let told = |(node, member): &(&NodeId, &Member)| {
        let known_for = since.expelled.get(node).copied();
        state.members.is_removed(**node)
            && !view.voters.contains(node)
            && known_for.is_some_and(|span| span >= TOLD_WITHIN || (member.caught_up && span > Millis::ZERO))
    };
    view.members.iter().find(told).map(|(node, _)| Step::TakeOut(*node))
}

fn add(state: &ClusterState, view: &View) -> Option<Step> {
    let mut missing = state.members.enrolled().filter(|(node, _)| !view.members.contains_key(node));
    let (node, enrolled) = missing.find(|(node, _)| state.members.may_serve(*node))?;
    Some(Step::AddLearner { node, addresses: enrolled.addresses.clone() })
}

fn vote(state: &ClusterState, view: &View, limits: &Limits) -> Option<Step> {
    let mut target: BTreeSet<NodeId> =
        view.voters.iter().copied().filter(|node| !is_due_to_go(state, *node)).collect();
    while target.len() > limits.voters_max {
        let surplus = target.iter().copied().rfind(|node| *node != view.leader)?;
        target.remove(&surplus);
    }
    let learners = view.members.keys().filter(|node| !view.voters.contains(node));
    let candidates = learners.filter(|node| is_candidate(state, view, **node));
    let room = limits.voters_max.saturating_sub(target.len());
    target.extend(candidates.take(room));
    if target.is_empty() {
        return None;
    }
    let changes = target != view.voters;
    if (!target.contains(&view.leader) || !view.voters.contains(&view.leader))
        && let Some(to) = successor(state, view).filter(|to| target.contains(to))
    {
        return Some(Step::HandOver { to });
    }
    (changes && has_quorum(state, &view.voters) && has_quorum(state, &target))
        .then_some(Step::SetVoters(target))
}

/// Whether a learner may be given a vote.
fn is_candidate(state: &ClusterState, view: &View, node: NodeId) -> bool {
    view.members.get(&node).is_some_and(|member| member.caught_up)
        && stays(state, node)
        && is_there(state, node)
}

fn stays(state: &ClusterState, node: NodeId) -> bool {
    !state.members.is_removed(node) && state.members.removal(node).is_none()
}

fn is_due_to_go(state: &ClusterState, node: NodeId) -> bool {
    state.members.is_removed(node) || state.members.removal(node).is_some_and(|removal| removal.is_due())
}

/// Whether a node is heard of.
fn is_there(state: &ClusterState, node: NodeId) -> bool {
    state.nodes.get(node).is_some_and(|node| node.condition != Condition::Down)
}

fn has_quorum(state: &ClusterState, voters: &BTreeSet<NodeId>) -> bool {
    voters.iter().filter(|node| is_there(state, **node)).count() >= majority(voters.len())
}

fn majority(voters: usize) -> usize {
    voters / 2 + 1
}

#[cfg(test)]
#[path = "membership_tests.rs"]
mod tests;
