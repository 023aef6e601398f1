//! The verdict, and what it rests on, as text.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde::Serialize;

use super::evidence::Evidence;
use super::gather;
use super::invariants::{self, Finding};
use super::op::Verdict;

/// Fewer acknowledged operations than this a second mean that too little was tried.
const DONE_PER_SECOND_MIN: u64 = 5;
/// The least part of the faults planned that must have found a node, in percent.
const STRUCK_PERCENT_MIN: usize = 50;

/// What is known of a run when all has been looked at.
#[derive(Debug, Serialize)]
pub struct Report {
    pub findings: Vec<Judged>,
    /// Why the run proves too little, where it does.
    pub too_little: Vec<String>,
    pub untested: Vec<String>,
}

#[derive(Debug, Serialize)]
pub struct Judged {
    pub name: &'static str,
    pub statement: &'static str,
    pub finding: Finding,
}

impl Report {
    pub fn new(run: &Evidence) -> Self {
        let judge = |invariant: Box<dyn invariants::Invariant>| Judged {
            name: invariant.name(),
            statement: invariant.statement(),
            finding: invariant.check(run),
        };
        let findings: Vec<Judged> = invariants::all().into_iter().map(judge).collect();
        let mut too_little = too_little(run);
        for judged in findings.iter().filter(|judged| !judged.finding.saw_enough()) {
            let (name, seen, least) = (judged.name, judged.finding.examined, judged.finding.least);
            too_little.push(format!("{name} examined {seen} facts; {least} are the least"));
        }
        let mut untested: Vec<String> =
            findings.iter().flat_map(|judged| judged.finding.untested.iter().cloned()).collect();
        untested.push("power cuts (a killed process loses nothing that the kernel has)".into());
        untested.push("networks that lose, delay or part; full or slow disks; clocks that jump".into());
        untested.push("membership changes, upgrades".into());
        Report { findings, too_little, untested }
    }

    pub fn passed(&self) -> bool {
        self.too_little.is_empty() && self.findings.iter().all(|judged| judged.finding.holds())
    }

    pub fn verdict(&self) -> &'static str {
        match (self.findings.iter().all(|judged| judged.finding.holds()), self.too_little.is_empty()) {
            (false, _) => "VIOLATED",
            (true, false) => "INCONCLUSIVE",
            (true, true) => "PASSED",
        }
    }

    pub fn text(&self, run: &Evidence) -> String {
        let mut text = String::new();
        self.write(&mut text, run).expect("writing to a String cannot fail");
        text
    }

    fn write(&self, to: &mut String, run: &Evidence) -> std::fmt::Result {
        let plan = &run.plan;
        writeln!(
            to,
            "{}  seed {}, {} s, {} nodes, muster {}",
            self.verdict(),
            plan.seed,
            plan.seconds,
            plan.nodes,
            run.version
        )?;
        writeln!(to, "again:  {}", plan.command())?;
        writeln!(to, "bounds: {}\n", gather::describe(&run.bounds))?;
        for judged in &self.findings {
            let finding = &judged.finding;
            let mark = if finding.holds() { "ok  " } else { "FAIL" };
            writeln!(to, "{mark} {}: {} ({} facts)", judged.name, judged.statement, finding.examined)?;
            for violation in &finding.violations {
                writeln!(to, "     ! {violation}")?;
            }
            if finding.more > 0 {
                writeln!(to, "     ! and {} more", finding.more)?;
            }
            for note in &finding.notes {
                writeln!(to, "     - {note}")?;
            }
        }
        section(to, "too little was tried", &self.too_little)?;
        section(to, "faults", &faults(run))?;
        section(to, "operations", &operations(run))?;
        section(to, "over time", &over_time(run))?;
        section(to, "leaders", &leaders(run))?;
        section(to, "not tested", &self.untested)
    }
}

fn section(to: &mut String, title: &str, lines: &[String]) -> std::fmt::Result {
    if lines.is_empty() {
        return Ok(());
    }
    writeln!(to, "\n{title}")?;
    lines.iter().try_for_each(|line| writeln!(to, "  {line}"))
}

fn too_little(run: &Evidence) -> Vec<String> {
    let mut problems = Vec::new();
    for fault in &run.plan.faults {
        let windows = || run.windows.iter().filter(|window| window.fault == *fault);
        if windows().next().is_none() {
            problems.push(format!("the fault {fault} was never done"));
        }
        for window in windows().filter(|window| window.felt.len() < window.nodes.len()) {
            let at = window.begin_us / 1_000;
            problems
                .push(format!("{fault} at {at} ms on {:?} was felt by {:?} only", window.nodes, window.felt));
        }
    }
    let (planned, struck) = (run.plan.strikes.len(), run.windows.len());
    if struck * 100 < planned * STRUCK_PERCENT_MIN {
        problems.push(format!("{struck} of {planned} planned faults found a node to hit"));
    }
    let done =
        run.entries.iter().filter(|e| e.outcome().is_some_and(|o| o.verdict == Verdict::Done)).count() as u64;
    if done < DONE_PER_SECOND_MIN * run.plan.seconds {
        problems.push(format!("{done} operations were acknowledged in {} s", run.plan.seconds));
    }
    problems
}

