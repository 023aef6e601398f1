//! Nodes join, leave, are lost and replaced, and are restarted one after the other, while the cluster works.

#![expect(clippy::unwrap_used, reason = "a test ends where what it relies on does not hold")]

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::ensure;
use muster_api::CreateToken;
use muster_chaos::cluster::programs;
use muster_chaos::load::{Load, Outcome};
use muster_chaos::wait::until;
use muster_chaos::{Cluster, Engine, Settings, functions};
use muster_client::{Client, Request};

const SOON: Duration = Duration::from_secs(30);
/// What a Docker Engine has done by then that is busy with other tests.
const ENGINE_SOON: Duration = Duration::from_secs(90);
const FUNCTION: &str = "steady";

/// Writes and invocations through some nodes, by a client that passes over nodes that are gone.
struct Work {
    writes: Load<(String, Result<(), String>)>,
    calls: Load<Result<u16, String>>,
}

impl Work {
    async fn start(cluster: &Cluster, nodes: &[u64]) -> Self {
        let mut spec = functions::faulty("echo");
        (spec.scaling.min, spec.scaling.max, spec.concurrency) = (2, 6, 4);
        let client = cluster.client_of(nodes, cluster.root_key());
        client.put_function(FUNCTION, &spec).await.unwrap();
        client.wait_ready(FUNCTION, SOON).await.unwrap();
        let writer = client.clone();
        let writes = Load::start(2, Duration::from_millis(5), move |worker, turn| {
            let client = writer.clone();
            async move {
                let name = format!("fn-{worker}-{turn}");
                let written = client.put_function(&name, &functions::command("/nowhere")).await;
                (name, written.map(drop).map_err(|error| error.to_string()))
            }
        });
        let calls = Load::start(3, Duration::from_millis(5), move |_, _| {
            let client = client.clone();
            async move { call(&client).await }
        });
        Work { writes, calls }
    }

    /// Nothing acknowledged is lost, and nothing that was called has failed.
    async fn end(self, cluster: &Cluster) -> Vec<Outcome<(String, Result<(), String>)>> {
        let (writes, calls) = (self.writes.stop().await, self.calls.stop().await);
        let refused: Vec<_> = calls.iter().filter(|call| call.value != Ok(200)).collect();
        assert!(refused.is_empty(), "{} of {} calls failed: {:?}", refused.len(), calls.len(), refused[0]);
        let failed: Vec<_> = writes.iter().filter(|write| write.value.1.is_err()).collect();
        assert!(failed.is_empty(), "{} of {} writes failed: {:?}", failed.len(), writes.len(), failed[0]);
        assert!(calls.len() > 50 && writes.len() > 50, "{} calls, {} writes", calls.len(), writes.len());
        cluster.spread().await.unwrap();
        for n in cluster.numbers() {
            let known: Vec<muster_api::Function> =
                cluster.get(n, "/v1/functions?consistency=local").await.unwrap();
            let known: BTreeSet<String> = known.into_iter().map(|function| function.name).collect();
            for write in &writes {
                assert!(known.contains(&write.value.0), "node {n} has lost {}", write.value.0);
            }
        }
        writes
    }
}

async fn call(client: &Client) -> Result<u16, String> {
    let answer = client.invoke(FUNCTION, Request::post("").path("/?work_ms=5")).await;
    let answer = answer.map_err(|error| error.to_string())?;
    let status = answer.status.as_u16();
    answer.body.bytes().await.map_err(|error| error.to_string())?;
    Ok(status)
}

