//! Registers are linearizable: some order of the operations on each register explains every answer
//! and contradicts nobody's clock. A search after Wing and Gong (1993) with Lowe's memory of
//! configurations seen (2017), per register.
//!
//! A write of unknown outcome may come as late as [`LATE_US`] after it began, or never. That bounds how many
//! operations are open at a time, and so the search through a history of hours.
//!
//! Reads with `?consistency=local` are left out: they promise less. What nodes answered at the end
//! counts as reads.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::super::evidence::Evidence;
use super::super::history::Entry;
use super::super::op::{LATE_US, Op, Verdict};
use super::{Finding, Invariant};

/// Configurations looked at for one register before the search is given up: so many in all, or for each
/// of its operations.
const CONFIGURATIONS_MAX: usize = 300_000;
const PER_CALL_MAX: usize = 20;
/// What they may take of memory, in words of eight bytes: half a GiB. Each has some beside its bits.
const WORDS_MAX: usize = 1 << 26;
const CONFIGURATION_WORDS: usize = 12;

pub(super) struct Linearizability;

impl Invariant for Linearizability {
    fn name(&self) -> &'static str {
        "linearizability"
    }

    fn statement(&self) -> &'static str {
        "for each register, one order of its operations explains every answer"
    }

    fn check(&self, run: &Evidence) -> Finding {
        let mut finding = Finding::needing(50);
        for (register, calls) in registers(run) {
            finding.examined += calls.len() as u64;
            match search(&calls) {
                Search::Found => {}
                Search::None { deepest } => finding.violate(format!(
                    "no order explains {register} ({} operations); the longest explanation ends before: {}",
                    calls.len(),
                    deepest.iter().map(|call| call.show()).collect::<Vec<_>>().join("; ")
                )),
                Search::GivenUp => finding
                    .untested
                    .push(format!("{register}: {} operations are too tangled to decide", calls.len())),
            }
        }
        // A search that was given up has not shown anything: it counts against the run.
        if finding.untested.len() > 2 {
            let text = format!("{} registers could not be decided", finding.untested.len());
            finding.violate(text);
        }
        finding
    }
}

/// What an operation did to its register, or saw of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Effect {
    /// Writes, whatever was there.
    Set(Option<u64>),
    /// Writes where there was nothing.
    Create,
    /// Takes away what was there.
    Remove,
    Saw(Option<u64>),
    /// It was refused because something was there.
    SawSome,
    /// May have created; without effect where something was there.
    MayCreate,
}

#[derive(Clone, Debug)]
struct Call {
    id: Option<u64>,
    begin_us: u64,
    /// Absent: it takes effect within [`LATE_US`], or never.
    end_us: Option<u64>,
    effect: Effect,
}

impl Call {
    fn show(&self) -> String {
        let who = self.id.map_or_else(|| "the final read".to_owned(), |id| format!("operation {id}"));
        let end = self.end_us.map_or_else(|| "…".to_owned(), |end| format!("{:.3}", seconds(end)));
        format!("{who} [{:.3}, {end}] {:?}", seconds(self.begin_us), self.effect)
    }
}

fn seconds(us: u64) -> f64 {
    std::time::Duration::from_micros(us).as_secs_f64()
}

fn registers(run: &Evidence) -> BTreeMap<String, Vec<Call>> {
    let mut registers: BTreeMap<String, Vec<Call>> = BTreeMap::new();
    for entry in run.entries.iter().filter(|entry| !entry.op.is_local()) {
        if let (Some(register), Some(call)) = (entry.op.register(), call(entry)) {
            registers.entry(register).or_default().push(call);
        }
    }
    for (register, calls) in &mut registers {
        for view in run.finals.views.values() {
            let effect = Effect::Saw(view.registers.get(register).copied());
            calls.push(Call { id: None, begin_us: view.begin_us, end_us: Some(view.end_us), effect });
        }
        forget_unseen(calls);
        calls.sort_by_key(|call| call.begin_us);
    }
    registers
}

