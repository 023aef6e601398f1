use std::collections::BTreeMap;

use super::AgentAction as A;
use super::*;
use crate::accounts::{self, Role};
use crate::functions::{self, EngineKind, KeepAlive, Payer, ScalingPolicy, Source, Spec, UsageDurability};
use crate::ids::{AccountName, ChangeId, FunctionName, Incarnation};
use crate::instances::{self, DrainReason, LaunchCause, Trigger};
use crate::nodes::{self, Condition, Profile, Resources};
use crate::state::{Applied, Command, Entry, ProposalId};
use crate::units::{Millis, Timestamp};

const HERE: NodeId = NodeId(1);
const ELSEWHERE: NodeId = NodeId(2);
const ID: InstanceId = InstanceId(7);

fn apply(state: &mut ClusterState, commands: Vec<Command>) {
    let sequence = state.clock.0 + 1;
    let proposal = ProposalId { node: HERE, incarnation: Incarnation(1), sequence };
    let Applied::Answers(answers) = state.apply(&Entry { at: Timestamp(sequence), proposal, commands })
    else {
        panic!("repeated");
    };
    for answer in answers {
        answer.unwrap();
    }
}

/// Two nodes, and the function `f` with the instance [`ID`] placed on `node` as generation 1.
fn placed_on(node: NodeId) -> ClusterState {
    let mut state = ClusterState::default();
    let owner = AccountName::new("owner").unwrap();
    let name = FunctionName::new("f").unwrap();
    let profile = Profile {
        http: String::new(),
        peer: String::new(),
        capacity: Resources { memory_mb: 1024, cpu_millis: 8000 },
        engines: [EngineKind::Docker].into(),
        labels: BTreeMap::new(),
        version: String::new(),
    };
    let spec = Spec {
        source: Source::Image("f".into()),
        env: BTreeMap::new(),
        port: 8080,
        readiness_path: None,
        memory_mb: 128,
        cpu_millis: 100,
        concurrency: 1,
        timeout: Millis(1000),
        startup_timeout: Millis(1000),
        scaling: ScalingPolicy {
            min: 0,
            max: 10,
            step: None,
            target_permille: 700,
            window: Millis(60_000),
            keep_alive: KeepAlive::Fixed(Millis(0)),
        },
        max_waiting: 10,
        payer: Payer::Owner,
        usage_durability: UsageDurability::Interval,
        idempotent: false,
    };
    let register = |node| {
        Command::Nodes(nodes::Command::Register {
            node,
            incarnation: Incarnation(1),
            profile: profile.clone(),
        })
    };
    apply(
        &mut state,
        vec![
            register(HERE),
            register(ELSEWHERE),
            Command::Accounts(accounts::Command::Create { name: owner.clone(), role: Role::User }),
            Command::Functions(functions::Command::Put {
                name: name.clone(),
                spec,
                owner,
                change: ChangeId(1),
            }),
            Command::Instances(instances::Command::Place {
                instance: ID,
                function: name,
                version: 1,
                node,
                cause: LaunchCause { trigger: Trigger::Queued, accounts: vec![] },
            }),
        ],
    );
    state
}

/// The instance in the given phase, on this node.
fn in_phase(phase: Phase) -> ClusterState {
    use instances::Command as C;
    let generation = Generation(1);
    let mut state = placed_on(HERE);
    let starting = C::MarkStarting { instance: ID, generation };
    let ready = C::MarkReady { instance: ID, generation };
    let drain = C::Drain { instance: ID, reason: DrainReason::Idle };
    let commands = match phase {
        Phase::Placed => vec![],
        Phase::Starting => vec![starting],
        Phase::Ready => vec![starting, ready],
        Phase::Draining => vec![starting, ready, drain],
        Phase::Stopped => vec![ready, drain, C::MarkStopped { instance: ID, generation }],
        Phase::Failed => vec![C::MarkFailed { instance: ID, generation, reason: "no".into() }],
        Phase::Lost => vec![],
    };
    apply(&mut state, commands.into_iter().map(Command::Instances).collect());
    if phase == Phase::Lost {
        let condition = nodes::Command::SetCondition {
            node: HERE,
            incarnation: Incarnation(1),
            condition: Condition::Down,
            reason: "silent".into(),
        };
        apply(&mut state, vec![Command::Nodes(condition)]);
    }
    assert_eq!(state.instances.get(ID).unwrap().phase, phase);
    state
}

fn found(generation: u64, phase: &FoundPhase) -> Vec<Found> {
    vec![Found { instance: ID, generation: Generation(generation), phase: phase.clone() }]
}

fn exited() -> FoundPhase {
    FoundPhase::Exited("exited with code 1".into())
}

const LAUNCH: Option<A> = Some(A::Launch { instance: ID });
const ADOPT: Option<A> = Some(A::Adopt { instance: ID });
const DRAIN: Option<A> = Some(A::Drain { instance: ID });
const STOP: Option<A> = Some(A::Stop { instance: ID });
const FORGET: Option<A> = Some(A::Forget { instance: ID });
const STOPPED: Option<A> = Some(A::ReportStopped { instance: ID, generation: Generation(1) });

fn failed(reason: &str) -> Option<A> {
    Some(A::ReportFailed { instance: ID, generation: Generation(1), reason: reason.into() })
}

