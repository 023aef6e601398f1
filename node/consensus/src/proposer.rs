//! Packs commands into entries, one under way at a time, and sees each through to its local apply.
//!
//! While one proposal is under way, new commands gather for the next: no linger when idle, large
//! entries under load. A proposal keeps its number however often it is sent, and replicas apply
//! each number once, so it is safe to send it again to a new leader. A proposal that is given up
//! can no longer be applied once this node's next one is.
//!
//! Commands submitted together stand or fall in their order: once one of them has no answer, those
//! behind it in later entries are not sent. Who numbers what it sends may rely on that.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use muster_core::ids::{Incarnation, NodeId};
use muster_core::mutant;
use muster_core::version::{self, Step};
use muster_core::{Answer, Command, ProposalId};
use muster_storage::codec;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout_at};

use crate::clock::ClusterClock;
use crate::error::ProposeError;
use crate::handover::Yielding;
use crate::machine::{Fate, Pending, Published};
use crate::messages::{Proposal, ProposalOutcome};
use crate::network::Peers;
use crate::rpc;
use crate::transport::CallError;
use crate::types::Raft;
use crate::versions::Versions;
use crate::vital::Vital;

/// Commands in one entry.
pub(crate) const COMMANDS_MAX: usize = 256;
/// Bytes of commands in one entry: a log record must stay under 64 KiB.
pub(crate) const BYTES_MAX: usize = 48 * 1024;
/// Commands waiting for the next entry. Beyond it callers are told, instead of piling up.
const QUEUE_MAX: usize = 10_000;
/// The pause before a proposal is sent again while there is no leader.
const RETRY_PAUSE: Duration = Duration::from_millis(20);

struct Job {
    command: Command,
    bytes: usize,
    group: Group,
    answer: oneshot::Sender<Result<Answer, ProposeError>>,
}

/// Commands submitted together.
#[derive(Clone, Debug, Default)]
struct Group(Arc<AtomicBool>);

