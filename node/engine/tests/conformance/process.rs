//! What the process engine alone promises: nothing survives it.

use std::collections::BTreeSet;
use std::process::{Command, Stdio};
use std::time::Duration;

use muster_core::functions::Source;
use muster_core::ids::{InstanceId, PackageDigest};
use muster_engine::{EngineError, ProcessEngine};
use tokio::time::Instant;

use crate::bench::{Bench, DEADLINE, NO_GRACE, NODE, get, logs_in, random, try_get, until};
use crate::suite::ended;

#[tokio::test]
async fn a_missing_program_is_named() {
    let bench = Bench::process();
    let folder = bench.folder().to_str().unwrap().to_owned();
    for program in ["no-such-program", "/no/such/program", "./no-such-program", &folder] {
        let launch = bench.launch_of(Source::Command(vec![program.into()]), "serve");
        let error = bench.engine.launch(&launch).await.unwrap_err();
        assert!(matches!(&error, EngineError::NoSuchProgram { program: p, .. } if p == program), "{error:?}");
        assert!(!error.may_retry());
    }
    assert_eq!(bench.engine.list().await.unwrap(), []);
    let left = std::fs::read_dir(bench.folder())
        .unwrap()
        .filter(|entry| entry.as_ref().unwrap().file_name() != "logs");
    assert_eq!(left.count(), 0, "a folder was left");
}

#[tokio::test]
async fn a_bare_name_is_looked_up_in_the_path() {
    let bench = Bench::process();
    let command = ["sh", "-c", "echo found; exit 5"].map(str::to_owned).to_vec();
    let launch = bench.launch_of(Source::Command(command), "serve");
    bench.engine.launch(&launch).await.unwrap();
    assert_eq!(ended(&bench, &launch).await.to_string(), "exited with code 5: found");
}

#[tokio::test]
async fn a_signal_is_told() {
    let bench = Bench::process();
    let command = ["sh", "-c", "kill -SEGV $$"].map(str::to_owned).to_vec();
    let launch = bench.launch_of(Source::Command(command), "serve");
    bench.engine.launch(&launch).await.unwrap();
    assert_eq!(ended(&bench, &launch).await.to_string(), "killed by signal 11");
}

#[tokio::test]
async fn limits_environment_and_folder_are_its_own() {
    let bench = Bench::process();
    let (launch, addr) = bench.serving("serve").await;
    let limits = get(addr, "/limits").await;
    let open_files = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    assert_eq!(open_files.split_whitespace().nth(3), Some("4096"), "{open_files}");
    let env = get(addr, "/env").await;
    let mut names: Vec<&str> = env.lines().filter_map(|line| Some(line.split_once('=')?.0)).collect();
    names.sort_unstable();
    assert_eq!(
        names,
        ["BEHAVIOUR", "MUSTER_BIND_ADDRESS", "MUSTER_FUNCTION", "MUSTER_INSTANCE", "PATH", "PORT"]
    );

    assert_eq!(get(addr, "/writefile").await, "Ok(())");
    let folder = bench.folder().join(launch.instance.to_string());
    assert!(folder.join("file").exists());
    bench.engine.stop(launch.instance, NO_GRACE).await.unwrap();
    assert!(!folder.exists());
}

#[tokio::test]
async fn folders_of_an_earlier_run_are_removed() {
    let bench = Bench::process();
    let stale = bench.folder().join("node").join(InstanceId(random()).to_string());
    let foreign = bench.folder().join("node").join("notes");
    std::fs::create_dir_all(&stale).unwrap();
    std::fs::create_dir_all(&foreign).unwrap();
    ProcessEngine::new(bench.cluster, NODE, bench.folder().join("node"), logs_in(bench.folder())).unwrap();
    assert!(!stale.exists() && foreign.exists());
}

#[tokio::test]
async fn what_an_instance_started_ends_with_it() {
    let bench = Bench::process();
    let launch = bench.launch("abandon");
    bench.engine.launch(&launch).await.unwrap();
    let exit = ended(&bench, &launch).await;
    assert_eq!(exit.code, Some(0));
    let abandoned = exit.last_output.parse().unwrap();
    until("the end of the abandoned process", async || (!is_alive(abandoned)).then_some(())).await;
}

#[tokio::test]
async fn instances_end_with_the_engine() {
    let mut bench = Bench::process();
    let (_, addr) = bench.serving("stubborn").await;
    bench.engine = std::sync::Arc::new(
        ProcessEngine::new(bench.cluster, NODE, bench.folder(), logs_in(bench.folder())).unwrap(),
    );
    until("the end of the instance", async || refuses(addr).await.then_some(())).await;
}

