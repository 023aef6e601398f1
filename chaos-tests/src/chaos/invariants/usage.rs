//! The ledger counts every acknowledged invocation once, and nothing that did not run.
//!
//! By account and function: at least those acknowledged, at most those that may have run. For
//! functions with `usage_durability = "interval"` a node that is killed may forget what it served
//! shortly before, not counting times in which the machine itself stood still. Instance time: what
//! accounts are charged is what instances ran.

use std::collections::BTreeMap;

use muster_api::UsageDurability;

use super::super::catalog;
use super::super::disturbance::Spans;
use super::super::evidence::Evidence;
use super::super::faults::clock_drift;
use super::super::history::Entry;
use super::super::op::{Op, Verdict};
use super::{Finding, Invariant};

/// The node keeps this many ended instances; with more, their sum is not known.
const ENDED_LISTED_MAX: usize = 512;

pub(super) struct Usage;

#[derive(Default)]
struct Expected {
    acknowledged: u64,
    least: u64,
    most: u64,
    /// Work that acknowledged invocations certainly did, in milliseconds of the slowest clock.
    busy_least_ms: u64,
}

impl Invariant for Usage {
    fn name(&self) -> &'static str {
        "usage"
    }

    fn statement(&self) -> &'static str {
        "the ledger counts what was acknowledged, once, and nothing that did not run; charged time is run time"
    }

    fn check(&self, run: &Evidence) -> Finding {
        let mut finding = Finding::needing(6);
        counts(run, &mut finding);
        instance_time(run, &mut finding);
        finding
    }
}

/// What clients saw, by account and function.
fn expected(run: &Evidence) -> BTreeMap<(&str, &str), Expected> {
    let (accounts, crashes, drifts) = (accounts(run), Crashes::of(run), Drifts::of(run));
    let mut expected: BTreeMap<(&str, &str), Expected> = BTreeMap::new();
    for entry in &run.entries {
        let (Op::Invoke { function, caller, work_ms, .. }, Some(outcome)) = (&entry.op, entry.outcome())
        else {
            continue;
        };
        let account = accounts.get(caller.as_str()).copied().unwrap_or(caller);
        let expected = expected.entry((account, function)).or_default();
        match outcome.verdict {
            Verdict::Done => {
                expected.most += 1;
                expected.acknowledged += 1;
                if !crashes.may_have_forgotten(entry, function) {
                    expected.least += 1;
                    let slower_ppm = if drifts.may_have_measured(entry) { Drifts::MOST_PPM } else { 0 };
                    expected.busy_least_ms += work_ms - (work_ms * slower_ppm).div_ceil(1_000_000);
                }
            }
            // An idempotent one may have been tried more than once.
            Verdict::Failed | Verdict::Unknown => expected.most += 1,
            // A client that was refused the connection was never there; others may have left a
            // record where the attempt broke at the instance's door.
            Verdict::Refused | Verdict::Skipped => {}
        }
    }
    expected
}

fn counts(run: &Evidence, finding: &mut Finding) {
    let expected = expected(run);
    for row in &run.finals.usage {
        let key = (row.account.as_str(), row.function.as_str());
        if row.invocations > 0 && !expected.contains_key(&key) {
            finding.violate(format!("{key:?} is charged {} invocations nobody made", row.invocations));
        }
    }
    for row in reconcile(run) {
        finding.examined += 1;
        let Reconciled { account, function, least, most, counted, busy_ms, .. } = &row;
        if !row.counts() {
            let most = most.map_or_else(|| "any number".to_owned(), |most| most.to_string());
            finding.violate(format!(
                "{account} × {function}: the ledger counts {counted}; acknowledged {least}, possible {most}"
            ));
        }
        if !row.busy() {
            finding.violate(format!(
                "{account} × {function}: {busy_ms} ms busy, though acknowledged work took {} ms",
                row.busy_least_ms
            ));
        }
    }
}

/// What the ledger says of one account's invocations of one function, and what clients saw.
#[derive(Clone, Debug)]
pub struct Reconciled {
    pub account: String,
    pub function: String,
    pub acknowledged: u64,
    /// Those of them that no crash may have lost.
    pub least: u64,
    /// Those that may have run; absent where each attempt counts.
    pub most: Option<u64>,
    pub counted: u64,
    pub busy_ms: u64,
    pub busy_least_ms: u64,
}