impl Group {
    fn break_off(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn is_broken(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Hands commands to the proposing task.
#[derive(Clone, Debug)]
pub(crate) struct Proposer {
    jobs: mpsc::Sender<Job>,
    gate: Gate,
}

impl Proposer {
    pub(crate) fn spawn(worker: Worker, vital: &Vital) -> Self {
        let (jobs, queue) = mpsc::channel(QUEUE_MAX);
        let gate = worker.gate.clone();
        vital.spawn(worker.run(queue));
        Proposer { jobs, gate }
    }

    /// Refuses what not every member understands.
    pub(crate) fn check(&self, command: &Command) -> Result<(), ProposeError> {
        self.gate.check(command)
    }

    /// Queues commands; their order is kept, and none is applied unless all before it were. Each
    /// answer arrives after its entry is applied here.
    pub(crate) fn submit(
        &self,
        commands: Vec<Command>,
    ) -> Result<Vec<oneshot::Receiver<Result<Answer, ProposeError>>>, ProposeError> {
        let mut sized = Vec::with_capacity(commands.len());
        for command in commands {
            self.gate.check(&command)?;
            let bytes = codec::encoded_len(&command).unwrap_or(usize::MAX);
            if bytes > BYTES_MAX {
                return Err(ProposeError::TooLarge { bytes, max: BYTES_MAX });
            }
            sized.push((command, bytes));
        }
        let mut permits = self.jobs.try_reserve_many(sized.len()).map_err(|error| match error {
            mpsc::error::TrySendError::Full(()) => ProposeError::Overloaded,
            mpsc::error::TrySendError::Closed(()) => ProposeError::Stopping,
        })?;
        let group = Group::default();
        let mut answers = Vec::with_capacity(sized.len());
        for (command, bytes) in sized {
            let (answer, receiver) = oneshot::channel();
            let permit = permits.next().expect("one permit was reserved for each command");
            permit.send(Job { command, bytes, group: group.clone(), answer });
            answers.push(receiver);
        }
        Ok(answers)
    }
}

/// Lets through what every member understands.
#[derive(Clone, Debug)]
pub(crate) struct Gate {
    pub(crate) published: Arc<ArcSwap<Published>>,
    pub(crate) versions: Versions,
}

impl Gate {
    /// By what this node has applied: a version is never lowered, so at worst it refuses for a moment too long.
    fn check(&self, command: &Command) -> Result<(), ProposeError> {
        let (since, in_effect) = (command.since(), self.published.load().state.version.get());
        if since <= in_effect || mutant!("newer-commands-proposed") {
            return Ok(());
        }
        let by = match version::next(in_effect, &self.versions.told()) {
            Step::Held { by, .. } => by,
            Step::Newest | Step::Raise { .. } => BTreeMap::new(),
        };
        Err(ProposeError::TooNew { since, in_effect, by })
    }
}

pub(crate) struct Worker {
    pub(crate) node: NodeId,
    pub(crate) incarnation: Incarnation,
    pub(crate) raft: Raft,
    pub(crate) peers: Peers,
    pub(crate) pending: Arc<Pending>,
    pub(crate) clock: ClusterClock,
    pub(crate) timeout: Duration,
    pub(crate) yielding: Yielding,
    pub(crate) gate: Gate,
}

impl Worker {
    async fn run(self, mut queue: mpsc::Receiver<Job>) {
        let mut sequence = 0;
        let mut left_over = None;
        loop {
            let first = match left_over.take() {
                Some(job) => job,
                None => match queue.recv().await {
                    Some(job) => job,
                    None => return,
                },
            };
            let (batch, next) = gather(first, &mut queue);
            left_over = next;
            let batch = without_broken(batch);
            if batch.is_empty() {
                continue;
            }
            sequence += 1;
            let id = ProposalId { node: self.node, incarnation: self.incarnation, sequence };
            self.pursue(id, batch).await;
        }
    }

    async fn pursue(&self, id: ProposalId, batch: Vec<Job>) {
        let groups: Vec<Group> = batch.iter().map(|job| job.group.clone()).collect();
        let (commands, askers): (Vec<_>, Vec<_>) =
            batch.into_iter().map(|job| (job.command, job.answer)).unzip();
        let delivered = self.deliver(Arc::new(Proposal { id, commands })).await;
        if !matches!(delivered, Ok(Fate::Answers(_))) {
            groups.iter().for_each(Group::break_off);
        }
        match delivered {
            Ok(Fate::Answers(answers)) => {
                assert_eq!(answers.len(), askers.len(), "one answer for each command");
                for (asker, answer) in askers.into_iter().zip(answers) {
                    // The asker may have gone away; its command was applied all the same.
                    let _unheard = asker.send(Ok(answer));
                }
            }
            Ok(Fate::AnswersLost) => refuse(askers, &ProposeError::Unknown),
            Err(error) => refuse(askers, &error),
        }
    }

    /// Sends the proposal, again and to whoever leads, until it is applied here or time is up.
    async fn deliver(&self, proposal: Arc<Proposal>) -> Result<Fate, ProposeError> {
        let deadline = Instant::now() + self.timeout;
        let mut fate = self.pending.expect(proposal.id);
        let mut maybe_taken = false;
        while Instant::now() < deadline {
            let sending = timeout_at(deadline, self.send(&proposal, deadline));
            tokio::select! {
                biased;
                fate = &mut fate => return fate.map_err(|_| ProposeError::Stopping),
                // A leader without a quorum never finishes; what it took may yet be committed.
                sent = sending => match sent.unwrap_or(Sent::MaybeTaken) {
                    Sent::Committed => {
                        let applied = timeout_at(deadline, &mut fate).await;
                        self.pending.forget();
                        return match applied {
                            Ok(fate) => fate.map_err(|_| ProposeError::Stopping),
                            Err(_elapsed) => Err(ProposeError::Unknown),
                        };
                    }
                    Sent::MaybeTaken => maybe_taken = true,
                    Sent::NotTaken => {}
                },
            }
            // A proposal of unclear fate may be applied at any moment, also while we pause.
            if let Ok(fate) = tokio::time::timeout(RETRY_PAUSE, &mut fate).await {
                return fate.map_err(|_| ProposeError::Stopping);
            }
        }
        self.pending.forget();
        Err(if maybe_taken { ProposeError::Unknown } else { ProposeError::NoLeader })
    }

    async fn send(&self, proposal: &Arc<Proposal>, deadline: Instant) -> Sent {
        let (leader, address) = {
            let metrics = self.raft.metrics();
            let metrics = metrics.borrow();
            let Some(leader) = metrics.current_leader else { return Sent::NotTaken };
            let member = metrics.membership_config.membership().get_node(&leader);
            (leader, member.map(|member| member.peer.clone()))
        };
        let outcome = if leader == self.node && self.yielding.is_set() {
            Ok(ProposalOutcome::NotLeader)
        } else if leader == self.node {
            Ok(rpc::propose(&self.raft, self.node, &self.clock, Proposal::clone(proposal)).await)
        } else {
            let Some(address) = address else { return Sent::NotTaken };
            let limit = deadline.saturating_duration_since(Instant::now()).min(FORWARD_LIMIT);
            let (peers, proposal) = (self.peers.clone(), Arc::clone(proposal));
            // On a task of its own: the entry is often applied here before the leader's answer is, and
            // a call that is dropped half-way costs its connection.
            let call = tokio::spawn(async move { peers.propose(leader, &address, &proposal, limit).await });
            call.await.unwrap_or(Ok(ProposalOutcome::Unknown))
        };
        match outcome {
            Ok(ProposalOutcome::Committed) => Sent::Committed,
            Ok(ProposalOutcome::NotLeader) | Err(CallError::Unreachable(_)) => Sent::NotTaken,
            Ok(ProposalOutcome::Unknown) => Sent::MaybeTaken,
            Err(error) => {
                tracing::debug!(%error, leader = %leader, "a forwarded proposal got no answer");
                Sent::MaybeTaken
            }
        }
    }
}

/// One attempt at a leader that hangs must not use up the whole deadline: another may have been elected.
const FORWARD_LIMIT: Duration = Duration::from_millis(1_000);

enum Sent {
    Committed,
    MaybeTaken,
    NotTaken,
}

/// Everything that waits, up to an entry's limits, and the job that did not fit.
fn gather(first: Job, queue: &mut mpsc::Receiver<Job>) -> (Vec<Job>, Option<Job>) {
    let mut bytes = first.bytes;
    let mut batch = vec![first];
    while batch.len() < COMMANDS_MAX {
        let Ok(job) = queue.try_recv() else { break };
        if bytes + job.bytes > BYTES_MAX {
            return (batch, Some(job));
        }
        bytes += job.bytes;
        batch.push(job);
    }
    (batch, None)
}

/// Refuses what follows a command of its group that has no answer. It was never sent.
fn without_broken(batch: Vec<Job>) -> Vec<Job> {
    let (broken, whole): (Vec<_>, Vec<_>) = batch.into_iter().partition(|job| job.group.is_broken());
    refuse(broken.into_iter().map(|job| job.answer).collect(), &ProposeError::NoLeader);
    whole
}

fn refuse(askers: Vec<oneshot::Sender<Result<Answer, ProposeError>>>, error: &ProposeError) {
    for asker in askers {
        let _unheard = asker.send(Err(error.clone()));
    }
}

#[cfg(test)]
mod tests {
    use muster_core::accounts::{self, Role};
    use muster_core::ids::AccountName;

    use muster_core::ids::NodeId;
    use muster_core::version::{Obstacle, Version};

    use super::*;

    fn gate() -> Gate {
        Gate { published: Arc::default(), versions: Versions::of_release() }
    }

    #[test]
    fn what_the_version_in_effect_does_not_have_is_not_proposed() {
        #[cfg(feature = "mutants")]
        muster_core::mutants::choose(std::env::var("MUSTER_MUTANT").ok());
        let raise = |to| Command::Version(version::Command::Raise { to: Version(to) });
        let gate = gate();
        assert!(gate.check(&raise(2)).is_ok(), "the step from what is in effect");
        let refused = gate.check(&raise(3)).expect_err("it is of version 2").to_string();
        assert!(refused.contains("still at version 1") && refused.contains("needs version 2"), "{refused}");
        assert!(refused.contains("not known here"), "{refused}");

        let supports = gate.versions.own();
        gate.versions.note([(NodeId(1), Some(supports)), (NodeId(2), None)].into());
        let refused = gate.check(&raise(3)).expect_err("it is of version 2");
        assert!(refused.to_string().contains("node 2 does not say what it supports"), "{refused}");
        let ProposeError::TooNew { by, .. } = refused else { panic!("{refused}") };
        assert_eq!(by, BTreeMap::from([(NodeId(2), Obstacle::Silent)]));

        let mut published = Published::default();
        let raised = muster_core::Entry {
            at: muster_core::units::Timestamp(1),
            proposal: ProposalId { node: NodeId(1), incarnation: Incarnation(1), sequence: 1 },
            commands: vec![raise(2)],
        };
        Arc::make_mut(&mut published.state).apply(&raised);
        gate.published.store(Arc::new(published));
        assert!(gate.check(&raise(3)).is_ok(), "it is in effect now");
    }

    #[test]
    fn what_follows_a_lost_command_of_its_group_is_not_sent() {
        let (jobs, mut queue) = mpsc::channel(10);
        let proposer = Proposer { jobs, gate: gate() };
        let create = |name: &str| {
            let name = AccountName::new(name).expect("a valid name");
            Command::Accounts(accounts::Command::Create { name, role: Role::User })
        };
        let mut first = proposer.submit(vec![create("a"), create("b")]).expect("there is room");
        let mut second = proposer.submit(vec![create("c")]).expect("there is room");
        let queued: Vec<Job> = std::iter::from_fn(|| queue.try_recv().ok()).collect();
        queued[0].group.break_off();
        let sent: Vec<Command> = without_broken(queued).into_iter().map(|job| job.command).collect();
        assert_eq!(sent, [create("c")]);
        assert!(matches!(first[1].try_recv(), Ok(Err(ProposeError::NoLeader))));
        assert!(second[0].try_recv().is_err(), "dropped with its job, not refused");
    }
}
