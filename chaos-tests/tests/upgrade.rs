//! Clusters of two releases: real processes, some of which say that they are older than they are, and behave so.
//!
//! They listen to that in debug builds only, as `cargo test` makes them.
#![cfg(debug_assertions)]
#![expect(clippy::unwrap_used, reason = "a test ends where what it relies on does not hold")]

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::ensure;
use futures_util::stream;
use muster_api::VersionRange;
use muster_chaos::load::{Load, Outcome};
use muster_chaos::wait::{stays, until};
use muster_chaos::{Cluster, Settings, functions};
use muster_client::{Client, Error};

const SOON: Duration = Duration::from_secs(30);
/// Several times what a leader takes to ask all members.
const A_WHILE: Duration = Duration::from_secs(3);
/// What a release of today supports at most.
const NEWEST: u16 = 3;
const OLD: Option<&str> = Some("1..1");
/// Writes that are to be acknowledged in each half-way state.
const WRITES: usize = 20;

/// Snapshots of both formats are built, and sent where a node was away for long.
fn old() -> Settings {
    Settings::default().versions("1..1").set("raft.snapshot_after_entries", 60).set("raft.keep_entries", 20)
}

/// Starts a node as another release.
async fn switch(cluster: &Cluster, n: u64, to: Option<&str>) {
    cluster.terminate(n).unwrap();
    assert!(cluster.ended(n, SOON).await.unwrap().success());
    cluster.claim_versions(n, to);
    cluster.begin(n).unwrap();
    cluster.await_ready(n).await.unwrap();
}

/// As all nodes see it.
async fn is_at(cluster: &Cluster, version: u16) -> anyhow::Result<()> {
    for n in cluster.numbers() {
        let view: muster_api::Cluster = cluster.get(n, "/v1/cluster").await?;
        ensure!(view.version == version, "node {n} sees version {}", view.version);
    }
    Ok(())
}

async fn is_held_back_by(cluster: &Cluster, at: u64, nodes: &[u64]) -> anyhow::Result<()> {
    let view: muster_api::Cluster = cluster.get(at, "/v1/cluster").await?;
    let by = view.next_version.as_ref().map(|next| &next.held_back_by);
    let by: BTreeSet<u64> = by.into_iter().flatten().map(|by| by.node).collect();
    ensure!(view.version == 1 && by == nodes.iter().copied().collect(), "{view:?}");
    Ok(())
}

