//! `muster-simulation --seed S --seeds N --seconds V`: N seeds from S on, a process each, as many at a
//! time as there are cores. With one seed it runs it here.

use std::process::{Command, ExitCode};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use anyhow::Context;
use clap::Parser;
use muster_simulation::run;
use tracing_subscriber::EnvFilter;

/// Simulates whole clusters, each from one seed. `MUSTER_LOG` filters what the nodes log, in virtual
/// time.
#[derive(Debug, Parser)]
struct Arguments {
    /// The first seed.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    #[arg(long, default_value_t = 1)]
    seeds: u64,
    /// How long faults strike, in virtual seconds.
    #[arg(long, default_value_t = 30)]
    seconds: u64,
    /// Disks forget what they said was synced: proves that the checks see it.
    #[arg(long)]
    lying_disks: bool,
}

fn main() -> anyhow::Result<ExitCode> {
    #[cfg(feature = "mutants")]
    muster_core::mutants::choose(std::env::var("MUSTER_MUTANT").ok());
    let arguments = Arguments::parse();
    if arguments.seeds == 1 { Ok(one(&arguments)) } else { many(&arguments) }
}

fn one(arguments: &Arguments) -> ExitCode {
    let filter = EnvFilter::try_from_env("MUSTER_LOG").unwrap_or_else(|_| EnvFilter::new("off"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).init();
    let outcome = run::run(arguments.seed, arguments.seconds, arguments.lying_disks);
    let run::Outcome { nodes, virtual_ms, entries, instances, figures, faults, fingerprint, violation } =
        outcome;
    println!(
        "seed {}: {nodes} nodes, {virtual_ms} virtual ms, {entries} entries, {instances} instances, \
         {figures:?}, {faults:?}, fingerprint {fingerprint:016x}",
        arguments.seed
    );
    match violation {
        Some(what) => {
            println!(
                "VIOLATED {what}\nagain: cargo run -p muster-simulation -- --seed {} --seconds {}",
                arguments.seed, arguments.seconds
            );
            ExitCode::FAILURE
        }
        None => ExitCode::SUCCESS,
    }
}

fn many(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let program = std::env::current_exe().context("cannot tell where this program is")?;
    let (begun, next) = (Instant::now(), AtomicU64::new(arguments.seed));
    let (failed, virtual_ms) = (Mutex::new(Vec::new()), AtomicU64::new(0));
    let work = || -> anyhow::Result<()> {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= arguments.seed + arguments.seeds {
                return Ok(());
            }
            let (number, seconds) = (seed.to_string(), arguments.seconds.to_string());
            let mut run = Command::new(&program);
            run.args(["--seed", &number, "--seconds", &seconds]);
            run.args(arguments.lying_disks.then_some("--lying-disks"));
            let run = run.output()?;
            let text = String::from_utf8_lossy(&run.stdout).into_owned();
            let ran = text.split(" virtual ms").next().and_then(|head| head.rsplit(' ').next()?.parse().ok());
            virtual_ms.fetch_add(ran.unwrap_or(0), Ordering::Relaxed);
            if !run.status.success() {
                println!("{text}{}", String::from_utf8_lossy(&run.stderr));
                failed.lock().expect("nothing panics with it").push(seed);
            }
        }
    };
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..cores).map(|_| scope.spawn(work)).collect();
        workers.into_iter().try_for_each(|worker| worker.join().expect("a worker does not panic"))
    })?;
    let failed = failed.into_inner().expect("nothing panics with it");
    let (real_ms, virtual_ms) = (begun.elapsed().as_millis().max(1), u128::from(virtual_ms.into_inner()));
    println!(
        "{} seeds in {real_ms} ms: {} virtual seconds a real second, {} seeds a minute, {} failed {failed:?}",
        arguments.seeds,
        virtual_ms / real_ms,
        u128::from(arguments.seeds) * 60_000 / real_ms,
        failed.len(),
    );
    Ok(if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
