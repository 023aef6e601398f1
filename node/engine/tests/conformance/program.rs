//! Compiles the fixture: a static binary, which runs in an empty image as well as on the host.

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

const SOURCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/conformance/fixture/program.rs");

/// The binary, made once per run of the tests: it takes a second, and is never out of date.
pub(crate) fn path() -> PathBuf {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(compile).clone()
}

fn compile() -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let made = folder.join(format!("engine-fixture-{}", std::process::id()));
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let status = Command::new(rustc)
        .args(["--edition=2024", "-Ctarget-feature=+crt-static", "-Copt-level=s", "-Cstrip=symbols"])
        .args(["-Cpanic=abort", "--crate-type=bin", SOURCE, "-o"])
        .arg(&made)
        .status()
        .expect("rustc runs where cargo test runs");
    assert!(status.success(), "the fixture does not compile");
    // Renamed into place: another run of the tests may be executing the one that is there.
    let path = folder.join("engine-fixture");
    std::fs::rename(&made, &path).expect("one file system");
    path
}
