//! Functions that misbehave: callers get a typed answer in time, launches back off, others are
//! served meanwhile.

#![expect(clippy::unwrap_used, reason = "a test ends where what it relies on does not hold")]

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use muster_api::InvocationState::{self, NotStarted, Started, Unknown};
use muster_chaos::cluster::Blow;
use muster_chaos::load::Load;
use muster_chaos::wait::{stays, until};
use muster_chaos::{Cluster, Settings, functions};

const SOON: Duration = Duration::from_secs(30);
/// One deadline covers queue, start and run of each of these functions.
const TIMEOUT_MS: u64 = 3_000;
/// Of functions whose requests are to begin: starting them takes a part of it, on a busy machine a large one.
const LONG_TIMEOUT_MS: u64 = 10_000;
/// What an answer may take beyond it, on a busy machine; one that never comes takes longer.
const SLACK: Duration = Duration::from_secs(8);

/// The pause after the first failure, as documented; it doubles with each further one.
const PAUSE_FIRST_MS: i64 = 500;

fn millis(time: &str) -> i64 {
    time.parse::<jiff::Timestamp>().unwrap().as_millisecond()
}

struct Fault {
    mode: &'static str,
    status: u16,
    state: InvocationState,
    /// What the answer says of it, among other things.
    detail: &'static str,
}

