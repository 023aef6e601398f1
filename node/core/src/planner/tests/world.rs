//! A small cluster to plan for: nodes that report, agents that obey at once, time that a test moves.

use std::collections::{BTreeMap, BTreeSet};

use super::super::{Memory, plan};
use crate::accounts::{self, Role};
use crate::functions::{self, EngineKind, KeepAlive, Payer, ScalingPolicy, Source, Spec, UsageDurability};
use crate::ids::{AccountName, ChangeId, FunctionName, Incarnation, InstanceId, NodeId};
use crate::instances::{self, DecidedAction, Instance, Phase};
use crate::nodes::{self, Condition, Profile, Resources};
use crate::observation::{Heard, InstanceLoad, NodeReport, Observed, QueueLoad};
use crate::state::{Answer, Applied, ClusterState, Command, Entry, ProposalId};
use crate::units::{Millis, Timestamp};
use crate::window::Counters;

/// What is asked of one function.
#[derive(Clone, Debug, Default)]
pub(super) struct Load {
    /// Slots busy all the time, in thousandths, shared evenly by the ready instances.
    pub milli_slots: u64,
    /// By entry node: requests, how long the first has waited.
    pub waiting: Vec<(u64, u32, u64)>,
}

pub(super) struct World {
    pub state: ClusterState,
    pub memory: Memory,
    /// The leader's monotonic clock; the wall clock is [`EPOCH`] ahead of it.
    pub elapsed: Millis,
    leader_since: Millis,
    pub loads: BTreeMap<&'static str, Load>,
    /// In flight on single instances, elsewhere nothing.
    pub in_flight: BTreeMap<InstanceId, u32>,
    counters: BTreeMap<InstanceId, Counters>,
    pub silent: BTreeSet<u64>,
    heard: BTreeMap<NodeId, (Millis, NodeReport)>,
    pub images: BTreeMap<u64, &'static str>,
    /// Functions whose containers exit at once.
    pub broken: BTreeSet<&'static str>,
    /// Nodes on which nothing starts.
    pub hopeless: BTreeSet<u64>,
    /// Agents do nothing by themselves.
    pub frozen: bool,
    /// Requests run, and never end.
    pub endless: bool,
    /// Hosts report so many times the busy time there was.
    pub exaggerated: u64,
    next_id: u64,
    sequence: u64,
}

const EPOCH: u64 = 1_000_000;
pub(super) const TICK: Millis = Millis(250);

impl World {
    /// Nodes 1 to `nodes`, each with room for ten instances of 100 MB.
    pub(super) fn new(nodes: u64) -> Self {
        let mut world = World {
            state: ClusterState::default(),
            memory: Memory::default(),
            elapsed: Millis(0),
            leader_since: Millis(0),
            loads: BTreeMap::new(),
            in_flight: BTreeMap::new(),
            counters: BTreeMap::new(),
            silent: BTreeSet::new(),
            heard: BTreeMap::new(),
            images: BTreeMap::new(),
            broken: BTreeSet::new(),
            hopeless: BTreeSet::new(),
            frozen: false,
            endless: false,
            exaggerated: 1,
            next_id: 1,
            sequence: 0,
        };
        let owner = AccountName::new("owner").unwrap();
        world.apply(vec![Command::Accounts(accounts::Command::Create { name: owner, role: Role::User })]);
        for node in 1..=nodes {
            world.register(node, 1000, 1);
        }
        world
    }

    pub(super) fn register(&mut self, node: u64, memory_mb: u64, incarnation: u64) {
        let capacity = Resources { memory_mb, cpu_millis: 100_000 };
        self.register_as(node, incarnation, capacity, &[EngineKind::Docker]);
    }

    pub(super) fn register_as(
        &mut self,
        node: u64,
        incarnation: u64,
        capacity: Resources,
        engines: &[EngineKind],
    ) {
        let profile = Profile {
            http: String::new(),
            peer: String::new(),
            capacity,
            engines: engines.iter().copied().collect(),
            labels: BTreeMap::new(),
            version: String::new(),
        };
        let (node, incarnation) = (NodeId(node), Incarnation(incarnation));
        self.apply(vec![Command::Nodes(nodes::Command::Register { node, incarnation, profile })]);
    }