impl Reconciled {
    pub fn holds(&self) -> bool {
        self.counts() && self.busy()
    }

    fn counts(&self) -> bool {
        self.least <= self.counted && self.most.is_none_or(|most| self.counted <= most)
    }

    /// Each measurement is cut to whole milliseconds.
    fn busy(&self) -> bool {
        self.busy_ms + self.counted >= self.busy_least_ms
    }
}

/// By account and function.
pub fn reconcile(run: &Evidence) -> Vec<Reconciled> {
    let mut ledger: BTreeMap<(&str, &str), (u64, u64)> = BTreeMap::new();
    for row in &run.finals.usage {
        ledger.insert((&row.account, &row.function), (row.invocations, row.busy_ms));
    }
    let row = |((account, function), expected): ((&str, &str), Expected)| {
        let (counted, busy_ms) = ledger.get(&(account, function)).copied().unwrap_or((0, 0));
        let (account, function) = (account.to_owned(), function.to_owned());
        // Attempts of an idempotent function are each counted.
        let most = (function != catalog::IDEMPOTENT).then_some(expected.most);
        let Expected { acknowledged, least, busy_least_ms, .. } = expected;
        Reconciled { account, function, acknowledged, least, most, counted, busy_ms, busy_least_ms }
    };
    expected(run).into_iter().map(row).collect()
}

/// Whose keys the callers are that are not accounts themselves.
fn accounts(run: &Evidence) -> BTreeMap<&str, &str> {
    let mut accounts = BTreeMap::new();
    for entry in &run.entries {
        if let Op::CreateKey { account, label } = &entry.op {
            accounts.insert(label.as_str(), account.as_str());
        }
    }
    accounts
}

/// When nodes were hit, in which records that are kept by interval may be lost.
struct Crashes {
    by_node: BTreeMap<u64, Spans>,
    stalls: Spans,
    loss_us: u64,
}

impl Crashes {
    fn of(run: &Evidence) -> Self {
        let hit = |node| run.of_nodes().filter(move |window| window.nodes.contains(&node));
        let spans = |node| Spans::new(hit(node).map(|window| (window.begin_us, window.mended_us)));
        let by_node = (1..=run.plan.nodes).map(|node| (node, spans(node))).collect();
        let stalls = Spans::new(run.stalls.iter().copied());
        Crashes { by_node, stalls, loss_us: run.bounds.usage_loss_ms * 1_000 }
    }

    /// Whether a crash may have lost the record of an invocation that was answered.
    fn may_have_forgotten(&self, entry: &Entry, function: &str) -> bool {
        if catalog::durability(function) != Some(UsageDurability::Interval) {
            return false;
        }
        let host = entry.outcome().and_then(|outcome| outcome.host);
        let (Some(end_us), Some(spans)) = (entry.end_us(), host.and_then(|host| self.by_node.get(&host)))
        else {
            return true;
        };
        // Its last bytes may have left shortly before the node was hit, or be read after.
        spans.touch(entry.begin_us, self.durable_us(end_us))
    }

    /// When the bound has passed since `end_us` on a machine that does not stand still.
    fn durable_us(&self, end_us: u64) -> u64 {
        let soon_us = end_us + self.loss_us;
        if !self.stalls.touch(end_us, soon_us) {
            return soon_us;
        }
        let mut left_us = self.loss_us;
        for (from_us, to_us) in self.stalls.gaps(end_us, u64::MAX) {
            if to_us - from_us >= left_us {
                return from_us + left_us;
            }
            left_us -= to_us - from_us;
        }
        u64::MAX
    }
}

/// When the clocks of nodes went slowly, or may have.
struct Drifts(BTreeMap<u64, Spans>);

impl Drifts {
    const MOST_PPM: u64 = clock_drift::MOST_PPM.unsigned_abs();
    /// A clock is told a little before it changes its pace.
    const LEAD_US: u64 = 1_000_000;