/// What an operation tells of its register; `None` if nothing.
fn call(entry: &Entry) -> Option<Call> {
    let verdict = entry.outcome().map_or(Verdict::Unknown, |outcome| outcome.verdict);
    let status = entry.outcome().and_then(|outcome| outcome.status);
    let value = entry.outcome().and_then(|outcome| outcome.value);
    let effect = match (&entry.op, verdict, status) {
        (Op::PutFunction { rev, .. }, Verdict::Done | Verdict::Unknown, _) => Effect::Set(Some(*rev)),
        (Op::Grant { actions, .. }, Verdict::Done | Verdict::Unknown, _) => Effect::Set(Some(*actions)),
        (Op::CreateAccount { .. }, Verdict::Done, _) => Effect::Create,
        (Op::CreateAccount { .. }, Verdict::Unknown, _) => Effect::MayCreate,
        (Op::CreateAccount { .. }, Verdict::Refused, Some(409)) => Effect::SawSome,
        (Op::DeleteFunction { .. } | Op::DeleteAccount { .. } | Op::RevokeGrant { .. }, verdict, status) => {
            match (verdict, status) {
                (Verdict::Done, _) => Effect::Remove,
                (Verdict::Unknown, _) => Effect::Set(None),
                (Verdict::Refused, Some(404)) => Effect::Saw(None),
                _ => return None,
            }
        }
        (Op::ReadFunction { .. } | Op::ReadAccount { .. } | Op::ReadGrant { .. }, Verdict::Done, _) => {
            Effect::Saw(value)
        }
        _ => return None,
    };
    let certain = verdict != Verdict::Unknown;
    Some(Call {
        id: Some(entry.id),
        begin_us: entry.begin_us,
        end_us: entry.end_us().filter(|_| certain),
        effect,
    })
}

/// Leaves out writes that may not have happened and whose value nobody saw: an order with such a
/// write explains nothing that the same order without it does not, as long as nobody told whether
/// there was *something*. It halves the search.
fn forget_unseen(calls: &mut Vec<Call>) {
    let told = |call: &Call| matches!(call.effect, Effect::Create | Effect::Remove | Effect::SawSome);
    if calls.iter().any(told) {
        return;
    }
    let seen: BTreeSet<Option<u64>> = calls
        .iter()
        .filter_map(|call| match call.effect {
            Effect::Saw(value) => Some(value),
            _ => None,
        })
        .collect();
    calls.retain(|call| match call.effect {
        Effect::Set(value) => call.end_us.is_some() || seen.contains(&value),
        _ => true,
    });
}

enum Search {
    Found,
    None { deepest: Vec<Call> },
    GivenUp,
}

/// Which calls are in the order so far, and what they leave. In a long history most calls are settled one
/// way or the other, so only those from the first open one on are remembered one by one.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Configuration {
    /// All before it are placed, or will never be.
    first_open: usize,
    /// Of those from `first_open` on, a bit for each that is placed; without zeros at the end.
    placed: Vec<u64>,
    /// No later call can come before this.
    now_us: u64,
    value: Option<u64>,
}

/// Looks for an order. `calls` are sorted by their begin.
fn search(calls: &[Call]) -> Search {
    let start = Configuration { first_open: 0, placed: Vec::new(), now_us: 0, value: None };
    let mut seen = HashSet::new();
    let mut words = 0;
    let mut open = vec![(0_usize, start)];
    let mut deepest: (usize, Vec<Call>) = (0, Vec::new());
    while let Some((mut depth, mut at)) = open.pop() {
        depth += place_reads(calls, &mut at);
        at.settle(calls);
        if seen.contains(&at) {
            continue;
        }
        words += at.placed.len() + CONFIGURATION_WORDS;
        seen.insert(at.clone());
        let next = candidates(calls, &at);
        if next.iter().all(|i| calls[*i].end_us.is_none()) {
            // Only doubtful ones are left: each certain one would be a candidate, or wait for one.
            return Search::Found;
        }
        if seen.len() > CONFIGURATIONS_MAX.max(PER_CALL_MAX * calls.len()) || words > WORDS_MAX {
            return Search::GivenUp;
        }
        if depth >= deepest.0 {
            deepest =
                (depth, next.iter().map(|i| calls[*i].clone()).filter(|c| c.end_us.is_some()).collect());
        }
        // The last pushed is looked at first: certain calls that end early, before doubtful ones.
        let mut next: Vec<usize> = next;
        next.sort_by_key(|i| std::cmp::Reverse(calls[*i].end_us.unwrap_or(u64::MAX)));
        for index in next {
            if let Some(value) = after(calls[index].effect, at.value) {
                let mut then = at.clone();
                then.place(index, &calls[index]);
                then.value = value;
                open.push((depth + 1, then));
            }
        }
    }
    Search::None { deepest: deepest.1 }
}

