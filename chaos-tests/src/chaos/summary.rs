//! One run in a few lines, and many runs added up: what is kept when everything else is thrown away.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde::{Deserialize, Serialize};

use super::evidence::Evidence;
use super::figures::{self, Faults};
use super::op::Verdict;
use super::report::Report;

/// Violations kept of one run.
const KEPT_MAX: usize = 20;

/// What came of one run.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Summary {
    pub seed: u64,
    pub command: String,
    /// As the report says, or `FAILED` where the run itself did not come to its end.
    pub verdict: String,
    pub nodes: u64,
    /// How long faults and load lasted.
    pub ms: u64,
    pub faults: BTreeMap<String, Faults>,
    pub operations: u64,
    pub acknowledged: u64,
    pub facts: u64,
    /// Without an acknowledged write, for each strike on a leader.
    pub failovers_ms: Vec<u64>,
    /// What was violated, or why the run proves nothing.
    pub problems: Vec<String>,
}

/// The verdict of a run that did not come to its end.
pub const FAILED: &str = "FAILED";

impl Summary {
    pub fn of(run: &Evidence, report: &Report) -> Self {
        let violated = report.findings.iter().flat_map(|judged| {
            judged.finding.violations.iter().map(|violation| format!("{}: {violation}", judged.name))
        });
        let problems = violated.chain(report.too_little.iter().cloned()).take(KEPT_MAX).collect();
        let done = |verdicts: BTreeMap<Verdict, u64>| verdicts.get(&Verdict::Done).copied();
        let failovers = figures::failovers(run);
        Summary {
            seed: run.plan.seed,
            command: run.plan.command(),
            verdict: report.verdict().to_owned(),
            nodes: run.plan.nodes,
            ms: run.busy_until_us / 1_000,
            faults: figures::faults(run),
            operations: run.entries.len() as u64,
            acknowledged: figures::operations(run).into_values().filter_map(done).sum(),
            facts: report.findings.iter().map(|judged| judged.finding.examined).sum(),
            failovers_ms: failovers.iter().map(|failover| failover.gap_us / 1_000).collect(),
            problems,
        }
    }
}

/// Many runs.
#[derive(Clone, Debug, Default)]
pub struct Total {
    /// Runs by verdict.
    pub runs: BTreeMap<String, u64>,
    pub ms: u64,
    /// With the number of runs in which each was felt.
    pub faults: BTreeMap<String, (u64, Faults)>,
    pub operations: u64,
    pub acknowledged: u64,
    pub facts: u64,
    pub failovers_ms: Vec<u64>,
}

impl Total {
    pub fn of(runs: &[Summary]) -> Self {
        let mut total = Total::default();
        for run in runs {
            *total.runs.entry(run.verdict.clone()).or_default() += 1;
            total.ms += run.ms;
            total.operations += run.operations;
            total.acknowledged += run.acknowledged;
            total.facts += run.facts;
            total.failovers_ms.extend(&run.failovers_ms);
            for (fault, of) in &run.faults {
                let (runs, sum) = total.faults.entry(fault.clone()).or_default();
                *runs += u64::from(of.felt > 0);
                sum.planned += of.planned;
                sum.struck += of.struck;
                sum.nodes += of.nodes;
                sum.felt += of.felt;
                sum.ms += of.ms;
            }
        }
        total.failovers_ms.sort_unstable();
        total
    }

    pub fn count(&self, verdict: &str) -> u64 {
        self.runs.get(verdict).copied().unwrap_or(0)
    }

    pub fn all(&self) -> u64 {
        self.runs.values().sum()
    }

    /// Whether nothing was violated and every run came to its end.
    pub fn is_good(&self) -> bool {
        self.count("VIOLATED") == 0 && self.count(FAILED) == 0
    }

    /// As tables for `docs/TESTING.md`.
    pub fn text(&self) -> String {
        let mut text = String::new();
        self.write(&mut text).expect("writing to a String cannot fail");
        text
    }

    fn write(&self, to: &mut String) -> std::fmt::Result {
        let median = self.failovers_ms.get(self.failovers_ms.len() / 2).copied().unwrap_or(0);
        let longest = self.failovers_ms.last().copied().unwrap_or(0);
        writeln!(to, "| figure | value |\n|---|---|")?;
        for (name, value) in [
            ("runs", self.all().to_string()),
            ("passed", self.count("PASSED").to_string()),
            ("violated", self.count("VIOLATED").to_string()),
            ("inconclusive", self.count("INCONCLUSIVE").to_string()),
            ("did not come to their end", self.count(FAILED).to_string()),
            ("under load and faults", format!("{} h {} min", self.ms / 3_600_000, self.ms / 60_000 % 60)),
            ("faults felt by nodes", self.faults.values().map(|(_, of)| of.felt).sum::<u64>().to_string()),
            ("operations", self.operations.to_string()),
            ("acknowledged", self.acknowledged.to_string()),
            ("facts examined", self.facts.to_string()),
            ("failover of writes", format!("median {median} ms, longest {longest} ms")),
        ] {
            writeln!(to, "| {name} | {value} |")?;
        }
        writeln!(
            to,
            "\n| fault | breaks | runs | strikes | nodes hit | felt | node minutes |\n|---|---|---|---|---|---|---|"
        )?;
        for (fault, (runs, of)) in &self.faults {
            let layer =
                figures::layer(fault).map_or_else(String::new, |layer| format!("{layer:?}").to_lowercase());
            let minutes = format!("{}.{}", of.ms / 60_000, of.ms / 6_000 % 10);
            let Faults { struck, nodes, felt, .. } = of;
            writeln!(to, "| {fault} | {layer} | {runs} | {struck} | {nodes} | {felt} | {minutes} |")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::evidence::tests::*;
    use super::*;

    #[test]
    fn runs_add_up() {
        let mut run = evidence();
        run.busy_until_us = 90_000_000;
        run.windows = vec![window(&[1, 2], 0, 60_000)];
        push(&mut run, 0, Some((1, done())), put("f", 1));
        push(&mut run, 0, Some((1, unknown())), put("f", 2));
        let one = Summary::of(&run, &Report::new(&run));
        assert_eq!((one.operations, one.acknowledged, one.ms), (2, 1, 90_000));
        let failed = Summary { verdict: FAILED.into(), ..Summary::default() };
        let total = Total::of(&[one.clone(), one, failed]);
        assert_eq!(
            (total.all(), total.count("VIOLATED"), total.count(FAILED)),
            (3, 2, 1),
            "{:?}",
            total.runs
        );
        assert_eq!(total.faults["kill"].1.felt, 4);
        assert!(!total.is_good());
        let text = total.text();
        assert!(text.contains("| kill | process | 2 | 2 | 4 | 4 | 4.0 |"), "{text}");
        assert!(text.contains("| under load and faults | 0 h 3 min |"), "{text}");
    }
}
