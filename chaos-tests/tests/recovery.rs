//! What is left when a cluster is lost: a backup, or one of its nodes. Both become a cluster again.

#![expect(clippy::unwrap_used, reason = "a test ends where what it relies on does not hold")]

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use anyhow::ensure;
use muster_api::{Action, CreateToken, Function, Instance, UsageDurability};
use muster_chaos::cluster::programs;
use muster_chaos::load::{Load, Outcome};
use muster_chaos::wait::{stays, until};
use muster_chaos::{Cluster, Settings, functions};
use muster_client::UsageQuery;

const SOON: Duration = Duration::from_secs(30);
/// Several times what an election takes here.
const A_WHILE: Duration = Duration::from_secs(3);
const INVOCATIONS: u64 = 12;

/// Snapshots, so that what is left is not all in the log.
fn settings() -> Settings {
    Settings::default().set("raft.snapshot_after_entries", 60).set("raft.keep_entries", 20)
}

/// A function that was invoked through all nodes by an account of its own, whose key this answers.
async fn fill(cluster: &Cluster) -> String {
    let mut spec = functions::faulty("echo");
    spec.usage_durability = UsageDurability::Replicated;
    spec.scaling.min = 1;
    cluster.client().put_function("kept", &spec).await.unwrap();
    let key = cluster.key_for("alice").await.unwrap();
    cluster.client().put_grant("alice", "kept", &[Action::Invoke]).await.unwrap();
    cluster.client().wait_ready("kept", SOON).await.unwrap();
    cluster.spread().await.unwrap();
    for turn in 0..INVOCATIONS {
        assert_eq!(cluster.invoke(turn % 3 + 1, &key, "kept", "").await.unwrap().status, 200);
    }
    key
}

