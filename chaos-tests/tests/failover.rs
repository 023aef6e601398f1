//! Nodes are killed, all at once or while they work: what was acknowledged stays, and work goes on.

#![expect(clippy::unwrap_used, reason = "a test ends where what it relies on does not hold")]

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use muster_api::{Action, InvocationState, UsageDurability};
use muster_chaos::cluster::{Answer, Entry, Link, programs};
use muster_chaos::load::{Load, Outcome};
use muster_chaos::wait::{stays, until};
use muster_chaos::{Cluster, Engine, Settings, functions};
use muster_client::{Client, UsageQuery};

const SOON: Duration = Duration::from_secs(30);
/// Longer than a busy machine keeps a host from reporting: all hosts take instances.
const PATIENCE: (&str, i64) = ("controller.down_after_ms", 6_000);
/// Of the laggard's link: longer than it takes to ask two nodes what they have applied.
const LAG: Duration = Duration::from_secs(3);
/// An election takes at most two of the longest timeouts here; the rest is for a busy machine.
const WRITES_RESUME_WITHIN: Duration = Duration::from_secs(25);

const CALLERS: usize = 6;

/// What a writer was told is done.
#[derive(Debug)]
struct Written {
    /// `fn-…`, or an account with a grant of the same name.
    name: String,
    result: Result<(), String>,
}

/// Writes a function, or an account and then its grant.
async fn write(client: &Client, name: String) -> Written {
    let work = async {
        if name.starts_with("fn-") {
            client.put_function(&name, &functions::command("/nowhere")).await.map_err(|e| e.to_string())?;
        } else {
            client.create_account(&name, Default::default()).await.map_err(|e| e.to_string())?;
            client.put_grant(&name, &name, &[Action::Invoke]).await.map_err(|e| e.to_string())?;
        }
        Ok(())
    };
    let result = work.await;
    Written { name, result }
}