    /// Puts a function: 0..=10 instances of 100 MB with one slot, window 10 s, keep-alive 60 s.
    pub(super) fn put(&mut self, name: &str, edit: impl FnOnce(&mut Spec)) {
        let mut spec = Spec {
            source: Source::Image("image".into()),
            env: BTreeMap::new(),
            port: 8080,
            readiness_path: None,
            memory_mb: 100,
            cpu_millis: 100,
            concurrency: 1,
            timeout: Millis(1000),
            startup_timeout: Millis(5000),
            scaling: ScalingPolicy {
                min: 0,
                max: 10,
                step: None,
                target_permille: 700,
                window: Millis::from_secs(10),
                keep_alive: KeepAlive::Fixed(Millis::from_secs(60)),
            },
            max_waiting: 10,
            payer: Payer::Owner,
            usage_durability: UsageDurability::Interval,
            idempotent: false,
        };
        edit(&mut spec);
        let name = FunctionName::new(name).unwrap();
        let owner = AccountName::new("owner").unwrap();
        let change = ChangeId(self.fresh_id());
        self.apply(vec![Command::Functions(functions::Command::Put { name, spec, owner, change })]);
    }

    pub(super) fn condition(&mut self, node: u64, condition: Condition) {
        let node = NodeId(node);
        let incarnation = self.state.nodes.get(node).unwrap().incarnation;
        let command =
            nodes::Command::SetCondition { node, incarnation, condition, reason: "by the test".into() };
        self.apply(vec![Command::Nodes(command)]);
    }

    pub(super) fn load(&mut self, name: &'static str, milli_slots: u64) {
        self.loads.entry(name).or_default().milli_slots = milli_slots;
    }

    pub(super) fn waiting(&mut self, name: &'static str, waiting: &[(u64, u32, u64)]) {
        self.loads.entry(name).or_default().waiting = waiting.to_vec();
    }

    /// A new leader: it has heard nothing.
    pub(super) fn elect(&mut self) {
        self.memory = Memory::default();
        self.leader_since = self.elapsed;
        self.heard.clear();
    }

    /// Lets a quarter of a second pass: reports arrive, the leader plans, agents obey. Returns the plan.
    pub(super) fn tick(&mut self) -> Vec<Command> {
        self.elapsed += TICK;
        self.report();
        let commands = self.plan();
        self.apply(commands.clone());
        if !self.frozen {
            self.obey();
        }
        commands
    }

    pub(super) fn ticks(&mut self, span: Millis) -> Vec<Command> {
        (0..span.0 / TICK.0).flat_map(|_| self.tick()).collect()
    }

    /// A plan for this moment, not applied.
    pub(super) fn plan(&mut self) -> Vec<Command> {
        let at = Millis(self.elapsed.0 - self.leader_since.0);
        let nodes = self.heard.iter().map(|(node, (then, report))| {
            (*node, Heard { age: Millis(self.elapsed.0 - then.0), report: report.clone() })
        });
        let observed = Observed { elapsed: at, nodes: nodes.collect() };
        let next = &mut self.next_id;
        let mut ids = || {
            *next += 1;
            *next
        };
        plan(&self.state, &observed, &mut self.memory, Timestamp(EPOCH + self.elapsed.0), &mut ids)
    }

    pub(super) fn apply(&mut self, commands: Vec<Command>) {
        self.sequence += 1;
        let proposal = ProposalId { node: NodeId(1), incarnation: Incarnation(1), sequence: self.sequence };
        let entry = Entry { at: Timestamp(EPOCH + self.elapsed.0), proposal, commands };
        let Applied::Answers(answers) = self.state.apply(&entry) else { panic!("repeated") };
        for (answer, command) in answers.iter().zip(&entry.commands) {
            assert!(Answer::is_ok(answer), "{command:?}: {answer:?}");
        }
    }

    pub(super) fn of(&self, name: &str, phase: Phase) -> Vec<(InstanceId, &Instance)> {
        let all = self.state.instances.of_function(name).map(|(id, i)| (id, i.as_ref()));
        all.filter(|(_, i)| i.phase == phase).collect()
    }

    pub(super) fn ready(&self, name: &str) -> usize {
        self.of(name, Phase::Ready).len()
    }

    pub(super) fn live(&self, name: &str) -> usize {
        self.state.instances.of_function(name).count()
    }

