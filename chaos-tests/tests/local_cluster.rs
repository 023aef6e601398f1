//! `deploy/local-cluster.sh` as the README tells people to use it.

#![expect(clippy::unwrap_used, reason = "a test ends where what it relies on does not hold")]

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use muster_chaos::cluster::{Turn, containers_of, networks_of, processes_of, programs};

const SOON: Duration = Duration::from_secs(30);
/// Ranges of ports tried until all that three nodes need are free.
const BASES_MAX: u16 = 90;

/// A cluster that the script keeps in a folder of its own.
struct Local {
    dir: PathBuf,
    base: u16,
    _parent: tempfile::TempDir,
    _turn: Turn,
}

impl Local {
    async fn new() -> Self {
        let turn = Turn::take().await.unwrap();
        let parent = tempfile::tempdir().unwrap();
        // Below what the system lends to connections, and apart from the other cluster's.
        let start = 20_000 + 2_000 * u16::try_from(turn.slot()).unwrap();
        let mut bases = (0..BASES_MAX).map(|n| start + 10 * n);
        let base = bases.find(|base| (1..=3).all(|n| free(base + n) && free(base + 1000 + n)));
        Local { dir: parent.path().join("state"), base: base.unwrap(), _parent: parent, _turn: turn }
    }

    fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        command
            .env("MUSTER_LOCAL_DIR", &self.dir)
            .env("MUSTER_LOCAL_PORT_BASE", self.base.to_string())
            .env("MUSTER_BIN_DIR", programs::built())
            .env_remove("MUSTER_URL")
            .env_remove("MUSTER_KEY")
            .current_dir(programs::repository())
            .stdin(Stdio::null());
        command
    }

    fn try_run(&self, arguments: &str) -> Output {
        let script = programs::repository().join("deploy/local-cluster.sh");
        self.command(script).args(arguments.split_whitespace()).output().unwrap()
    }

    /// Waits until the script finds all well. On a busy machine a node may be without a quorum for a moment.
    fn all_is_well(&self) {
        let began = Instant::now();
        loop {
            let ran = self.try_run("status");
            if ran.status.success() {
                return;
            }
            let says = String::from_utf8_lossy(&ran.stdout);
            assert!(began.elapsed() < SOON, "{says}\n{}", self.logs());
        }
    }

    /// Runs a command of the script that must succeed; its stdout.
    fn run(&self, arguments: &str) -> String {
        let ran = self.try_run(arguments);
        let says = String::from_utf8_lossy(&ran.stderr);
        assert!(ran.status.success(), "{arguments}: {says}\n{}", self.logs());
        String::from_utf8(ran.stdout).unwrap()
    }

    /// The README's own request, sent to a node of this cluster.
    fn call_as_the_readme_says(&self, node: u16) {
        let readme = fs::read_to_string(programs::repository().join("README.md")).unwrap();
        let line =
            readme.lines().map(str::trim).find(|line| line.starts_with("curl ") && line.contains("alpha"));
        let line = line.expect("the README shows a request to alpha");
        let (port, here) = ("127.0.0.1:8082", format!("127.0.0.1:{}", self.base + node));
        assert!(line.contains(port) && line.contains(".local-cluster/"), "{line}");
        let line = line.replace(port, &here).replace(".local-cluster/", &format!("{}/", self.dir.display()));
        let ran = self
            .command("bash")
            .arg("-c")
            .arg(format!("{line} --silent --fail --retry 10 --retry-delay 1"))
            .output()
            .unwrap();
        let answer = String::from_utf8_lossy(&ran.stdout);
        assert!(answer.contains("alpha says: what now?"), "{line}: {ran:?}\n{}", self.logs());
    }

    fn status_of(&self, node: u16, account: &str, function: &str) -> String {
        let ask = format!(
            "curl --silent --retry 10 --retry-delay 1 --output /dev/null --write-out '%{{http_code}}' -d '{{}}' \
             -H \"Authorization: Bearer $(cat {}/{account}.key)\" http://127.0.0.1:{}/function/{function}",
            self.dir.display(),
            self.base + node
        );
        let ran = self.command("bash").arg("-c").arg(ask).output().unwrap();
        String::from_utf8(ran.stdout).unwrap()
    }

    fn logs(&self) -> String {
        let log = |n: u8| fs::read_to_string(self.dir.join(format!("node{n}.log"))).unwrap_or_default();
        (1..=3).map(|n| format!("--- node {n}\n{}\n", log(n))).collect()
    }

    /// What its containers are labelled with.
    fn id(&self) -> String {
        fs::read_to_string(self.dir.join("cluster_id")).unwrap().trim().to_owned()
    }

    fn nothing_runs(&self) {
        let left = processes_of(&self.dir);
        let commands =
            left.iter().map(|pid| fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default());
        assert!(left.is_empty(), "{:?}", commands.collect::<Vec<_>>());
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        let _best_effort = self.try_run("wipe");
    }
}

fn free(port: u16) -> bool {
    TcpListener::bind(("127.0.0.1", port)).is_ok()
}

fn key(dir: &Path, name: &str) -> String {
    fs::read_to_string(dir.join(format!("{name}.key"))).unwrap()
}

/// Up, call, kill, call, restart, kill all, up again, down, wipe.
fn live_through_it_all(local: &Local, engine: &str) {
    let said = local.run(&format!("up --nodes 3 --engine {engine}"));
    assert!(said.contains("alice") && said.contains(&format!("{}", local.base + 2)), "{said}");
    for node in 1..=3 {
        local.call_as_the_readme_says(node);
        assert_eq!(local.status_of(node, "alice", "beta"), "403");
        assert_eq!(local.status_of(node, "root", "nothing"), "404");
    }
    let keys: Vec<String> = ["root", "alice", "bob", "carol"].map(|name| key(&local.dir, name)).into();

    local.run("kill 1");
    assert!(!local.try_run("status").status.success(), "a dead node shows");
    for node in [2, 3] {
        local.call_as_the_readme_says(node);
    }
    local.run("restart 1");
    local.all_is_well();
    local.call_as_the_readme_says(1);

    for node in 1..=3 {
        local.run(&format!("kill {node}"));
    }
    local.run(&format!("up --engine {engine}"));
    local.all_is_well();
    let same: Vec<String> = ["root", "alice", "bob", "carol"].map(|name| key(&local.dir, name)).into();
    assert_eq!(keys, same, "keys are made once");
    for node in 1..=3 {
        local.call_as_the_readme_says(node);
    }
    // Up is for what is missing: here nothing is.
    local.run("up");
    local.run("pause 3");
    assert!(!local.try_run("status").status.success(), "a paused node shows");
    local.run("resume 3");
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_come_up_survive_kills_and_leave_nothing() {
    let local = Local::new().await;
    live_through_it_all(&local, "process");
    local.run("down");
    local.nothing_runs();
    assert!(local.dir.join("root.key").exists(), "state stays");
    local.run("down");
    local.run("wipe");
    local.nothing_runs();
    assert!(!local.dir.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_come_up_survive_kills_and_leave_nothing() {
    if !programs::docker_answers() {
        eprintln!("skipped: no Docker Engine answers");
        return;
    }
    let local = Local::new().await;
    live_through_it_all(&local, "docker");
    let id = local.id();
    assert!(!containers_of(&id).unwrap().is_empty(), "alpha runs in a container");
    local.run("down");
    local.nothing_runs();
    assert_eq!((containers_of(&id).unwrap(), networks_of(&id).unwrap()), (vec![], vec![]));
    local.run("wipe");
    assert!(!local.dir.exists());
}
