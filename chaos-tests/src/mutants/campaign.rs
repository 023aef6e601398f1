//! All proofs: first with no bug alive, then each with its own.

use std::collections::BTreeSet;
use std::fmt::Write;

use anyhow::{Result, ensure};

use super::programs;
use super::table::{Mutant, Proof};
use super::trial::{self, Seen};

/// What came of one bug.
#[derive(Clone, Debug)]
pub struct Verdict {
    pub mutant: Mutant,
    /// Who caught it, of those who should; none: it survived.
    pub caught_by: Vec<String>,
    pub runs: usize,
}

impl Verdict {
    pub fn survived(&self) -> bool {
        self.caught_by.is_empty()
    }
}

/// Runs the proofs of these bugs, with `seconds` instead of the table's if given.
///
/// # Errors
/// Where something cannot be built or run, or a proof fails with no bug alive.
pub async fn run(mutants: &[Mutant], seconds: Option<u64>) -> Result<Vec<Verdict>> {
    let proofs: BTreeSet<Proof> = mutants.iter().map(|mutant| with_seconds(mutant.proof, seconds)).collect();
    if proofs.iter().any(|proof| !matches!(proof, Proof::Tests { .. })) {
        programs::build()?;
    }
    for proof in proofs {
        control(proof).await?;
    }
    let mut verdicts = Vec::new();
    for mutant in mutants {
        verdicts.push(try_one(*mutant, with_seconds(mutant.proof, seconds)).await?);
    }
    Ok(verdicts)
}

fn with_seconds(proof: Proof, wanted: Option<u64>) -> Proof {
    match proof {
        Proof::Chaos { faults, seconds, seeds } => {
            Proof::Chaos { faults, seconds: wanted.unwrap_or(seconds), seeds }
        }
        others @ (Proof::Tests { .. } | Proof::Simulation { .. } | Proof::Cluster { .. }) => others,
    }
}

/// The proof with no bug alive: whatever it finds then, it would find with any.
async fn control(proof: Proof) -> Result<()> {
    let mut last = Seen::default();
    let attempts: &[u64] = match proof {
        Proof::Chaos { seeds, .. } => seeds,
        Proof::Tests { package, .. } => {
            // That it compiles is not to be learnt from a test that fails.
            programs::done(programs::tests(package).args(["--quiet", "--no-run"]))?;
            &[0]
        }
        Proof::Simulation { .. } => &[0],
        Proof::Cluster { .. } => {
            programs::done(programs::cluster_tests().args(["--quiet", "--no-run"]))?;
            &[0]
        }
    };
    for seed in attempts {
        last = once(None, proof, *seed).await?;
        ensure!(last.violated.is_empty(), "{proof:?} finds {:?} with no bug alive", last.violated);
        if last.is_green() {
            eprintln!("control: {proof:?} is green");
            return Ok(());
        }
    }
    ensure!(last.is_green(), "{proof:?} tries too little: {:?}", last.too_little);
    Ok(())
}

async fn try_one(mutant: Mutant, proof: Proof) -> Result<Verdict> {
    let seeds: &[u64] = if let Proof::Chaos { seeds, .. } = proof { seeds } else { &[0] };
    let mut runs = 0;
    for seed in seeds {
        runs += 1;
        let seen = once(Some(mutant.name), proof, *seed).await?;
        // Whatever tests fail of those that were asked for.
        let counts = |name: &str| mutant.catchers.is_empty() || mutant.catchers.contains(&name);
        let all = seen.violated.iter().chain(&seen.unfelt);
        let (caught, others): (Vec<_>, Vec<_>) = all.partition(|(name, _)| counts(name));
        for (name, violation) in &others {
            eprintln!("{}: {name}, which does not count: {violation}", mutant.name);
        }
        if !caught.is_empty() {
            for (name, violation) in &caught {
                eprintln!("{}: caught by {name}: {violation}", mutant.name);
            }
            let caught_by = caught.into_iter().map(|(name, _)| name.clone()).collect();
            return Ok(Verdict { mutant, caught_by, runs });
        }
        eprintln!("{}: seed {seed} saw nothing", mutant.name);
    }
    Ok(Verdict { mutant, caught_by: Vec::new(), runs })
}

async fn once(mutant: Option<&str>, proof: Proof, seed: u64) -> Result<Seen> {
    match proof {
        Proof::Chaos { faults, seconds, .. } => {
            let (seen, dir) = trial::chaos(mutant, faults, seconds, seed).await?;
            eprintln!("{}: {}", mutant.unwrap_or("control"), dir.display());
            Ok(seen)
        }
        Proof::Tests { package, filter } => trial::tests(mutant, package, filter).await,
        Proof::Simulation { seconds, seeds } => trial::simulation(mutant, seconds, seeds).await,
        Proof::Cluster { filter } => trial::cluster(mutant, filter).await,
    }
}

/// The verdicts as a Markdown table.
pub fn table(verdicts: &[Verdict]) -> String {
    let mut text =
        String::from("| mutant | what is wrong | proof | caught by | runs |\n|---|---|---|---|---|\n");
    for Verdict { mutant, caught_by, runs } in verdicts {
        let proof = match mutant.proof {
            Proof::Chaos { faults, .. } => format!("chaos: {faults}"),
            Proof::Tests { package, .. } => format!("tests of {package}"),
            Proof::Simulation { seeds, .. } => format!("simulation: {seeds} seeds"),
            Proof::Cluster { .. } => "cluster tests".to_owned(),
        };
        let caught_by = if caught_by.is_empty() { "**nobody**".to_owned() } else { caught_by.join(", ") };
        writeln!(text, "| `{}` | {} | {proof} | {caught_by} | {runs} |", mutant.name, mutant.wrong)
            .expect("writing to a String cannot fail");
    }
    text
}