    fn fresh_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    /// Each node that is not silent reports what its instances did in the last tick.
    fn report(&mut self) {
        let nodes: Vec<(NodeId, Incarnation)> =
            self.state.nodes.iter().map(|(id, n)| (id, n.incarnation)).collect();
        for (node, incarnation) in nodes {
            let mut instances = Vec::new();
            for (id, instance) in self.state.instances.on_node(node) {
                if instance.phase != Phase::Ready {
                    continue;
                }
                let load = self.loads.get(instance.function.as_str()).cloned().unwrap_or_default();
                let ready = self.of(instance.function.as_str(), Phase::Ready).len() as u64;
                let share = (load.milli_slots / ready).min(u64::from(instance.concurrency) * 1000);
                let busy = TICK.0 * share / 1000;
                let counters = self.counters.entry(id).or_default();
                counters.ready_ms += TICK.0;
                counters.busy_ms += busy * self.exaggerated;
                counters.completed += u64::from(busy > 0 && !self.endless);
                let Counters { busy_ms, ready_ms, completed } = *counters;
                let in_flight = self.in_flight.get(&id).copied().unwrap_or(0);
                instances.push(InstanceLoad { instance: id, in_flight, busy_ms, ready_ms, completed });
            }
            if self.silent.contains(&node.0) {
                continue;
            }
            let queue = |name: &&'static str, load: &Load| {
                let (_, waiting, oldest_ms) = *load.waiting.iter().find(|(at, _, _)| *at == node.0)?;
                let accounts = vec![(AccountName::new(&format!("caller{node}")).unwrap(), waiting)];
                Some(QueueLoad { function: FunctionName::new(name).unwrap(), waiting, oldest_ms, accounts })
            };
            let queues = self.loads.iter().filter_map(|(name, load)| queue(name, load)).collect();
            let images = self.images.get(&node.0).map(|image| (*image).to_owned()).into_iter().collect();
            let report = NodeReport { node, incarnation, instances, queues, images };
            self.heard.insert(node, (self.elapsed, report));
        }
    }

    /// What the agents of nodes that are not silent report of their containers.
    fn obey(&mut self) {
        use instances::Command as C;
        let commands =
            self.state.instances.live().filter(|(_, i)| !self.silent.contains(&i.node.0)).filter_map(
                |(instance, i)| {
                    let generation = i.generation;
                    match i.phase {
                        Phase::Placed
                            if self.broken.contains(i.function.as_str())
                                || self.hopeless.contains(&i.node.0) =>
                        {
                            let reason = "exited with code 1".to_owned();
                            Some(C::MarkFailed { instance, generation, reason })
                        }
                        Phase::Placed => Some(C::MarkStarting { instance, generation }),
                        Phase::Starting => Some(C::MarkReady { instance, generation }),
                        Phase::Draining => Some(C::MarkStopped { instance, generation }),
                        _ => None,
                    }
                },
            );
        let commands = commands.map(Command::Instances).collect();
        self.apply(commands);
    }
}

pub(super) fn placements(commands: &[Command]) -> Vec<(InstanceId, NodeId)> {
    let place = |command: &Command| match command {
        Command::Instances(instances::Command::Place { instance, node, .. }) => Some((*instance, *node)),
        _ => None,
    };
    commands.iter().filter_map(place).collect()
}

pub(super) fn drains(commands: &[Command]) -> Vec<(InstanceId, instances::DrainReason)> {
    let drain = |command: &Command| match command {
        Command::Instances(instances::Command::Drain { instance, reason }) => Some((*instance, *reason)),
        _ => None,
    };
    commands.iter().filter_map(drain).collect()
}

/// The reasons for which the plan does not do what is wanted.
pub(super) fn holds(commands: &[Command]) -> Vec<String> {
    let hold = |command: &Command| match command {
        Command::Instances(instances::Command::Record { decision }) => {
            (decision.action == DecidedAction::Hold).then(|| decision.reason.clone())
        }
        _ => None,
    };
    commands.iter().filter_map(hold).collect()
}

pub(super) fn conditions(commands: &[Command]) -> Vec<(u64, Condition)> {
    let condition = |command: &Command| match command {
        Command::Nodes(nodes::Command::SetCondition { node, condition, .. }) => Some((node.0, *condition)),
        _ => None,
    };
    commands.iter().filter_map(condition).collect()
}
