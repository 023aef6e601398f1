//! Up for a burst and for utilization, down without losing a request, to zero when nobody asks; new
//! versions and deletion.

#![expect(clippy::unwrap_used, reason = "a test ends where what it relies on does not hold")]

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use muster_chaos::cluster::Entry;
use muster_chaos::load::{Load, Outcome};
use muster_chaos::wait::{stays, until};
use muster_chaos::{Cluster, Settings, functions};

const SOON: Duration = Duration::from_secs(30);

type Call = Result<(u16, String), String>;

/// Calls of one function through all nodes in turn, each worker's without a pause.
fn callers(cluster: &Cluster, workers: usize, function: &str) -> Load<Call> {
    callers_with_pause(cluster, workers, function, Duration::ZERO)
}

fn callers_with_pause(cluster: &Cluster, workers: usize, function: &str, pause: Duration) -> Load<Call> {
    let entries: Vec<Entry> =
        cluster.numbers().into_iter().map(|n| cluster.entry(n, cluster.root_key())).collect();
    let function = function.to_owned();
    Load::start(workers, pause, move |worker, turn| {
        let (entry, function) = (entries[(worker + turn) % entries.len()].clone(), function.clone());
        async move {
            let answer = entry.invoke(&function, "").await.map_err(|error| format!("{error:?}"))?;
            Ok((answer.status, String::from_utf8_lossy(&answer.body).into_owned()))
        }
    })
}

fn check_all_answered(calls: &[Outcome<Call>], at_least: usize) {
    assert!(calls.len() >= at_least, "only {} calls", calls.len());
    let failed: Vec<&Call> =
        calls.iter().map(|call| &call.value).filter(|call| !matches!(call, Ok((200, _)))).collect();
    assert!(failed.is_empty(), "{} of {} calls failed: {:?}", failed.len(), calls.len(), failed[0]);
}

async fn ready(cluster: &Cluster, function: &str) -> anyhow::Result<usize> {
    let instances = cluster.client().instances(Some(function)).await?;
    Ok(instances.iter().filter(|i| i.phase == "ready").count())
}

