use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::accounts::KeyHash;
use crate::ids::{ClusterId, Incarnation, KeyId};
use crate::state::{self, Answer, Applied, ClusterState, Entry, ProposalId};
use crate::units::Timestamp;
use crate::{Reply, nodes};

fn range(oldest: u16, newest: u16) -> Range {
    Range { oldest: Version(oldest), newest: Version(newest) }
}

fn says(oldest: u16, newest: u16) -> Option<Support> {
    Some(Support { range: range(oldest, newest), holds: false })
}

fn members(said: &[Option<Support>]) -> BTreeMap<NodeId, Option<Support>> {
    (1..).map(NodeId).zip(said.iter().copied()).collect()
}

#[test]
fn it_is_raised_once_all_members_support_the_next() {
    use Obstacle::{Holds, Silent, Unsupported};
    let held = |by: &[(u64, Obstacle)]| Step::Held {
        to: Version(2),
        by: by.iter().map(|(node, why)| (NodeId(*node), *why)).collect(),
    };
    let holds = says(1, 2).map(|support| Support { holds: true, ..support });
    for (name, said, want) in [
        ("no members at all", vec![], Step::Newest),
        ("nobody knows of another", vec![says(1, 1), says(1, 1)], Step::Newest),
        ("nobody that is heard does", vec![says(1, 1), None], Step::Newest),
        ("all support it", vec![says(1, 2); 3], Step::Raise { to: Version(2) }),
        ("all support far more", vec![says(1, 9), says(2, 7)], Step::Raise { to: Version(2) }),
        ("one is old", vec![says(1, 2), says(1, 1), says(1, 2)], held(&[(2, Unsupported(range(1, 1)))])),
        ("one is silent", vec![says(1, 2), says(1, 2), None], held(&[(3, Silent)])),
        ("one is too new", vec![says(1, 2), says(3, 4)], held(&[(2, Unsupported(range(3, 4)))])),
        ("one holds", vec![holds, says(1, 2)], held(&[(1, Holds)])),
        (
            "two are in the way",
            vec![None, says(1, 1), says(1, 2)],
            held(&[(1, Silent), (2, Unsupported(range(1, 1)))]),
        ),
        ("one by itself", vec![says(1, 2)], Step::Raise { to: Version(2) }),
    ] {
        assert_eq!(next(Version(1), &members(&said)), want, "{name}");
    }
}

fn support() -> impl Strategy<Value = Option<Support>> {
    let some = (1..5_u16, 0..4_u16, any::<bool>())
        .prop_map(|(oldest, more, holds)| Support { range: range(oldest, oldest + more), holds });
    proptest::option::weighted(0.8, some)
}

#[derive(Clone, Debug)]
enum Event {
    /// A node comes, or comes back with another release, or falls silent.
    Says(u64, Option<Support>),
    /// It is removed.
    Goes(u64),
    Look,
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        2 => (1..5_u64, support()).prop_map(|(node, support)| Event::Says(node, support)),
        1 => (1..5_u64).prop_map(Event::Goes),
        2 => Just(Event::Look),
    ];
    proptest::collection::vec(event, 1..60)
}

proptest! {
    /// Whatever comes, goes and comes back: no member is ever beyond what it said when the version was raised.
    #[test]
    fn nobody_is_left_behind_and_nothing_is_lowered(events in events()) {
        let mut state = InEffect::default();
        let mut members: BTreeMap<NodeId, Option<Support>> = BTreeMap::new();
        for event in events {
            let before = state.get();
            match event {
                Event::Says(node, support) => drop(members.insert(NodeId(node), support)),
                Event::Goes(node) => drop(members.remove(&NodeId(node))),
                Event::Look => match next(before, &members) {
                    Step::Raise { to } => {
                        state.raise(to).expect("it is the next one");
                        prop_assert_eq!(to.0, before.0 + 1);
                        for (node, support) in &members {
                            let support = support.unwrap_or_else(|| panic!("node {node} was silent"));
                            prop_assert!(support.range.oldest <= to && to <= support.range.newest && !support.holds);
                        }
                    }
                    Step::Held { by, .. } => prop_assert!(!by.is_empty() && by.keys().all(|n| members.contains_key(n))),
                    Step::Newest => {}
                },
            }
            prop_assert!(state.get() >= before);
        }
    }

    /// Whatever a leader may propose, once, again, late or by mistake.
    #[test]
    fn a_state_goes_up_by_one_or_stays(proposed in proptest::collection::vec((any::<bool>(), 0..6_u16), 1..40)) {
        let mut state = ClusterState::default();
        for (sequence, (begin, version)) in (1..).zip(proposed) {
            let (before, version) = (state.version.get(), Version(version));
            let command = if begin { Command::Begin { version } } else { Command::Raise { to: version } };
            let first = apply(&mut state, 2 * sequence, command);
            let after = state.version.get();
            prop_assert!(after == before || first.is_ok());
            prop_assert!(after >= before);
            prop_assert!(begin || after.0 <= before.0 + 1);
            prop_assert_eq!(apply(&mut state, 2 * sequence + 1, command).is_ok(), first.is_ok(), "a repetition");
            prop_assert_eq!(state.version.get(), after, "a repetition changes nothing");
        }
    }
}

