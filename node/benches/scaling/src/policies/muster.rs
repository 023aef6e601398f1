//! Muster itself: the replicated state, planner, autoscaler and scheduler of `muster-core`, as the leader
//! runs them. What hosts would report, the model says; what the plan commits, the model does.

use std::collections::{BTreeMap, BTreeSet};

use muster_core::functions::{EngineKind, KeepAlive, Payer, ScalingPolicy, Source, Spec, UsageDurability};
use muster_core::ids::{AccountName, ChangeId, FunctionName, Generation, Incarnation, InstanceId, NodeId};
use muster_core::instances;
use muster_core::nodes::{self, Profile, Resources};
use muster_core::observation::{Heard, InstanceLoad, NodeReport, Observed, QueueLoad};
use muster_core::planner::{self, Memory};
use muster_core::units::{Millis, Timestamp};
use muster_core::{Applied, ClusterState, Command, Entry, ProposalId, accounts, functions};

use super::Policy;
use crate::machine::{Change, Fleet};
use crate::trace::{Function, Trace};

/// The wall clock when a trace begins. Any moment does.
const EPOCH_MS: u64 = 1_800_000_000_000;
/// The leader plans four times a second while requests wait; calm is looked at less often, to save time.
const BUSY_MS: u64 = 250;
const CALM_MS: u64 = 2000;
const INCARNATION: Incarnation = Incarnation(1);

/// The hosts.
#[derive(Clone, Copy, Debug)]
pub struct Cluster {
    pub nodes: u64,
    pub each: Resources,
}

#[derive(Debug)]
pub struct Muster {
    name: String,
    state: ClusterState,
    memory: Memory,
    nodes: u64,
    next_id: u64,
    sequence: u64,
    names: Vec<FunctionName>,
    places: BTreeMap<FunctionName, usize>,
    /// Plans that could not place an instance.
    pub unplaced: u64,
}

impl Muster {
    /// A cluster that knows the trace's functions.
    ///
    /// # Panics
    /// Where a function cannot be registered: its trace is out of bounds.
    pub fn new(name: &str, trace: &Trace, keep_alive: KeepAlive, cluster: Cluster) -> Self {
        let names: Vec<FunctionName> = trace
            .functions
            .iter()
            .map(|f| FunctionName::new(&f.name).expect("checked in the trace"))
            .collect();
        let places = names.iter().cloned().zip(0..).collect();
        let mut muster = Muster {
            name: name.to_owned(),
            state: ClusterState::default(),
            memory: Memory::default(),
            nodes: cluster.nodes,
            next_id: 0,
            sequence: 0,
            names,
            places,
            unplaced: 0,
        };
        let owner = AccountName::new("owner").expect("a valid name");
        let create = accounts::Command::Create { name: owner.clone(), role: accounts::Role::User };
        let mut commands = vec![Command::Accounts(create)];
        for node in 1..=cluster.nodes {
            let (node, incarnation, profile) = (NodeId(node), INCARNATION, profile(cluster.each));
            commands.push(Command::Nodes(nodes::Command::Register { node, incarnation, profile }));
        }
        for (function, name) in trace.functions.iter().zip(&muster.names) {
            let (name, spec, owner) = (name.clone(), spec(function, keep_alive), owner.clone());
            let change = ChangeId(1);
            commands.push(Command::Functions(functions::Command::Put { name, spec, owner, change }));
        }
        let refused = muster.apply(0, commands.clone()).into_iter().position(|done| !done);
        assert_eq!(refused.map(|place| &commands[place]), None, "refused");
        muster
    }

    /// Answers for each command whether it was done.
    fn apply(&mut self, now: u64, commands: Vec<Command>) -> Vec<bool> {
        self.sequence += 1;
        let proposal = ProposalId { node: NodeId(1), incarnation: INCARNATION, sequence: self.sequence };
        let entry = Entry { at: Timestamp(EPOCH_MS + now), proposal, commands };
        match self.state.apply(&entry) {
            Applied::Answers(answers) => answers.iter().map(Result::is_ok).collect(),
            Applied::Repeated => unreachable!("proposals are numbered"),
        }
    }

    /// What the agents report since the last plan.
    fn report_changes(&mut self, fleet: &mut Fleet<'_>) {
        use instances::Command as C;
        let generation = |state: &ClusterState, id| state.instances.get(id).map(|i| i.generation);
        let commands: Vec<Command> = fleet
            .take_changes()
            .into_iter()
            .filter_map(|change| {
                let (Change::Ready(id) | Change::Ended(id)) = change;
                let instance = InstanceId(id);
                let generation: Generation = generation(&self.state, instance)?;
                Some(Command::Instances(match change {
                    Change::Ready(_) => C::MarkReady { instance, generation },
                    Change::Ended(_) => C::MarkStopped { instance, generation },
                }))
            })
            .collect();
        if !commands.is_empty() {
            self.apply(fleet.now, commands);
        }
    }

