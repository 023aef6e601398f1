//! `muster-chaos`: breaks a real cluster by a seeded plan and judges what it did meanwhile.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand, ValueEnum};
use muster_chaos::Engine;
use muster_chaos::chaos::evidence::{Bounds, Evidence};
use muster_chaos::chaos::plan::Plan;
use muster_chaos::chaos::report::Report;
use muster_chaos::chaos::{faults, html, recorder, run};

/// Starts a cluster, breaks it by plan under load, and checks what must hold. Status 0: all held;
/// 1: something did not, too little was tried, or the run itself failed; 2: bad usage.
#[derive(Debug, Parser)]
#[command(version, args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    chaos: Chaos,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Judges the evidence of an earlier run again.
    Check { evidence: PathBuf },
    /// Serves as a function of a run; started by the cluster.
    #[command(hide = true)]
    Function,
}

#[derive(Debug, Args)]
struct Chaos {
    /// What is planned follows from it; absent: a new one.
    #[arg(long)]
    seed: Option<u64>,
    /// How long faults begin.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(5..=86_400))]
    seconds: u64,
    /// Voters.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=9))]
    nodes: u64,
    /// Names with commas between them, or `none`.
    #[arg(long, value_delimiter = ',', default_value = "kill,pause", value_parser = fault)]
    faults: Vec<String>,
    #[arg(long, value_enum, default_value_t = EngineName::Process)]
    engine: EngineName,
    /// Where the report, the history and the logs go.
    #[arg(long)]
    report: Option<PathBuf>,
    /// How long after its acknowledgement a revocation must hold on every node with a quorum.
    #[arg(long, default_value_t = Bounds::default().revocation_ms)]
    revocation_bound_ms: u64,
    /// The longest time without an acknowledged write while a majority is undisturbed.
    #[arg(long, default_value_t = Bounds::default().recovery_ms)]
    recovery_bound_ms: u64,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum EngineName {
    Process,
    Docker,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let done = runtime.context("cannot start the async runtime").and_then(|runtime| {
        runtime.block_on(async {
            match arguments.command {
                Some(Command::Function) => recorder::serve().await.map(|()| true),
                Some(Command::Check { evidence }) => check(&evidence),
                None => break_a_cluster(arguments.chaos).await,
            }
        })
    });
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("muster-chaos: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn fault(name: &str) -> Result<String, String> {
    if name == "none" || faults::by_name(name).is_some() {
        return Ok(name.to_owned());
    }
    let known: Vec<&str> = faults::all().iter().map(|fault| fault.name()).collect();
    Err(format!("there are {} and none", known.join(", ")))
}

async fn break_a_cluster(chaos: Chaos) -> Result<bool> {
    let names: Vec<String> = chaos.faults.into_iter().filter(|name| name != "none").collect();
    let seed = match chaos.seed {
        Some(seed) => seed,
        // Short enough to be read out.
        None => std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs() % 1_000_000,
    };
    let engine = match chaos.engine {
        EngineName::Process => Engine::Process,
        EngineName::Docker => Engine::Docker,
    };
    let plan = Plan::new(seed, chaos.seconds, chaos.nodes, engine, &names);
    eprintln!("again: {}", plan.command());
    let bounds = Bounds {
        revocation_ms: chaos.revocation_bound_ms,
        recovery_ms: chaos.recovery_bound_ms,
        ..Bounds::default()
    };
    let dir = chaos.report.unwrap_or_else(|| PathBuf::from(format!("target/chaos/seed-{seed}")));
    let evidence = run::run(plan, bounds, &dir).await?;
    let file = std::fs::File::create(dir.join("evidence.json")).context("cannot keep the evidence")?;
    serde_json::to_writer(std::io::BufWriter::new(file), &evidence).context("cannot keep the evidence")?;
    let report = Report::new(&evidence);
    let text = report.text(&evidence);
    std::fs::write(dir.join("report.txt"), &text).context("cannot write the report")?;
    std::fs::write(dir.join("report.html"), html::page(&evidence, &report))
        .context("cannot write the page")?;
    say(&format!("{text}\nhistory, logs and report: {}", dir.display()));
    Ok(report.passed())
}

fn check(path: &std::path::Path) -> Result<bool> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let evidence: Evidence = serde_json::from_str(&text).context("this is no evidence of a run")?;
    let report = Report::new(&evidence);
    say(&report.text(&evidence));
    Ok(report.passed())
}

fn say(text: &str) {
    // Who stops listening half-way, such as `head`, has heard enough.
    let _unheard = writeln!(std::io::stdout(), "{text}");
}
