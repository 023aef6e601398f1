//! What must hold after every entry, computed from the entries and answers alone where it can be.

use std::collections::{BTreeMap, BTreeSet};

use muster_core::billing;
use muster_core::functions::KeepAlive;
use muster_core::ids::{ClusterId, FunctionName, Incarnation, InstanceId, NodeId, TokenId};
use muster_core::instances::Instance;
use muster_core::nodes::Resources;
use muster_core::units::Timestamp;
use muster_core::{Answer, ClusterState, Command, Entry, Reply, instances, ledger, members};

#[derive(Default)]
pub(crate) struct Oracle {
    clock: Timestamp,
    cluster: Option<ClusterId>,
    /// Instances placed and not ended, with the moment of their placement.
    open: BTreeMap<InstanceId, Timestamp>,
    /// Those that ended, as they were when they did.
    ended: BTreeMap<InstanceId, Instance>,
    /// What the ended ones ran, in all and times their memory.
    ran_ms: u64,
    ran_mb_ms: u64,
    /// What the accepted usage batches hold.
    marks: BTreeMap<NodeId, (Incarnation, u64)>,
    invocations: u64,
    busy_ms: u64,
    /// Ids that tokens were given, and ids of nodes that were expelled.
    reserved: BTreeMap<TokenId, NodeId>,
    expelled: BTreeSet<NodeId>,
}

impl Oracle {
    pub(crate) fn watch(&mut self, entry: &Entry, answers: &[Answer], state: &ClusterState) {
        self.check_clock(entry, state);
        for (command, answer) in entry.commands.iter().zip(answers) {
            self.note(command, answer);
        }
        self.check_lives(state);
        self.check_conservation(state);
        self.check_expelled(state);
        check_indexes(state);
        check_room(state);
        check_maximum(state);
        check_habits(state);
    }

    fn check_clock(&mut self, entry: &Entry, state: &ClusterState) {
        assert!(state.clock >= self.clock, "the clock ran backwards");
        assert_eq!(state.clock, self.clock.max(entry.at));
        self.clock = state.clock;
    }

    fn note(&mut self, command: &Command, answer: &Answer) {
        match command {
            Command::Bootstrap { cluster, .. } if answer.is_ok() => self.cluster = Some(*cluster),
            Command::Refound { cluster, founder } if answer.is_ok() && self.cluster != Some(*cluster) => {
                self.cluster = Some(*cluster);
                self.marks.retain(|node, _| node == founder);
                self.expelled.remove(founder);
            }
            Command::Instances(instances::Command::Place { instance, .. })
                if answer.is_ok() && !self.ended.contains_key(instance) =>
            {
                self.open.entry(*instance).or_insert(self.clock);
            }
            Command::Ledger(ledger::Command::RecordUsage { node, incarnation, batch, rows }) => {
                let mark = (*incarnation, *batch);
                if self.marks.get(node).is_none_or(|known| mark > *known) {
                    self.marks.insert(*node, mark);
                    self.invocations += rows.iter().map(|row| row.usage.invocations).sum::<u64>();
                    self.busy_ms += rows.iter().map(|row| row.usage.busy_ms).sum::<u64>();
                }
            }
            Command::Members(members::Command::CreateToken { token, .. }) => {
                if let Ok(Reply::Reserved { node, .. }) = answer {
                    let given = self.reserved.iter().find(|(_, known)| *known == node);
                    assert!(given.is_none_or(|(known, _)| known == token), "{node} was given twice");
                    let new = self.reserved.insert(*token, *node).is_none();
                    assert!(!new || !self.expelled.contains(node), "{node} was another's before");
                }
            }
            Command::Members(members::Command::Expel { node }) if answer.is_ok() => {
                self.expelled.insert(*node);
            }
            _ => {}
        }
    }

    /// Who was expelled is nowhere any more.
    fn check_expelled(&self, state: &ClusterState) {
        for node in &self.expelled {
            assert!(state.members.is_removed(*node) && state.nodes.get(*node).is_none(), "{node}");
            assert_eq!(state.instances.on_node(*node).count(), 0, "{node} has instances");
        }
    }

    /// Ended instances stay as they ended; what was placed is live until it ends.
    fn check_lives(&mut self, state: &ClusterState) {
        for (id, known) in &self.ended {
            let now = state.instances.get(*id).expect("few enough to be kept");
            assert_eq!(now.as_ref(), known, "{id} changed after its end");
        }
        let known: BTreeSet<InstanceId> = state.instances.iter().map(|(id, _)| id).collect();
        let placed: BTreeSet<InstanceId> = self.open.keys().chain(self.ended.keys()).copied().collect();
        assert_eq!(known, placed);
        let over: Vec<InstanceId> = self
            .open
            .keys()
            .filter(|id| state.instances.get(**id).unwrap().phase.is_ended())
            .copied()
            .collect();
        for id in over {
            let placed_at = self.open.remove(&id).unwrap();
            let instance = state.instances.get(id).unwrap();
            let ran_ms = self.clock.since(placed_at).0;
            self.ran_ms += ran_ms;
            self.ran_mb_ms += ran_ms * instance.resources.memory_mb;
            self.ended.insert(id, instance.as_ref().clone());
        }
    }