impl Fault {
    fn timeout_ms(&self) -> u64 {
        if self.state == NotStarted { TIMEOUT_MS } else { LONG_TIMEOUT_MS }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_fault_has_a_typed_answer_in_time_and_harms_nobody_else() {
    let cluster = Cluster::start(Settings::default()).await.unwrap();
    let admin = cluster.client();
    let mut healthy = functions::faulty("echo");
    healthy.scaling.min = 1;
    admin.put_function("healthy", &healthy).await.unwrap();
    let faults = [
        Fault { mode: "crash", status: 502, state: NotStarted, detail: "code 3" },
        Fault { mode: "never-ready", status: 502, state: NotStarted, detail: "ready" },
        Fault { mode: "exit-mid-request", status: 502, state: Started, detail: "" },
        Fault { mode: "nonsense", status: 502, state: Started, detail: "" },
        Fault { mode: "hang", status: 504, state: Started, detail: "deadline" },
    ];
    for fault in &faults {
        let mut spec = functions::faulty(fault.mode);
        spec.timeout_ms = fault.timeout_ms();
        if fault.state == NotStarted {
            spec.startup_timeout_ms = 300;
        }
        admin.put_function(fault.mode, &spec).await.unwrap();
    }
    admin.wait_ready("healthy", SOON).await.unwrap();
    cluster.spread().await.unwrap();

    let entry = cluster.entry(1, cluster.root_key());
    let meanwhile = Load::start(2, Duration::from_millis(20), move |_, _| {
        let entry = entry.clone();
        async move { entry.invoke("healthy", "").await.map(|answer| answer.status).map_err(|e| e.to_string()) }
    });
    let calls =
        faults.iter().zip([1, 2, 3].into_iter().cycle()).map(|(fault, n)| answered(&cluster, fault, n));
    futures_util::future::join_all(calls).await;
    let outcomes = meanwhile.stop().await;
    assert!(outcomes.len() > 20, "{} requests to the healthy function", outcomes.len());
    let failed: Vec<_> = outcomes.iter().filter(|o| o.value != Ok(200)).collect();
    assert!(failed.is_empty(), "{failed:?}");
}

async fn answered(cluster: &Cluster, fault: &Fault, n: u64) {
    let Fault { mode, status, state, detail } = fault;
    let timeout = Duration::from_millis(fault.timeout_ms());
    let began = Instant::now();
    let answer = cluster.invoke(n, cluster.root_key(), mode, "hello").await.unwrap();
    let took = began.elapsed();
    assert!(took < timeout + SLACK, "{mode} took {took:?}");
    let problem = answer.problem.clone().unwrap_or_else(|| panic!("{mode}: {answer:?}"));
    // A start that has not failed often enough to be given up may outlast the deadline instead.
    let overdue = *state == NotStarted && answer.status == 504;
    assert!(answer.status == *status || overdue, "{mode}: {problem:?}");
    assert_eq!(problem.invocation_state, Some(*state), "{mode}: {problem:?}");
    assert!(overdue || problem.detail.contains(detail), "{mode}: {problem:?}");
    assert!(problem.invocation_id.is_some() && problem.invocation_id == answer.invocation_id, "{mode}");
}

/// What a function began to answer is passed on, and its breaking off too.
#[tokio::test(flavor = "multi_thread")]
async fn a_truncated_answer_is_not_passed_off_as_whole() {
    let cluster = Cluster::start(Settings::default()).await.unwrap();
    cluster.client().put_function("truncate", &functions::faulty("truncate")).await.unwrap();
    cluster.spread().await.unwrap();
    for n in cluster.numbers() {
        // Either way of saying so will do: a typed failure, or an answer that breaks off as it did.
        match cluster.invoke(n, cluster.root_key(), "truncate", "").await {
            Err(error) => assert!(error.is_body() || error.is_decode() || error.is_request(), "{error:?}"),
            Ok(answer) => {
                let said = matches!(answer.state(), Some(Started | Unknown));
                assert!(answer.status == 502 && said, "{answer:?}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn launches_that_fail_back_off_and_the_reason_is_shown() {
    let cluster = Cluster::start(Settings::default()).await.unwrap();
    let admin = cluster.client();
    let cases = [("crash", "exited with code 3"), ("never-ready", "ready")];
    for (mode, _) in cases {
        let mut spec = functions::faulty(mode);
        spec.startup_timeout_ms = 300;
        spec.scaling.min = 1;
        admin.put_function(mode, &spec).await.unwrap();
    }
    let failing = || async {
        for (mode, reason) in cases {
            let function = admin.function(mode).await?;
            ensure!(function.health == "crash_loop", "{mode}: {}", function.health);
            let why = function.last_failure.unwrap_or_default();
            ensure!(why.contains(reason), "{mode}: {why}");
            ensure!(function.retry_at.is_some(), "{mode} does not say when it is tried again");
        }
        Ok(())
    };
    until("the functions are seen to be in a crash loop", SOON, failing).await.unwrap();

    // Pauses of 0.5, 1, 2, … seconds follow the failures, however long each of them took.
    let ever_rarer = || async {
        for (mode, _) in cases {
            let mut launched = cluster.instances_ever(mode).await?;
            launched.sort_by_key(|i| millis(&i.launched_at));
            ensure!(launched.iter().all(|i| i.phase != "ready"), "{mode}: {launched:?}");
            let failed = launched.iter().filter(|i| i.phase == "failed").count();
            ensure!(failed >= 3, "{mode}: {failed} failures until it was a crash loop");
            let mut least = PAUSE_FIRST_MS;
            for two in launched.windows(2).filter(|two| two[0].phase == "failed") {
                let ended = two[0].ended_at.as_deref().context("it has ended")?;
                let pause = millis(&two[1].launched_at) - millis(ended);
                ensure!(pause >= least, "{mode}: a pause of {pause} ms, not {least} ms: {two:?}");
                least *= 2;
            }
        }
        Ok(())
    };
    stays("launches are ever rarer", Duration::from_secs(3), ever_rarer).await.unwrap();
    for (mode, reason) in cases {
        // Nobody is kept waiting for what will not come.
        let began = Instant::now();
        let answer = cluster.invoke(2, cluster.root_key(), mode, "").await.unwrap();
        assert!(began.elapsed() < SLACK, "{mode} took {:?}", began.elapsed());
        assert_eq!((answer.status, answer.state()), (502, Some(NotStarted)), "{answer:?}");
        assert!(answer.retry_after.is_some(), "{mode}: no Retry-After");
        assert!(answer.problem.unwrap().detail.contains(reason), "{mode}");
        let ended = cluster.instances_ever(mode).await.unwrap();
        let reasons = ended.iter().filter_map(|i| i.reason.as_deref()).filter(|why| why.contains(reason));
        assert!(reasons.count() >= 3, "{mode}: {ended:?}");
        let decisions = admin.decisions(Some(mode)).await.unwrap();
        assert!(decisions.iter().any(|d| d.action == "hold" && d.reason.contains(reason)), "{decisions:?}");
    }

    // A mended function is not made to pay for its past.
    let mut mended = functions::faulty("echo");
    mended.scaling.min = 1;
    admin.put_function("crash", &mended).await.unwrap();
    cluster.spread().await.unwrap();
    let began = Instant::now();
    let answer = cluster.invoke(3, cluster.root_key(), "crash", "").await.unwrap();
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    assert_eq!(admin.function("crash").await.unwrap().health, "ok");
}

/// One that nobody asks, and one whose every caller waits in vain: both stand still, and nothing tells of it but
/// their silence.
#[tokio::test(flavor = "multi_thread")]
async fn instances_that_hang_are_given_up_and_replaced() {
    let cluster = Cluster::start(Settings::default().set("agent.probe_every_ms", 200)).await.unwrap();
    let admin = cluster.client();
    let mut spec = functions::faulty("echo");
    spec.readiness_path = Some("/ready".into());
    (spec.scaling.min, spec.scaling.max, spec.concurrency, spec.timeout_ms) = (1, 1, 1, 1_000);
    for name in ["idle", "asked", "well"] {
        admin.put_function(name, &spec).await.unwrap();
        admin.wait_ready(name, SOON).await.unwrap();
    }
    cluster.spread().await.unwrap();
    let before = cluster.bodies().await.unwrap();
    let entry = cluster.entry(1, cluster.root_key());
    let asking = Load::start(2, Duration::from_millis(10), move |_, _| {
        let entry = entry.clone();
        async move { entry.invoke("asked", "").await.map(|answer| answer.status) }
    });
    for body in before.iter().filter(|body| body.function != "well") {
        assert!(cluster.strike(body, Blow::Freeze).await.unwrap());
    }
    let replaced = || async {
        for body in &before {
            let ever = cluster.instances_ever(&body.function).await?;
            let old = ever.iter().find(|i| i.id == body.instance).context("the old one is not listed")?;
            if body.function == "well" {
                ensure!(old.phase == "ready", "{old:?}");
                continue;
            }
            ensure!(old.phase == "failed", "{old:?}");
            let reason = old.reason.as_deref().unwrap_or_default();
            ensure!(reason.contains("does not answer any more"), "{reason}");
            ensure!(ever.iter().any(|i| i.phase == "ready" && i.id != old.id), "{ever:?}");
        }
        Ok(())
    };
    until("both are replaced", 2 * SOON, replaced).await.unwrap();
    let served = || async {
        for name in ["idle", "asked"] {
            let answer = cluster.invoke(2, cluster.root_key(), name, "").await?;
            ensure!(answer.status == 200, "{name}: {answer:?}");
        }
        Ok(())
    };
    until("both serve", SOON, served).await.unwrap();
    asking.stop().await;
    let left = || async {
        let bodies = cluster.bodies().await?;
        ensure!(bodies.len() == 3, "{bodies:?}");
        Ok(())
    };
    until("nothing of the old ones is left", SOON, left).await.unwrap();
}