/// The value after an operation; `None` if it cannot have come at this point.
fn after(effect: Effect, value: Option<u64>) -> Option<Option<u64>> {
    match effect {
        Effect::Set(new) => Some(new),
        Effect::Create => value.is_none().then_some(Some(1)),
        Effect::Remove => value.is_some().then_some(None),
        Effect::Saw(seen) => (seen == value).then_some(value),
        Effect::SawSome => value.is_some().then_some(value),
        Effect::MayCreate => Some(value.or(Some(1))),
    }
}

/// Calls that may come next: those not placed that began before any certain one not placed ended.
fn candidates(calls: &[Call], at: &Configuration) -> Vec<usize> {
    let mut horizon = u64::MAX;
    let mut found = Vec::new();
    for (index, call) in calls.iter().enumerate().skip(at.first_open) {
        // They are sorted: what began behind the horizon, and all behind it, has to wait.
        if call.begin_us > horizon {
            break;
        }
        if at.has(index) || at.is_too_late(call) {
            continue;
        }
        horizon = horizon.min(call.end_us.unwrap_or(u64::MAX));
        found.push(index);
    }
    found.retain(|index| calls[*index].begin_us <= horizon);
    found
}

/// Places every read that may come next and fits, and says how many. It changes nothing, so placing it
/// at once never spoils an order.
fn place_reads(calls: &[Call], at: &mut Configuration) -> usize {
    let mut count = 0;
    loop {
        let fits = |i: &usize| {
            let effect = calls[*i].effect;
            matches!(effect, Effect::Saw(_) | Effect::SawSome) && after(effect, at.value).is_some()
        };
        let fitting: Vec<usize> = candidates(calls, at).into_iter().filter(fits).collect();
        if fitting.is_empty() {
            return count;
        }
        count += fitting.len();
        fitting.into_iter().for_each(|index| at.place(index, &calls[index]));
    }
}

impl Configuration {
    fn has(&self, index: usize) -> bool {
        let bit = index - self.first_open;
        self.placed.get(bit / 64).is_some_and(|word| word >> (bit % 64) & 1 == 1)
    }

    fn place(&mut self, index: usize, call: &Call) {
        let bit = index - self.first_open;
        if self.placed.len() <= bit / 64 {
            self.placed.resize(bit / 64 + 1, 0);
        }
        self.placed[bit / 64] |= 1 << (bit % 64);
        self.now_us = self.now_us.max(call.begin_us);
    }

    /// A doubtful one whose time has passed never happened.
    fn is_too_late(&self, call: &Call) -> bool {
        call.end_us.is_none() && call.begin_us.saturating_add(LATE_US) < self.now_us
    }