/// Every acknowledged write is known to node `n` by itself.
async fn knows_all(cluster: &Cluster, n: u64, written: &[Outcome<Written>]) -> anyhow::Result<()> {
    let list: Vec<muster_api::Function> = cluster.get(n, "/v1/functions?consistency=local").await?;
    let known: BTreeSet<String> = list.into_iter().map(|f| f.name).collect();
    let list: Vec<muster_api::Account> = cluster.get(n, "/v1/accounts?consistency=local").await?;
    let grants: BTreeMap<String, usize> = list.into_iter().map(|a| (a.name, a.grants.len())).collect();
    for Written { name, result } in written.iter().map(|o| &o.value) {
        let there = known.contains(name) || grants.get(name) == Some(&1);
        ensure!(result.is_err() || there, "node {n} has lost `{name}`, which was acknowledged");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn killing_the_leader_loses_no_write_and_no_request_to_a_surviving_instance() {
    let cluster = Cluster::start(Settings::default().set(PATIENCE.0, PATIENCE.1)).await.unwrap();
    let mut spec = functions::faulty("echo");
    // Fewer slots on the survivors than callers: some requests go to the host that will be killed.
    spec.concurrency = 2;
    (spec.scaling.min, spec.scaling.max) = (3, 3);
    cluster.client().put_function("steady", &spec).await.unwrap();
    cluster.client().wait_ready("steady", SOON).await.unwrap();
    let hosts: BTreeSet<u64> =
        cluster.instances_ever("steady").await.unwrap().iter().map(|i| i.node).collect();
    assert_eq!(hosts.len(), 3, "spread over the nodes: {hosts:?}");
    cluster.spread().await.unwrap();

    let victim = cluster.leader().await.unwrap();
    let survivors = cluster.others(victim);
    let entries: Vec<Entry> = survivors.iter().map(|n| cluster.entry(*n, cluster.root_key())).collect();
    let calls = Load::start(CALLERS, Duration::from_millis(2), move |worker, _turn| {
        let entry = entries[worker % entries.len()].clone();
        async move { entry.invoke("steady?work_ms=5", "").await.map_err(|error| format!("{entry:?}: {error:?}")) }
    });
    let writes = {
        let client = cluster.client_of(&survivors, cluster.root_key());
        Load::start(3, Duration::from_millis(5), move |worker, turn| {
            let client = client.clone();
            let kind = if worker == 0 { "fn" } else { "who" };
            async move { write(&client, format!("{kind}-{worker}-{turn}")).await }
        })
    };

    let everyone_served = || async {
        cluster.client_at(survivors[0]).function("fn-0-20").await?;
        let instances = cluster.client_at(survivors[0]).instances(Some("steady")).await?;
        ensure!(instances.iter().all(|i| i.utilization > Some(0.0)), "{instances:?}");
        Ok(())
    };
    until("every instance has served, and writes go on", SOON, everyone_served).await.unwrap();
    let killing = Instant::now();
    cluster.kill(victim).unwrap();
    let killed = Instant::now();
    let client = cluster.client_of(&survivors, cluster.root_key());
    client.put_function("resumed", &functions::command("/nowhere")).await.unwrap();
    assert!(killed.elapsed() < WRITES_RESUME_WITHIN, "writes resumed after {:?}", killed.elapsed());
    let replaced = || async {
        let instances = cluster.client_of(&survivors, cluster.root_key()).instances(Some("steady")).await?;
        let ready = instances.iter().filter(|i| i.phase == "ready" && i.node != victim).count();
        ensure!(ready == 3, "{instances:?}");
        Ok(())
    };
    until("the killed host's instance is replaced", SOON, replaced).await.unwrap();

    let (calls, writes) = (calls.stop().await, writes.stop().await);
    check_calls(&calls, killing, killed);
    let acknowledged = |o: &&Outcome<Written>| o.value.result.is_ok();
    let before = writes.iter().filter(acknowledged).filter(|o| o.ended < killing).count();
    let after = writes.iter().filter(acknowledged).filter(|o| o.began > killed).count();
    assert!(before > 10 && after > 10, "{before} writes before, {after} after");

    cluster.restart(victim).await.unwrap();
    cluster.converged(SOON).await.unwrap();
    for n in cluster.numbers() {
        knows_all(&cluster, n, &writes).await.unwrap();
    }
}

/// Only what was on its way to the killed host when it died may have failed, and says so.
fn check_calls(calls: &[Outcome<Result<Answer, String>>], killing: Instant, killed: Instant) {
    let after = calls.iter().filter(|call| call.began > killed).count();
    assert!(after > 100, "{after} calls after the kill");
    let mut failed = 0;
    for call in calls {
        let answer = call.value.as_ref().unwrap_or_else(|error| panic!("a survivor broke off: {error}"));
        if answer.status == 200 {
            continue;
        }
        failed += 1;
        let doubted = matches!(answer.state(), Some(InvocationState::Started | InvocationState::Unknown));
        assert!(call.began <= killed && call.ended >= killing && doubted, "{:?}", answer.problem);
    }
    assert!(failed <= CALLERS, "each of {CALLERS} callers had one request under way, but {failed} failed");
}

/// What is acknowledged before everything is killed.
async fn fill(cluster: &Cluster) -> String {
    let admin = cluster.client();
    let mut spec = functions::faulty("echo");
    spec.usage_durability = UsageDurability::Replicated;
    admin.put_function("kept", &spec).await.unwrap();
    let key = cluster.key_for("alice").await.unwrap();
    admin.put_grant("alice", "kept", &[Action::Invoke]).await.unwrap();
    cluster.spread().await.unwrap();
    for turn in 0..12 {
        let n = turn % 3 + 1;
        assert_eq!(cluster.invoke(n, &key, "kept", "").await.unwrap().status, 200);
    }
    key
}

async fn invocations(cluster: &Cluster, function: &str) -> anyhow::Result<u64> {
    let query = UsageQuery { function: Some(function.into()), ..UsageQuery::default() };
    let rows = cluster.client().usage(&query).await?;
    Ok(rows.iter().map(|row| row.invocations).sum())
}

#[tokio::test(flavor = "multi_thread")]
async fn killing_all_nodes_at_once_forgets_nothing() {
    let cluster = Cluster::start(Settings::default()).await.unwrap();
    let key = fill(&cluster).await;
    let before = cluster.instances_ever("kept").await.unwrap();
    let others = cluster.processes().len();
    assert!(others > 3, "three nodes and an instance");
    cluster.kill_all().unwrap();
    let nothing_runs = || async {
        let left = cluster.processes();
        ensure!(left.is_empty(), "{left:?}");
        Ok(())
    };
    until("instances die with their nodes", SOON, nothing_runs).await.unwrap();

    cluster.start_all().await.unwrap();
    assert_eq!(invocations(&cluster, "kept").await.unwrap(), 12);
    let account = cluster.client().account("alice").await.unwrap();
    assert_eq!((account.grants.len(), account.keys.len()), (1, 1));
    cluster.spread().await.unwrap();
    for n in cluster.numbers() {
        let answer = cluster.invoke(n, &key, "kept", "").await.unwrap();
        assert_eq!(answer.status, 200, "{answer:?}");
        assert!(
            before.iter().all(|i| Some(&i.id) != answer.instance.as_ref()),
            "a process outlived its node"
        );
    }
    assert_eq!(invocations(&cluster, "kept").await.unwrap(), 15);
    let gone = || async {
        let instances = cluster.instances_ever("kept").await?;
        let old = instances.iter().filter(|i| before.iter().any(|b| b.id == i.id));
        ensure!(old.clone().count() == before.len(), "ended instances are listed for a while");
        ensure!(old.clone().all(|i| i.ended_at.is_some()), "{instances:?}");
        Ok(())
    };
    until("the old instances have ended", SOON, gone).await.unwrap();
    cluster.converged(SOON).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_that_outlive_all_nodes_are_adopted() {
    let Some(image) = programs::image() else { return };
    let settings = Settings::default().engine(Engine::Docker).set("controller.returning_after_ms", 12_000);
    let cluster = Cluster::start(settings).await.unwrap();
    let mut spec = functions::faulty_image(image, "echo");
    (spec.scaling.min, spec.scaling.max) = (2, 3);
    spec.concurrency = 4;
    let admin = cluster.client();
    admin.put_function("adopted", &spec).await.unwrap();
    admin.wait_ready("adopted", Duration::from_secs(60)).await.unwrap();
    cluster.spread().await.unwrap();
    let serving = serving(&cluster, "adopted").await;
    assert_eq!(serving.len(), 2);
    let containers = cluster.containers().unwrap();

    cluster.kill_all().unwrap();
    assert_eq!(cluster.containers().unwrap(), containers, "containers outlive their nodes");
    cluster.start_all().await.unwrap();

    // Once all hosts are back and past the time in which a new leader spares them, nothing changes.
    let unchanged = || async {
        for n in cluster.numbers() {
            let answer = cluster.invoke(n, cluster.root_key(), "adopted", "").await?;
            ensure!(answer.status == 200 && answer.cold_start == Some(false), "{answer:?}");
            let instance = answer.instance.clone().context("no instance")?;
            let count = answer.json()?["executions"].as_u64().context("no count")?;
            let known = serving.get(&instance).with_context(|| format!("{instance} is new"))?;
            ensure!(count > *known, "{instance} has counted {known} and now {count}: it was started again");
        }
        ensure!(cluster.containers()? == containers, "containers came or went");
        Ok(())
    };
    stays("what ran before serves on", Duration::from_secs(14), unchanged).await.unwrap();
    let instances = cluster.instances_ever("adopted").await.unwrap();
    let ids: BTreeSet<&String> = instances.iter().map(|i| &i.id).collect();
    assert_eq!(ids, serving.keys().collect(), "no other was ever placed: {instances:?}");
    assert!(instances.iter().all(|i| i.phase == "ready"), "{instances:?}");

    // Scaled down at last, they are removed.
    admin.delete_function("adopted", true).await.unwrap();
    let removed = || async {
        let left = cluster.containers()?;
        ensure!(left.is_disjoint(&containers), "{left:?}");
        Ok(())
    };
    until("the containers are removed", SOON, removed).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_stops_leaves_what_serves_and_takes_along_what_waits() {
    let Some(image) = programs::image() else { return };
    let cluster = Cluster::start(Settings::default().engine(Engine::Docker)).await.unwrap();
    let mut spec = functions::faulty_image(image, "echo");
    (spec.scaling.min, spec.scaling.max) = (3, 3);
    let admin = cluster.client();
    admin.put_function("stays", &spec).await.unwrap();
    let prepared = || async {
        let bodies = cluster.bodies().await?;
        ensure!(bodies.iter().any(|body| body.node == 2), "nothing runs on node 2: {bodies:?}");
        ensure!(cluster.waiting(2).await?.len() > 1, "next to nothing is prepared");
        Ok(bodies.into_iter().filter(|body| body.node == 2).collect::<Vec<_>>())
    };
    let serving = until("one serves and others wait", Duration::from_secs(60), prepared).await.unwrap();

    cluster.terminate(2).unwrap();
    assert!(cluster.ended(2, SOON).await.unwrap().success());
    assert_eq!(cluster.waiting(2).await.unwrap(), Vec::<String>::new(), "{}", cluster.log(2));
    let bodies = cluster.bodies().await.unwrap();
    assert!(serving.iter().all(|body| bodies.contains(body)), "{serving:?} of {bodies:?}");
    cluster.start_all().await.unwrap();
}

/// By instance: how many requests it had handled, which it counts itself, since it started.
async fn serving(cluster: &Cluster, function: &str) -> BTreeMap<String, u64> {
    let mut counts = BTreeMap::new();
    let wanted = cluster.client().instances(Some(function)).await.unwrap().len();
    let began = Instant::now();
    while counts.len() < wanted {
        assert!(began.elapsed() < SOON, "only {counts:?} of {wanted} instances answer");
        for n in cluster.numbers() {
            let answer = cluster.invoke(n, cluster.root_key(), function, "").await.unwrap();
            assert_eq!(answer.status, 200, "{answer:?}");
            let count = answer.json().unwrap()["executions"].as_u64().unwrap();
            counts.insert(answer.instance.unwrap(), count);
        }
    }
    counts
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_that_lags_by_a_second_holds_nobody_up_and_converges() {
    let cluster = Cluster::start(Settings::default().proxied()).await.unwrap();
    let leader = cluster.leader().await.unwrap();
    let laggard = cluster.others(leader)[0];
    let client = cluster.client_at(leader);
    let slowly = |delay| cluster.peer_link(laggard).set(delay);

    slowly(Link::Slow(LAG));
    let began = Instant::now();
    for turn in 0..50 {
        client.put_function(&format!("slow-{turn}"), &functions::command("/nowhere")).await.unwrap();
    }
    assert!(began.elapsed() < SOON, "50 writes took {:?}: they wait for the laggard", began.elapsed());
    let applied = (cluster.applied(leader).await.unwrap(), cluster.applied(laggard).await.unwrap());
    assert!(applied.0 > applied.1, "the laggard has kept up: {applied:?}");
    slowly(Link::Open);
    cluster.converged(SOON).await.unwrap();

    // The same by stopping the process again and again.
    let leader = cluster.leader().await.unwrap();
    let laggard = cluster.others(leader)[0];
    for turn in 0..4 {
        cluster.pause(laggard).unwrap();
        let began = Instant::now();
        let mut written = 0;
        while began.elapsed() < Duration::from_secs(1) {
            let name = format!("stopped-{turn}-{written}");
            let client = cluster.client_of(&cluster.others(laggard), cluster.root_key());
            client.put_function(&name, &functions::command("/nowhere")).await.unwrap();
            written += 1;
        }
        cluster.resume(laggard).unwrap();
        let catches_up = || async {
            let name = format!("/v1/functions/stopped-{turn}-{}?consistency=local", written - 1);
            cluster.get::<muster_api::Function>(laggard, &name).await.map(drop)
        };
        until("the laggard catches up", SOON, catches_up).await.unwrap();
    }
    cluster.converged(SOON).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_behind_a_purged_log_is_brought_up_by_a_snapshot() {
    let settings = Settings::default()
        .set("raft.snapshot_after_entries", 40)
        .set("raft.keep_entries", 5)
        .log("info,openraft=off,openraft::engine=info");
    let cluster = Cluster::start(settings).await.unwrap();
    let key = cluster.key_for("alice").await.unwrap();
    let leader = cluster.leader().await.unwrap();
    let absent = cluster.others(leader)[0];
    cluster.kill(absent).unwrap();
    let left_at = cluster.applied(leader).await.unwrap();
    let client = cluster.client_of(&cluster.others(absent), cluster.root_key());
    let mut turn = 0;
    while cluster.applied(leader).await.unwrap() < left_at + 200 {
        client.put_function(&format!("f-{turn}"), &functions::command("/nowhere")).await.unwrap();
        turn += 1;
    }
    let installed = "install_full_snapshot";
    assert!(!cluster.log(absent).contains(installed), "until now it was fed from the log");
    cluster.restart(absent).await.unwrap();
    cluster.converged(SOON).await.unwrap();
    assert!(cluster.log(absent).contains(installed), "what it missed is not in the log any more");
    let functions: Vec<muster_api::Function> =
        cluster.get(absent, "/v1/functions?consistency=local").await.unwrap();
    assert_eq!(functions.len(), turn);
    // What came in the snapshot counts: alice's key, made long before the log's present beginning.
    let answer = cluster.invoke(absent, &key, "f-0", "").await.unwrap();
    assert_eq!(answer.status, 403, "{answer:?}");

    // And it survives a restart from its own disk, and serves as one of a quorum.
    cluster.kill(leader).unwrap();
    cluster.restart(absent).await.unwrap();
    cluster.client_at(absent).put_function("last", &functions::command("/nowhere")).await.unwrap();
    cluster.restart(leader).await.unwrap();
    cluster.converged(SOON).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_lost_its_data_takes_no_part() {
    let cluster = Cluster::start(Settings::default()).await.unwrap();
    let client = cluster.client();
    // Node 1 was told to begin a cluster when it has no data: it must not begin another.
    for wiped in [2, 1] {
        let name = format!("before-{wiped}");
        client.put_function(&name, &functions::command("/nowhere")).await.unwrap();
        cluster.kill(wiped).unwrap();
        cluster.set_data_aside(wiped).unwrap();
        cluster.begin(wiped).unwrap();
        let ended = cluster.ended(wiped, SOON).await.unwrap();
        assert!(!ended.success(), "{ended}");
        let log = cluster.log(wiped);
        assert!(log.contains("was lost or replaced") && log.contains("docs/OPERATIONS.md"), "{log}");
        let name = format!("while-{wiped}-is-away");
        let others = cluster.client_of(&cluster.others(wiped), cluster.root_key());
        others.put_function(&name, &functions::command("/nowhere")).await.unwrap();
        cluster.put_data_back(wiped).unwrap();
        cluster.restart(wiped).await.unwrap();
    }
    cluster.spread().await.unwrap();
    for node in cluster.numbers() {
        let path = "/v1/functions?consistency=local";
        let list: Vec<muster_api::Function> = cluster.get(node, path).await.unwrap();
        let names: Vec<&str> = list.iter().map(|function| function.name.as_str()).collect();
        assert_eq!(names, ["before-1", "before-2", "while-1-is-away", "while-2-is-away"], "node {node}");
    }
}
