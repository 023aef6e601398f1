//! Rolling up loses nothing and says nothing that is not so: against a ledger that keeps every hour,
//! written down here from the commands alone.

use std::collections::BTreeMap;

use muster_core::ids::{AccountName, FunctionName, Incarnation, InstanceId, NodeId};
use muster_core::ledger::{Command as Ledger, Grain, Known, Retention, SLICES_MAX, Selection, Sweep, Usage};
use muster_core::ledger::{Sums, UsageRow};
use muster_core::units::{Day, Hour, Month, Timestamp};
use muster_core::{Applied, ClusterState, Command, Entry, ProposalId};
use proptest::prelude::*;

const HOUR_MS: u64 = 3_600_000;
/// 2025-06-05T00Z.
const START: Timestamp = Timestamp(486_024 * HOUR_MS);
const RETENTION: Retention = Retention { hours_for_days: 2, days_for_months: 1 };

/// One step of a history.
#[derive(Clone, Debug)]
enum Step {
    /// Usage of an account and a function, so many hours late.
    Use { account: u8, function: u8, late_hours: u32, invocations: u32 },
    /// So many hours go by.
    Wait(u64),
    /// The leader rolls up as long as there is something to do, or once.
    Sweep(bool),
    /// Another leader, which remembers nothing.
    NewLeader,
}

fn step() -> impl Strategy<Value = Step> {
    let late = prop_oneof![6 => 0..3_u32, 2 => 0..100_u32, 1 => 0..3_000_u32];
    let wait = prop_oneof![6 => 1..8_u64, 2 => 20..60_u64, 1 => 500..2_000_u64];
    prop_oneof![
        8 => (0..3_u8, 0..4_u8, late, 1..100_u32).prop_map(|(account, function, late_hours, invocations)| {
            Step::Use { account, function, late_hours, invocations }
        }),
        3 => wait.prop_map(Step::Wait),
        3 => any::<bool>().prop_map(Step::Sweep),
        1 => Just(Step::NewLeader),
    ]
}

#[derive(Default)]
struct World {
    state: ClusterState,
    now: Timestamp,
    sequence: u64,
    sweep: Sweep,
    /// The oracle: every hour, for ever.
    hours: BTreeMap<(AccountName, FunctionName, u32), u64>,
}

impl World {
    fn apply(&mut self, command: Ledger) {
        self.sequence += 1;
        let proposal = ProposalId { node: NodeId(1), incarnation: Incarnation(1), sequence: self.sequence };
        let entry = Entry { at: self.now, proposal, commands: vec![Command::Ledger(command)] };
        let Applied::Answers(answers) = self.state.apply(&entry) else { panic!("a new entry") };
        assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    }

    fn play(&mut self, step: &Step) {
        match *step {
            Step::Use { account, function, late_hours, invocations } => {
                let account = AccountName::new(&format!("a{account}")).unwrap();
                let function = FunctionName::new(&format!("f{function}")).unwrap();
                let hour = Hour(self.now.hour().0 - late_hours);
                let usage = Usage { invocations: invocations.into(), ..Usage::default() };
                *self.hours.entry((account.clone(), function.clone(), hour.0)).or_default() +=
                    u64::from(invocations);
                let rows = vec![UsageRow { account, function, instance: InstanceId(1), hour, usage }];
                let (node, incarnation, batch) = (NodeId(1), Incarnation(1), self.sequence + 1);
                self.apply(Ledger::RecordUsage { node, incarnation, batch, rows });
            }
            Step::Wait(hours) => self.now = Timestamp(self.now.0 + hours * HOUR_MS),
            Step::Sweep(whole) => {
                let mut steps = 0;
                while let Some(command) = self.sweep.next(&self.state, RETENTION, self.now) {
                    if let Ledger::RollUp { days, months } = &command {
                        assert!((1..=SLICES_MAX).contains(&(days.len() + months.len())));
                    }
                    self.apply(command);
                    steps += 1;
                    assert!(steps < 1_000, "rolling up comes to no end");
                    if !whole {
                        break;
                    }
                }
            }
            Step::NewLeader => self.sweep = Sweep::default(),
        }
    }

