//! Run after run, each with another seed and another mix of faults, until time is up or somebody stops it.
//!
//! Each run is a process of its own: one that crashes or hangs costs that run alone. Of a run that passed
//! only its figures stay, a line in `runs.jsonl`; of any other, its whole folder. `index.html` and
//! `summary.txt` tell of all runs there have been in the folder, and are whole after each.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tokio::process::Command;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::dice::Dice;
use super::page;
use super::plan::Plan;
use super::summary::{FAILED, Summary, Total};
use crate::Engine;

/// Choices of the mixes; far from the streams of plans, whose seeds are other ones anyway.
const STREAM: u64 = 1 << 32;
/// Few faults at a time can be told apart; more than these are only noise.
const KINDS_MAX: u64 = 4;
/// How long a run takes beyond its faults: start, healing, settling, judging, on a busy machine.
const BEYOND: Duration = Duration::from_secs(600);
/// Folders kept whole; of later ones that did not pass, the report alone.
const KEPT_MAX: usize = 50;
/// Of the output of a run that failed.
const OUTPUT_LINES: usize = 5;

#[derive(Clone, Debug)]
pub struct Soak {
    /// This program.
    pub program: PathBuf,
    pub minutes: u64,
    /// The first seed; the next run has the next one.
    pub seed: u64,
    /// What to choose from.
    pub faults: Vec<String>,
    pub engine: Engine,
    /// Words handed to each run as they are.
    pub bounds: Vec<String>,
    pub dir: PathBuf,
}

/// Runs until time is up, or SIGINT or SIGTERM comes. Answers whether nothing was violated.
///
/// # Errors
/// Where nothing can be written down.
pub async fn soak(soak: &Soak) -> Result<Total> {
    ensure!(!soak.faults.is_empty(), "no fault fits this engine and this machine");
    fs::create_dir_all(&soak.dir).with_context(|| format!("cannot make {}", soak.dir.display()))?;
    let (mut runs, mut stops) = (earlier(&soak.dir)?, Stops::new()?);
    let until = Instant::now() + Duration::from_secs(soak.minutes * 60);
    let mut seed = soak.seed;
    tell(&soak.dir, &runs)?;
    while Instant::now() < until {
        let plan = soak.plan(seed);
        eprintln!("{}: {} nodes, {} s, {}", seed, plan.nodes, plan.seconds, plan.faults.join(", "));
        let Some(summary) = soak.run(&plan, &mut stops).await? else { break };
        eprintln!("{}: {}", seed, summary.verdict);
        for problem in summary.problems.iter().take(OUTPUT_LINES) {
            eprintln!("    {problem}");
        }
        note(&soak.dir, &summary)?;
        runs.push(summary);
        soak.tidy(seed, &runs)?;
        tell(&soak.dir, &runs)?;
        seed += 1;
    }
    Ok(Total::of(&runs))
}

impl Soak {
    /// What a seed means: how many nodes, how long, which faults.
    fn plan(&self, seed: u64) -> Plan {
        let mut dice = Dice::new(seed, STREAM);
        let nodes = dice.weighted(&[(70, 3), (30, 5)]);
        let mut faults = self.faults.clone();
        dice.shuffle(&mut faults);
        let kinds = dice.between(1, KINDS_MAX.min(faults.len() as u64));
        faults.truncate(usize::try_from(kinds).expect("a small number"));
        let seconds = dice.between(30, 90);
        Plan::new(seed, seconds, nodes, self.engine, &faults)
    }

    fn folder(&self, seed: u64) -> PathBuf {
        self.dir.join(folder_name(seed))
    }

    /// One run; `None` if it was stopped.
    async fn run(&self, plan: &Plan, stops: &mut Stops) -> Result<Option<Summary>> {
        let folder = self.folder(plan.seed);
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let output = File::create(folder.join("output.txt")).context("cannot keep a run's output")?;
        let mut child = Command::new(&self.program)
            .args(plan.arguments())
            .args(&self.bounds)
            .arg("--report")
            .arg(&folder)
            .stdin(Stdio::null())
            .stdout(output.try_clone().context("cannot share the output")?)
            .stderr(output)
            // Who interrupts this program must not interrupt the run behind its back.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .context("cannot start a run")?;
        let within = Duration::from_secs(plan.seconds) + BEYOND;
        let ended = tokio::select! {
            ended = tokio::time::timeout(within, child.wait()) => Some(ended),
            () = stops.came() => None,
        };
        let Some(ended) = ended else {
            // Its cluster's guard takes the cluster down.
            child.kill().await.context("cannot stop a run")?;
            fs::remove_dir_all(&folder).context("cannot remove a run's folder")?;
            return Ok(None);
        };
        let why = match ended {
            Ok(status) => format!("{}", status.context("cannot see a run's end")?),
            Err(_elapsed) => {
                child.kill().await.context("cannot stop a run")?;
                format!("not at its end after {} s", within.as_secs())
            }
        };
        let read = fs::read(folder.join(SUMMARY_FILE)).ok();
        let summary = read.and_then(|text| serde_json::from_slice(&text).ok());
        Ok(Some(summary.unwrap_or_else(|| {
            let said = fs::read_to_string(folder.join("output.txt")).unwrap_or_default();
            let lines: Vec<&str> = said.lines().collect();
            let last =
                lines[lines.len().saturating_sub(OUTPUT_LINES)..].iter().map(|line| (*line).to_owned());
            Summary {
                seed: plan.seed,
                command: plan.command(),
                verdict: FAILED.into(),
                nodes: plan.nodes,
                problems: [why].into_iter().chain(last).collect(),
                ..Summary::default()
            }
        })))
    }