/// The longest time between two acknowledged writes within the span.
fn gap(writes: &[Outcome<(String, Result<(), String>)>], from: Instant, to: Instant) -> Duration {
    let mut last = from;
    let mut longest = Duration::ZERO;
    for write in writes.iter().filter(|write| write.value.1.is_ok() && write.ended >= from) {
        let ended = write.ended.min(to);
        longest = longest.max(ended.saturating_duration_since(last));
        last = ended;
    }
    longest
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_come_and_go_under_load() {
    let mut cluster = Cluster::start(Settings::default()).await.unwrap();
    let leader = cluster.leader().await.unwrap();
    let others = cluster.others(leader);
    let (follower, stays) = (others[0], others[1]);
    let work = Work::start(&cluster, &[stays]).await;

    let (fourth, fifth) = (cluster.join().await.unwrap(), cluster.join().await.unwrap());
    assert_eq!((fourth, fifth), (4, 5), "ids that no node ever had");
    cluster.await_ready(fourth).await.unwrap();
    cluster.await_ready(fifth).await.unwrap();
    cluster.voters_are(&[1, 2, 3, 4, 5]).await.unwrap();

    for removed in [follower, leader] {
        cluster.remove(removed, false).await.unwrap();
        let ended = cluster.ended(removed, SOON).await.unwrap();
        let log = cluster.log(removed);
        assert!(ended.success() && log.contains("this node was removed from the cluster"), "{ended}: {log}");
        // Its id is used up.
        cluster.begin(removed).unwrap();
        let ended = cluster.ended(removed, SOON).await.unwrap();
        let log = cluster.log(removed);
        assert_eq!(log.matches("this node was removed from the cluster").count(), 2, "{ended}: {log}");
        cluster.retire(removed, SOON).await.unwrap();
    }
    let mut left = vec![stays, fourth, fifth];
    left.sort_unstable();
    cluster.voters_are(&left).await.unwrap();
    work.end(&cluster).await;
    let sixth = cluster.join().await.unwrap();
    assert_eq!(sixth, 6, "also where others are gone");
    cluster.await_ready(sixth).await.unwrap();
    cluster.converged(SOON).await.unwrap();
}

/// All containers of a node, whatever they are for.
async fn containers_of(cluster: &Cluster, n: u64) -> usize {
    let (of, node) = (format!("label=muster.cluster={}", cluster.id()), format!("label=muster.node={n}"));
    let words = ["ps", "--all", "--quiet", "--filter", &of, "--filter", &node];
    let listed = tokio::process::Command::new("docker").args(words).output().await.unwrap();
    assert!(listed.status.success(), "{listed:?}");
    String::from_utf8_lossy(&listed.stdout).lines().count()
}

/// Given up as dead, and alive after all, or started again: nobody knows of its instances any more.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_was_given_up_leaves_no_containers() {
    let Some(image) = programs::image() else { return };
    let settings = Settings::default().nodes(5).engine(Engine::Docker);
    let mut cluster = Cluster::start(settings.set("engine.prepared_namespaces", 1)).await.unwrap();
    let mut spec = functions::faulty_image(image, "echo");
    (spec.scaling.min, spec.scaling.max) = (5, 5);
    cluster.client().put_function(FUNCTION, &spec).await.unwrap();
    let leader = cluster.leader().await.unwrap();
    for (n, dies) in cluster.others(leader).into_iter().take(2).zip([false, true]) {
        let hosts = || async {
            let bodies = cluster.bodies().await?;
            ensure!(bodies.iter().any(|body| body.node == n), "nothing runs on node {n}: {bodies:?}");
            Ok(())
        };
        until("an instance on the node", ENGINE_SOON, hosts).await.unwrap();
        if dies {
            cluster.kill(n).unwrap()
        } else {
            cluster.pause(n).unwrap()
        }
        let given_up = || async { cluster.remove(n, true).await };
        until("the node is given up", SOON, given_up).await.unwrap();
        assert!(containers_of(&cluster, n).await > 0, "they were to run on");
        if dies {
            cluster.begin(n).unwrap()
        } else {
            cluster.resume(n).unwrap()
        }
        let ended = cluster.ended(n, ENGINE_SOON).await.unwrap();
        assert!(ended.success(), "{ended}: {}", cluster.log(n));
        let left = containers_of(&cluster, n).await;
        assert_eq!(left, 0, "containers of node {n} are left: {}", cluster.log(n));
        cluster.retire(n, SOON).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_disk_was_lost_is_replaced() {
    let mut cluster = Cluster::start(Settings::default()).await.unwrap();
    let leader = cluster.leader().await.unwrap();
    let lost = cluster.others(leader)[0];
    let work = Work::start(&cluster, &cluster.others(lost)).await;
    cluster.kill(lost).unwrap();
    cluster.set_data_aside(lost).unwrap();
    cluster.begin(lost).unwrap();
    assert!(!cluster.ended(lost, SOON).await.unwrap().success());
    let log = cluster.log(lost);
    assert!(log.contains(&format!("muster cluster replace {lost}")), "{log}");

    let down = || async {
        let members = cluster.members_at(leader).await?;
        let member = members.iter().find(|member| member.id == lost);
        ensure!(member.is_some_and(|member| member.condition == "down"), "{members:?}");
        Ok(())
    };
    until("it is down", SOON, down).await.unwrap();
    let client = cluster.client_of(&cluster.others(lost), cluster.root_key());
    for (refused, force, why) in [(lost, false, "cannot drain"), (leader, false, "lose the quorum")] {
        let error = client.remove_node(refused, force).await.unwrap_err();
        assert!(error.status() == Some(409) && error.to_string().contains(why), "{error}");
    }
    let replacing = CreateToken { replaces: Some(lost), ..CreateToken::default() };
    let created = client.create_join_token(&replacing).await.unwrap();
    assert!(!created.addresses.is_empty());
    let new = cluster.admit(&created).await.unwrap();
    cluster.await_ready(new).await.unwrap();
    let mut voters = cluster.others(lost);
    voters.sort_unstable();
    cluster.voters_are(&voters).await.unwrap();

    // The disk turns up again: too late.
    cluster.put_data_back(lost).unwrap();
    cluster.begin(lost).unwrap();
    cluster.ended(lost, SOON).await.unwrap();
    assert!(cluster.log(lost).contains("this node was removed from the cluster"), "{}", cluster.log(lost));
    cluster.retire(lost, SOON).await.unwrap();
    work.end(&cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_good_once_and_joining_survives_the_leader() {
    let mut cluster = Cluster::start(Settings::default().nodes(1)).await.unwrap();
    let client = cluster.client();
    // One machine alone is a cluster; others join it.
    let second = cluster.join().await.unwrap();
    let third = cluster.join().await.unwrap();
    for n in [second, third] {
        cluster.await_ready(n).await.unwrap();
    }
    cluster.voters_are(&[1, second, third]).await.unwrap();

    let short = CreateToken { expires_in_ms: Some(1), ..CreateToken::default() };
    let expired = client.create_join_token(&short).await.unwrap();
    let late = cluster.admit(&expired).await.unwrap();
    assert!(!cluster.ended(late, SOON).await.unwrap().success());
    assert!(cluster.log(late).contains("the token has expired"), "{}", cluster.log(late));
    cluster.bury(late).unwrap();

    let created = client.create_join_token(&CreateToken::default()).await.unwrap();
    let leader = cluster.leader().await.unwrap();
    cluster.kill(leader).unwrap();
    let fourth = cluster.admit(&created).await.unwrap();
    cluster.await_ready(fourth).await.unwrap();
    cluster.restart(leader).await.unwrap();
    cluster.voters_are(&[1, second, third, fourth]).await.unwrap();
    let again = cluster.admit(&muster_api::CreatedToken { node_id: 99, ..created }).await.unwrap();
    assert!(!cluster.ended(again, SOON).await.unwrap().success());
    assert!(cluster.log(again).contains("was used already"), "{}", cluster.log(again));
    cluster.bury(again).unwrap();

    // It restarts without the token, by what is in its store.
    std::fs::remove_file(cluster.dir().join(format!("join{fourth}.token"))).unwrap();
    cluster.restart(fourth).await.unwrap();
    leads(&cluster, fourth).await;
    cluster.converged(SOON).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_that_move_are_found_at_their_new_addresses() {
    let cluster = Cluster::start(Settings::default()).await.unwrap();
    let leader = cluster.leader().await.unwrap();
    let mut order = cluster.others(leader);
    order.push(leader);
    let work = Work::start(&cluster, &order).await;
    // All of them, one after the other: in the end nobody is where the log says that the cluster began.
    for n in order {
        cluster.terminate(n).unwrap();
        assert!(cluster.ended(n, SOON).await.unwrap().success(), "{}", cluster.log(n));
        let (from, to) = cluster.move_peer_port(n).unwrap();
        cluster.begin(n).unwrap();
        cluster.await_ready(n).await.unwrap();
        for other in cluster.others(n) {
            let nodes: Vec<muster_api::Node> = cluster.get(other, "/v1/nodes").await.unwrap();
            let node = nodes.iter().find(|node| node.id == n).unwrap();
            assert_eq!(node.peer_address, to, "it was at {from}");
        }
        assert!(cluster.log(n).contains("the cluster knows where this node is now"), "{}", cluster.log(n));
    }
    work.end(&cluster).await;
    // It is not told again, and each can lead from where it is.
    for n in cluster.numbers() {
        leads(&cluster, n).await;
    }
    let n = cluster.numbers()[0];
    cluster.kill(n).unwrap();
    cluster.restart(n).await.unwrap();
    let told = cluster.log(n).matches("the cluster knows where this node is now").count();
    assert_eq!(told, 1, "{}", cluster.log(n));
    cluster.converged(SOON).await.unwrap();
}

/// Has a node lead. A busy machine may have it lag, or others elect another.
async fn leads(cluster: &Cluster, n: u64) {
    let asked = || async {
        if cluster.leader().await? != n {
            let successor = cluster.client().transfer_leadership(Some(n)).await?;
            ensure!(successor == n && cluster.leader().await? == n, "{successor} leads");
        }
        Ok(())
    };
    until(&format!("node {n} leads"), SOON, asked).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_restart_under_load_loses_nothing() {
    let cluster = Cluster::start(Settings::default()).await.unwrap();
    let leader = cluster.leader().await.unwrap();
    let mut order = cluster.others(leader);
    order.push(leader);
    let work = Work::start(&cluster, &order).await;
    let mut stopped = Vec::new();
    for n in order {
        if n == leader {
            leads(&cluster, n).await;
        }
        let began = Instant::now();
        let led = cluster.leader().await.unwrap() == n;
        cluster.terminate(n).unwrap();
        assert!(cluster.ended(n, SOON).await.unwrap().success(), "{}", cluster.log(n));
        stopped.push((n, led, began, Instant::now()));
        cluster.begin(n).unwrap();
        cluster.await_ready(n).await.unwrap();
    }
    let writes = work.end(&cluster).await;
    for (n, led, from, to) in stopped {
        println!("node {n}, leading: {led}: the longest pause of writes was {:?}", gap(&writes, from, to));
    }
    let handed = cluster.log(leader).contains("gave the leadership away");
    assert!(handed, "the leader has given its place away before it stopped: {}", cluster.log(leader));
}
