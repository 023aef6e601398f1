//! One proof, run once with one bug alive or with none.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};

use super::programs;
use super::table::{FAULT, RUN};
use crate::chaos::evidence::Evidence;
use crate::chaos::report::Report;

/// Chooses the bug in a node that has any.
const VARIABLE: &str = "MUSTER_MUTANT";
/// What a run may take beyond the time in which faults begin: start, healing, judging.
const BEYOND: Duration = Duration::from_secs(300);
/// As in CI: debug builds on few cores recover more slowly than the product promises.
const RECOVERY_BOUND_MS: &str = "15000";

/// What came of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// The invariants that were violated, each with its first violation.
    pub violated: Vec<(String, String)>,
    /// Why it proves nothing, where it found nothing.
    pub too_little: Vec<String>,
    /// Faults that should have shown an effect and did not, under the name of [`FAULT`].
    pub unfelt: Vec<(String, String)>,
}

impl Seen {
    /// Nothing is wrong, and enough was tried to say so.
    pub fn is_green(&self) -> bool {
        self.violated.is_empty() && self.too_little.is_empty()
    }
}

/// A chaos run; its report goes to a folder named after it, which the answer names too.
///
/// # Errors
/// Where the program cannot be started, or its evidence is not readable.
pub async fn chaos(mutant: Option<&str>, faults: &str, seconds: u64, seed: u64) -> Result<(Seen, PathBuf)> {
    let name = mutant.unwrap_or("control");
    let dir = programs::target_dir().join(format!("reports/{name}-{faults}-{seed}"));
    if dir.exists() {
        fs::remove_dir_all(&dir).with_context(|| format!("cannot empty {}", dir.display()))?;
    }
    fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let output = fs::File::create(dir.join("output.txt")).context("cannot keep the output")?;
    let mut command = tokio::process::Command::from(with(mutant, Command::new(programs::chaos()?)));
    command.args(["--engine", "process", "--faults", faults, "--recovery-bound-ms", RECOVERY_BOUND_MS]);
    command.args(["--seed", &seed.to_string(), "--seconds", &seconds.to_string(), "--report"]).arg(&dir);
    command.env("MUSTER_BIN_DIR", programs::program_dir()).kill_on_drop(true);
    command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
    let mut child = command.spawn().context("cannot start muster-chaos")?;
    let limit = Duration::from_secs(seconds) + BEYOND;
    let ended = match tokio::time::timeout(limit, child.wait()).await {
        Ok(status) => format!("it ended with {}", status.context("cannot wait for muster-chaos")?),
        // Its guard takes the cluster down after it.
        Err(_elapsed) => format!("it was not through within {} s", limit.as_secs()),
    };
    let evidence = dir.join("evidence.json");
    let seen = if evidence.exists() { judged(&evidence)? } else { broken(&dir, &ended)? };
    Ok((seen, dir))
}

/// Tests whose names contain `filter`. That they compile has to be seen before.
///
/// # Errors
/// Where cargo cannot be started.
pub async fn tests(mutant: Option<&str>, package: &str, filter: &str) -> Result<Seen> {
    test(with(mutant, programs::tests(package)), filter).await
}

/// So many seeds of the simulation, from the first on.
///
/// # Errors
/// Where it cannot be started.
pub async fn simulation(mutant: Option<&str>, seconds: u64, seeds: u64) -> Result<Seen> {
    let program = programs::program_dir().join("muster-simulation");
    let mut command = tokio::process::Command::from(with(mutant, Command::new(program)));
    command.args(["--seed", "1", "--seeds", &seeds.to_string(), "--seconds", &seconds.to_string()]);
    let output = command.output().await.context("cannot run muster-simulation")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let first = text.lines().find_map(|line| line.strip_prefix("VIOLATED "));
    let last = text.lines().next_back().unwrap_or("it said nothing");
    let violated = (!output.status.success()).then(|| {
        let (found, sums) = (first.unwrap_or("it did not come to its end"), last);
        (format!("simulation ({})", failed_of(sums)), found.to_owned())
    });
    Ok(Seen { violated: violated.into_iter().collect(), ..Seen::default() })
}

/// `N failed` of the line that sums all seeds up.
fn failed_of(sums: &str) -> String {
    let failed = sums.split(", ").find(|part| part.contains(" failed"));
    failed
        .and_then(|part| part.split(" failed").next())
        .map_or_else(|| "not through".to_owned(), |count| format!("{count} seeds"))
}

/// Tests of real clusters, on the programs with seeded bugs.
///
/// # Errors
/// Where cargo cannot be started.
pub async fn cluster(mutant: Option<&str>, filter: &str) -> Result<Seen> {
    let mut command = with(mutant, programs::cluster_tests());
    command.env("MUSTER_BIN_DIR", programs::program_dir());
    test(command, filter).await
}

async fn test(command: Command, filter: &str) -> Result<Seen> {
    let mut command = tokio::process::Command::from(command);
    // A failure is what is hoped for: it needs no smallest example, and no place in the sources.
    command.env("PROPTEST_MAX_SHRINK_ITERS", "0").env("PROPTEST_DISABLE_FAILURE_PERSISTENCE", "true");
    let output = command.arg(filter).output().await.context("cannot run cargo")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let failed = text.lines().filter_map(|line| line.strip_prefix("test ")?.strip_suffix(" ... FAILED"));
    let violated = failed.map(|test| (test.to_owned(), String::new())).collect();
    let passed = text.lines().any(|line| line.starts_with("test result: ok.") && !line.contains(" 0 passed"));
    let too_little = (!passed).then(|| format!("no test named {filter} has passed"));
    Ok(Seen { violated, too_little: too_little.into_iter().collect(), unfelt: Vec::new() })
}

fn with(mutant: Option<&str>, mut command: Command) -> Command {
    match mutant {
        Some(name) => command.env(VARIABLE, name),
        None => command.env_remove(VARIABLE),
    };
    command
}

fn judged(evidence: &Path) -> Result<Seen> {
    let text = fs::read_to_string(evidence).with_context(|| format!("cannot read {}", evidence.display()))?;
    let evidence: Evidence = serde_json::from_str(&text).context("this is no evidence of a run")?;
    let report = Report::new(&evidence);
    let violated = report
        .findings
        .iter()
        .filter_map(|judged| Some((judged.name.to_owned(), judged.finding.violations.first()?.clone())));
    let unfelt = report.too_little.iter().filter(|text| text.contains("was felt by"));
    Ok(Seen {
        violated: violated.collect(),
        unfelt: unfelt.map(|text| (FAULT.to_owned(), text.clone())).collect(),
        too_little: report.too_little.clone(),
    })
}

/// A run that came to no end has caught something too, if a node did not do what it must.
fn broken(dir: &Path, ended: &str) -> Result<Seen> {
    let output = fs::read_to_string(dir.join("output.txt")).context("cannot read the output")?;
    let tells = |line: &str| line.starts_with("muster-chaos: ") || line.contains("did not end well: ");
    let said: Vec<&str> = output.lines().skip_while(|line| !tells(line)).take(2).collect();
    let why = if said.is_empty() { ended.to_owned() } else { said.join(" ").chars().take(300).collect() };
    Ok(Seen { violated: vec![(RUN.to_owned(), why)], ..Seen::default() })
}