/// Only node 1 has what there was, and works.
async fn node_1_goes_on(cluster: &Cluster, key: &str) {
    let client = cluster.client_at(1);
    let usage = || async {
        let query = UsageQuery { function: Some("kept".into()), ..UsageQuery::default() };
        cluster.client_at(1).usage(&query).await.unwrap().iter().map(|row| row.invocations).sum::<u64>()
    };
    assert_eq!(usage().await, INVOCATIONS);
    let alice = client.account("alice").await.unwrap();
    assert_eq!((alice.keys.len(), alice.grants.len()), (1, 1));
    let view = client.cluster().await.unwrap();
    assert_ne!(view.cluster_id.as_deref(), Some(cluster.id()), "it is another cluster");
    assert_eq!(view.nodes.iter().map(|node| node.id).collect::<Vec<_>>(), [1]);
    for _ in 0..3 {
        let answer = cluster.invoke(1, key, "kept", "").await.unwrap();
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    assert_eq!(usage().await, INVOCATIONS + 3, "nothing is lost or counted twice");
    client.put_function("later", &functions::command("/never/launched")).await.unwrap();
}

fn run(program: &str, arguments: &[&str]) -> Output {
    Command::new(programs::built().join(program)).args(arguments).output().unwrap()
}

fn muster(cluster: &Cluster, arguments: &[&str]) -> Output {
    let urls: Vec<String> = cluster.numbers().into_iter().map(|n| cluster.url(n)).collect();
    let mut command = Command::new(programs::built().join("muster"));
    command.env("MUSTER_URL", urls.join(",")).env("MUSTER_KEY", cluster.root_key());
    command.args(arguments).output().unwrap()
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_survivor_of_a_lost_majority_goes_on_alone_and_the_others_are_not_heard() {
    let cluster = Cluster::start(settings()).await.unwrap();
    let key = fill(&cluster).await;
    cluster.kill_all().unwrap();
    for lost in [2, 3] {
        cluster.set_data_aside(lost).unwrap();
    }
    let config = cluster.config_file(1).to_str().unwrap().to_owned();

    let asked = run("muster-node", &["recover", "--config", &config]);
    let said = text(&asked);
    assert!(!asked.status.success() && said.contains("--accept-data-loss"), "{said}");
    assert!(said.contains("up to log entry") && said.contains("(2, 3)"), "{said}");
    let done = run("muster-node", &["recover", "--config", &config, "--accept-data-loss"]);
    assert!(done.status.success(), "{}", text(&done));
    let again = run("muster-node", &["recover", "--config", &config, "--accept-data-loss"]);
    assert!(!again.status.success() && text(&again).contains("nothing is lost"), "{}", text(&again));

    cluster.begin(1).unwrap();
    cluster.await_ready(1).await.unwrap();
    node_1_goes_on(&cluster, &key).await;

    // The lost disks turn up. Two of three are a majority of the old cluster, and know where node 1 is.
    for found in [2, 3] {
        fs::rename(aside(&cluster, found), data(&cluster, found)).unwrap();
        cluster.begin(found).unwrap();
    }
    let refused = || async {
        let log = cluster.log(1);
        for found in [2, 3] {
            let line = |line: &&str| line.contains("was refused") && line.contains(&format!("node={found} "));
            ensure!(log.lines().any(|l| line(&l)), "node {found} was not refused yet");
        }
        Ok(())
    };
    until("the old members are refused", SOON, refused).await.unwrap();
    let term = cluster.client_at(1).cluster().await.unwrap().term;
    let alone = || async {
        let view: muster_api::Cluster = cluster.get(1, "/v1/cluster").await?;
        ensure!((view.leader, view.term) == (Some(1), term), "{view:?}");
        ensure!(view.nodes.len() == 1, "{view:?}");
        Ok(())
    };
    stays("node 1 hears nothing of the old cluster", A_WHILE, alone).await.unwrap();
    cluster.restart(1).await.unwrap();
    let later = cluster.client_at(1).function("later").await.unwrap();
    assert_eq!(later.name, "later", "what the new cluster has acknowledged is there");
}

fn data(cluster: &Cluster, n: u64) -> PathBuf {
    cluster.dir().join(format!("node{n}"))
}

fn aside(cluster: &Cluster, n: u64) -> PathBuf {
    data(cluster, n).with_extension("aside")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_taken_under_load_becomes_a_new_cluster() {
    let cluster = Cluster::start(settings()).await.unwrap();
    let key = fill(&cluster).await;
    let writes = {
        let client = cluster.client();
        Load::start(3, Duration::from_millis(1), move |writer, turn| {
            let client = client.clone();
            async move {
                let name = format!("w-{writer}-{turn}");
                let written = client.put_function(&name, &functions::command("/never/launched")).await;
                (name, written.is_ok())
            }
        })
    };
    let going = || async { Ok(cluster.client().function("w-1-20").await?) };
    until("writes go on", SOON, going).await.unwrap();
    let archive = cluster.dir().join("b.backup");
    let file = archive.to_str().unwrap();
    let began = std::time::Instant::now();
    let taken = muster(&cluster, &["cluster", "backup", file, "-o", "json"]);
    let ended = std::time::Instant::now();
    assert!(taken.status.success(), "{}", text(&taken));
    let about: serde_json::Value = serde_json::from_slice(&taken.stdout).unwrap();
    assert_eq!(about["cluster"], cluster.id());
    let known = cluster.client().functions().await.unwrap().len();
    let more = || async {
        ensure!(cluster.client().functions().await?.len() > known + 6, "there are no more");
        Ok(())
    };
    until("writes went on behind the backup", SOON, more).await.unwrap();
    let written: Vec<Outcome<(String, bool)>> = writes.stop().await;
    let checked = run("muster-node", &["verify", "--archive", file]);
    assert!(checked.status.success() && text(&checked).contains(cluster.id()), "{}", text(&checked));
    cluster.kill_all().unwrap();

    let config = cluster.config_file(1).to_str().unwrap().to_owned();
    refuses_what_it_should(&cluster, &archive, &config);
    for n in [1, 2, 3] {
        cluster.set_data_aside(n).unwrap();
    }
    let restored = run("muster-node", &["restore", "--archive", file, "--config", &config]);
    assert!(restored.status.success(), "{}", text(&restored));
    cluster.begin(1).unwrap();
    cluster.await_ready(1).await.unwrap();

    let known: Vec<Function> = cluster.client_at(1).functions().await.unwrap();
    let is_known = |name: &str| known.iter().any(|function| function.name == name);
    let (mut before, mut after) = (0, 0);
    for Outcome { value: (name, acknowledged), began: sent, ended: answered } in &written {
        if *acknowledged && *answered < began {
            before += 1;
            assert!(is_known(name), "{name} was acknowledged before the backup began");
        }
        if *sent > ended {
            after += 1;
            assert!(!is_known(name), "{name} was sent after the backup had ended");
        }
    }
    assert!(before > 20 && after > 0, "{before} before, {after} after");
    instances_are_charged_up_to_the_backup(&cluster, about["taken_at"].as_str().unwrap()).await;
    node_1_goes_on(&cluster, &key).await;
}

/// Each instance of the old cluster is lost as of the backup, and has been charged for exactly as long.
async fn instances_are_charged_up_to_the_backup(cluster: &Cluster, taken_at: &str) {
    let instances = cluster.instances_ever("kept").await.unwrap();
    let old: Vec<&Instance> = instances.iter().filter(|i| i.phase == "lost").collect();
    assert!(!old.is_empty(), "{instances:?}");
    assert!(old.iter().all(|i| i.ended_at.as_deref() == Some(taken_at)), "{taken_at}: {old:?}");
    let millis = |text: &str| text.parse::<jiff::Timestamp>().unwrap().as_millisecond();
    let ran: i64 =
        instances.iter().filter_map(|i| Some(millis(i.ended_at.as_deref()?) - millis(&i.launched_at))).sum();
    let query = UsageQuery { function: Some("kept".into()), ..UsageQuery::default() };
    let rows = cluster.client_at(1).usage(&query).await.unwrap();
    let charged: u64 = rows.iter().map(|row| row.instance_ms).sum();
    // The new cluster's own instance runs, and is charged, since it was launched.
    let running: Vec<&Instance> = instances.iter().filter(|i| i.ended_at.is_none()).collect();
    let least = u64::try_from(ran).unwrap();
    assert!(charged >= least, "{charged} of {least} ms");
    let slack: i64 = running.iter().map(|i| now_ms() - millis(&i.launched_at)).sum();
    assert!(charged <= least + u64::try_from(slack).unwrap(), "{charged} ms, {least} ran, {slack} run now");
}

fn now_ms() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}

fn refuses_what_it_should(cluster: &Cluster, archive: &Path, config: &str) {
    let good = fs::read(archive).unwrap();
    let bad = cluster.dir().join("bad.backup");
    let mut flipped = good.clone();
    flipped[good.len() / 2] ^= 1;
    for (name, bytes, want) in [
        ("truncated", &good[..good.len() - 1], "its end is missing"),
        ("flipped", &flipped[..], "does not match its checksum"),
    ] {
        fs::write(&bad, bytes).unwrap();
        let refused =
            run("muster-node", &["restore", "--archive", bad.to_str().unwrap(), "--config", config]);
        let said = text(&refused);
        assert!(
            !refused.status.success() && said.contains(want) && said.contains("bad.backup"),
            "{name}: {said}"
        );
    }
    let refused =
        run("muster-node", &["restore", "--archive", archive.to_str().unwrap(), "--config", config]);
    assert!(!refused.status.success() && text(&refused).contains("is not empty"), "{}", text(&refused));
}

/// The database file somewhere in a node's data.
fn database(dir: &Path) -> PathBuf {
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.file_name().is_some_and(|name| name == "db") {
                return path;
            }
        }
    }
    panic!("no database in {}", dir.display());
}

