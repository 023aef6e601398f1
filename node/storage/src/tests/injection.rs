//! The system fails at each moment: every write, sync and renaming of a store's process is the last one that is
//! done, or is answered EIO or ENOSPC. What was acknowledged is there afterwards, and no sync is tried again.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

use super::crash::{Acknowledged, check, note, write_until_killed};
use super::{CHILD_DIR, as_child};

const TEST: &str = "tests::injection::the_system_fails_at_each_moment";
const SIGABRT: i32 = 6;
const SIGKILL: i32 = 9;

/// What a store does to its files. `when=N` counts per thread.
const CALLS: &str = "pwrite64,fdatasync,fsync,rename,unlink,ftruncate,sync_file_range";

#[test]
fn the_system_fails_at_each_moment() {
    if let Some(dir) = std::env::var_os(CHILD_DIR) {
        write_until_killed(Path::new(&dir));
    }
    if !strace_runs() {
        return;
    }
    // Each call of the first open and of the first writes, then more of them further on.
    let moments = (1..=16).chain((20..=120).step_by(20));
    let kills = moments.map(|moment| (format!("{CALLS}:signal=SIGKILL:when={moment}"), SIGKILL, ""));
    let failures = [
        ("fdatasync:error=EIO:when=4", "Input/output error"),
        ("fdatasync:error=EIO:when=30", "Input/output error"),
        ("pwrite64:error=ENOSPC:when=60", "No space left on device"),
        ("pwrite64:error=ENOSPC:when=9", "No space left on device"),
        ("pwrite64:error=EIO:when=70+", "Input/output error"),
    ];
    let failures = failures.into_iter().map(|(injection, said)| (injection.to_owned(), SIGABRT, said));
    let cases: Vec<_> = kills.chain(failures).collect();
    std::thread::scope(|scope| {
        for part in cases.chunks(cases.len().div_ceil(2)) {
            scope.spawn(move || {
                part.iter().for_each(|(injection, signal, said)| try_one(injection, *signal, said))
            });
        }
    });
}

fn try_one(injection: &str, signal: i32, said: &str) {
    let dir = TempDir::new().unwrap();
    let (store, trace) = (dir.path().join("store"), dir.path().join("trace"));
    let output = run(injection, &store, &trace);
    let errors = String::from_utf8_lossy(&output.stderr);
    // strace ends as what it traces does.
    let ended = output.status.signal().or_else(|| output.status.code().map(|code| code - 128));
    assert_eq!(ended, Some(signal), "{injection}: {:?} {errors}", output.status);
    if signal == SIGABRT {
        assert!(errors.contains(said) && errors.contains("the store in"), "{injection}: {errors}");
        no_sync_follows_a_failure(&fs::read_to_string(&trace).unwrap(), injection);
    }
    let mut acknowledged = Acknowledged::new();
    String::from_utf8_lossy(&output.stdout).lines().for_each(|line| note(&mut acknowledged, line));
    check(&store, &acknowledged, injection);
    // What it goes on with must be as sound as what it found.
    check(&store, &acknowledged, injection);
}

fn run(injection: &str, store: &Path, trace: &Path) -> Output {
    let mut command = Command::new("strace");
    command.args(["-f", "-y", "-e", "trace=fdatasync,pwrite64", "-e", &format!("inject={injection}"), "-o"]);
    command.arg(trace).arg(std::env::current_exe().unwrap());
    as_child(&mut command, TEST, store).stdin(Stdio::null()).output().unwrap()
}

/// After the injected failure the database is neither written to nor synced.
fn no_sync_follows_a_failure(trace: &str, injection: &str) {
    let of_db = |line: &&str| line.contains("/store/db>");
    let mut after = trace.lines().skip_while(|line| !line.contains("(INJECTED)"));
    let failed = after.next().unwrap_or_else(|| panic!("{injection}: nothing failed"));
    let more: Vec<&str> = after.filter(of_db).filter(|line| line.contains("fdatasync")).collect();
    assert!(more.is_empty(), "{injection}: after {failed}\n{more:?}");
}

/// Whether there is an strace, which CI must not lack.
fn strace_runs() -> bool {
    match Command::new("strace").arg("-V").stdout(Stdio::null()).status() {
        Ok(_) => true,
        Err(error) if std::env::var_os("CI").is_none() => {
            eprintln!("skipped: strace cannot be run ({error}), and CI is not set");
            false
        }
        Err(error) => panic!("strace cannot be run: {error}"),
    }
}