    /// Every selection is answered as the oracle would, at the grain that the state knows.
    fn check(&self) {
        let rollups = &self.state.rollups;
        for grain in [Grain::Hour, Grain::Day, Grain::Month, Grain::Total] {
            let mut expected: BTreeMap<_, u64> = BTreeMap::new();
            for ((account, function, hour), invocations) in &self.hours {
                // By the marks alone, with another arithmetic than the ledger's.
                let (hour, day) = (Hour(*hour), Day(*hour / 24));
                let known = match (day < rollups.hours_from(), day.month() < rollups.days_from()) {
                    (false, _) => Known::Hour(hour),
                    (true, false) => Known::Day(day),
                    (true, true) => Known::Month(day.month()),
                };
                let period = known.coarsened(grain);
                *expected.entry((account.clone(), function.clone(), period)).or_default() += invocations;
            }
            assert_eq!(
                self.read(None, None, Timestamp(0), Timestamp(u64::MAX), grain),
                expected,
                "{grain:?}"
            );
        }
        for account in [None, Some("a1"), Some("nobody")] {
            for function in [None, Some("f2"), Some("a-first"), Some("z-last")] {
                for (from, to) in [(0, 9), (1, 2), (2, 60), (0, 400), (30, 500)] {
                    // From so many days ago on, to so many.
                    let day = |back| Day(self.now.hour().day().next().0 - back);
                    let (from, to) = (day(to).start(), day(from).start());
                    let selection = selection(account, function, from, to);
                    if selection.cut(rollups).is_some() {
                        assert!(
                            from.hour().day().month() < rollups.days_from(),
                            "a day is not cut: {selection:?}"
                        );
                        continue;
                    }
                    let expected: u64 = self
                        .hours
                        .iter()
                        .filter(|((a, f, hour), _)| {
                            account.is_none_or(|wanted| a.as_str() == wanted)
                                && function.is_none_or(|wanted| f.as_str() == wanted)
                                && (from..to).contains(&Hour(*hour).start())
                        })
                        .map(|(_, invocations)| invocations)
                        .sum();
                    let read: u64 = self.read(account, function, from, to, Grain::Total).values().sum();
                    assert_eq!(read, expected, "{selection:?}");
                }
            }
        }
    }

    fn read(
        &self,
        account: Option<&str>,
        function: Option<&str>,
        from: Timestamp,
        to: Timestamp,
        grain: Grain,
    ) -> BTreeMap<(AccountName, FunctionName, Option<Known>), u64> {
        let mut found: BTreeMap<_, u64> = BTreeMap::new();
        let visit = |a: &AccountName, f: &FunctionName, known: Known, sums: &Sums| {
            *found.entry((a.clone(), f.clone(), known.coarsened(grain))).or_default() +=
                sums.usage.invocations;
            Ok::<(), ()>(())
        };
        selection(account, function, from, to).read(&self.state, visit).unwrap();
        found
    }
}

fn selection(account: Option<&str>, function: Option<&str>, from: Timestamp, to: Timestamp) -> Selection {
    Selection {
        account: account.map(|name| AccountName::new(name).unwrap()),
        function: function.map(|name| FunctionName::new(name).unwrap()),
        from,
        to,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn nothing_is_lost_and_every_question_is_answered_right(steps in proptest::collection::vec(step(), 5..80)) {
        let mut world = World { now: START, ..World::default() };
        for step in &steps {
            world.play(step);
            if matches!(step, Step::Sweep(_)) {
                world.check();
            }
        }
        world.play(&Step::Sweep(true));
        world.check();
        // What is kept is bounded by the marks: everything behind them has moved.
        let rollups = &world.state.rollups;
        prop_assert!(world.state.ledger.usage().keys().all(|(_, _, hour)| hour.day() >= rollups.hours_from()));
        prop_assert!(rollups.days().keys().all(|(_, _, day)| day.month() >= rollups.days_from()));
    }
}

#[test]
fn a_roll_up_is_bounded_and_leaves_alone_what_is_kept() {
    let mut world = World { now: START, ..World::default() };
    let slice = |day| (AccountName::new("a0").unwrap(), FunctionName::new("f0").unwrap(), day);
    world.play(&Step::Use { account: 0, function: 0, late_hours: 0, invocations: 7 });
    let today = world.now.hour().day();
    let before = world.state.ledger.clone();
    world.apply(Ledger::RollUp { days: vec![slice(today)], months: Vec::new() });
    assert_eq!(world.state.ledger, before, "today's hours are kept");
    // Days are never known further back than months begin, however they were asked for.
    world.apply(Ledger::Keep { hours_from: Day(today.0 - 10), days_from: Month(u32::MAX) });
    assert_eq!(world.state.rollups.days_from(), Day(today.0 - 10).month());
    let days = vec![slice(today); SLICES_MAX + 1];
    let proposal = ProposalId { node: NodeId(1), incarnation: Incarnation(1), sequence: 99 };
    let commands = vec![Command::Ledger(Ledger::RollUp { days, months: Vec::new() })];
    let Applied::Answers(answers) = world.state.apply(&Entry { at: world.now, proposal, commands }) else {
        panic!("a new entry");
    };
    assert!(answers[0].as_ref().is_err_and(|error| error.to_string().contains("at most 128")), "{answers:?}");
}