    fn observe(&self, fleet: &Fleet<'_>) -> Observed {
        let new = |node| NodeReport {
            node: NodeId(node),
            incarnation: INCARNATION,
            instances: Vec::new(),
            queues: Vec::new(),
            images: BTreeSet::from([IMAGE.to_owned()]),
        };
        let mut reports: Vec<NodeReport> = (1..=self.nodes).map(new).collect();
        let at = |node: u64| usize::try_from(node - 1).expect("few nodes");
        for (id, instance) in &fleet.instances {
            let Some(ready_ms) = instance.ready_ms else { continue };
            reports[at(instance.node)].instances.push(InstanceLoad {
                instance: InstanceId(*id),
                in_flight: instance.in_flight,
                busy_ms: instance.busy_ms(fleet.now),
                ready_ms: fleet.now - ready_ms,
                completed: instance.completed,
            });
        }
        for (function, demand) in fleet.demand.iter().enumerate().filter(|(_, d)| !d.waiting.is_empty()) {
            for node in 1..=self.nodes {
                let here = || demand.waiting.iter().filter(|invocation| fleet.entry(**invocation) == node);
                let Some(oldest) = here().next() else { continue };
                reports[at(node)].queues.push(QueueLoad {
                    function: self.names[function].clone(),
                    waiting: u32::try_from(here().count()).unwrap_or(u32::MAX),
                    oldest_ms: fleet.now - fleet.trace.invocations[*oldest].at_ms,
                    accounts: Vec::new(),
                });
            }
        }
        let heard = reports.into_iter().map(|report| (report.node, Heard { age: Millis::ZERO, report }));
        Observed { elapsed: Millis(fleet.now), nodes: heard.collect() }
    }
}

const IMAGE: &str = "function";

impl Policy for Muster {
    fn name(&self) -> &str {
        &self.name
    }

    fn tick_ms(&self, waiting: bool) -> u64 {
        if waiting { BUSY_MS } else { CALM_MS }
    }

    fn reacts(&self, _fleet: &Fleet<'_>, _function: usize) -> bool {
        true
    }

    fn decide(&mut self, fleet: &mut Fleet<'_>) {
        self.report_changes(fleet);
        let observed = self.observe(fleet);
        let next_id = &mut self.next_id;
        let mut ids = || {
            *next_id += 1;
            *next_id
        };
        let now = Timestamp(EPOCH_MS + fleet.now);
        let commands = planner::plan(&self.state, &observed, &mut self.memory, now, &mut ids);
        if commands.is_empty() {
            return;
        }
        let done = self.apply(fleet.now, commands.clone());
        for (command, _) in commands.into_iter().zip(done).filter(|(_, done)| *done) {
            match command {
                Command::Instances(instances::Command::Place { instance, function, node, .. }) => {
                    fleet.launch(instance.0, self.places[&function], node.0);
                }
                Command::Instances(instances::Command::Drain { instance, .. }) => fleet.drain(instance.0),
                Command::Instances(instances::Command::Record { decision }) => {
                    let held = decision.action == instances::DecidedAction::Hold;
                    self.unplaced += u64::from(held);
                }
                _ => {}
            }
        }
    }
}

fn profile(capacity: Resources) -> Profile {
    Profile {
        http: String::new(),
        peer: String::new(),
        capacity,
        engines: [EngineKind::Docker].into(),
        labels: BTreeMap::new(),
        version: String::new(),
    }
}

fn spec(function: &Function, keep_alive: KeepAlive) -> Spec {
    Spec {
        source: Source::Image(IMAGE.into()),
        env: BTreeMap::new(),
        port: 8080,
        readiness_path: None,
        memory_mb: function.memory_mb,
        cpu_millis: 100,
        concurrency: function.concurrency,
        timeout: Millis::from_secs(24 * 3600),
        startup_timeout: Millis::from_secs(3600),
        scaling: ScalingPolicy {
            min: 0,
            max: functions::INSTANCES_MAX,
            step: None,
            target_permille: 700,
            window: Millis::from_secs(60),
            keep_alive,
        },
        max_waiting: functions::WAITING_MAX,
        payer: Payer::Owner,
        usage_durability: UsageDurability::Interval,
        idempotent: false,
    }
}