    /// Forgets the calls at the front that are placed or never will be, in whole words.
    fn settle(&mut self, calls: &[Call]) {
        let settled = |index: usize| calls.get(index).is_some_and(|c| self.has(index) || self.is_too_late(c));
        let mut words = 0;
        while (0..64).all(|bit| settled(self.first_open + 64 * words + bit)) {
            words += 1;
        }
        self.placed.drain(..words.min(self.placed.len()));
        self.first_open += 64 * words;
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::evidence::tests::*;
    use super::super::super::op::Outcome;
    use super::*;

    fn saw(value: Option<u64>) -> Outcome {
        done().value(value)
    }

    fn refused(status: u16) -> Outcome {
        Outcome::new(Verdict::Refused).status(status)
    }

    fn explained(ops: &[(u64, u64, Op, Outcome)]) -> bool {
        let mut run = evidence();
        for (begin, end, op, outcome) in ops {
            push(&mut run, *begin, Some((*end, outcome.clone())), op.clone());
        }
        Linearizability.check(&run).holds()
    }

    #[test]
    fn histories_of_a_register() {
        for (name, ops, good) in [
            (
                "read what was written",
                vec![(0, 1, put("f", 1), done()), (2, 3, read("f"), saw(Some(1)))],
                true,
            ),
            (
                "a stale read",
                vec![
                    (0, 1, put("f", 1), done()),
                    (2, 3, put("f", 2), done()),
                    (4, 5, read("f"), saw(Some(1))),
                ],
                false,
            ),
            ("a lost write", vec![(0, 1, put("f", 1), done()), (2, 3, read("f"), saw(None))], false),
            (
                "an overlapping read may see either",
                vec![
                    (0, 1, put("f", 1), done()),
                    (2, 9, put("f", 2), done()),
                    (3, 4, read("f"), saw(Some(2))),
                    (5, 6, read("f"), saw(Some(2))),
                ],
                true,
            ),
            (
                "but never goes back",
                vec![
                    (0, 1, put("f", 1), done()),
                    (2, 9, put("f", 2), done()),
                    (3, 4, read("f"), saw(Some(2))),
                    (5, 6, read("f"), saw(Some(1))),
                ],
                false,
            ),
            (
                "an unknown write may take effect late",
                vec![
                    (0, 1, put("f", 1), unknown()),
                    (2, 3, put("f", 2), done()),
                    (4, 5, read("f"), saw(Some(2))),
                    (6, 7, read("f"), saw(Some(1))),
                ],
                true,
            ),
            (
                "but only once",
                vec![
                    (0, 1, put("f", 1), unknown()),
                    (2, 3, read("f"), saw(Some(1))),
                    (4, 5, put("f", 2), done()),
                    (6, 7, read("f"), saw(Some(1))),
                ],
                false,
            ),
            ("a value out of thin air", vec![(0, 1, read("f"), saw(Some(7)))], false),
            (
                "a refused write has no effect",
                vec![(0, 1, put("f", 1), refused(429)), (2, 3, read("f"), saw(Some(1)))],
                false,
            ),
        ] {
            assert_eq!(explained(&ops), good, "{name}");
        }
    }

    #[test]
    fn histories_with_creation_and_deletion() {
        let create = || Op::CreateAccount { name: "a".into() };
        let delete = || Op::DeleteAccount { name: "a".into() };
        for (name, ops, good) in [
            ("created twice", vec![(0, 1, create(), done()), (2, 3, create(), done())], false),
            ("refused the second time", vec![(0, 1, create(), done()), (2, 3, create(), refused(409))], true),
            ("refused without reason", vec![(0, 1, create(), refused(409))], false),
            ("deleted without creation", vec![(0, 1, delete(), done())], false),
            (
                "the unknown creation explains it",
                vec![(0, 1, create(), unknown()), (2, 3, delete(), done())],
                true,
            ),
            (
                "one unknown creation explains one deletion",
                vec![(0, 1, create(), unknown()), (2, 3, delete(), done()), (4, 5, delete(), done())],
                false,
            ),
            (
                "gone though it was acknowledged",
                vec![(0, 1, create(), done()), (2, 3, delete(), refused(404))],
                false,
            ),
        ] {
            assert_eq!(explained(&ops), good, "{name}");
        }
    }

    #[test]
    fn the_end_counts_as_a_read_by_each_node() {
        let mut run = evidence();
        push(&mut run, 0, Some((1, done())), put("f", 1));
        end_with(&mut run, &[("function:f", 1)]);
        assert!(Linearizability.check(&run).holds());
        run.finals.views.get_mut(&2).unwrap().registers.clear();
        assert!(!Linearizability.check(&run).holds());
    }

    #[test]
    fn local_reads_promise_less() {
        let mut run = evidence();
        push(&mut run, 0, Some((1, done())), put("f", 1));
        push(&mut run, 2, Some((3, saw(None))), Op::ReadFunction { name: "f".into(), local: true });
        assert!(Linearizability.check(&run).holds());
    }

    #[test]
    fn long_histories_with_many_doubts_are_decided() {
        let mut run = evidence();
        let mut value = None;
        for turn in 0..300 {
            let rev = turn + 1;
            if turn % 7 == 3 {
                push(&mut run, 10 * turn, Some((10 * turn + 3, unknown())), put("f", rev));
                // Every other doubtful write has happened.
                value = if turn % 2 == 0 { Some(rev) } else { value };
            } else {
                push(&mut run, 10 * turn, Some((10 * turn + 3, done())), put("f", rev));
                value = Some(rev);
            }
            push(&mut run, 10 * turn + 5, Some((10 * turn + 6, saw(value))), read("f"));
        }
        let good = Linearizability.check(&run);
        assert!(good.holds() && good.untested.is_empty(), "{good:?}");
        push(&mut run, 5_000, Some((5_001, saw(Some(1)))), read("f"));
        let bad = Linearizability.check(&run);
        assert!(!bad.holds() || !bad.untested.is_empty());
    }
}
