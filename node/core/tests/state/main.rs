//! Properties of the replicated state under arbitrary logs.
#![expect(clippy::unwrap_used, reason = "a test ends where what it relies on does not hold")]

mod generator;
mod oracle;
mod rollup;

use muster_core::{Answer, Applied, ClusterState, Entry};
use proptest::prelude::*;

use self::generator::{Draft, drafts, entry};
use self::oracle::Oracle;

/// The state as a snapshot has it. Replicas must agree to the byte.
fn bytes(state: &ClusterState) -> Vec<u8> {
    bincode::serde::encode_to_vec(state, bincode::config::standard()).unwrap()
}

fn decoded(bytes: &[u8]) -> ClusterState {
    let (state, read) = bincode::serde::decode_from_slice(bytes, bincode::config::standard()).unwrap();
    assert_eq!(read, bytes.len());
    state
}

/// The log that the drafts make, and the state it leads to.
fn log(drafts: &[Draft]) -> (Vec<Entry>, ClusterState) {
    let mut state = ClusterState::default();
    let mut entries = Vec::new();
    for (sequence, draft) in (1..).zip(drafts) {
        let entry = entry(&state, draft, sequence);
        state.apply(&entry);
        entries.push(entry);
    }
    (entries, state)
}

fn answers(applied: Applied) -> Vec<Answer> {
    match applied {
        Applied::Answers(answers) => answers,
        Applied::Repeated => panic!("a new entry counts as repeated"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn replicas_of_one_log_are_equal(drafts in drafts()) {
        let (entries, first) = log(&drafts);
        let mut second = ClusterState::default();
        for entry in &entries {
            second.apply(entry);
        }
        prop_assert_eq!(bytes(&first), bytes(&second));
    }

    #[test]
    fn a_snapshot_and_a_restart_change_nothing(drafts in drafts(), cut: prop::sample::Index) {
        let (entries, whole) = log(&drafts);
        let cut = cut.index(entries.len() + 1);
        let mut state = ClusterState::default();
        let mut expected = Vec::new();
        let mut got = Vec::new();
        for (at, entry) in entries.iter().enumerate() {
            expected.push(state.apply(entry));
            if at < cut {
                got.push(expected[at].clone());
            }
        }
        let mut state = ClusterState::default();
        for entry in &entries[..cut] {
            state.apply(entry);
        }
        let snapshot = bytes(&state);
        let mut restarted = decoded(&snapshot);
        prop_assert_eq!(&restarted, &state);
        prop_assert_eq!(bytes(&restarted), snapshot);
        // The log may reach back behind the snapshot: what it holds already is not applied again.
        for entry in &entries[cut.saturating_sub(1)..cut] {
            prop_assert_eq!(restarted.apply(entry), Applied::Repeated);
        }
        for entry in &entries[cut..] {
            got.push(restarted.apply(entry));
        }
        prop_assert_eq!(got, expected);
        prop_assert_eq!(bytes(&restarted), bytes(&whole));
    }

    #[test]
    fn repeats_are_harmless(drafts in drafts()) {
        let (entries, _) = log(&drafts);
        let mut state = ClusterState::default();
        for entry in &entries {
            let twice = entry.commands.iter().flat_map(|command| [command.clone(), command.clone()]);
            let twice = Entry { commands: twice.collect(), ..entry.clone() };
            let mut other = state.clone();
            let once = answers(state.apply(entry));
            let pairs = answers(other.apply(&twice));
            prop_assert_eq!(bytes(&state), bytes(&other));
            for (answer, pair) in once.iter().zip(pairs.chunks(2)) {
                prop_assert_eq!(answer, &pair[0]);
            }
            let before = bytes(&state);
            prop_assert_eq!(state.apply(entry), Applied::Repeated);
            prop_assert_eq!(bytes(&state), before);
        }
    }

    #[test]
    fn invariants_hold_after_every_entry(drafts in drafts()) {
        let mut state = ClusterState::default();
        let mut oracle = Oracle::default();
        for (sequence, draft) in (1..).zip(&drafts) {
            let (entry, version) = (entry(&state, draft, sequence), state.version.get());
            let answers = answers(state.apply(&entry));
            prop_assert!(state.version.get() >= version, "the version was lowered");
            oracle.watch(&entry, &answers, &state);
        }
    }
}

/// The properties say little if the commands are mostly refused or no instance ever ends.
#[test]
fn the_generator_reaches_what_it_should() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;

    let mut runner = TestRunner::deterministic();
    let (mut accepted, mut refused, mut ended, mut live, mut rows, mut placed) = (0, 0, 0, 0, 0, 0);
    let mut rolled_up = 0;
    for _ in 0..50 {
        let drafts = drafts().new_tree(&mut runner).unwrap().current();
        let (entries, state) = log(&drafts);
        let mut replica = ClusterState::default();
        for entry in &entries {
            for answer in answers(replica.apply(entry)) {
                *if answer.is_ok() { &mut accepted } else { &mut refused } += 1;
            }
        }
        placed += state.instances.last_generation().0;
        ended += state.instances.iter().filter(|(_, i)| i.phase.is_ended()).count();
        live += state.instances.live().count();
        rows += state.ledger.instance_time().len();
        rolled_up += state.rollups.days().len() + state.rollups.months().len();
    }
    println!(
        "{accepted} accepted, {refused} refused, {placed} placed, {ended} ended, {live} live, {rows} rows, \
         {rolled_up} rolled up"
    );
    assert!(rolled_up > 50, "{rolled_up} rows were rolled up");
    assert!(accepted > 2000 && refused > 500, "{accepted} accepted, {refused} refused");
    assert!(placed > 200 && ended > 100 && live > 20 && rows > 100, "{placed}, {ended}, {live}, {rows}");
}