/// Looks once, and once more with the instance busy, where nothing may be done.
fn act(state: &ClusterState, found: &[Found], served: bool) -> Option<A> {
    let served = if served { [ID].into() } else { BTreeSet::new() };
    assert_eq!(reconcile(state, HERE, found, &served, &[ID].into()), []);
    let mut actions = reconcile(state, HERE, found, &served, &BTreeSet::new());
    assert!(actions.len() <= 1, "{actions:?}");
    actions.pop()
}

#[test]
fn every_phase_with_everything_found() {
    use FoundPhase::{Running, Starting};
    let gone = || failed("its container is gone");
    let ended = || failed("exited with code 1");
    // Served or not makes a difference only where a column says so.
    // phase: nothing found, starting, running (each: not served → served), exited
    for (phase, nothing, starting, running, exit) in [
        (Phase::Placed, [LAUNCH, LAUNCH], [ADOPT, None], [ADOPT, None], ended()),
        (Phase::Starting, [LAUNCH, LAUNCH], [ADOPT, None], [ADOPT, None], ended()),
        (Phase::Ready, [gone(), gone()], [ADOPT, None], [ADOPT, None], ended()),
        (Phase::Draining, [STOPPED, STOPPED], [DRAIN, DRAIN], [DRAIN, DRAIN], STOPPED),
        (Phase::Stopped, [None, FORGET], [STOP, STOP], [STOP, STOP], FORGET),
        (Phase::Failed, [None, FORGET], [STOP, STOP], [STOP, STOP], FORGET),
        (Phase::Lost, [None, FORGET], [STOP, STOP], [STOP, STOP], FORGET),
    ] {
        let state = in_phase(phase);
        for served in [false, true] {
            let at = usize::from(served);
            let case = format!("{phase}, served: {served}");
            assert_eq!(act(&state, &[], served), nothing[at], "{case}, nothing found");
            assert_eq!(act(&state, &found(1, &Starting), served), starting[at], "{case}, found starting");
            assert_eq!(act(&state, &found(1, &Running), served), running[at], "{case}, found running");
            assert_eq!(act(&state, &found(1, &exited()), served), exit, "{case}, found exited");
        }
    }
}

#[test]
fn what_is_not_assigned_here_does_not_run_here() {
    use FoundPhase::{Running, Starting};
    for (case, state) in [("another node's", placed_on(ELSEWHERE)), ("unknown", ClusterState::default())] {
        let generation = state.instances.last_generation().0;
        assert_eq!(act(&state, &found(generation, &Starting), false), STOP, "{case}");
        assert_eq!(act(&state, &found(generation, &Running), true), STOP, "{case}");
        assert_eq!(act(&state, &found(generation, &exited()), false), FORGET, "{case}");
        assert_eq!(act(&state, &[], true), FORGET, "{case}");
        assert_eq!(act(&state, &[], false), None, "{case}");
    }
}

/// Names reused after a crash made every launch of the ancestor conflict.
#[test]
fn another_generation_makes_way_first() {
    // The instance is assigned as generation 2; a container of generation 1 bears its id.
    let mut state = placed_on(HERE);
    let cause = LaunchCause { trigger: Trigger::Queued, accounts: vec![] };
    let (instance, function) = (InstanceId(8), FunctionName::new("f").unwrap());
    let place = instances::Command::Place { instance, function, version: 1, node: HERE, cause };
    apply(&mut state, vec![Command::Instances(place)]);
    for (phase, want) in [
        (FoundPhase::Starting, A::Stop { instance }),
        (FoundPhase::Running, A::Stop { instance }),
        (exited(), A::Forget { instance }),
    ] {
        let found = [Found { instance, generation: Generation(1), phase }];
        assert_eq!(reconcile(&state, HERE, &found, &BTreeSet::new(), &[ID].into()), [want]);
    }
}

/// A replica that restarted may be behind its own containers.
#[test]
fn news_from_the_future_is_left_alone() {
    let state = in_phase(Phase::Ready);
    let newer =
        vec![Found { instance: InstanceId(9), generation: Generation(2), phase: FoundPhase::Running }];
    assert_eq!(reconcile(&state, HERE, &newer, &[ID].into(), &[ID].into()), []);
    assert_eq!(act(&state, &found(2, &FoundPhase::Running), true), None);
}

#[test]
fn what_frees_room_comes_first() {
    let mut state = placed_on(HERE);
    let name = FunctionName::new("f").unwrap();
    for id in [3, 4] {
        let cause = LaunchCause { trigger: Trigger::Queued, accounts: vec![] };
        let (instance, function) = (InstanceId(id), name.clone());
        let place = instances::Command::Place { instance, function, version: 1, node: HERE, cause };
        apply(&mut state, vec![Command::Instances(place)]);
    }
    apply(
        &mut state,
        vec![Command::Instances(instances::Command::Drain {
            instance: InstanceId(4),
            reason: DrainReason::Idle,
        })],
    );
    let running = |id: u64, generation: u64| Found {
        instance: InstanceId(id),
        generation: Generation(generation),
        phase: FoundPhase::Running,
    };
    let found = [running(3, 2), running(99, 1)];
    let actions = reconcile(&state, HERE, &found, &BTreeSet::new(), &BTreeSet::new());
    assert_eq!(
        actions,
        [
            A::Stop { instance: InstanceId(99) },
            A::ReportStopped { instance: InstanceId(4), generation: Generation(3) },
            A::Adopt { instance: InstanceId(3) },
            A::Launch { instance: ID },
        ]
    );
}
