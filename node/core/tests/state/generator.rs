//! Sequences of commands that mean something: few names, so that they meet; repeats, stale
//! generations and incarnations, and names that do not exist, so that refusals are met too.

use std::collections::{BTreeMap, BTreeSet};

use muster_core::accounts::{Action, KeyHash, Pattern, Role};
use muster_core::functions::{EngineKind, Payer, ScalingPolicy, Source, Spec, UsageDurability};
use muster_core::ids::{
    AccountName, ChangeId, ClusterId, FunctionName, Generation, Incarnation, InstanceId, KeyId, NodeId,
};
use muster_core::instances::{
    Command as Instances, DecidedAction, Decision, DrainReason, Inputs, LaunchCause, Trigger,
};
use muster_core::ledger::{Command as Ledger, Usage, UsageRow};
use muster_core::nodes::{Command as Nodes, Condition, Profile, Resources};
use muster_core::units::{Millis, Timestamp};
use muster_core::{ClusterState, Command, Entry, ProposalId, accounts, functions};
use proptest::prelude::*;

/// One step: what is wanted, in small numbers. What they stand for depends on the state it meets.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    Bootstrap(u64),
    CreateAccount(u8),
    DeleteAccount(u8),
    CreateKey(u8, u64),
    RevokeKey(u8, u64),
    Grant(u8, u8),
    Revoke(u8, u8),
    Put {
        function: u8,
        owner: u8,
        max: u32,
        memory_mb: u32,
        by_callers: bool,
        process: bool,
        change: u64,
    },
    DeleteFunction(u8, bool),
    /// The incarnation, relative to the present one.
    Register(u8, Aim, u8),
    SetCondition(u8, Aim, u8),
    Place {
        instance: u64,
        function: u8,
        version: Aim,
        node: u8,
        trigger: u8,
    },
    /// Below [`RAW`] these numbers choose among the live instances; the rest are plain ids.
    MarkStarting(u64, Aim),
    MarkReady(u64, Aim),
    MarkFailed(u64, Aim),
    MarkStopped(u64, Aim),
    Drain(u64, u8),
    Record(u64, u8),
    Usage {
        node: u8,
        incarnation: Aim,
        batch: u64,
        rows: Vec<(u8, u8, u64, u32, u64)>,
    },
}

/// See [`Step::MarkStarting`].
const RAW: u64 = 20;

/// How a number that fences a command relates to the one in force.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Aim {
    Stale,
    Right,
    Ahead,
}

impl Aim {
    fn at(self, right: u64) -> u64 {
        match self {
            Aim::Stale => right.saturating_sub(1),
            Aim::Right => right,
            Aim::Ahead => right + 1,
        }
    }
}

/// One entry: how the proposer's clock moves, and the steps.
pub(crate) type Draft = (i64, Vec<Step>);

pub(crate) fn drafts() -> impl Strategy<Value = Vec<Draft>> {
    let clock = prop_oneof![4 => 0..5_000_i64, 2 => 0..4_000_000_i64, 1 => -10_000..0_i64];
    proptest::collection::vec((clock, proptest::collection::vec(step(), 1..6)), 10..70).prop_map(
        |mut drafts| {
            drafts.insert(0, (1_000_000, prologue()));
            drafts
        },
    )
}

/// Something to begin with.
fn prologue() -> Vec<Step> {
    let accounts = (0..3).map(Step::CreateAccount);
    let nodes = (1..4).map(|node| Step::Register(node, Aim::Right, 0));
    let functions = (0..2).map(|function| Step::Put {
        function,
        owner: function,
        max: 4,
        memory_mb: 128,
        by_callers: function == 1,
        process: function == 1,
        change: u64::from(function),
    });
    accounts.chain(nodes).chain(functions).collect()
}