/// The owner is this very program, told to run the next test alone.
#[tokio::test]
async fn instances_die_with_a_killed_node() {
    let folder = tempfile::tempdir().unwrap();
    let mut owner = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "process::owns_instances_until_killed"])
        .env("OWNER_FOLDER", folder.path())
        .env("OWNER_PROGRAM", crate::program::path())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let report = folder.path().join("report");
    let report = until("the instances of the owner", async || std::fs::read_to_string(&report).ok()).await;
    let addrs: Vec<std::net::SocketAddr> = report.lines().map(|line| line.parse().unwrap()).collect();
    assert_eq!(addrs.len(), 3);
    for addr in &addrs {
        get(*addr, "/hello").await;
    }
    owner.kill().unwrap();
    owner.wait().unwrap();
    let deadline = Instant::now() + DEADLINE;
    let mut survivors = addrs;
    while !survivors.is_empty() && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(10)).await;
        let mut serving = Vec::new();
        for addr in survivors {
            if !refuses(addr).await {
                serving.push(addr);
            }
        }
        survivors = serving;
    }
    // Nobody else would end them.
    for addr in &survivors {
        let _ = try_get(*addr, "/exit").await;
    }
    assert_eq!(survivors, [], "orphans that live on");
}

#[tokio::test]
#[ignore = "the owner in `instances_die_with_a_killed_node`, which kills it"]
async fn owns_instances_until_killed() {
    let folder = std::path::PathBuf::from(std::env::var_os("OWNER_FOLDER").expect("started by its test"));
    let mut bench = Bench::process_of(std::env::var("OWNER_PROGRAM").unwrap());
    bench.engine = std::sync::Arc::new(
        ProcessEngine::new(bench.cluster, NODE, folder.join("node"), logs_in(&folder)).unwrap(),
    );
    let mut report = String::new();
    for behaviour in ["serve", "stubborn", "serve"] {
        let (_, addr) = bench.serving(behaviour).await;
        report.push_str(&format!("{addr}\n"));
    }
    // Appears in one piece.
    std::fs::write(folder.join("part"), report).unwrap();
    std::fs::rename(folder.join("part"), folder.join("report")).unwrap();
    // Longer than its killer waits; should there be none, it ends.
    tokio::time::sleep(2 * DEADLINE).await;
}

async fn refuses(addr: std::net::SocketAddr) -> bool {
    let connected = tokio::net::TcpStream::connect(addr);
    matches!(tokio::time::timeout(Duration::from_secs(1), connected).await, Ok(Err(_)))
}

/// Whether a process runs; a zombie does not.
fn is_alive(pid: u32) -> bool {
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { return false };
    let state = stat.rsplit_once(") ").map(|(_, rest)| rest.chars().next());
    !matches!(state, Some(Some('Z' | 'X')))
}

#[tokio::test]
async fn a_package_is_unpacked_run_in_its_folder_and_removed_when_it_is_not_needed() {
    let bench = Bench::process();
    let package = PackageDigest([7; 32]);
    let command = vec!["bin/program".to_owned()];
    let source = Source::PackagedCommand { package, command };
    let launch = bench.launch_of(source.clone(), "serve");
    let error = bench.engine.launch(&launch).await.unwrap_err();
    assert!(matches!(&error, EngineError::NoSuchPackage { .. }), "{error:?}");

    let program = std::fs::read(crate::program::path()).unwrap();
    let file = bench.folder().join("the.tar");
    std::fs::write(&file, crate::image::tar_of(&[("bin/program", &program, 0o755)]).unwrap()).unwrap();
    assert!(!bench.engine.has_package(&source).await.unwrap());
    for _again in 0..2 {
        bench.engine.take_package(&source, &file).await.unwrap();
        assert!(bench.engine.has_package(&source).await.unwrap());
    }
    let addr = bench.engine.launch(&launch).await.unwrap();
    bench.engine.wait_ready(addr, None, Instant::now() + DEADLINE).await.unwrap();
    let env = get(addr, "/env").await;
    assert!(env.lines().any(|line| line.starts_with("MUSTER_INSTANCE=")), "{env}");

    // Nobody needs it any more, but something runs of it.
    bench.engine.retain_packages(&BTreeSet::new()).await.unwrap();
    assert!(bench.engine.has_package(&source).await.unwrap());
    bench.engine.stop(launch.instance, NO_GRACE).await.unwrap();
    bench.engine.retain_packages(&BTreeSet::from([package])).await.unwrap();
    assert!(bench.engine.has_package(&source).await.unwrap());
    bench.engine.retain_packages(&BTreeSet::new()).await.unwrap();
    assert!(!bench.engine.has_package(&source).await.unwrap());
}

#[tokio::test]
async fn a_hostile_package_is_refused_and_leaves_nothing() {
    let bench = Bench::process();
    let source = Source::PackagedCommand { package: PackageDigest([7; 32]), command: vec!["a".into()] };
    let file = bench.folder().join("the.tar");
    std::fs::write(&file, "this is no archive").unwrap();
    let error = bench.engine.take_package(&source, &file).await.unwrap_err();
    assert!(matches!(&error, EngineError::BadPackage { .. }), "{error:?}");
    assert_eq!(std::fs::read_dir(bench.folder().join("packages")).unwrap().count(), 0);
}