async fn decided(cluster: &Cluster, function: &str, action: &str) -> Vec<String> {
    let decisions = cluster.client().decisions(Some(function)).await.unwrap();
    decisions.into_iter().filter(|d| d.action == action).map(|d| d.reason).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_burst_from_zero_is_answered_by_no_more_than_the_maximum() {
    let cluster = Cluster::start(Settings::default()).await.unwrap();
    let mut spec = functions::faulty("echo");
    spec.env.insert("LOAD_MS".into(), "300".into());
    spec.concurrency = 2;
    spec.scaling.max = 4;
    cluster.client().put_function("burst", &spec).await.unwrap();
    cluster.spread().await.unwrap();
    let calls = (0..50).map(|call| cluster.invoke(call % 3 + 1, cluster.root_key(), "burst?work_ms=50", ""));
    let answers = futures_util::future::join_all(calls).await;
    let mut served_by = BTreeSet::new();
    for answer in answers {
        let answer = answer.unwrap();
        assert_eq!(answer.status, 200, "{answer:?}");
        served_by.insert(answer.instance.unwrap());
    }
    let launched = cluster.instances_ever("burst").await.unwrap();
    assert!((1..=4).contains(&launched.len()), "{launched:?}");
    assert!(launched.iter().all(|i| i.cause == "queued"), "{launched:?}");
    assert!(served_by.iter().all(|id| launched.iter().any(|i| i.id == *id)));
    let reasons = decided(&cluster, "burst", "launch").await;
    assert_eq!(reasons.len(), launched.len(), "each launch has its reason: {reasons:?}");
    assert!(reasons.iter().all(|reason| reason == "requests are waiting"), "{reasons:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn utilization_brings_instances_up_and_calm_brings_them_down_without_losing_a_request() {
    let cluster = Cluster::start(Settings::default()).await.unwrap();
    let mut spec = functions::faulty("echo");
    // Slots to spare, so that nothing ever waits: it is utilization alone that speaks.
    spec.concurrency = 10;
    spec.scaling.max = 4;
    spec.scaling.target_utilization = 0.2;
    (spec.scaling.window_ms, spec.scaling.keep_alive_ms) = (1_000, 4_000_u64.into());
    cluster.client().put_function("elastic", &spec).await.unwrap();
    cluster.spread().await.unwrap();

    let busy = callers(&cluster, 5, "elastic?work_ms=40");
    let scaled_up = || async {
        let ready = ready(&cluster, "elastic").await?;
        ensure!(ready >= 3, "{ready} instances");
        Ok(())
    };
    until("utilization has brought instances up", SOON, scaled_up).await.unwrap();
    let live = cluster.client().instances(Some("elastic")).await.unwrap();
    let most = cluster.instances_ever("elastic").await.unwrap();
    assert!(live.len() <= 4 && most.iter().filter(|i| i.cause == "utilization").count() >= 2, "{most:?}");
    assert!(decided(&cluster, "elastic", "launch").await.iter().any(|why| why.contains("utilization")));

    // Under way all the time, through every node, while instances are taken away.
    let calm = callers(&cluster, 1, "elastic?work_ms=40");
    check_all_answered(&busy.stop().await, 20);
    let scaled_down = || async {
        let instances = cluster.client().instances(Some("elastic")).await?;
        ensure!(instances.len() == 1, "{instances:?}");
        Ok(())
    };
    until("all but one are brought down", SOON, scaled_down).await.unwrap();
    let reasons = decided(&cluster, "elastic", "drain").await;
    check_all_answered(&calm.stop().await, 5);
    assert!(reasons.len() >= 2 && reasons.iter().all(|why| why.contains("utilization")), "{reasons:?}");

    let scaled_to_zero = || async {
        let instances = cluster.client().instances(Some("elastic")).await?;
        ensure!(instances.is_empty(), "{instances:?}");
        Ok(())
    };
    until("nobody asks, so none is kept", SOON, scaled_to_zero).await.unwrap();
    let ended = cluster.instances_ever("elastic").await.unwrap();
    assert!(ended.iter().all(|i| i.phase == "stopped"), "{ended:?}");
    assert!(decided(&cluster, "elastic", "drain").await[0].contains("keep-alive"), "the latest comes first");
    let idle = || async {
        ensure!(cluster.client().instances(Some("elastic")).await?.is_empty(), "one came back");
        Ok(())
    };
    stays("it stays at zero", Duration::from_secs(1), idle).await.unwrap();
    let again = cluster.invoke(3, cluster.root_key(), "elastic", "").await.unwrap();
    assert_eq!((again.status, again.cold_start), (200, Some(true)), "{again:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn scaling_down_again_and_again_under_load_loses_nothing() {
    let cluster = Cluster::start(Settings::default()).await.unwrap();
    let mut spec = functions::faulty("echo");
    spec.scaling.max = 3;
    (spec.scaling.window_ms, spec.scaling.keep_alive_ms) = (500, 500_u64.into());
    cluster.client().put_function("swing", &spec).await.unwrap();
    cluster.spread().await.unwrap();
    // A third of one instance's time: one is enough for it.
    let steady = callers_with_pause(&cluster, 1, "swing?work_ms=10", Duration::from_millis(20));
    for _ in 0..3 {
        let burst = callers(&cluster, 5, "swing?work_ms=30");
        let up = || async {
            let ready = ready(&cluster, "swing").await?;
            ensure!(ready == 3, "{ready} instances");
            Ok(())
        };
        until("the burst has brought all up", SOON, up).await.unwrap();
        check_all_answered(&burst.stop().await, 5);
        let down = || async {
            let instances = cluster.client().instances(Some("swing")).await?;
            ensure!(instances.len() == 1, "{instances:?}");
            Ok(())
        };
        until("one is enough again", SOON, down).await.unwrap();
    }
    check_all_answered(&steady.stop().await, 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_version_takes_over_without_a_failed_request() {
    let cluster = Cluster::start(Settings::default()).await.unwrap();
    let admin = cluster.client();
    let mut spec = functions::faulty("echo");
    spec.concurrency = 2;
    (spec.scaling.min, spec.scaling.max) = (2, 3);
    admin.put_function("rolled", &spec).await.unwrap();
    admin.wait_ready("rolled", SOON).await.unwrap();
    cluster.spread().await.unwrap();
    let is_old = |body: &str| body.contains(r#""executions""#);
    let load = callers(&cluster, 4, "rolled?work_ms=20&chunks=1&bytes=5");

    // The new version answers otherwise, and takes a while to start.
    spec.env.insert("MODE".into(), "big".into());
    spec.env.insert("LOAD_MS".into(), "200".into());
    let (created, function) = admin.put_function("rolled", &spec).await.unwrap();
    assert_eq!((created, function.version), (false, 2));
    let replaced = || async {
        let instances = admin.instances(Some("rolled")).await?;
        let old = instances.iter().filter(|i| i.version == 1).count();
        let new = instances.iter().filter(|i| i.version == 2 && i.phase == "ready").count();
        ensure!(old == 0 && new >= 2, "{instances:?}");
        Ok(())
    };
    until("the new version has taken over", SOON, replaced).await.unwrap();
    cluster.spread().await.unwrap();
    for n in cluster.numbers() {
        let answer = cluster.invoke(n, cluster.root_key(), "rolled?bytes=5", "").await.unwrap();
        assert_eq!(&answer.body[..], b"abcde", "{answer:?}");
    }
    let calls = load.stop().await;
    check_all_answered(&calls, 20);
    let old = calls.iter().filter(|call| call.value.as_ref().is_ok_and(|(_, body)| is_old(body))).count();
    assert!(old > 0 && old < calls.len(), "{old} of {} calls were answered by the old version", calls.len());

    // The same spec again is no change.
    let (_, same) = admin.put_function("rolled", &spec).await.unwrap();
    assert_eq!(same.version, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_function_with_instances_is_deleted_by_force_alone() {
    let cluster = Cluster::start(Settings::default()).await.unwrap();
    let admin = cluster.client();
    let mut spec = functions::faulty("echo");
    spec.scaling.min = 1;
    admin.put_function("kept", &spec).await.unwrap();
    admin.wait_ready("kept", SOON).await.unwrap();
    let refused = admin.delete_function("kept", false).await.unwrap_err();
    assert_eq!(refused.status(), Some(409), "{refused}");
    let processes = cluster.processes().len();
    assert_eq!(cluster.invoke(2, cluster.root_key(), "kept", "").await.unwrap().status, 200);

    admin.delete_function("kept", true).await.unwrap();
    let gone = admin.function("kept").await.unwrap_err();
    assert_eq!(gone.status(), Some(404), "{gone}");
    cluster.spread().await.unwrap();
    for n in cluster.numbers() {
        let answer = cluster.invoke(n, cluster.root_key(), "kept", "").await.unwrap();
        assert_eq!(answer.status, 404, "{answer:?}");
    }
    let stopped = || async {
        let left = cluster.processes().len();
        ensure!(left == processes - 1, "{left} processes of {processes}");
        let instances = cluster.instances_ever("kept").await?;
        let instance = instances.first().context("it is listed for a while")?;
        ensure!(instance.ended_at.is_some(), "{instance:?}");
        Ok(())
    };
    until("its instance is stopped", SOON, stopped).await.unwrap();

    // The name is free again, and begins anew.
    spec.scaling.min = 0;
    let (created, function) = admin.put_function("kept", &spec).await.unwrap();
    assert_eq!((created, function.version), (true, 1));
    admin.delete_function("kept", false).await.unwrap();
}

/// In the ancestor a readiness probe was a call of the function, each second, counted as load and billed.
#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_nobody_calls_is_not_called() {
    let cluster = Cluster::start(Settings::default()).await.unwrap();
    let admin = cluster.client();
    let mut spec = functions::faulty("echo");
    spec.scaling.min = 1;
    admin.put_function("quiet", &spec).await.unwrap();
    admin.wait_ready("quiet", SOON).await.unwrap();
    let unused = || async {
        let instances = admin.instances(Some("quiet")).await?;
        ensure!(instances.iter().all(|i| i.utilization.unwrap_or(0.0) == 0.0), "{instances:?}");
        Ok(())
    };
    stays("nothing is counted as load", Duration::from_secs(2), unused).await.unwrap();
    let answer = cluster.invoke(1, cluster.root_key(), "quiet", "").await.unwrap();
    let body: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!(body["executions"], 1, "the first call it sees is the first that was made");
    let billed = || async {
        let rows = admin.usage(&Default::default()).await?;
        let invocations: u64 = rows.iter().filter(|r| r.function == "quiet").map(|r| r.invocations).sum();
        ensure!(invocations == 1, "{rows:?}");
        Ok(())
    };
    until("that one is billed", SOON, billed).await.unwrap();
}

/// Within 3 s of its death, says the documentation, also if it led: with the settings as they are by default
/// that is up to 500 ms without a leader, 2 s of silence and up to 200 ms to the next plan. Here elections
/// take longer, and a debug build on a busy machine its time to launch.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_host_ran_is_replaced_soon_even_if_it_led() {
    // `raft.election_max_ms` of silence, and as long again at most until somebody stands.
    const ELECTED_WITHIN: Duration = Duration::from_millis(600 + 600);
    // `controller.down_after_ms`, which a new leader counts from its election, and `plan_every_ms`.
    const PLANNED_WITHIN: Duration = Duration::from_millis(2_000 + 200);
    // Votes, two commits, the starts of up to three programs and the answer to whoever asks.
    const DONE_WITHIN: Duration = Duration::from_millis(2_600);
    const TRIES: u32 = 3;
    // A new leader gives a node that it never heard 5 s instead, as after a restart of all, until others have
    // run for so long (`SETTLED_AFTER` in the planner).
    const SETTLED_AFTER: Duration = Duration::from_secs(10);
    let cluster = Cluster::start(Settings::default()).await.unwrap();
    let admin = cluster.client();
    let mut spec = functions::faulty("echo");
    (spec.scaling.min, spec.scaling.max) = (3, 3);
    admin.put_function("kept", &spec).await.unwrap();
    let mut all_there: Option<Instant> = None;
    // On a busy machine a try may be late; where nothing is done in time, all are.
    let mut left = TRIES;
    let mut tries = [false, true].into_iter();
    let mut leading = tries.next();
    while let Some(leads) = leading {
        let everywhere = || async {
            let instances = admin.instances(Some("kept")).await?;
            let ready: BTreeSet<u64> =
                instances.iter().filter(|i| i.phase == "ready").map(|i| i.node).collect();
            ensure!(ready.len() >= 2 && instances.len() == 3, "{instances:?}");
            let nodes = admin.nodes().await?;
            ensure!(nodes.iter().filter(|n| n.condition == "ready").count() == 3, "{nodes:?}");
            Ok(())
        };
        until("they are there", SOON, everywhere).await.unwrap();
        // All are registered; the node that is never killed has run since then.
        let since = *all_there.get_or_insert_with(Instant::now);
        if leads {
            tokio::time::sleep_until((since + SETTLED_AFTER).into()).await;
        }
        let leader = cluster.leader().await.unwrap();
        let hosts: BTreeSet<u64> =
            admin.instances(Some("kept")).await.unwrap().iter().map(|i| i.node).collect();
        let victim = if leads { leader } else { hosts.into_iter().find(|n| *n != leader).unwrap() };
        let survivors = cluster.client_of(&cluster.others(victim), cluster.root_key());
        cluster.kill(victim).unwrap();
        let killed = Instant::now();
        let replaced = || async {
            let instances = survivors.instances(Some("kept")).await?;
            let ready = instances.iter().filter(|i| i.phase == "ready" && i.node != victim).count();
            ensure!(ready == 3, "{instances:?}");
            Ok(())
        };
        until("it is replaced", SOON, replaced).await.unwrap();
        let took = killed.elapsed();
        println!("replaced within {took:?}; it led: {leads}");
        let elected = if leads { ELECTED_WITHIN } else { Duration::ZERO };
        let within = elected + PLANNED_WITHIN + DONE_WITHIN;
        left -= 1;
        assert!(took < within || left > 0, "replaced after {took:?}, not {within:?}; it led: {leads}");
        if took < within {
            (leading, left) = (tries.next(), TRIES);
        } else {
            all_there = None;
        }
        cluster.restart(victim).await.unwrap();
        cluster.converged(SOON).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_placed_says_why() {
    let cluster = Cluster::start(Settings::default()).await.unwrap();
    let mut spec = functions::faulty("echo");
    spec.memory_mb = 1024 * 1024;
    spec.scaling.min = 1;
    cluster.client().put_function("vast", &spec).await.unwrap();
    let mut image = spec.clone();
    (image.command, image.image, image.memory_mb) = (None, Some("nowhere".to_owned()), 4);
    cluster.client().put_function("boxed", &image).await.unwrap();
    for (function, reason) in
        [("vast", "3 nodes lack memory: need 1048576 MB"), ("boxed", "3 nodes lack the docker engine")]
    {
        let said = || async {
            let holds = decided(&cluster, function, "hold").await;
            ensure!(holds.iter().any(|why| why == reason), "{function}: {holds:?}");
            Ok(())
        };
        until("the decision says what is lacking", SOON, said).await.unwrap();
    }
}
