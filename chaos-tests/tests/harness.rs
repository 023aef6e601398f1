//! The harness itself: a cluster leaves nothing behind, however it ends.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::ensure;
use muster_chaos::cluster::processes_of;
use muster_chaos::wait::until;
use muster_chaos::{Cluster, Settings, functions};

const SOON: Duration = Duration::from_secs(30);
/// Set for the run of this program that is to be killed.
const VICTIM: &str = "MUSTER_CHAOS_VICTIM";
const SAYS: &str = "the cluster is in ";

async fn cluster_with_an_instance() -> Cluster {
    let cluster = Cluster::start(Settings::default()).await.expect("a cluster");
    let mut spec = functions::faulty("hang");
    spec.scaling.min = 1;
    cluster.client().put_function("hang", &spec).await.expect("a function");
    cluster.client().wait_ready("hang", SOON).await.expect("an instance");
    cluster
}

async fn nothing_is_left(dir: &Path) {
    let look = || async {
        let left = processes_of(dir);
        ensure!(
            left.is_empty() && !dir.exists(),
            "processes {left:?}; the folder is there: {}",
            dir.exists()
        );
        Ok(())
    };
    until("nothing is left", SOON, look).await.unwrap_or_else(|error| panic!("{error:#}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_cluster_leaves_nothing_even_of_a_paused_node() {
    let cluster = cluster_with_an_instance().await;
    let dir = cluster.dir().to_owned();
    assert!(processes_of(&dir).len() >= 4, "three nodes and an instance");
    cluster.pause(1).unwrap();
    cluster.kill(2).unwrap();
    drop(cluster);
    nothing_is_left(&dir).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_test_leaves_nothing() {
    let mut victim = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "--ignored", "--nocapture", "a_test_that_is_killed"])
        .env(VICTIM, "yes")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(victim.stdout.take().unwrap()).lines();
    let said = tokio::task::spawn_blocking(|| {
        lines.map_while(Result::ok).find_map(|line| Some(PathBuf::from(line.split_once(SAYS)?.1)))
    });
    // Generous: others may have their turns first.
    let said = tokio::time::timeout(Duration::from_secs(300), said).await.unwrap().unwrap();
    let dir = said.expect("it ended before its cluster was up");
    assert!(processes_of(&dir).len() >= 4, "three nodes and an instance");
    victim.kill().unwrap();
    victim.wait().unwrap();
    nothing_is_left(&dir).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "only for the test above, which kills it"]
async fn a_test_that_is_killed() {
    if std::env::var_os(VICTIM).is_none() {
        return;
    }
    let cluster = cluster_with_an_instance().await;
    println!("{SAYS}{}", cluster.dir().display());
    std::io::stdout().flush().unwrap();
    std::future::pending::<()>().await;
    drop(cluster);
}
