//! The programs with seeded bugs, in a target folder of their own: what others run is never one of
//! them.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::cluster::programs::repository;

/// What a chaos run starts, and the simulation: what has the feature, and others as ever.
const PACKAGES: [&str; 6] = ["muster-node", "muster-simulation", "muster-client", "alpha", "beta", "faulty"];
const FEATURES: &str = "muster-node/mutants,muster-simulation/mutants";

/// Where all that is built with the feature goes.
pub fn target_dir() -> PathBuf {
    repository().join("target/mutants")
}

/// The folder with the programs for `MUSTER_BIN_DIR`.
pub fn program_dir() -> PathBuf {
    target_dir().join("debug")
}

/// The program that breaks clusters, which is not built with the feature.
pub fn chaos() -> Result<PathBuf> {
    let this = std::env::current_exe().context("cannot tell where this program is")?;
    Ok(this.with_file_name("muster-chaos"))
}

/// Builds everything that a chaos run needs.
///
/// # Errors
/// Where something does not compile.
pub fn build() -> Result<()> {
    let mut node = cargo("build");
    node.arg("--quiet");
    for package in PACKAGES {
        node.args(["-p", package]);
    }
    done(node.args(["--features", FEATURES, "--target-dir"]).arg(target_dir()))?;
    let program = chaos()?;
    let release = program.components().any(|part| part.as_os_str() == "release");
    let mut breaker = cargo("build");
    done(
        breaker
            .args(["--quiet", "-p", "muster-chaos", "--bin", "muster-chaos"])
            .args(release.then_some("--release")),
    )
}

/// `cargo test` of a package with the feature.
pub fn tests(package: &str) -> Command {
    let mut command = cargo("test");
    command.args(["-p", package, "--features", "mutants", "--target-dir"]).arg(target_dir());
    command
}

/// `cargo test` of the tests of real clusters, which are built as ever.
pub fn cluster_tests() -> Command {
    let mut command = cargo("test");
    command.args(["-p", "muster-chaos"]);
    command
}

fn cargo(command: &str) -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.arg(command).current_dir(repository()).stdin(Stdio::null());
    cargo
}

pub(super) fn done(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot run {command:?}"))?;
    ensure!(status.success(), "{command:?} ended with {status}");
    Ok(())
}
