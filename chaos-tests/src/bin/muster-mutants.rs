//! `muster-mutants`: shows that seeded bugs of the product are caught.

use std::io::Write;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use muster_chaos::mutants::campaign::{self, Verdict};
use muster_chaos::mutants::table::{MUTANTS, Mutant};

/// Runs each proof with no bug alive, then with each bug, and prints a table. Status 0: all were
/// caught; 1: one survived, or a proof fails without a bug; 2: bad usage.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// Only these, with commas between them; all if absent.
    #[arg(long, value_delimiter = ',', value_parser = mutant)]
    only: Vec<String>,
    /// How long faults begin in each chaos run; as the table says if absent.
    #[arg(long, value_parser = clap::value_parser!(u64).range(5..=3_600))]
    seconds: Option<u64>,
}

fn mutant(name: &str) -> Result<String, String> {
    let known: Vec<&str> = MUTANTS.iter().map(|mutant| mutant.name).collect();
    match known.contains(&name) {
        true => Ok(name.to_owned()),
        false => Err(format!("there are {}", known.join(", "))),
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match prove(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("muster-mutants: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn prove(arguments: &Arguments) -> Result<()> {
    let wanted =
        |mutant: &&Mutant| arguments.only.is_empty() || arguments.only.iter().any(|name| name == mutant.name);
    let mutants: Vec<Mutant> = MUTANTS.iter().filter(wanted).copied().collect();
    let runtime = tokio::runtime::Runtime::new().context("cannot start the async runtime")?;
    let verdicts = runtime.block_on(campaign::run(&mutants, arguments.seconds))?;
    std::io::stdout().write_all(campaign::table(&verdicts).as_bytes()).context("nobody listens")?;
    let survivors: Vec<&str> =
        verdicts.iter().filter(|verdict| Verdict::survived(verdict)).map(|v| v.mutant.name).collect();
    ensure!(survivors.is_empty(), "nobody caught {}", survivors.join(", "));
    Ok(())
}