fn step() -> impl Strategy<Value = Step> {
    let account = 0..4_u8;
    let function = 0..3_u8;
    let node = 1..5_u8;
    let instance = 0..RAW + 6;
    let new_instance = 0..100_u64;
    let aim = prop_oneof![1 => Just(Aim::Stale), 12 => Just(Aim::Right), 1 => Just(Aim::Ahead)];
    let ahead = prop_oneof![1 => Just(Aim::Stale), 6 => Just(Aim::Right), 4 => Just(Aim::Ahead)];
    let row = (account.clone(), function.clone(), instance.clone(), 0..4_u32, 0..9_000_u64);
    let rows = proptest::collection::vec(row, 0..4);
    let put = (function.clone(), account.clone(), 1..5_u32, 100..400_u32, any::<(bool, bool)>(), 0..40_u64);
    let place = (new_instance, function.clone(), aim.clone(), node.clone(), 0..4_u8);
    prop_oneof![
        1 => (0..2_u64).prop_map(Step::Bootstrap),
        4 => account.clone().prop_map(Step::CreateAccount),
        1 => account.clone().prop_map(Step::DeleteAccount),
        2 => (account.clone(), 0..6_u64).prop_map(|(a, k)| Step::CreateKey(a, k)),
        1 => (account.clone(), 0..6_u64).prop_map(|(a, k)| Step::RevokeKey(a, k)),
        2 => (account.clone(), 0..4_u8).prop_map(|(a, p)| Step::Grant(a, p)),
        1 => (account.clone(), 0..4_u8).prop_map(|(a, p)| Step::Revoke(a, p)),
        5 => put.prop_map(|(function, owner, max, memory_mb, (by_callers, process), change)| Step::Put {
            function, owner, max, memory_mb, by_callers, process, change,
        }),
        1 => (function.clone(), any::<bool>()).prop_map(|(f, force)| Step::DeleteFunction(f, force)),
        4 => (node.clone(), ahead, 0..3_u8).prop_map(|(n, aim, profile)| Step::Register(n, aim, profile)),
        2 => (node.clone(), aim.clone(), 0..8_u8).prop_map(|(n, aim, c)| Step::SetCondition(n, aim, c)),
        14 => place.prop_map(|(instance, function, version, node, trigger)| Step::Place {
            instance, function, version, node, trigger,
        }),
        5 => (instance.clone(), aim.clone()).prop_map(|(i, aim)| Step::MarkStarting(i, aim)),
        12 => (instance.clone(), aim.clone()).prop_map(|(i, aim)| Step::MarkReady(i, aim)),
        3 => (instance.clone(), aim.clone()).prop_map(|(i, aim)| Step::MarkFailed(i, aim)),
        4 => (instance.clone(), aim.clone()).prop_map(|(i, aim)| Step::MarkStopped(i, aim)),
        5 => (instance.clone(), 0..6_u8).prop_map(|(i, reason)| Step::Drain(i, reason)),
        2 => (0..600_u64, function.clone()).prop_map(|(id, f)| Step::Record(id, f)),
        10 => (node, aim, 0..4_u64, rows).prop_map(|(node, incarnation, batch, rows)| Step::Usage {
            node, incarnation, batch, rows,
        }),
    ]
}

/// The entry that a draft becomes on top of `state`. `sequence` numbers the proposals.
pub(crate) fn entry(state: &ClusterState, draft: &Draft, sequence: u64) -> Entry {
    let (moves, steps) = draft;
    let at = Timestamp(state.clock.0.saturating_add_signed(*moves));
    let proposal = ProposalId { node: NodeId(1), incarnation: Incarnation(1), sequence };
    Entry { at, proposal, commands: steps.iter().map(|step| command(state, step)).collect() }
}

fn command(state: &ClusterState, step: &Step) -> Command {
    let fenced = |instance: u64, aim: Aim| {
        let id = instance_id(state, instance);
        let known = state.instances.get(id).map_or(1, |i| i.generation.0);
        (id, Generation(aim.at(known)))
    };
    let incarnation = |node: u8, aim: Aim| Incarnation(aim.at(present(state, node)));
    match step.clone() {
        Step::Bootstrap(id) => {
            Command::Bootstrap { cluster: ClusterId(id), key: KeyId(100), hash: KeyHash::of("root") }
        }
        Step::CreateAccount(a) => {
            Command::Accounts(accounts::Command::Create { name: account(a), role: Role::User })
        }
        Step::DeleteAccount(a) => Command::Accounts(accounts::Command::Delete { name: account(a) }),
        Step::CreateKey(a, id) => Command::Accounts(accounts::Command::CreateKey {
            account: account(a),
            id: KeyId(id),
            hash: KeyHash::of(&format!("{a}{id}")),
            expires_at: (id % 2 == 0).then_some(Timestamp(id)),
        }),
        Step::RevokeKey(a, id) => {
            Command::Accounts(accounts::Command::RevokeKey { account: account(a), id: KeyId(id) })
        }
        Step::Grant(a, p) => {
            let actions: BTreeSet<Action> = [Action::Invoke].into();
            Command::Accounts(accounts::Command::Grant { account: account(a), pattern: pattern(p), actions })
        }
        Step::Revoke(a, p) => {
            Command::Accounts(accounts::Command::Revoke { account: account(a), pattern: pattern(p) })
        }
        Step::Put { function: f, owner, max, memory_mb, by_callers, process, change } => {
            let spec = spec(max, memory_mb, by_callers, process);
            let (name, owner, change) = (function(f), account(owner), ChangeId(change));
            Command::Functions(functions::Command::Put { name, spec, owner, change })
        }
        Step::DeleteFunction(f, force) => {
            Command::Functions(functions::Command::Delete { name: function(f), force })
        }
        Step::Register(n, aim, shape) => Command::Nodes(Nodes::Register {
            node: NodeId(n.into()),
            incarnation: incarnation(n, aim),
            profile: profile(shape),
        }),
        Step::SetCondition(n, aim, c) => Command::Nodes(Nodes::SetCondition {
            node: NodeId(n.into()),
            incarnation: incarnation(n, aim),
            condition: [Condition::Down, Condition::Draining, Condition::Ready][usize::from(c.min(2))],
            reason: "by the test".into(),
        }),
        Step::Place { instance, function: f, version, node, trigger } => {
            let known = state.functions.get(function(f).as_str()).map_or(1, |f| f.current().number);
            Command::Instances(Instances::Place {
                instance: InstanceId(instance),
                function: function(f),
                version: version.at(known),
                node: NodeId(node.into()),
                cause: cause(trigger),
            })
        }
        Step::MarkStarting(i, aim) => {
            let (instance, generation) = fenced(i, aim);
            Command::Instances(Instances::MarkStarting { instance, generation })
        }
        Step::MarkReady(i, aim) => {
            let (instance, generation) = fenced(i, aim);
            Command::Instances(Instances::MarkReady { instance, generation })
        }
        Step::MarkFailed(i, aim) => {
            let (instance, generation) = fenced(i, aim);
            let reason = "exited with code 1".into();
            Command::Instances(Instances::MarkFailed { instance, generation, reason })
        }
        Step::MarkStopped(i, aim) => {
            let (instance, generation) = fenced(i, aim);
            Command::Instances(Instances::MarkStopped { instance, generation })
        }
        Step::Drain(i, reason) => {
            let reason = match reason {
                0 => DrainReason::Idle,
                1 => DrainReason::NodeDraining,
                _ => DrainReason::LowUtilization,
            };
            Command::Instances(Instances::Drain { instance: instance_id(state, i), reason })
        }
        Step::Record(id, f) => Command::Instances(Instances::Record {
            decision: Decision {
                id: ChangeId(id),
                function: function(f),
                action: DecidedAction::Hold,
                inputs: Inputs::default(),
                reason: "by the test".into(),
            },
        }),
        Step::Usage { node, incarnation: aim, batch, rows } => {
            // Around the last one applied: old ones, the next, and gaps.
            let node_id = NodeId(node.into());
            let last = state.ledger.mark(node_id).map_or(0, |(_, batch)| batch);
            Command::Ledger(Ledger::RecordUsage {
                node: node_id,
                incarnation: incarnation(node, aim),
                batch: (last + batch).saturating_sub(1),
                rows: rows.iter().map(|row| usage_row(state, row)).collect(),
            })
        }
    }
}