/// A disk that has changed what it was given: the node serves nobody, names the place and the way out, and the way
/// out is one.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_store_is_damaged_says_so_and_is_replaced() {
    let mut cluster = Cluster::start(settings()).await.unwrap();
    let key = fill(&cluster).await;
    let damaged = cluster.others(cluster.leader().await.unwrap())[0];
    cluster.kill(damaged).unwrap();
    let file = database(&cluster.dir().join(format!("node{damaged}")));
    let length = fs::metadata(&file).unwrap().len();
    let stretch = File::options().write(true).open(&file).unwrap();
    let step = usize::try_from(length / 64).unwrap();
    for at in (0..length).step_by(step) {
        stretch.write_all_at(&[0xA5; 64], at).unwrap();
    }
    cluster.begin(damaged).unwrap();
    let ended = cluster.ended(damaged, SOON).await.unwrap();
    let log = cluster.log(damaged);
    let folder = file.parent().unwrap().display().to_string();
    for said in ["is corrupt", &folder, "must not serve or vote", "muster cluster replace"] {
        assert!(log.contains(said), "{ended}, without {said}: {log}");
    }
    assert!(!ended.success(), "{ended}");

    let survivors = cluster.others(damaged);
    let client = cluster.client_of(&survivors, cluster.root_key());
    let replacing = CreateToken { replaces: Some(damaged), ..CreateToken::default() };
    let created = client.create_join_token(&replacing).await.unwrap();
    let new = cluster.admit(&created).await.unwrap();
    cluster.await_ready(new).await.unwrap();
    cluster.bury(damaged).unwrap();
    let mut voters = [&survivors[..], &[new]].concat();
    voters.sort_unstable();
    cluster.voters_are(&voters).await.unwrap();
    cluster.converged(SOON).await.unwrap();
    let served = || async {
        let answer = cluster.invoke(new, &key, "kept", "").await?;
        ensure!(answer.status == 200, "{answer:?}");
        Ok(())
    };
    until("the new one serves", SOON, served).await.unwrap();
}