fn apply(state: &mut ClusterState, sequence: u64, command: Command) -> Answer {
    apply_any(state, sequence, state::Command::Version(command))
}

fn apply_any(state: &mut ClusterState, sequence: u64, command: state::Command) -> Answer {
    let proposal = ProposalId { node: NodeId(1), incarnation: Incarnation(1), sequence };
    match state.apply(&Entry { at: Timestamp(sequence), proposal, commands: vec![command] }) {
        Applied::Answers(mut answers) => answers.pop().unwrap(),
        Applied::Repeated => panic!("{proposal:?} counts as repeated"),
    }
}

#[test]
fn a_new_cluster_begins_at_any_version_and_an_old_one_at_the_first() {
    let mut state = ClusterState::default();
    assert_eq!(state.version.get(), Version::FIRST);
    let bootstrap =
        state::Command::Bootstrap { cluster: ClusterId(7), key: KeyId(1), hash: KeyHash::of("x") };
    apply_any(&mut state, 1, bootstrap).unwrap();
    let mut old = state.clone();
    assert_eq!(apply(&mut state, 2, Command::Begin { version: Version(4) }), Ok(Reply::Done));
    assert_eq!(apply(&mut state, 3, Command::Begin { version: Version(4) }), Ok(Reply::Done), "again");
    assert!(apply(&mut state, 4, Command::Begin { version: Version(5) }).is_err());
    assert_eq!(state.version.get(), Version(4));

    // In one that runs nobody may skip a version.
    let profile = nodes::Profile {
        http: String::new(),
        peer: String::new(),
        capacity: nodes::Resources::default(),
        engines: std::collections::BTreeSet::default(),
        labels: BTreeMap::default(),
        version: String::new(),
    };
    let register = nodes::Command::Register { node: NodeId(1), incarnation: Incarnation(1), profile };
    apply_any(&mut old, 2, state::Command::Nodes(register)).unwrap();
    assert!(matches!(
        apply(&mut old, 3, Command::Begin { version: Version(4) }),
        Err(Rejection::Conflict(_))
    ));
    assert!(matches!(apply(&mut old, 4, Command::Raise { to: Version(3) }), Err(Rejection::Conflict(_))));
    assert_eq!(apply(&mut old, 5, Command::Raise { to: Version(2) }), Ok(Reply::Done));
    assert!(matches!(apply(&mut old, 6, Command::Raise { to: Version(1) }), Err(Rejection::Stale(_))));
    assert_eq!(old.version.get(), Version(2));
}

#[test]
fn who_may_take_part_at_which_version() {
    for (own, in_effect, said) in [
        (range(1, 2), 1, None),
        (range(1, 2), 2, None),
        (range(1, 2), 3, Some("is at version 3, and this muster-node supports only 1 to 2")),
        (range(3, 4), 2, Some("until `muster cluster status` shows version 3")),
    ] {
        let checked = own.check(Version(in_effect)).map_err(|unsupported| unsupported.to_string());
        match said {
            None => assert_eq!(checked, Ok(())),
            Some(said) => assert!(checked.as_ref().is_err_and(|text| text.contains(said)), "{checked:?}"),
        }
        assert_eq!(own.includes(Version(in_effect)), said.is_none());
    }
}

#[test]
fn a_command_that_leads_to_a_version_may_be_in_the_log_before_it() {
    for (command, since) in [
        (Command::Begin { version: Version(9) }, 1),
        (Command::Raise { to: Version(2) }, 1),
        (Command::Raise { to: Version(9) }, 8),
    ] {
        assert_eq!(state::Command::Version(command).since(), Version(since), "{command:?}");
    }
}
