//! The scaling simulator's command line.

use std::fs;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use clap::{Parser, Subcommand};
use muster_core::functions::KeepAlive;
use muster_core::nodes::Resources;
use muster_scaling::machine::replay;
use muster_scaling::measure::Measures;
use muster_scaling::policies::{self, Cluster, Fixed, Knative, Muster, Policy, TEN_MINUTES};
use muster_scaling::report::{Results, Row};
use muster_scaling::trace::{Function, Invocation, Trace};
use muster_scaling::{picture, workloads};

/// Replays invocations on virtual time through Muster's autoscaler and through other policies.
#[derive(Debug, Parser)]
struct Options {
    /// Hosts of the cluster that Muster schedules on. The other policies have room without end.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..=1000))]
    nodes: u64,
    /// Memory of each host, in mebibytes.
    #[arg(long, default_value_t = 1024 * 1024)]
    node_memory_mb: u64,
    /// Only policies with this in their name, besides the fixed keep-alive that all are compared with.
    #[arg(long)]
    only: Option<String>,
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// A synthetic workload: mixed, rare, timers, bursts, daily, load.
    Workload {
        name: String,
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// Its length, if not the usual one.
        #[arg(long)]
        hours: Option<f64>,
    },
    /// A trace from a CSV file: function,at_ms,duration_ms[,memory_mb[,startup_ms[,concurrency]]].
    Trace { file: PathBuf },
    /// All workloads, into the documentation: tables between the marks of SCALING.md, and pictures.
    Docs {
        #[arg(default_value = "docs")]
        folder: PathBuf,
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
}

fn main() -> Result<()> {
    let options = Options::parse();
    let each = Resources { memory_mb: options.node_memory_mb, cpu_millis: 1_000_000_000 };
    let cluster = Cluster { nodes: options.nodes, each };
    let only = options.only.as_deref();
    match options.what {
        What::Workload { name, seed, hours } => {
            ensure!(
                hours.is_none_or(|hours| hours > 0.0 && hours <= 24.0 * 60.0),
                "--hours: more than 0, at most 1440"
            );
            let trace = workloads::make(&name, seed, hours).with_context(|| {
                format!("no workload `{name}`; there are {}", workloads::NAMES.join(", "))
            })?;
            print!("{}", compare(&trace, cluster, only).markdown());
        }
        What::Trace { file } => {
            let text =
                fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
            let trace = Trace::parse(&file.display().to_string(), &text)?;
            print!("{}", compare(&trace, cluster, only).markdown());
        }
        What::Docs { folder, seed } => document(&folder, seed, cluster)?,
    }
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "shown with few digits")]
fn timed(trace: &Trace, policy: &mut dyn Policy, cluster: Cluster) -> (Measures, f64) {
    let began = Instant::now();
    let measures = replay(trace, policy, cluster.nodes);
    (measures, trace.end_ms as f64 / 1000.0 / began.elapsed().as_secs_f64())
}

fn compare(trace: &Trace, cluster: Cluster, only: Option<&str>) -> Results {
    let mut wanted = policies::all(trace, cluster);
    let first = wanted[0].name().to_owned();
    wanted.retain(|policy| policy.name() == first || only.is_none_or(|part| policy.name().contains(part)));
    let rows = wanted.into_iter().map(|mut policy| {
        let (measures, speed) = timed(trace, policy.as_mut(), cluster);
        eprintln!("{}, {}: {speed:.0} times as fast as life", trace.name, policy.name());
        Row::new(policy.name(), &measures, speed)
    });
    let rows = rows.collect();
    Results::new(trace, rows)
}

const BEGIN: &str = "<!-- begin of what muster-scaling writes -->";
const END: &str = "<!-- end of what muster-scaling writes -->";

fn document(folder: &std::path::Path, seed: u64, cluster: Cluster) -> Result<()> {
    let page = folder.join("SCALING.md");
    let text = fs::read_to_string(&page).with_context(|| format!("cannot read {}", page.display()))?;
    let (before, rest) =
        text.split_once(BEGIN).with_context(|| format!("{}: no `{BEGIN}`", page.display()))?;
    let (_, after) = rest.split_once(END).with_context(|| format!("{}: no `{END}`", page.display()))?;
    let pictures = folder.join("scaling");
    fs::create_dir_all(&pictures)?;
    // What takes seconds comes before what takes minutes.
    fs::write(pictures.join("twenty-minutes.svg"), twenty_minutes(cluster))?;
    fs::write(pictures.join("burst.svg"), burst(cluster))?;
    let all: Vec<Results> = workloads::NAMES
        .iter()
        .map(|name| compare(&workloads::make(name, seed, None).expect("a name of the list"), cluster, None))
        .collect();
    let tables: Vec<String> = all.iter().map(Results::markdown).collect();
    let tables = format!("{BEGIN}\nSeed {seed}.\n\n{}\n{END}", tables.join("\n"));
    fs::write(&page, format!("{before}{tables}{after}"))?;
    fs::write(pictures.join("compare.svg"), picture::compare(&all))?;
    Ok(())
}

/// A function that is called every twenty minutes, for eight hours.
fn twenty_minutes(cluster: Cluster) -> String {
    let trace = one_function(1, 1000, 8 * 3_600_000, (0..24).map(|call| (5_000 + call * 1_200_000, 500)));
    let (fixed, _) = timed(&trace, &mut Fixed::new("", TEN_MINUTES.0), cluster);
    let (adaptive, _) = timed(&trace, &mut Muster::new("", &trace, KeepAlive::Adaptive, cluster), cluster);
    let replays = [("fixed, 10 minutes", &fixed), ("Muster, adaptive", &adaptive)];
    picture::warmth("A function that is called every 20 minutes", &trace, &replays, &[0, 5])
}

/// Two calls a second, for two minutes sixty, then two again.
fn burst(cluster: Cluster) -> String {
    let mut calls = Vec::new();
    let mut at_ms = 0;
    while at_ms < 16 * 60_000 {
        calls.push((at_ms, 400));
        at_ms += if (180_000..300_000).contains(&at_ms) { 1000 / 60 } else { 500 };
    }
    let trace = one_function(1, 1500, 20 * 60_000, calls.into_iter());
    let (fixed, _) = timed(&trace, &mut Fixed::new("", TEN_MINUTES.0), cluster);
    let (knative, _) = timed(&trace, &mut Knative::new(&trace), cluster);
    let policy = KeepAlive::Fixed(TEN_MINUTES);
    let (muster, _) = timed(&trace, &mut Muster::new("", &trace, policy, cluster), cluster);
    let replays = [("fixed, 10 min", &fixed), ("Knative's rule", &knative), ("Muster", &muster)];
    let title = "Two calls a second, and sixty from the 3rd to the 5th minute; 400 ms each, 1.5 s to start";
    picture::burst(title, &trace, &replays, &[0, 1, 4])
}

fn one_function(
    concurrency: u32,
    startup_ms: u64,
    end_ms: u64,
    calls: impl Iterator<Item = (u64, u64)>,
) -> Trace {
    let function = Function { name: "f".into(), memory_mb: 128, startup_ms, concurrency };
    let invocation = |(at_ms, duration_ms)| Invocation { at_ms, function: 0, duration_ms };
    Trace {
        name: "f".into(),
        functions: vec![function],
        invocations: calls.map(invocation).collect(),
        end_ms,
    }
}