fn instance_id(state: &ClusterState, choice: u64) -> InstanceId {
    let live: Vec<InstanceId> = state.instances.live().map(|(id, _)| id).collect();
    if choice >= RAW || live.is_empty() {
        return InstanceId(choice);
    }
    live[usize::try_from(choice).expect("small") % live.len()]
}

fn present(state: &ClusterState, node: u8) -> u64 {
    state.nodes.get(NodeId(node.into())).map_or(1, |n| n.incarnation.0)
}

fn account(index: u8) -> AccountName {
    AccountName::new(&format!("account{index}")).unwrap()
}

fn function(index: u8) -> FunctionName {
    FunctionName::new(&format!("f{index}")).unwrap()
}

fn pattern(index: u8) -> Pattern {
    Pattern::new(["*", "f0", "f1", "f*"][usize::from(index)]).unwrap()
}

/// Shape 2 has no containers.
fn profile(shape: u8) -> Profile {
    let engines: &[EngineKind] = match shape {
        2 => &[EngineKind::Process],
        _ => &[EngineKind::Process, EngineKind::Docker],
    };
    Profile {
        http: format!("127.0.0.1:{shape}"),
        peer: String::new(),
        capacity: Resources { memory_mb: 1000 + u64::from(shape), cpu_millis: 2000 },
        engines: engines.iter().copied().collect(),
        labels: BTreeMap::new(),
        version: "0.1.0".into(),
    }
}

fn spec(max: u32, memory_mb: u32, by_callers: bool, process: bool) -> Spec {
    let source =
        if process { Source::Command(vec!["f".into()]) } else { Source::Image("muster/f:latest".into()) };
    Spec {
        source,
        env: BTreeMap::new(),
        port: 8080,
        readiness_path: None,
        memory_mb,
        cpu_millis: 300,
        concurrency: 2,
        timeout: Millis(1000),
        startup_timeout: Millis(1000),
        scaling: ScalingPolicy {
            min: 0,
            max,
            target_permille: 700,
            window: Millis(60_000),
            keep_alive: Millis(0),
        },
        max_waiting: 10,
        payer: if by_callers { Payer::Callers } else { Payer::Owner },
        usage_durability: UsageDurability::Interval,
        idempotent: false,
    }
}

fn cause(trigger: u8) -> LaunchCause {
    let trigger = match trigger {
        0 => Trigger::Minimum,
        1 => Trigger::Rollout,
        2 => Trigger::Utilization,
        _ => Trigger::Queued,
    };
    LaunchCause { trigger, accounts: vec![(account(0), 2), (account(3), 1)] }
}

fn usage_row(state: &ClusterState, row: &(u8, u8, u64, u32, u64)) -> UsageRow {
    let (a, f, instance, invocations, busy_ms) = *row;
    UsageRow {
        account: account(a),
        function: function(f),
        instance: instance_id(state, instance),
        hour: state.clock.hour(),
        usage: Usage { invocations: invocations.into(), busy_ms, ..Usage::default() },
    }
}