    fn of(run: &Evidence) -> Self {
        let mut windows: Vec<_> = run.windows.iter().filter(|w| w.fault == clock_drift::NAME).collect();
        windows.sort_by_key(|window| window.begin_us);
        let mut spans: BTreeMap<u64, Vec<(u64, u64)>> = BTreeMap::new();
        for window in windows {
            for node in &window.nodes {
                let spans = spans.entry(*node).or_default();
                // It comes back at the same pace, also from what is left of the time before.
                let left_us = spans.last().map_or(0, |(_, back_us)| back_us.saturating_sub(window.begin_us));
                let wrong_us = window.mended_us - window.begin_us + Self::LEAD_US;
                spans.push((window.begin_us, window.mended_us + wrong_us + left_us));
            }
        }
        Drifts(spans.into_iter().map(|(node, spans)| (node, Spans::new(spans))).collect())
    }

    /// Whether such a clock may have measured an invocation.
    fn may_have_measured(&self, entry: &Entry) -> bool {
        let host = entry.outcome().and_then(|outcome| outcome.host);
        let (Some(end_us), Some(host)) = (entry.end_us(), host) else { return !self.0.is_empty() };
        self.0.get(&host).is_some_and(|spans| spans.touch(entry.begin_us, end_us))
    }
}

fn instance_time(run: &Evidence, finding: &mut Finding) {
    let ended = run.finals.instances.iter().filter(|instance| instance.ended_at.is_some()).count();
    if ended >= ENDED_LISTED_MAX {
        finding.untested.push(format!("instance time: more than {ENDED_LISTED_MAX} instances have ended"));
        return;
    }
    let mut ran: BTreeMap<&str, i64> = BTreeMap::new();
    let mut alive: Vec<&str> = Vec::new();
    for instance in &run.finals.instances {
        let Some(ended_at) = &instance.ended_at else {
            alive.push(&instance.function);
            continue;
        };
        let Some(span) = millis(ended_at).zip(millis(&instance.launched_at)) else {
            finding.violate(format!("{} has times that are none", instance.id));
            continue;
        };
        *ran.entry(&instance.function).or_default() += span.0 - span.1;
    }
    for (function, ran_ms) in ran {
        finding.examined += 1;
        let rows = run.finals.usage.iter().filter(|row| row.function == function);
        let charged: i64 = rows.map(|row| i64::try_from(row.instance_ms).unwrap_or(i64::MAX)).sum();
        // Those that still run are charged up to a moment nobody else knows.
        let wrong = if alive.contains(&function) { charged < ran_ms } else { charged != ran_ms };
        if wrong {
            finding.violate(format!("{function}: instances ran {ran_ms} ms, {charged} ms are charged"));
        }
    }
}

fn millis(time: &str) -> Option<i64> {
    time.parse::<jiff::Timestamp>().ok().map(jiff::Timestamp::as_millisecond)
}

#[cfg(test)]
mod tests {
    use muster_api::Usage as Row;

    use super::super::super::evidence::Window;
    use super::super::super::evidence::tests::*;
    use super::super::super::op::Outcome;
    use super::*;

    fn row(function: &str, invocations: u64, instance_ms: u64) -> Row {
        let (account, function) = ("user-a".to_owned(), function.to_owned());
        Row { account, function, invocations, instance_ms, ..Row::default() }
    }

    fn on(host: u64) -> Outcome {
        Outcome { host: Some(host), ..done() }
    }

    #[test]
    fn counts_by_outcome() {
        let refused = || Outcome::new(Verdict::Refused).status(503);
        for (name, function, outcomes, counted, good) in [
            ("each once", "acknowledged", vec![on(1), on(1)], 2, true),
            ("one lost", "acknowledged", vec![on(1), on(1)], 1, false),
            ("one doubled", "acknowledged", vec![on(1), on(1)], 3, false),
            ("in doubt and counted", "replicated", vec![on(1), unknown()], 2, true),
            ("in doubt and not counted", "replicated", vec![on(1), unknown()], 1, true),
            ("refused and counted", "acknowledged", vec![on(1), refused()], 2, false),
            ("lost though no node was killed", "interval", vec![on(2), on(2)], 1, false),
            ("lost with its node", "interval", vec![on(2), on(1)], 1, true),
            ("durable, though its node was killed", "acknowledged", vec![on(2), on(1)], 1, false),
            ("nobody called", "acknowledged", vec![], 1, false),
        ] {
            let mut run = evidence();
            run.windows.push(window(&[1], 150, 300));
            for outcome in outcomes {
                push(&mut run, 100, Some((110, outcome)), invoke(function, "user-a"));
            }
            run.finals.usage = vec![row(function, counted, 0)];
            assert_eq!(Usage.check(&run).holds(), good, "{name}");
        }
    }