    /// What is charged is what ran: closed intervals in the ledger, open ones up to now.
    fn check_conservation(&self, state: &ClusterState) {
        let rollups = || state.rollups.days().values().chain(state.rollups.months().values());
        let charged = || state.ledger.instance_time().values().chain(rollups().map(|sums| &sums.time));
        assert_eq!(charged().map(|time| time.millis).sum::<u64>(), self.ran_ms, "closed instance time");
        assert_eq!(
            charged().map(|time| time.memory_mb_ms).sum::<u64>(),
            self.ran_mb_ms,
            "closed memory time"
        );
        let ran = |i: &ledger::Interval| i.ended_at.since(i.launched_at).0;
        assert_eq!(state.ledger.intervals().map(ran).sum::<u64>(), self.ran_ms, "intervals");
        for (id, placed_at) in &self.open {
            let instance = state.instances.get(*id).unwrap();
            let charges = billing::charges(instance, self.clock);
            let charged: u64 = charges.iter().map(|charge| charge.time.millis).sum();
            assert_eq!(charged, self.clock.since(*placed_at).0, "{id} is open");
        }
        let usage = || state.ledger.usage().values().chain(rollups().map(|sums| &sums.usage));
        assert_eq!(usage().map(|u| u.invocations).sum::<u64>(), self.invocations, "invocations");
        assert_eq!(usage().map(|u| u.busy_ms).sum::<u64>(), self.busy_ms, "busy time");
    }
}

/// Each index lists exactly the instances that have not ended.
fn check_indexes(state: &ClusterState) {
    let all = &state.instances;
    let live: BTreeSet<InstanceId> =
        all.iter().filter(|(_, i)| !i.phase.is_ended()).map(|(id, _)| id).collect();
    assert_eq!(all.live().map(|(id, _)| id).collect::<BTreeSet<_>>(), live);
    let mut by_function = BTreeSet::new();
    for name in all.functions() {
        for (id, instance) in all.of_function(name.as_str()) {
            assert_eq!(instance.function, *name);
            by_function.insert(id);
        }
    }
    assert_eq!(by_function, live);
    let mut by_node = BTreeSet::new();
    for (node, _) in state.nodes.iter() {
        for (id, instance) in all.on_node(node) {
            assert_eq!(instance.node, node);
            by_node.insert(id);
        }
    }
    assert_eq!(by_node, live);
    let generations: BTreeSet<_> = all.iter().map(|(_, i)| i.generation).collect();
    assert_eq!(generations.len(), all.iter().count(), "no generation twice");
    assert!(generations.iter().all(|generation| *generation <= all.last_generation()));
}

/// What a node has reserved is what its live instances take.
fn check_room(state: &ClusterState) {
    for (id, node) in state.nodes.iter() {
        let mut taken = Resources::default();
        for (_, instance) in state.instances.on_node(id) {
            taken.memory_mb += instance.resources.memory_mb;
            taken.cpu_millis += instance.resources.cpu_millis;
        }
        assert_eq!(node.reserved, taken, "node {id}");
    }
}

/// An instance cap was there in the ancestor, and never enforced.
fn check_maximum(state: &ClusterState) {
    let mut wanted: BTreeMap<&FunctionName, u32> = BTreeMap::new();
    for (_, instance) in state.instances.live() {
        let Some(function) = state.functions.get(instance.function.as_str()) else { continue };
        if instance.version == function.current().number && instance.phase.is_wanted() {
            *wanted.entry(&instance.function).or_default() += 1;
        }
    }
    for (name, count) in wanted {
        let max = state.functions.get(name.as_str()).unwrap().current().spec.scaling.max;
        assert!(count <= max, "{name}: {count} of {max}");
    }
}

/// Habits are kept of functions that exist and are scaled by them, and are bounded.
fn check_habits(state: &ClusterState) {
    for (name, habit) in state.habits.iter() {
        let function = state.functions.get(name.as_str()).expect("a deleted function has no habits");
        let spec = &function.current().spec;
        assert_eq!(spec.scaling.keep_alive, KeepAlive::Adaptive, "{name}");
        assert!(habit.asked_until >= function.created_at, "{name} has a namesake's habits");
        assert!(habit.idle.samples() <= 100, "{name}");
    }
}
