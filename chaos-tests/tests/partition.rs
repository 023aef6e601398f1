//! The network between nodes fails: who is left goes on, who is cut off says so, and both are one
//! again afterwards.

#![expect(clippy::unwrap_used, reason = "a test ends where what it relies on does not hold")]

use std::time::Duration;

use anyhow::{Context, ensure};
use http::Method;
use muster_chaos::cluster::network::unfit;
use muster_chaos::wait::until;
use muster_chaos::{Cluster, Settings, functions};

/// An election takes at most two of the longest timeouts here; the rest is for a busy machine.
const SOON: Duration = Duration::from_secs(20);

/// `None`, with a word on stderr, where no network can be made.
async fn cluster() -> Option<Cluster> {
    if let Some(reason) = unfit() {
        eprintln!("skipped: {reason}");
        return None;
    }
    Some(Cluster::start(Settings::default().networked()).await.unwrap())
}

/// One attempt to write through node `n`.
async fn write(cluster: &Cluster, n: u64, name: &str) -> anyhow::Result<()> {
    let request = cluster.request(n, Method::PUT, &format!("/v1/functions/{name}"), Some(cluster.root_key()));
    let spec = functions::command("/nowhere");
    let answer = request.json(&spec).timeout(SOON).send().await?;
    ensure!(answer.status().is_success(), "node {n} answers {}", answer.status());
    Ok(())
}

async fn is_ready(cluster: &Cluster, n: u64) -> anyhow::Result<bool> {
    let answer = cluster.request(n, Method::GET, "/readyz", None).timeout(SOON).send().await?;
    Ok(answer.status() == 200)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_is_cut_off_is_replaced_and_joins_again() {
    let Some(cluster) = cluster().await else { return };
    let old = cluster.leader().await.unwrap();
    let [other, ..] = cluster.others(old)[..] else { panic!("three nodes") };
    let alone = cluster.network().isolate(old);

    until("the others go on", SOON, || write(&cluster, other, "meanwhile")).await.unwrap();
    let not_ready = || async {
        ensure!(!is_ready(&cluster, old).await?, "it says it is ready");
        Ok(())
    };
    until("the old leader knows that it is alone", SOON, not_ready).await.unwrap();
    assert!(write(&cluster, old, "in-vain").await.is_err(), "nobody but itself has it");

    drop(alone);
    let joined = || async {
        write(&cluster, old, "again").await?;
        let known: Vec<muster_api::Function> = cluster.get(old, "/v1/functions?consistency=local").await?;
        known.iter().find(|function| function.name == "meanwhile").context("it does not know").map(drop)
    };
    until("the old leader has joined again", SOON, joined).await.unwrap();
    cluster.converged(SOON).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_that_cannot_reach_the_leader_alone_stops_nobody_else() {
    let Some(cluster) = cluster().await else { return };
    let leader = cluster.leader().await.unwrap();
    let [follower, third, ..] = cluster.others(leader)[..] else { panic!("three nodes") };
    let cut = cluster.network().cut(leader, follower);
    // Whoever leads in the end: the third can talk to both.
    for number in 0..5 {
        let name = format!("meanwhile-{number}");
        until("the third writes", SOON, || write(&cluster, third, &name)).await.unwrap();
    }
    drop(cut);
    until("the follower writes", SOON, || write(&cluster, follower, "again")).await.unwrap();
    cluster.converged(SOON).await.unwrap();
}
