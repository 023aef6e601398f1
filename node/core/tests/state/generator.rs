//! Sequences of commands that mean something: few names, so that they meet; repeats, stale
//! generations and incarnations, and names that do not exist, so that refusals are met too.

use std::collections::{BTreeMap, BTreeSet};

use muster_core::accounts::{Action, KeyHash, Pattern, Role};
use muster_core::authority::AuthoritySeed;
use muster_core::functions::{EngineKind, KeepAlive, Payer, ScalingPolicy, Source, Spec, UsageDurability};
use muster_core::habits::{self, Bucket, Costs, Row};
use muster_core::ids::{
    AccountName, ChangeId, ClusterId, FunctionName, Generation, Incarnation, InstanceId, KeyId, NodeId,
    StoreId, TokenId,
};
use muster_core::instances::{
    Command as Instances, DecidedAction, Decision, DrainReason, Inputs, LaunchCause, Trigger,
};
use muster_core::ledger::{Command as Ledger, Usage, UsageRow};
use muster_core::members::{Addresses, Command as Members};
use muster_core::nodes::{Command as Nodes, Condition, Profile, Resources};
use muster_core::units::{Day, Millis, Timestamp};
use muster_core::version::{self, Version};
use muster_core::{ClusterState, Command, Entry, ProposalId, accounts, functions};
use proptest::prelude::*;

/// One step: what is wanted, in small numbers. What they stand for depends on the state it meets.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    Bootstrap(u64),
    Refound(u64),
    SetAuthority(u8),
    /// Whether it is to begin there, and the version.
    Version(bool, u16),
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
    Claim(u8, u64),
    CreateToken(u64, Option<u8>),
    Enroll(u64, u64),
    Remove(u8, bool),
    Leave(u8, Aim),
    Expel(u8),
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
    /// Which function, when by the clock, and idle times in minutes.
    Observe(u8, i64, Vec<u64>),
    Usage {
        node: u8,
        incarnation: Aim,
        batch: u64,
        rows: Vec<(u8, u8, u64, u32, u64)>,
    },
    /// So many days back from now.
    Keep(u32, u32),
    /// What the leader would roll up, all of it or the first slice only.
    RollUp(bool),
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

#[cfg(feature = "mutants")]
#[expect(clippy::disallowed_methods, reason = "whoever runs the tests chooses the seeded bug")]
fn choose_mutant() {
    muster_core::mutants::choose(std::env::var("MUSTER_MUTANT").ok());
}

