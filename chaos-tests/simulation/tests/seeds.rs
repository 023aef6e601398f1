//! Runs seeds, each in a process of its own. `MUSTER_SIMULATION_SEEDS` and `MUSTER_SIMULATION_FIRST`
//! choose others than those that fit the time of a test.

use std::process::{Command, Output};

/// Virtual seconds of faults in each run.
const SECONDS: &str = "10";

fn simulate(arguments: &[&str]) -> Output {
    let program = env!("CARGO_BIN_EXE_muster-simulation");
    Command::new(program).args(arguments).output().expect("the simulation can be started")
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn setting(name: &str, default: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| default.to_owned())
}

#[test]
fn clusters_keep_their_promises() {
    let first = setting("MUSTER_SIMULATION_FIRST", "1");
    // Whoever waits for a test on a busy machine gets fewer.
    let usual = if std::env::var_os("CI").is_some() { "200" } else { "50" };
    let seeds = setting("MUSTER_SIMULATION_SEEDS", usual);
    let output = simulate(&["--seed", &first, "--seeds", &seeds, "--seconds", SECONDS]);
    println!("{}", text(&output));
    assert!(output.status.success(), "see the seeds above");
}

#[test]
fn disks_that_lie_are_found_out() {
    let output = simulate(&["--seed", "1", "--seeds", "6", "--seconds", SECONDS, "--lying-disks"]);
    assert!(!output.status.success(), "acknowledged writes were lost, and nothing saw it");
}

#[test]
fn a_seed_always_does_the_same() {
    for seed in ["3", "4"] {
        let [one, other] = [(); 2].map(|()| text(&simulate(&["--seed", seed, "--seconds", "5"])));
        assert!(one.contains("fingerprint"), "{one}");
        assert_eq!(one, other);
    }
    let fingerprint = |seed: &str| {
        let text = text(&simulate(&["--seed", seed, "--seconds", "1"]));
        text.split("fingerprint ").nth(1).map(str::to_owned).expect("every run ends with it")
    };
    assert_ne!(fingerprint("3"), fingerprint("4"), "a fingerprint that never differs proves nothing");
}
