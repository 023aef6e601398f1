//! `muster-chaos`: breaks a real cluster by a seeded plan and judges what it did meanwhile.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand, ValueEnum};
use muster_chaos::Engine;
use muster_chaos::chaos::evidence::{Bounds, Evidence};
use muster_chaos::chaos::plan::Plan;
use muster_chaos::chaos::report::Report;
use muster_chaos::chaos::summary::Summary;
use muster_chaos::chaos::{faults, page, recorder, run, soak};

/// Starts a cluster, breaks it by plan under load, and checks what must hold. Status 0: all held;
/// 1: something did not, or the run itself failed; 2: bad usage; 3: too little was tried or felt.
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
    Check {
        evidence: PathBuf,
        /// Where the report goes too, as text and as a page.
        #[arg(long)]
        report: Option<PathBuf>,
    },
    /// Run after run with other seeds and mixes of faults, and one page over all. SIGINT ends it in order.
    Soak(Soaking),
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
    /// Names with commas between them, `none`, or `all` that fit the engine and this machine.
    #[arg(long, value_delimiter = ',', default_value = "kill,pause", value_parser = fault)]
    faults: Vec<String>,
    #[arg(long, value_enum, default_value_t = EngineName::Process)]
    engine: EngineName,
    /// Prints the faults that can be tried here with the engine, one a line, and why others cannot.
    #[arg(long)]
    list_faults: bool,
    /// Where the report, the history and the logs go.
    #[arg(long)]
    report: Option<PathBuf>,
    #[command(flatten)]
    promises: Promises,
}

#[derive(Debug, Args)]
struct Soaking {
    /// After which no further run begins.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    minutes: u64,
    /// Of the first run; absent: a new one. The others follow it.
    #[arg(long)]
    seed: Option<u64>,
    /// What to choose from for each run.
    #[arg(long, value_delimiter = ',', default_value = "all", value_parser = fault)]
    faults: Vec<String>,
    #[arg(long, value_enum, default_value_t = EngineName::Process)]
    engine: EngineName,
    /// Where the pages and the runs that did not pass go. Runs of an earlier soak there count too.
    #[arg(long, default_value = "target/chaos/soak")]
    report: PathBuf,
    #[command(flatten)]
    promises: Promises,
}

