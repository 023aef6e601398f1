//! The ledger: every answered invocation once, whatever dies; and instance time that adds up.

#![expect(clippy::unwrap_used, reason = "a test ends where what it relies on does not hold")]

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, ensure};
use muster_api::{Action, Grain, Payer, Usage, UsageDurability};
use muster_chaos::wait::{stays, until};
use muster_chaos::{Cluster, Settings, functions};
use muster_client::UsageQuery;

const SOON: Duration = Duration::from_secs(30);

/// By account, what a function was used for in all.
async fn used(cluster: &Cluster, function: &str) -> anyhow::Result<BTreeMap<String, Usage>> {
    let query =
        UsageQuery { function: Some(function.into()), by: Some(Grain::Total), ..UsageQuery::default() };
    let rows = cluster.client_of(&cluster.running(), cluster.root_key()).usage(&query).await?;
    Ok(rows.into_iter().map(|row| (row.account.clone(), row)).collect())
}

async fn invocations(cluster: &Cluster, function: &str, account: &str) -> anyhow::Result<u64> {
    Ok(used(cluster, function).await?.get(account).map_or(0, |row| row.invocations))
}

/// The ledger comes to hold exactly this many invocations, and no more later.
async fn settles_at(cluster: &Cluster, function: &str, account: &str, count: u64) {
    let exactly = || async {
        let found = invocations(cluster, function, account).await?;
        ensure!(found == count, "{account} is billed for {found} of {count} invocations of {function}");
        Ok(())
    };
    until("the ledger is complete", SOON, exactly).await.unwrap();
    stays("nothing is counted twice", Duration::from_millis(500), exactly).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_answered_is_counted_once_per_account() {
    let cluster = Cluster::start(Settings::default()).await.unwrap();
    let admin = cluster.client();
    let mut spec = functions::faulty("echo");
    spec.concurrency = 4;
    spec.scaling.max = 3;
    let kinds = [
        ("interval", UsageDurability::Interval),
        ("acknowledged", UsageDurability::Acknowledged),
        ("replicated", UsageDurability::Replicated),
    ];
    for (name, durability) in kinds {
        spec.usage_durability = durability;
        admin.put_function(name, &spec).await.unwrap();
    }
    let mut keys = Vec::new();
    for (account, turns) in [("alice", 21), ("bob", 9)] {
        keys.push((account, turns, cluster.key_for(account).await.unwrap()));
        admin.put_grant(account, "*", &[Action::Invoke]).await.unwrap();
    }
    cluster.spread().await.unwrap();

    let mut calls = Vec::new();
    for (name, _) in kinds {
        for (_, turns, key) in &keys {
            for turn in 0..*turns {
                // A third of them are answered with an error of the function's own, which counts too.
                let path = format!("{name}?status={}", if turn % 3 == 0 { 500 } else { 200 });
                let entry = cluster.entry(turn % 3 + 1, key);
                calls.push(async move { entry.invoke(&path, "12345").await.map(|answer| answer.status) });
            }
        }
    }
    for (name, _, key) in &keys {
        // What is refused costs nothing.
        let refused = cluster.invoke(1, &key[..key.len() - 1], "interval", "").await.unwrap();
        assert_eq!(refused.status, 401, "{name}");
        assert_eq!(cluster.invoke(1, key, "nothing", "").await.unwrap().status, 404);
    }
    let statuses = futures_util::future::join_all(calls).await;
    assert!(statuses.iter().all(|status| matches!(status, Ok(200 | 500))), "{statuses:?}");
    for (name, durability) in kinds {
        for (account, turns, _) in &keys {
            if durability == UsageDurability::Replicated {
                let at_once = invocations(&cluster, name, account).await.unwrap();
                assert_eq!(at_once, *turns, "{account}'s answers waited for the ledger");
            }
            settles_at(&cluster, name, account, *turns).await;
        }
        let rows = used(&cluster, name).await.unwrap();
        for (account, turns, _) in &keys {
            let row = &rows[*account];
            assert_eq!((row.failures, row.request_bytes), (0, 5 * turns), "{row:?}");
            assert!(row.response_bytes > 100 * turns, "{row:?}");
        }
        let cold: u64 = rows.values().map(|row| row.cold_starts).sum();
        assert!((1..=30).contains(&cold), "{rows:?}");
        assert!(rows.values().all(|row| row.account == "root" || row.invocations > 0), "{rows:?}");
    }
    // All nodes bill alike, and accounts see themselves alone.
    cluster.converged(SOON).await.unwrap();
    let alice = cluster.client_of(&[2], &keys[0].2);
    let seen = alice.usage(&UsageQuery::default()).await.unwrap();
    assert!(!seen.is_empty() && seen.iter().all(|row| row.account == "alice"), "{seen:?}");
}

/// The host is killed right after its answers: what they promised is in the ledger after its restart.
#[tokio::test(flavor = "multi_thread")]
async fn a_killed_host_has_lost_and_doubled_no_usage() {
    let cluster = Cluster::start(Settings::default()).await.unwrap();
    let admin = cluster.client();
    for (name, durability) in
        [("acknowledged", UsageDurability::Acknowledged), ("replicated", UsageDurability::Replicated)]
    {
        let mut spec = functions::faulty("echo");
        spec.usage_durability = durability;
        spec.concurrency = 8;
        (spec.scaling.min, spec.scaling.max) = (1, 1);
        admin.put_function(name, &spec).await.unwrap();
        admin.wait_ready(name, SOON).await.unwrap();
    }
    cluster.spread().await.unwrap();
    let mut total = 0;
    for (round, name) in ["acknowledged", "replicated", "acknowledged"].into_iter().enumerate() {
        let host = cluster.invoke(1, cluster.root_key(), name, "").await.unwrap().node.unwrap();
        let elsewhere = cluster.others(host)[0];
        let calls = (0..30).map(|turn| {
            let entry = cluster.entry(if turn % 3 == 0 { elsewhere } else { host }, cluster.root_key());
            async move { entry.invoke(name, "").await }
        });
        let answers = futures_util::future::join_all(calls).await;
        cluster.kill(host).unwrap();
        for answer in answers {
            let answer = answer.unwrap();
            assert_eq!((answer.status, answer.node), (200, Some(host)), "{answer:?}");
        }
        total += if name == "acknowledged" { 31 } else { 0 };
        let owed = if name == "replicated" { 31 } else { total };
        if name == "replicated" {
            let known = invocations(&cluster, name, "root").await.unwrap();
            assert_eq!(known, owed, "answers waited for the ledger, so it knows without the killed host");
        }
        cluster.restart(host).await.unwrap();
        settles_at(&cluster, name, "root", owed).await;
        if round == 1 {
            // Twice in a row: a batch that was shipped and not yet forgotten is recognized again.
            cluster.restart(host).await.unwrap();
            settles_at(&cluster, name, "root", owed).await;
        }
    }
    cluster.converged(SOON).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn instance_time_adds_up_whoever_pays() {
    let cluster = Cluster::start(Settings::default()).await.unwrap();
    let admin = cluster.client();
    let mut keys = Vec::new();
    for account in ["alice", "bob"] {
        keys.push(cluster.key_for(account).await.unwrap());
        admin.put_grant(account, "*", &[Action::Invoke]).await.unwrap();
    }
    for (name, payer) in [("owned", Payer::Owner), ("shared", Payer::Callers)] {
        let mut spec = functions::faulty("echo");
        spec.payer = payer;
        spec.concurrency = 2;
        (spec.scaling.keep_alive_ms, spec.scaling.window_ms) = (800_u64.into(), 500);
        admin.put_function(name, &spec).await.unwrap();
    }
    cluster.spread().await.unwrap();
    for name in ["owned", "shared"] {
        // Alice keeps an instance busy three times as long as bob.
        for (key, work_ms) in [(&keys[0], 300), (&keys[1], 100)] {
            for n in cluster.numbers() {
                let answer = cluster.invoke(n, key, &format!("{name}?work_ms={work_ms}"), "").await.unwrap();
                assert_eq!(answer.status, 200, "{answer:?}");
            }
        }
    }
    let scaled_to_zero = || async {
        for name in ["owned", "shared"] {
            let live = cluster.client().instances(Some(name)).await?;
            ensure!(live.is_empty(), "{live:?}");
        }
        Ok(())
    };
    until("both are scaled to zero", SOON, scaled_to_zero).await.unwrap();

    for name in ["owned", "shared"] {
        let rows = used(&cluster, name).await.unwrap();
        let instances = cluster.instances_ever(name).await.unwrap();
        let (mut lived, mut starting) = (0, 0);
        for instance in &instances {
            assert_eq!(
                (instance.phase.as_str(), instance.cause.as_str()),
                ("stopped", "queued"),
                "{instance:?}"
            );
            starting += millis(&instance.launched_at, instance.ready_at.as_deref().unwrap()).unwrap();
            lived += millis(&instance.launched_at, instance.ended_at.as_deref().unwrap()).unwrap();
        }
        let paid: u64 = rows.values().map(|row| row.instance_ms).sum();
        assert_eq!(paid, lived, "of {name} all is paid and no more: {rows:?} {instances:?}");
        let memory: u64 = rows.values().map(|row| row.instance_memory_mb_ms).sum();
        assert_eq!(memory, 16 * lived);
        let part = |account: &str| rows.get(account).map_or(0, |row| row.instance_ms);
        match name {
            "owned" => assert_eq!((part("root"), part("alice"), part("bob")), (lived, 0, 0)),
            _ => {
                assert_eq!(part("root"), 0, "{rows:?}");
                assert!(part("alice") > part("bob") && part("bob") > 0, "{rows:?}");
                let busy = |account: &str| rows[account].busy_ms;
                let fair = lived * busy("alice") / (busy("alice") + busy("bob"));
                // The parts of several instances are split one by one.
                assert!(instances.len() > 1 || part("alice").abs_diff(fair) <= 1, "not {fair}: {rows:?}");
            }
        }
        let busy: u64 = rows.values().map(|row| row.busy_ms).sum();
        assert!(busy >= 1_200, "{rows:?}");
        // Each was launched because someone waited, and brought down soon after.
        let (startup, burst) = rows
            .values()
            .fold((0, 0), |(startup, burst), row| (startup + row.startup_ms, burst + row.burst_startup_ms));
        assert_eq!((startup, burst), (starting, starting), "{rows:?} {instances:?}");
        assert_eq!(rows.get("root").map_or(0, |row| row.burst_startup_ms), 0, "root has called nothing");
    }
}

fn millis(from: &str, to: &str) -> anyhow::Result<u64> {
    let at = |text: &str| text.parse::<jiff::Timestamp>().map(jiff::Timestamp::as_millisecond);
    u64::try_from(at(to)? - at(from)?).context("it ended before it began")
}
