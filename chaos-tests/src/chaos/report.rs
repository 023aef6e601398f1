//! The verdict, and what it rests on, as text.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde::Serialize;

use super::evidence::Evidence;
use super::faults::{self, Layer};
use super::figures::{self, percentile, slices};
use super::gather;
use super::history::Entry;
use super::invariants::{self, Finding};
use super::op::Verdict;

/// Fewer acknowledged operations than this a second mean that too little was tried.
const DONE_PER_SECOND_MIN: u64 = 5;
/// The least part of the faults planned that must have found a node, in percent.
const STRUCK_PERCENT_MIN: usize = 50;

/// Reigns listed in the text.
const REIGNS_MAX: usize = 40;
/// What can be broken.
const LAYERS: [(Layer, &str); 7] = [
    (Layer::Process, "processes that die or stand still"),
    (Layer::Network, "networks that part, lose or delay"),
    (Layer::Disk, "disks that are full, slow or failing, and power cuts"),
    (Layer::Clock, "clocks that jump"),
    (Layer::Engine, "engines and instances that fail"),
    (Layer::Load, "clients that overload, dawdle or vanish"),
    (Layer::Members, "nodes that join and are removed"),
];

/// What is known of a run when all has been looked at.
#[derive(Debug, Serialize)]
pub struct Report {
    pub findings: Vec<Judged>,
    /// Why the run proves too little, where it does.
    pub too_little: Vec<String>,
    pub untested: Vec<String>,
    /// How long acknowledged operations took: p50 and p99.
    pub took_us: (u64, u64),
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
        let cut_short = run.finals.cut_short.as_ref();
        let mut able = invariants::all();
        able.retain(|invariant| cut_short.is_none() || invariant.judges_cut_short());
        let findings: Vec<Judged> = able.into_iter().map(judge).collect();
        let mut too_little = too_little(run);
        too_little.extend(cut_short.map(|why| format!("only panics were judged: {why}")));
        for judged in findings.iter().filter(|judged| !judged.finding.saw_enough()) {
            let (name, seen, least) = (judged.name, judged.finding.examined, judged.finding.least);
            too_little.push(format!("{name} examined {seen} facts; {least} are the least"));
        }
        let mut untested: Vec<String> =
            findings.iter().flat_map(|judged| judged.finding.untested.iter().cloned()).collect();
        untested.extend(self::untested(run));
        Report { findings, too_little, untested, took_us: took_us(run) }
    }

    pub fn passed(&self) -> bool {
        self.too_little.is_empty() && !self.violated()
    }

    pub fn violated(&self) -> bool {
        self.findings.iter().any(|judged| !judged.finding.holds())
    }

    pub fn verdict(&self) -> &'static str {
        match (!self.violated(), self.too_little.is_empty()) {
            (false, _) => "VIOLATED",
            (true, false) => "INCONCLUSIVE",
            (true, true) => "PASSED",
        }
    }

    /// How the page shows the verdict.
    pub fn verdict_class(&self) -> &'static str {
        match self.verdict() {
            "PASSED" => "good",
            "VIOLATED" => "bad",
            _ => "doubt",
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
        section(to, "failover", &failovers(run))?;
        section(to, "leaders", &leaders(run))?;
        section(to, "not tested", &self.untested)
    }
}

fn took_us(run: &Evidence) -> (u64, u64) {
    let done = |entry: &Entry| {
        let (end_us, outcome) = entry.end.as_ref()?;
        (outcome.verdict == Verdict::Done).then_some(end_us - entry.begin_us)
    };
    let mut took: Vec<u64> = run.entries.iter().filter_map(done).collect();
    took.sort_unstable();
    (percentile(&took, 50), percentile(&took, 99))
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
    let line = |(fault, of): (&String, &figures::Faults)| {
        format!("{fault}: planned {}, done to {} nodes, felt by {}", of.planned, of.nodes, of.felt)
    };
    let figures = figures::faults(run);
    figures.iter().map(line).chain(run.missed.iter().cloned()).collect()
}