/// What a run holds the cluster to.
#[derive(Debug, Args)]
struct Promises {
    /// The longest time without an acknowledged write while a majority is undisturbed.
    #[arg(long, default_value_t = Bounds::default().recovery_ms)]
    recovery_bound_ms: u64,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum EngineName {
    Process,
    Docker,
}

impl From<EngineName> for Engine {
    fn from(name: EngineName) -> Self {
        match name {
            EngineName::Process => Engine::Process,
            EngineName::Docker => Engine::Docker,
        }
    }
}

/// The status of a run that found nothing and tried too little to prove anything.
const INCONCLUSIVE: u8 = 3;

/// What came of what was asked for.
#[derive(Clone, Copy, Debug)]
enum Ended {
    Well,
    Badly,
    Open,
}

impl Ended {
    fn of(report: &Report) -> Self {
        match (report.passed(), report.violated()) {
            (true, _) => Ended::Well,
            (_, true) => Ended::Badly,
            _ => Ended::Open,
        }
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let done = runtime.context("cannot start the async runtime").and_then(|runtime| {
        runtime.block_on(async {
            match arguments.command {
                Some(Command::Function) => recorder::serve().await.map(|()| Ended::Well),
                Some(Command::Check { evidence, report }) => check(&evidence, report.as_deref()),
                Some(Command::Soak(soaking)) => break_many(soaking).await,
                None => break_a_cluster(arguments.chaos).await,
            }
        })
    });
    match done {
        Ok(Ended::Well) => ExitCode::SUCCESS,
        Ok(Ended::Badly) => ExitCode::FAILURE,
        Ok(Ended::Open) => ExitCode::from(INCONCLUSIVE),
        Err(error) => {
            eprintln!("muster-chaos: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn fault(name: &str) -> Result<String, String> {
    if ["none", "all"].contains(&name) || faults::by_name(name).is_some() {
        return Ok(name.to_owned());
    }
    let known: Vec<&str> = faults::all().iter().map(|fault| fault.frame().name).collect();
    Err(format!("there are {}, all and none", known.join(", ")))
}

/// `none` and `all` spelled out.
fn spelled_out(names: Vec<String>, engine: Engine) -> Vec<String> {
    if names.iter().any(|name| name == "all") {
        let fit = faults::all().into_iter().filter(|fault| fault.frame().needs.unmet(engine).is_none());
        return fit.map(|fault| fault.frame().name.to_owned()).collect();
    }
    names.into_iter().filter(|name| name != "none").collect()
}

/// One that was not given: short enough to be read out.
fn new_seed() -> Result<u64> {
    Ok(std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs() % 1_000_000)
}

async fn break_many(soaking: Soaking) -> Result<Ended> {
    let engine = soaking.engine.into();
    let recovery_bound_ms = soaking.promises.recovery_bound_ms.to_string();
    let total = soak::soak(&soak::Soak {
        // This very program, though the file may be built anew while it runs.
        program: PathBuf::from("/proc/self/exe"),
        minutes: soaking.minutes,
        seed: soaking.seed.map_or_else(new_seed, Ok)?,
        faults: spelled_out(soaking.faults, engine),
        engine,
        bounds: vec!["--recovery-bound-ms".to_owned(), recovery_bound_ms],
        dir: soaking.report.clone(),
    })
    .await?;
    say(&format!("{}\nall runs: {}", total.text(), soaking.report.join("index.html").display()));
    Ok(if total.is_good() { Ended::Well } else { Ended::Badly })
}

async fn break_a_cluster(chaos: Chaos) -> Result<Ended> {
    let engine = chaos.engine.into();
    if chaos.list_faults {
        list_faults(engine);
        return Ok(Ended::Well);
    }
    let names = spelled_out(chaos.faults, engine);
    let seed = chaos.seed.map_or_else(new_seed, Ok)?;
    let plan = Plan::new(seed, chaos.seconds, chaos.nodes, engine, &names);
    eprintln!("again: {}", plan.command());
    let bounds = Bounds { recovery_ms: chaos.promises.recovery_bound_ms, ..Bounds::default() };
    let dir = chaos.report.unwrap_or_else(|| PathBuf::from(format!("target/chaos/seed-{seed}")));
    let evidence = run::run(plan, bounds, &dir).await?;
    let file = std::fs::File::create(dir.join("evidence.json")).context("cannot keep the evidence")?;
    serde_json::to_writer(std::io::BufWriter::new(file), &evidence).context("cannot keep the evidence")?;
    let report = Report::new(&evidence);
    let text = keep(&evidence, &report, &dir)?;
    say(&format!("{text}\nhistory, logs and report: {}", dir.display()));
    Ok(Ended::of(&report))
}

fn list_faults(engine: Engine) {
    for fault in faults::all() {
        match fault.frame().needs.unmet(engine) {
            None => say(fault.frame().name),
            Some(reason) => eprintln!("{} cannot be tried here: {reason}", fault.frame().name),
        }
    }
}

/// Leaves the report in `dir`, as text and as a page, and answers the text.
fn keep(evidence: &Evidence, report: &Report, dir: &Path) -> Result<String> {
    std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let text = report.text(evidence);
    std::fs::write(dir.join("report.txt"), &text).context("cannot write the report")?;
    std::fs::write(dir.join("report.html"), page::render(evidence, report))
        .context("cannot write the page")?;
    let summary = serde_json::to_vec(&Summary::of(evidence, report)).context("a summary is plain data")?;
    std::fs::write(dir.join(soak::SUMMARY_FILE), summary).context("cannot write the summary")?;
    Ok(text)
}

fn check(path: &Path, dir: Option<&Path>) -> Result<Ended> {
    let file = std::fs::File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    let evidence: Evidence =
        serde_json::from_reader(std::io::BufReader::new(file)).context("this is no evidence of a run")?;
    let report = Report::new(&evidence);
    say(&match dir {
        Some(dir) => keep(&evidence, &report, dir)?,
        None => report.text(&evidence),
    });
    Ok(Ended::of(&report))
}

fn say(text: &str) {
    // Who stops listening half-way, such as `head`, has heard enough.
    let _unheard = writeln!(std::io::stdout(), "{text}");
}