async fn write(client: Client, writer: usize, turn: usize) -> (String, Result<(), Error>) {
    let name = format!("w-{writer}-{turn}");
    let written = client.put_function(&name, &functions::command("/never/launched")).await;
    (name, written.map(drop))
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_are_upgraded_one_by_one_under_load_and_nothing_is_lost() {
    let mut cluster = Cluster::start(old()).await.unwrap();
    is_at(&cluster, 1).await.unwrap();
    let acknowledged = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let writes = {
        let (client, acknowledged) = (cluster.client(), std::sync::Arc::clone(&acknowledged));
        Load::start(3, Duration::from_millis(5), move |writer, turn| {
            let (client, acknowledged) = (client.clone(), std::sync::Arc::clone(&acknowledged));
            async move {
                let written = write(client, writer, turn).await;
                if written.1.is_ok() {
                    acknowledged.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                }
                written
            }
        })
    };
    let more = || async {
        let before = acknowledged.load(std::sync::atomic::Ordering::Relaxed);
        let enough = || async {
            let now = acknowledged.load(std::sync::atomic::Ordering::Relaxed);
            ensure!(now >= before + WRITES, "{} of {WRITES}", now - before);
            Ok(())
        };
        until("writes are acknowledged", SOON, enough).await.unwrap();
    };
    more().await;

    // The leader last, as an operator would; and one goes back once.
    let leader = cluster.leader().await.unwrap();
    let mut order: Vec<u64> = cluster.numbers().into_iter().filter(|n| *n != leader).collect();
    order.push(leader);
    switch(&cluster, order[0], None).await;
    more().await;
    switch(&cluster, order[0], OLD).await;
    more().await;
    for (done, n) in (1..).zip(order.iter().copied()) {
        switch(&cluster, n, None).await;
        more().await;
        let left = &order[done..];
        if left.is_empty() {
            break;
        }
        // Who leads may be old itself, and knows of no next version then.
        let held = || async {
            is_at(&cluster, 1).await?;
            let view: muster_api::Cluster = cluster.get(n, "/v1/cluster").await?;
            for node in &view.nodes {
                let newest = if left.contains(&node.id) { 1 } else { NEWEST };
                let want = VersionRange { oldest: 1, newest };
                ensure!(node.versions == Some(want), "{view:?}");
            }
            is_held_back_by(&cluster, n, left).await
        };
        until("all is told", SOON, held).await.unwrap();
        // What only the next version has is refused by who knows it, before anything is sent.
        let digest = format!("sha256:{}", "0".repeat(64));
        let refused = cluster.client_at(n).put_package(&digest, 1, stream::pending()).await.unwrap_err();
        assert_eq!(refused.status(), Some(409), "{refused}");
        let said = refused.to_string();
        assert!(left.iter().all(|old| said.contains(&format!("node {old} "))), "{said}");
        stays("the version stays", A_WHILE, || is_at(&cluster, 1)).await.unwrap();
    }
    until("the version is raised", SOON, || is_at(&cluster, NEWEST)).await.unwrap();
    assert_eq!(cluster.metric(1, "muster_cluster_version").await.unwrap(), u64::from(NEWEST));
    more().await;
    let outcomes = writes.stop().await;
    let written: BTreeSet<String> = acknowledged_of(outcomes);
    cluster.converged(SOON).await.unwrap();
    for n in cluster.numbers() {
        let there = cluster.client_at(n).functions().await.unwrap();
        let there: BTreeSet<String> = there.into_iter().map(|function| function.name).collect();
        let lost: Vec<_> = written.difference(&there).collect();
        assert!(lost.is_empty(), "node {n} lost {lost:?}");
    }

    // From here on the old release is of no use: neither on the data of a member, nor to join.
    let n = order[0];
    cluster.kill(n).unwrap();
    cluster.claim_versions(n, OLD);
    cluster.begin(n).unwrap();
    assert!(!cluster.ended(n, SOON).await.unwrap().success());
    let said = cluster.log(n);
    let clear = &format!("the cluster is at version {NEWEST}, and this muster-node supports only 1 to 1");
    assert!(said.contains(clear), "{said}");
    cluster.claim_versions(n, None);
    cluster.begin(n).unwrap();
    cluster.await_ready(n).await.unwrap();

    let joiner = cluster.join().await.unwrap();
    assert!(!cluster.ended(joiner, SOON).await.unwrap().success());
    let said = cluster.log(joiner);
    assert!(said.contains("refuses this node") && said.contains(clear), "{said}");
    cluster.claim_versions(joiner, None);
    cluster.begin(joiner).unwrap();
    cluster.await_ready(joiner).await.unwrap();
    until("the joiner follows", SOON, || is_at(&cluster, NEWEST)).await.unwrap();
}

fn acknowledged_of(outcomes: Vec<Outcome<(String, Result<(), Error>)>>) -> BTreeSet<String> {
    let values = outcomes.into_iter().map(|outcome| outcome.value);
    values.filter(|(_, written)| written.is_ok()).map(|(name, _)| name).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_is_away_holds_the_version_until_it_is_removed() {
    let mut cluster = Cluster::start(old()).await.unwrap();
    cluster.kill(3).unwrap();
    for n in [1, 2] {
        cluster.kill(n).unwrap();
        cluster.claim_versions(n, None);
        cluster.begin(n).unwrap();
    }
    for n in [1, 2] {
        cluster.await_ready(n).await.unwrap();
    }
    let held = || async { is_held_back_by(&cluster, 1, &[3]).await };
    until("node 3 is missed", SOON, held).await.unwrap();
    stays("the version stays", A_WHILE, held).await.unwrap();
    cluster.remove(3, true).await.unwrap();
    cluster.bury(3).unwrap();
    until("the version is raised without it", SOON, || is_at(&cluster, NEWEST)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_cluster_begins_at_the_newest_version_even_where_it_is_held() {
    let cluster = Cluster::start(Settings::default().set("raft.hold_version", true)).await.unwrap();
    is_at(&cluster, NEWEST).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_version_stays_for_as_long_as_an_operator_holds_it() {
    let cluster = Cluster::start(old().nodes(1).set("raft.hold_version", true)).await.unwrap();
    switch(&cluster, 1, None).await;
    until("node 1 holds", SOON, || is_held_back_by(&cluster, 1, &[1])).await.unwrap();
    stays("the version stays", A_WHILE, || is_at(&cluster, 1)).await.unwrap();
    let config = std::fs::read_to_string(cluster.config_file(1)).unwrap();
    let config = config.replace("hold_version = true", "hold_version = false");
    std::fs::write(cluster.config_file(1), config).unwrap();
    switch(&cluster, 1, None).await;
    until("the version is raised", SOON, || is_at(&cluster, NEWEST)).await.unwrap();
}
