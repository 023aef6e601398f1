//! Looks at the cluster while it is broken: what each node believes, and what runs. It asks for local
//! views, which a node gives without any other.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;
use http::Method;
use muster_api::Instance;
use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;

use super::evidence::{Population, ReadySaid, Sample};
use super::gather;
use super::workload::{Seen, Stage, rest};

const SAMPLE_EVERY: Duration = Duration::from_millis(250);
const SAMPLE_LIMIT: Duration = Duration::from_millis(250);
/// Samples kept: five hours of five nodes. A longer run keeps the first ones, and the report says so.
pub(super) const SAMPLES_MAX: usize = 400_000;
/// Listing processes or containers is not free on a busy machine.
const COUNT_EVERY: Duration = Duration::from_secs(1);
const COUNT_LIMIT: Duration = Duration::from_secs(1);
/// Half a day of seconds.
const POPULATIONS_MAX: usize = 45_000;
/// Hexadecimal digits of a digest that are kept: chance makes no two of 128 bits alike.
const DIGEST_CHARS: usize = 32;

/// What `node` believes, again and again.
pub(super) async fn node(
    stage: Stage,
    node: u64,
    seen: Arc<Mutex<Seen>>,
    stop: CancellationToken,
) -> Result<()> {
    while !stop.is_cancelled() {
        let ready = ready(&stage, node).await;
        // A node that does not answer leaves a gap, which tells as much.
        if let Some(sample) = sample(&stage, node).await {
            let sample = Sample { ready, ..sample };
            let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
            if seen.samples.len() < SAMPLES_MAX {
                seen.samples.push(sample);
            }
        }
        rest(&stop, SAMPLE_EVERY).await;
    }
    Ok(())
}

/// What `node` believes now; nothing if it does not say, or was started anew while it was asked.
pub(super) async fn sample(stage: &Stage, node: u64) -> Option<Sample> {
    let start = stage.cluster.starts(node);
    let view: muster_api::Cluster = local(stage, node, "/v1/cluster", SAMPLE_LIMIT).await?;
    let digest = view.digest.map(|applied| {
        let short = applied.digest.chars().take(DIGEST_CHARS).collect();
        (applied.index, short)
    });
    let at_us = stage.recorder.now_us();
    (stage.cluster.starts(node) == start).then_some(Sample {
        at_us,
        node,
        leader: view.leader,
        term: view.term,
        start,
        digest,
        ready: None,
    })
}

/// Whether `node` says that it is ready.
async fn ready(stage: &Stage, node: u64) -> Option<ReadySaid> {
    let asked_us = stage.recorder.now_us();
    let asked = stage.cluster.request(node, Method::GET, "/readyz", None).timeout(SAMPLE_LIMIT);
    let ready = asked.send().await.ok()?.status() == 200;
    Some(ReadySaid { asked_us, ready })
}

/// How many instances there are, by what nodes say and by what really runs.
pub(super) async fn population(stage: Stage, seen: Arc<Mutex<Seen>>, stop: CancellationToken) -> Result<()> {
    while !stop.is_cancelled() {
        // An engine that is being broken cannot be asked.
        let running = gather::running(&stage).await.ok();
        let listed = listed(&stage).await;
        if listed.is_some() || running.is_some() {
            let at_us = stage.recorder.now_us();
            let running = running.map(|counts| counts.values().sum());
            let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
            if seen.population.len() < POPULATIONS_MAX {
                seen.population.push(Population { at_us, listed: listed.unwrap_or_default(), running });
            }
        }
        rest(&stop, COUNT_EVERY).await;
    }
    Ok(())
}

/// Live instances by function, as the first node that answers knows them.
async fn listed(stage: &Stage) -> Option<BTreeMap<String, u64>> {
    for node in stage.cluster.running() {
        let Some(all) = local::<Vec<Instance>>(stage, node, "/v1/instances", COUNT_LIMIT).await else {
            continue;
        };
        let mut counts = BTreeMap::new();
        for instance in all {
            *counts.entry(instance.function).or_default() += 1;
        }
        return Some(counts);
    }
    None
}

async fn local<T: DeserializeOwned>(stage: &Stage, node: u64, path: &str, limit: Duration) -> Option<T> {
    let path = format!("{path}?consistency=local");
    let request = stage.cluster.request(node, Method::GET, &path, Some(stage.cluster.root_key()));
    request.timeout(limit).send().await.ok()?.json().await.ok()
}