fn operations(run: &Evidence) -> Vec<String> {
    let line = |(kind, verdicts): (&str, BTreeMap<Verdict, u64>)| {
        let each: Vec<String> = verdicts.iter().map(|(v, n)| format!("{v:?} {n}").to_lowercase()).collect();
        format!("{kind:<16}{}", each.join(", "))
    };
    figures::operations(run).into_iter().map(line).collect()
}

fn over_time(run: &Evidence) -> Vec<String> {
    let slice_s = (run.plan.seconds / 12).max(1);
    let line = |s: figures::Slice| {
        format!(
            "from {:>4} s: {:>5} acknowledged, {:>4} not; p50 {:>7.1} ms, p99 {:>7.1} ms",
            s.from_s, s.done, s.other, s.p50_ms, s.p99_ms
        )
    };
    slices(run, slice_s).into_iter().map(line).collect()
}

/// Who led, by the samples in which a node said so of itself.
fn leaders(run: &Evidence) -> Vec<String> {
    let line = |reign: &figures::Reign| {
        format!("{:>8} ms: node {} in term {}", reign.from_us / 1_000, reign.node, reign.term)
    };
    let reigns = figures::reigns(run);
    let more = reigns.len().saturating_sub(REIGNS_MAX);
    let more = (more > 0).then(|| format!("and {more} more"));
    reigns.iter().take(REIGNS_MAX).map(line).chain(more).collect()
}

/// How long writes stood still when a leader was hit.
fn failovers(run: &Evidence) -> Vec<String> {
    let mut gaps: Vec<u64> = figures::failovers(run).iter().map(|failover| failover.gap_us).collect();
    gaps.sort_unstable();
    let (Some(half), Some(most)) = (gaps.get(gaps.len() / 2), gaps.last()) else { return Vec::new() };
    vec![format!(
        "{} strikes on a leader: median {} ms without an acknowledged write, longest {} ms",
        gaps.len(),
        half / 1_000,
        most / 1_000
    )]
}

/// What no fault of the run has touched, and what no fault can.
fn untested(run: &Evidence) -> Vec<String> {
    let felt =
        |fault: &str| run.windows.iter().any(|window| window.fault == fault && !window.felt.is_empty());
    let mut untested = Vec::new();
    for (layer, what) in LAYERS {
        let of_layer: Vec<&str> = faults::all()
            .iter()
            .filter(|f| f.frame().layer == layer)
            .map(|fault| fault.frame().name)
            .collect();
        let left: Vec<&str> = of_layer.iter().copied().filter(|fault| !felt(fault)).collect();
        if left.len() == of_layer.len() {
            untested.push(format!("{what}: nothing of the kind was done"));
        } else if !left.is_empty() {
            untested.push(format!("{what}: not {}", left.join(", ")));
        }
    }
    untested.push("upgrades from one version to the next, and hardware that damages what it stores".into());
    untested
}

#[cfg(test)]
mod tests {
    use super::super::evidence::Finals;
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
    fn a_run_that_a_panic_cut_short_is_judged_by_it_alone() {
        let mut run = evidence();
        run.liveness.clear();
        run.finals = Finals { cut_short: Some("node 2 does not run".into()), ..Finals::default() };
        assert_eq!(Report::new(&run).verdict(), "INCONCLUSIVE");
        run.finals.panics.push((2, "thread 'main' panicked at src/x.rs".into()));
        let report = Report::new(&run);
        assert_eq!(report.verdict(), "VIOLATED");
        let broken = report.findings.iter().filter(|judged| !judged.finding.holds());
        assert_eq!(broken.map(|judged| judged.name).collect::<Vec<_>>(), ["panics"]);
        assert!(report.text(&run).contains("only panics were judged: node 2 does not run"));
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