    #[test]
    fn a_machine_that_stands_still_makes_nothing_durable() {
        for (name, stalls, good) in [
            ("it did not", vec![], false),
            ("until the end", vec![(0, 1_000)], false),
            ("for too short", vec![(2_000, 2_500)], false),
            ("for long enough", vec![(1_500, 4_000)], true),
            ("twice", vec![(1_500, 2_500), (3_000, 4_200)], true),
            ("after the node was killed", vec![(4_200, 9_000)], false),
        ] {
            let mut run = evidence();
            run.windows.push(window(&[1], 4_100, 9_000));
            run.stalls = stalls.into_iter().map(|(from, to)| (from * 1_000, to * 1_000)).collect();
            push(&mut run, 100, Some((1_100, on(1))), invoke("interval", "user-a"));
            run.finals.usage = vec![row("interval", 0, 0)];
            assert_eq!(Usage.check(&run).holds(), good, "{name}");
        }
    }

    #[test]
    fn work_that_was_done_was_busy() {
        let drift = |nodes: &[u64], begin_ms, end_ms| Window {
            fault: clock_drift::NAME.into(),
            ..window(nodes, begin_ms, end_ms)
        };
        for (name, drifts, busy_ms, good) in [
            ("by a right clock", vec![], 49_999, true),
            ("too little", vec![], 49_998, false),
            ("by one that loses a fiftieth", vec![drift(&[1], 0, 60_000)], 48_999, true),
            ("by less than that", vec![drift(&[1], 0, 60_000)], 48_998, false),
            ("by another node's", vec![drift(&[2], 0, 60_000)], 48_999, false),
            ("by one that comes back", vec![drift(&[1], 50_000, 80_000)], 48_999, true),
            ("from two drifts", vec![drift(&[1], 0, 30_000), drift(&[1], 40_000, 60_000)], 48_999, true),
            ("by one that is right again", vec![drift(&[1], 0, 30_000)], 48_999, false),
        ] {
            let mut run = evidence();
            let op = Op::Invoke {
                function: "acknowledged".into(),
                caller: "user-a".into(),
                work_ms: 50_000,
                mode: super::super::super::op::Mode::Answer,
            };
            push(&mut run, 100_000, Some((150_000, on(1))), op);
            run.windows.extend(drifts);
            run.finals.usage = vec![Row { busy_ms, ..row("acknowledged", 1, 0) }];
            assert_eq!(Usage.check(&run).holds(), good, "{name}");
        }
    }

    #[test]
    fn charged_time_is_run_time() {
        let instance = |ended_at: Option<&str>| -> muster_api::Instance {
            let row = serde_json::json!({
                "id": "i-1", "function": "f", "version": 1, "node": 1, "generation": 1, "phase": "stopped",
                "memory_mb": 16, "cause": "minimum", "launched_at": "2026-11-23T00:00:00Z", "ended_at": ended_at,
            });
            serde_json::from_value(row).unwrap()
        };
        let ended = || instance(Some("2026-11-23T00:00:01.5Z"));
        for (instances, charged, good) in [
            (vec![ended()], 1_500, true),
            (vec![ended()], 1_499, false),
            (vec![ended()], 1_501, false),
            (vec![ended(), ended()], 3_000, true),
            (vec![ended(), instance(None)], 9_000, true),
            (vec![ended(), instance(None)], 1_499, false),
        ] {
            let mut run = evidence();
            run.finals.instances = instances;
            run.finals.usage = vec![row("f", 0, charged)];
            assert_eq!(Usage.check(&run).holds(), good, "{charged}");
        }
    }
}
