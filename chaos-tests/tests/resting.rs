//! Instances that serve nobody stand still, where nodes are told so, and nobody who calls them notices.

#![expect(clippy::unwrap_used, reason = "a test ends where what it relies on does not hold")]

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use muster_chaos::cluster::{Kind, programs};
use muster_chaos::load::Load;
use muster_chaos::wait::until;
use muster_chaos::{Cluster, Engine, Settings, functions};

const SOON: Duration = Duration::from_secs(30);
const PAUSE_AFTER: &str = "agent.pause_idle_after_ms";

/// The state of a process, or of a container.
fn state(kind: &Kind) -> Result<String> {
    match kind {
        Kind::Process(pid) => {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
            let state = stat.rsplit(") ").next().and_then(|rest| rest.split(' ').next());
            Ok(state.context("no state")?.to_owned())
        }
        Kind::Container(id) => {
            let words = ["inspect", "--format", "{{.State.Status}}", id];
            let said = Command::new("docker").args(words).output()?;
            Ok(String::from_utf8_lossy(&said.stdout).trim().to_owned())
        }
    }
}

/// Waits until the only instance stands still; what it is.
async fn at_rest(cluster: &Cluster) -> Kind {
    let still = || async {
        let bodies = cluster.bodies().await?;
        ensure!(bodies.len() == 1, "{bodies:?}");
        let state = state(&bodies[0].kind)?;
        ensure!(["T", "paused"].contains(&state.as_str()), "it is {state}");
        Ok(bodies[0].kind.clone())
    };
    until("the instance stands still", SOON, still).await.unwrap()
}

async fn serves_everyone(cluster: &Cluster) {
    for n in cluster.numbers() {
        let answer = cluster.invoke(n, cluster.root_key(), "restful", "").await.unwrap();
        assert_eq!((answer.status, answer.cold_start), (200, Some(false)), "{answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_serves_nobody_stands_still_and_is_there_for_the_next() {
    let cluster = Cluster::start(Settings::default().set(PAUSE_AFTER, 20)).await.unwrap();
    let mut spec = functions::faulty("echo");
    (spec.scaling.min, spec.scaling.max, spec.concurrency) = (1, 1, 4);
    cluster.client().put_function("restful", &spec).await.unwrap();
    cluster.client().wait_ready("restful", SOON).await.unwrap();
    cluster.spread().await.unwrap();
    let first = at_rest(&cluster).await;
    serves_everyone(&cluster).await;
    assert_eq!(at_rest(&cluster).await, first);

    // Calls that come as it is about to be paused, and while it is.
    let entries: Vec<_> = cluster.numbers().iter().map(|n| cluster.entry(*n, cluster.root_key())).collect();
    let calls = Load::start(1, Duration::from_millis(24), move |_, turn| {
        let entry = entries[turn % entries.len()].clone();
        async move { entry.invoke("restful", "").await.map(|answer| answer.status).map_err(|e| e.to_string()) }
    });
    let resumed = || async {
        let mut resumed = 0;
        for n in cluster.numbers() {
            resumed += cluster.metric(n, "muster_instances_resumed_total").await?;
        }
        ensure!(resumed >= 50, "{resumed} times");
        Ok(())
    };
    until("it has gone on many times", SOON, resumed).await.unwrap();
    let calls = calls.stop().await;
    let failed: Vec<_> = calls.iter().filter(|call| call.value != Ok(200)).collect();
    assert!(failed.is_empty(), "{} of {}: {:?}", failed.len(), calls.len(), failed[0]);

    at_rest(&cluster).await;
    cluster.client().delete_function("restful", true).await.unwrap();
    let gone = || async {
        ensure!(cluster.bodies().await?.is_empty() && cluster.remains().await?.is_empty(), "it is there");
        Ok(())
    };
    until("a paused instance is stopped", SOON, gone).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_at_rest_outlives_its_node_and_goes_on_with_the_next() {
    let Some(image) = programs::image() else { return };
    let settings = Settings::default().engine(Engine::Docker).set(PAUSE_AFTER, 200);
    let cluster = Cluster::start(settings.set("controller.returning_after_ms", 15_000)).await.unwrap();
    let mut spec = functions::faulty_image(image, "echo");
    (spec.scaling.min, spec.scaling.max) = (1, 1);
    cluster.client().put_function("restful", &spec).await.unwrap();
    cluster.client().wait_ready("restful", SOON).await.unwrap();
    let first = at_rest(&cluster).await;
    serves_everyone(&cluster).await;
    at_rest(&cluster).await;

    cluster.kill_all().unwrap();
    assert_eq!(state(&first).unwrap(), "paused", "it outlives its node");
    cluster.start_all().await.unwrap();
    cluster.spread().await.unwrap();
    serves_everyone(&cluster).await;
    assert_eq!(at_rest(&cluster).await, first, "the same goes on");
    let ever = cluster.instances_ever("restful").await.unwrap();
    assert_eq!(ever.iter().map(|i| &i.id).collect::<BTreeSet<_>>().len(), 1, "{ever:?}");
}
