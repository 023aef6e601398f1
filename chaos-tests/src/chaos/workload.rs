//! Workers that carry out their steps, probes that write without rest, and watchers of who leads.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use http::Method;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::evidence::{Bounds, Sample};
use super::history::Recorder;
use super::op::{Op, Outcome};
use super::perform::{Keys, perform};
use super::plan::Plan;
use crate::Cluster;

/// Probes write often and give up soon: the gaps between their acknowledgements are what is measured.
const PROBE_EVERY: Duration = Duration::from_millis(150);
const PROBE_LIMIT: Duration = Duration::from_millis(1_500);
/// Writes of one probe to one register.
const PROBE_EPOCH: u64 = 60;
const SAMPLE_EVERY: Duration = Duration::from_millis(500);
const SAMPLE_LIMIT: Duration = Duration::from_millis(250);
/// Samples kept: an hour of three nodes.
const SAMPLES_MAX: usize = 25_000;

const STALL_EVERY: Duration = Duration::from_millis(100);
/// A disk or a scheduler that takes longer is not fit to measure recovery with.
const STALL_MIN_US: u64 = 300_000;
const STALLS_MAX: usize = 100_000;

/// What all parts of a run share.
#[derive(Clone, Debug)]
pub struct Stage {
    pub cluster: Arc<Cluster>,
    pub recorder: Arc<Recorder>,
    pub keys: Arc<Keys>,
    pub bounds: Bounds,
}

impl Stage {
    /// Writes an operation down, sends it, and writes down how it ended.
    ///
    /// # Errors
    /// Where it cannot be written down.
    pub async fn act(&self, worker: u64, node: u64, op: &Op, limit: Option<Duration>) -> Result<Outcome> {
        let id = self.recorder.begin(worker, node, op)?;
        let margin = Duration::from_millis(self.bounds.margin_ms);
        let outcome = perform(&self.cluster, &self.keys, node, id, op, limit, margin).await?;
        self.recorder.end(id, outcome.clone())?;
        Ok(outcome)
    }
}

/// A workload that runs until it is stopped.
#[derive(Debug)]
pub struct Workload {
    stop: CancellationToken,
    tasks: JoinSet<Result<()>>,
    seen: Arc<Mutex<Seen>>,
}

/// What was seen beside the operations.
#[derive(Debug, Default)]
pub struct Seen {
    pub samples: Vec<Sample>,
    pub stalls: Vec<(u64, u64)>,
}

impl Workload {
    /// Starts everything; `scratch` is a file on the disk that the nodes use.
    ///
    /// # Errors
    /// Where that file cannot be made.
    pub fn start(stage: &Stage, plan: &Plan, scratch: &Path) -> Result<Self> {
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        let seen = Arc::default();
        let scratch = File::create(scratch).context("cannot make a scratch file")?;
        tasks.spawn(watch_machine(stage.clone(), scratch, Arc::clone(&seen), stop.clone()));
        for worker in 0..plan.workers {
            tasks.spawn(work(stage.clone(), plan.clone(), worker, stop.clone()));
        }
        for node in 1..=plan.nodes {
            tasks.spawn(probe(stage.clone(), plan.workers + node, node, stop.clone()));
            tasks.spawn(sample(stage.clone(), node, Arc::clone(&seen), stop.clone()));
        }
        Ok(Workload { stop, tasks, seen })
    }

    /// Lets what is under way end.
    ///
    /// # Errors
    /// Where a worker had to give up.
    pub async fn stop(mut self) -> Result<Seen> {
        self.stop.cancel();
        while let Some(ended) = self.tasks.join_next().await {
            ended.context("a worker panicked")??;
        }
        Ok(std::mem::take(&mut *self.seen.lock().unwrap_or_else(PoisonError::into_inner)))
    }
}

async fn work(stage: Stage, plan: Plan, worker: u64, stop: CancellationToken) -> Result<()> {
    for step in plan.steps(worker) {
        if stop.is_cancelled() {
            break;
        }
        stage.act(worker, step.node, &step.op, None).await?;
        rest(&stop, step.pause).await;
    }
    Ok(())
}

/// Writes through one node, to registers that nobody else writes.
async fn probe(stage: Stage, worker: u64, node: u64, stop: CancellationToken) -> Result<()> {
    for rev in 1.. {
        if stop.is_cancelled() {
            break;
        }
        let op = Op::PutFunction { name: format!("probe-{node}-{}", rev / PROBE_EPOCH), rev };
        stage.act(worker, node, &op, Some(PROBE_LIMIT)).await?;
        rest(&stop, PROBE_EVERY).await;
    }
    Ok(())
}

async fn sample(stage: Stage, node: u64, seen: Arc<Mutex<Seen>>, stop: CancellationToken) -> Result<()> {
    while !stop.is_cancelled() {
        let path = "/v1/cluster?consistency=local";
        let request = stage.cluster.request(node, Method::GET, path, Some(stage.cluster.root_key()));
        let view = async { request.timeout(SAMPLE_LIMIT).send().await?.json::<muster_api::Cluster>().await };
        // A node that does not answer leaves a gap, which tells as much.
        if let Ok(view) = view.await {
            let (at_us, leader, term) = (stage.recorder.now_us(), view.leader, view.term);
            let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
            if seen.samples.len() < SAMPLES_MAX {
                seen.samples.push(Sample { at_us, node, leader, term });
            }
        }
        rest(&stop, SAMPLE_EVERY).await;
    }
    Ok(())
}

/// Writes and syncs now and then: where that stands still, so does every node's log.
async fn watch_machine(
    stage: Stage,
    scratch: File,
    seen: Arc<Mutex<Seen>>,
    stop: CancellationToken,
) -> Result<()> {
    let scratch = Arc::new(scratch);
    while !stop.is_cancelled() {
        let begin_us = stage.recorder.now_us();
        let file = Arc::clone(&scratch);
        let write = move || (&*file).write_all(b"x").and_then(|()| file.sync_data());
        tokio::task::spawn_blocking(write).await.context("a write panicked")?.context("cannot write")?;
        let timer_us = stage.recorder.now_us();
        rest(&stop, STALL_EVERY).await;
        let late_us = stage.recorder.now_us().saturating_sub(timer_us + 100_000);
        let took_us = timer_us - begin_us;
        if took_us.max(late_us) > STALL_MIN_US {
            let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
            if seen.stalls.len() < STALLS_MAX {
                seen.stalls.push((begin_us, stage.recorder.now_us()));
            }
        }
    }
    Ok(())
}

async fn rest(stop: &CancellationToken, span: Duration) {
    // Stopped or rested: the loop's head tells.
    let _rested = tokio::time::timeout(span, stop.cancelled()).await;
}
