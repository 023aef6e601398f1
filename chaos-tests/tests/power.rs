//! The power of all nodes is cut while they are written to: what was acknowledged is there afterwards.
//!
//! `MUSTER_POWER_CUTS` says how often; a few times unless told.

#![expect(clippy::unwrap_used, reason = "a test ends where what it relies on does not hold")]

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::ensure;
use muster_api::Function;
use muster_chaos::load::{Load, Outcome};
use muster_chaos::wait::until;
use muster_chaos::{Cluster, Settings, functions};
use muster_faultdisk::{Command, Survivors};

const SOON: Duration = Duration::from_secs(30);
const CUTS: u64 = 4;
const WRITERS: usize = 6;
/// Each writer's before the power is cut.
const WRITES: u64 = 15;

/// A function's name, the last value that it was certainly given, and whether that was acknowledged.
type Written = (String, u64, bool);

#[tokio::test(flavor = "multi_thread")]
async fn cutting_the_power_of_all_nodes_loses_nothing_acknowledged() {
    if let Some(why) = muster_faultdisk::missing() {
        eprintln!("skipped: {why}");
        return;
    }
    let cuts = std::env::var("MUSTER_POWER_CUTS").map_or(CUTS, |cuts| cuts.parse().unwrap());
    // Low, so that power is also cut while snapshots are made.
    let settings = Settings::default()
        .faulty_disks()
        .set("raft.snapshot_after_entries", 60)
        .set("raft.keep_entries", 20);
    let cluster = Cluster::start(settings).await.unwrap();
    let mut least: BTreeMap<String, u64> = BTreeMap::new();
    let mut dropped = 0;
    for cut in 0..cuts {
        let writes = write(&cluster, cut);
        let written = || async {
            for writer in 0..WRITERS {
                let view: Function = cluster.get(1, &format!("/v1/functions/f-{writer}")).await?;
                ensure!(value(&view) >= cut * 100_000 + WRITES, "{writer} has written {}", value(&view));
            }
            Ok(())
        };
        until("all have written", SOON, written).await.unwrap();
        let survivors = if cut % 2 == 0 { Survivors::None } else { Survivors::Some { seed: cut } };
        dropped += power_cut(&cluster, survivors).await;
        for Outcome { value: (name, value, acknowledged), .. } in writes.stop().await {
            if acknowledged {
                let most = least.entry(name).or_default();
                *most = value.max(*most);
            }
        }
        cluster.start_all().await.unwrap();
        for node in cluster.numbers() {
            for (name, least) in &least {
                let found: Function = cluster.get(node, &format!("/v1/functions/{name}")).await.unwrap();
                let found = value(&found);
                assert!(
                    found >= *least,
                    "cut {cut}: node {node} has {found} of {name}, acknowledged {least}"
                );
            }
        }
        cluster.converged(SOON).await.unwrap();
    }
    assert_eq!(least.len(), WRITERS);
    assert!(dropped > 0, "no unsynced byte was dropped in {cuts} cuts: this proves nothing");
}

/// After a failed sync a restarted node reads from the page cache what is on no disk. What it goes on
/// to acknowledge must not rest on that.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_failed_sync_has_lost_a_restart_does_not_take_for_written() {
    if let Some(why) = muster_faultdisk::missing() {
        eprintln!("skipped: {why}");
        return;
    }
    let cluster = Cluster::start(Settings::default().faulty_disks()).await.unwrap();
    for turn in 0..3 {
        let node = turn % 3 + 1;
        let writes = write(&cluster, turn);
        cluster.disk(node).tell(&Command::SyncError { syncs: 1 }).unwrap();
        cluster.ended(node, SOON).await.unwrap();
        assert!(cluster.log(node).contains("Input/output error"), "it says why it ends");
        cluster.begin(node).unwrap();
        cluster.await_ready(node).await.unwrap();
        let counters = cluster.disk(node).tell(&Command::Cut { survivors: Survivors::None }).unwrap();
        assert_eq!(counters.failed_syncs, turn / 3 + 1);
        cluster.restart(node).await.unwrap();
        drop(writes.stop().await);
        cluster.converged(SOON).await.unwrap();
    }
}

/// Writers that each give a function of their own ever greater values.
fn write(cluster: &Cluster, cut: u64) -> Load<Written> {
    let client = cluster.client();
    Load::start(WRITERS, Duration::from_millis(1), move |writer, turn| {
        let client = client.clone();
        async move {
            let (name, value) = (format!("f-{writer}"), cut * 100_000 + turn as u64);
            let mut spec = functions::command("/never/launched");
            spec.env.insert("VALUE".into(), value.to_string());
            // With the power gone, an answer will not come.
            let put = tokio::time::timeout(Duration::from_secs(2), client.put_function(&name, &spec)).await;
            (name, value, put.is_ok_and(|put| put.is_ok()))
        }
    })
}

fn value(function: &Function) -> u64 {
    function.spec.env.get("VALUE").and_then(|value| value.parse().ok()).unwrap_or(0)
}

/// Cuts each disk's power at its next write and kills the nodes. Answers how many bytes were dropped.
async fn power_cut(cluster: &Cluster, survivors: Survivors) -> u64 {
    let tell = |node, command| cluster.disk(node).tell(&command).unwrap();
    let mut before = BTreeMap::new();
    for node in cluster.numbers() {
        before.insert(node, tell(node, Command::CutAtWrite { survivors }));
    }
    let cut = || async {
        for (node, before) in &before {
            ensure!(tell(*node, Command::Counters).cuts > before.cuts, "node {node} has not written since");
        }
        Ok(())
    };
    // Without a majority the last one may have nothing to write.
    if until("all disks have lost their power", Duration::from_secs(2), cut).await.is_err() {
        for node in cluster.numbers() {
            tell(node, Command::Cut { survivors });
        }
    }
    cluster.kill_all().unwrap();
    before
        .iter()
        .map(|(node, before)| tell(*node, Command::Counters).dropped_bytes - before.dropped_bytes)
        .sum()
}