    /// Throws away what nobody will look at.
    fn tidy(&self, seed: u64, runs: &[Summary]) -> Result<()> {
        let folder = self.folder(seed);
        let passed = |run: &Summary| run.verdict == "PASSED";
        if runs.last().is_some_and(passed) {
            return fs::remove_dir_all(&folder).context("cannot remove a run's folder");
        }
        if runs.iter().filter(|run| !passed(run)).count() > KEPT_MAX {
            for bulky in ["evidence.json", "history.jsonl"] {
                // It may have failed before there was one.
                let _none = fs::remove_file(folder.join(bulky));
            }
        }
        Ok(())
    }
}

/// The file in which a run leaves its figures.
pub const SUMMARY_FILE: &str = "summary.json";
const RUNS_FILE: &str = "runs.jsonl";

/// Where a run that did not pass is found.
pub fn folder_name(seed: u64) -> String {
    format!("seed-{seed}")
}

/// The runs of earlier sessions.
fn earlier(dir: &Path) -> Result<Vec<Summary>> {
    let text = match fs::read_to_string(dir.join(RUNS_FILE)) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).context("cannot read the earlier runs"),
    };
    text.lines().map(|line| serde_json::from_str(line).context("an earlier run cannot be read")).collect()
}

fn note(dir: &Path, summary: &Summary) -> Result<()> {
    let file = File::options().create(true).append(true).open(dir.join(RUNS_FILE));
    let mut line = serde_json::to_vec(summary).context("a summary is plain data")?;
    line.push(b'\n');
    file.and_then(|mut file| file.write_all(&line)).context("cannot note a run")
}

/// Writes the pages anew; who reads them meanwhile sees the old ones whole.
fn tell(dir: &Path, runs: &[Summary]) -> Result<()> {
    for (name, text) in [("summary.txt", Total::of(runs).text()), ("index.html", page::index(runs))] {
        let new = dir.join(format!("{name}.new"));
        let written = fs::write(&new, text).and_then(|()| fs::rename(&new, dir.join(name)));
        written.with_context(|| format!("cannot write {name}"))?;
    }
    Ok(())
}

/// What asks this program to stop.
struct Stops {
    interrupt: Signal,
    terminate: Signal,
}

impl Stops {
    fn new() -> Result<Self> {
        let listen = |kind| signal(kind).context("cannot listen for signals");
        Ok(Stops { interrupt: listen(SignalKind::interrupt())?, terminate: listen(SignalKind::terminate())? })
    }

    async fn came(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn soaking(dir: &Path, script: &str) -> Soak {
        let (text, program) = (dir.join("script"), dir.join("run.sh"));
        // The folder is the last word.
        let head = "#!/bin/sh\nfor dir; do :; done\n";
        fs::write(&text, format!("{head}{script}\n")).unwrap();
        fs::set_permissions(&text, fs::Permissions::from_mode(0o755)).unwrap();
        // Made by another process: a program that this one wrote cannot be run while a child forked meanwhile
        // by another test still has it open.
        let copied = std::process::Command::new("cp").args([&text, &program]).status().unwrap();
        assert!(copied.success());
        let faults = vec!["kill".to_owned(), "pause".to_owned()];
        let dir = dir.join("out");
        Soak { program, minutes: 1, seed: 5, faults, engine: Engine::Process, bounds: Vec::new(), dir }
    }

    async fn one(soak: &Soak) -> Summary {
        let plan = soak.plan(soak.seed);
        soak.run(&plan, &mut Stops::new().unwrap()).await.unwrap().unwrap()
    }

    #[tokio::test]
    async fn a_run_that_leaves_no_figures_has_failed() {
        let dir = tempfile::tempdir().unwrap();
        let summary = one(&soaking(dir.path(), "echo no cluster; exit 1")).await;
        assert_eq!(summary.verdict, FAILED);
        assert!(summary.problems.iter().any(|problem| problem == "no cluster"), "{summary:?}");
    }

    #[tokio::test]
    async fn only_what_passed_is_thrown_away_and_every_run_is_counted() {
        let dir = tempfile::tempdir().unwrap();
        for (seed, verdict, kept) in [(5, "PASSED", false), (6, "VIOLATED", true)] {
            let figures = Summary { seed, verdict: verdict.into(), ..Summary::default() };
            let text = serde_json::to_string(&figures).unwrap();
            let soak = Soak { seed, ..soaking(dir.path(), &format!("echo '{text}' > $dir/summary.json")) };
            let summary = one(&soak).await;
            note(&soak.dir, &summary).unwrap();
            soak.tidy(seed, &[summary]).unwrap();
            assert_eq!(soak.folder(seed).exists(), kept, "{verdict}");
        }
        let out = dir.path().join("out");
        let runs = earlier(&out).unwrap();
        tell(&out, &runs).unwrap();
        assert!(fs::read_to_string(out.join("summary.txt")).unwrap().contains("| runs | 2 |"));
        let index = fs::read_to_string(out.join("index.html")).unwrap();
        assert!(index.contains("seed-6/report.html") && !index.contains("seed-5/report.html"));
    }

    #[test]
    fn seeds_mix_faults_nodes_and_lengths() {
        let dir = tempfile::tempdir().unwrap();
        let soak = soaking(dir.path(), "");
        let plans: Vec<Plan> = (0..50).map(|seed| soak.plan(seed)).collect();
        for nodes in [3, 5] {
            assert!(plans.iter().any(|plan| plan.nodes == nodes));
        }
        assert!(
            plans.iter().any(|plan| plan.faults.len() == 2)
                && plans.iter().any(|plan| plan.faults.len() == 1)
        );
        assert_eq!(soak.plan(9).strikes, soak.plan(9).strikes);
    }
}