pub(crate) fn drafts() -> impl Strategy<Value = Vec<Draft>> {
    #[cfg(feature = "mutants")]
    choose_mutant();
    let clock = prop_oneof![
        8 => 0..5_000_i64,
        4 => 0..4_000_000_i64,
        2 => -10_000..0_i64,
        // Days and months, for usage to be rolled up.
        1 => 0..3_000_000_000_i64,
    ];
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
        1 => (0..3_u64).prop_map(Step::Refound),
        1 => (0..2_u8).prop_map(Step::SetAuthority),
        2 => (any::<bool>(), 0..4_u16).prop_map(|(begins, version)| Step::Version(begins, version)),
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
        1 => (node.clone(), 0..3_u64).prop_map(|(n, store)| Step::Claim(n, store)),
        1 => (0..4_u64, proptest::option::of(node.clone())).prop_map(|(t, old)| Step::CreateToken(t, old)),
        1 => (0..4_u64, 0..3_u64).prop_map(|(t, store)| Step::Enroll(t, store)),
        // Rarely of a node with a number that others use: it is gone for the rest of the log.
        1 => (3..9_u8, any::<bool>()).prop_map(|(n, force)| Step::Remove(n, force)),
        1 => (3..9_u8, aim.clone()).prop_map(|(n, aim)| Step::Leave(n, aim)),
        1 => (4..9_u8).prop_map(Step::Expel),
        14 => place.prop_map(|(instance, function, version, node, trigger)| Step::Place {
            instance, function, version, node, trigger,
        }),
        5 => (instance.clone(), aim.clone()).prop_map(|(i, aim)| Step::MarkStarting(i, aim)),
        12 => (instance.clone(), aim.clone()).prop_map(|(i, aim)| Step::MarkReady(i, aim)),
        3 => (instance.clone(), aim.clone()).prop_map(|(i, aim)| Step::MarkFailed(i, aim)),
        4 => (instance.clone(), aim.clone()).prop_map(|(i, aim)| Step::MarkStopped(i, aim)),
        5 => (instance.clone(), 0..6_u8).prop_map(|(i, reason)| Step::Drain(i, reason)),
        2 => (0..600_u64, function.clone()).prop_map(|(id, f)| Step::Record(id, f)),
        4 => (function.clone(), -3000..3000_i64, proptest::collection::vec(0..3000_u64, 0..5))
            .prop_map(|(f, at, idle)| Step::Observe(f, at, idle)),
        10 => (node, aim, 0..4_u64, rows).prop_map(|(node, incarnation, batch, rows)| Step::Usage {
            node, incarnation, batch, rows,
        }),
        1 => (0..3_u32, 0..3_u32).prop_map(|(hours, days)| Step::Keep(hours, days)),
        3 => any::<bool>().prop_map(Step::RollUp),
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
        // By the node that proposes everything here.
        Step::Refound(id) => Command::Refound { cluster: ClusterId(id), founder: NodeId(1) },
        Step::Version(true, version) => {
            Command::Version(version::Command::Begin { version: Version(version) })
        }
        Step::Version(false, to) => Command::Version(version::Command::Raise { to: Version(to) }),
        Step::SetAuthority(byte) => Command::SetAuthority { seed: AuthoritySeed([byte; 32]) },
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
        Step::Claim(n, store) => {
            Command::Nodes(Nodes::Claim { node: NodeId(n.into()), store: StoreId(store) })
        }
        Step::CreateToken(token, replaces) => Command::Members(Members::CreateToken {
            token: TokenId(token),
            hash: KeyHash::of("secret"),
            expires_in: Millis(1_000_000),
            above: NodeId(3),
            replaces: replaces.map(|old| NodeId(old.into())),
        }),
        Step::Enroll(token, store) => Command::Members(Members::Enroll {
            token: TokenId(token),
            hash: KeyHash::of("secret"),
            store: StoreId(store),
            addresses: Addresses { http: "h:1".into(), peer: "h:2".into() },
        }),
        Step::Remove(n, force) => Command::Members(Members::Remove { node: NodeId(n.into()), force }),
        Step::Leave(n, aim) => {
            Command::Members(Members::Leave { node: NodeId(n.into()), incarnation: incarnation(n, aim) })
        }
        Step::Expel(n) => Command::Members(Members::Expel { node: NodeId(n.into()) }),
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
        Step::Keep(hours, days) => {
            let today = state.clock.hour().day().0;
            let hours_from = Day(today.saturating_sub(hours));
            Command::Ledger(Ledger::Keep { hours_from, days_from: Day(today.saturating_sub(days)).month() })
        }
        Step::RollUp(all) => Command::Ledger(roll_up(state, all)),
        Step::Observe(f, at, idle) => {
            let asked_until = Timestamp(state.clock.0.saturating_add_signed(at));
            let idle = idle.iter().filter_map(|minutes| Bucket::of(Millis(minutes * 60_000))).collect();
            let costs = Costs { plain: asked_until.0 % 7, pattern: asked_until.0 % 5 };
            let rows = vec![Row { function: function(f), asked_until, idle, costs }];
            Command::Habits(habits::Command::Observe { rows })
        }
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
            step: None,
            target_permille: 700,
            window: Millis(60_000),
            keep_alive: if max > 2 { KeepAlive::Adaptive } else { KeepAlive::Fixed(Millis(0)) },
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

/// Every slice there is, or one: whether it is due, the state must say.
fn roll_up(state: &ClusterState, all: bool) -> Ledger {
    let take = if all { 60 } else { 1 };
    let usage = state.ledger.usage().keys().map(|(a, f, hour)| (a.clone(), f.clone(), hour.day()));
    let time = state.ledger.instance_time().keys().map(|(a, f, hour)| (a.clone(), f.clone(), hour.day()));
    let days: BTreeSet<_> = usage.chain(time).collect();
    let months: BTreeSet<_> =
        state.rollups.days().keys().map(|(a, f, day)| (a.clone(), f.clone(), day.month())).collect();
    Ledger::RollUp {
        days: days.into_iter().take(take).collect(),
        months: months.into_iter().take(take).collect(),
    }
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