fn faults(run: &Evidence) -> Vec<String> {
    let mut counts: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    for window in &run.windows {
        let count = counts.entry(&window.fault).or_default();
        count.0 += window.nodes.len();
        count.1 += window.felt.len();
    }
    let line = |(fault, (done, felt)): (&&str, &(usize, usize))| {
        format!("{fault}: done to {done} nodes, felt by {felt}")
    };
    counts.iter().map(line).chain(run.missed.iter().cloned()).collect()
}

fn operations(run: &Evidence) -> Vec<String> {
    let mut counts: BTreeMap<&str, BTreeMap<Verdict, u64>> = BTreeMap::new();
    for entry in &run.entries {
        let verdict = entry.outcome().map_or(Verdict::Unknown, |outcome| outcome.verdict);
        *counts.entry(entry.op.kind()).or_default().entry(verdict).or_default() += 1;
    }
    let line = |(kind, verdicts): (&str, BTreeMap<Verdict, u64>)| {
        let each: Vec<String> = verdicts.iter().map(|(v, n)| format!("{v:?} {n}").to_lowercase()).collect();
        format!("{kind:<16}{}", each.join(", "))
    };
    counts.into_iter().map(line).collect()
}

/// One slice of the run.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Slice {
    pub from_s: u64,
    pub done: u64,
    pub other: u64,
    /// Milliseconds that half, and 99 of 100, of the acknowledged operations took at most.
    pub p50_ms: u64,
    pub p99_ms: u64,
}

/// Throughput and latency, by slices of `slice_s` seconds.
pub fn slices(run: &Evidence, slice_s: u64) -> Vec<Slice> {
    let mut by_slice: BTreeMap<u64, (u64, Vec<u64>)> = BTreeMap::new();
    for entry in &run.entries {
        let Some((end_us, outcome)) = &entry.end else { continue };
        let (other, took) = by_slice.entry(end_us / 1_000_000 / slice_s).or_default();
        match outcome.verdict {
            Verdict::Done => took.push((end_us - entry.begin_us) / 1_000),
            _ => *other += 1,
        }
    }
    let slice = |(index, (other, mut took)): (u64, (u64, Vec<u64>))| {
        took.sort_unstable();
        let at = |percent: usize| {
            took.get((took.len() * percent / 100).min(took.len().saturating_sub(1))).copied()
        };
        let (p50_ms, p99_ms) = (at(50).unwrap_or(0), at(99).unwrap_or(0));
        Slice { from_s: index * slice_s, done: took.len() as u64, other, p50_ms, p99_ms }
    };
    by_slice.into_iter().map(slice).collect()
}

fn over_time(run: &Evidence) -> Vec<String> {
    let slice_s = (run.plan.seconds / 12).max(1);
    let line = |s: Slice| {
        format!(
            "from {:>4} s: {:>5} acknowledged, {:>4} not; p50 {:>5} ms, p99 {:>5} ms",
            s.from_s, s.done, s.other, s.p50_ms, s.p99_ms
        )
    };
    slices(run, slice_s).into_iter().map(line).collect()
}

/// Who led, by the samples in which a node said so of itself.
fn leaders(run: &Evidence) -> Vec<String> {
    let mut lines = Vec::new();
    let mut last = None;
    let mut samples: Vec<_> = run.samples.iter().filter(|s| s.leader == Some(s.node)).collect();
    samples.sort_by_key(|sample| sample.at_us);
    for sample in samples {
        if last != Some((sample.term, sample.node)) {
            last = Some((sample.term, sample.node));
            lines.push(format!(
                "{:>8} ms: node {} in term {}",
                sample.at_us / 1_000,
                sample.node,
                sample.term
            ));
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::super::evidence::tests::*;
    use super::*;

    #[test]
    fn a_run_that_did_nothing_proves_nothing() {
        let run = evidence();
        let report = Report::new(&run);
        assert!(!report.passed());
        assert!(report.text(&run).contains(&run.plan.command()));
    }

    #[test]
    fn a_fault_that_was_not_felt_fails_the_run() {
        let mut run = evidence();
        run.plan.faults = vec!["kill".into()];
        run.windows = vec![window(&[1], 0, 10)];
        let complaints = |run: &Evidence| too_little(run).iter().filter(|text| text.contains("kill")).count();
        assert_eq!(complaints(&run), 0);
        run.windows[0].felt.clear();
        assert_eq!(complaints(&run), 1);
        run.windows.clear();
        assert_eq!(complaints(&run), 1);
    }
}
