//! Workers that carry out their steps, and probes that write without rest. [`watch`] looks on.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::catalog::REDEPLOYED;
use super::census::{self, Census};
use super::evidence::{Bounds, Population, Sample};
use super::history::Recorder;
use super::op::{Op, Outcome, Verdict};
use super::perform::{Keys, perform};
use super::plan::Plan;
use super::watch;
use crate::{Cluster, Engine};

/// Probes write often and give up soon: the gaps between their acknowledgements are what is measured.
const PROBE_EVERY: Duration = Duration::from_millis(150);
const PROBE_LIMIT: Duration = Duration::from_millis(1_500);
/// A node that suffers must not keep the probe from writing on.
const READ_BACK_LIMIT: Duration = Duration::from_millis(250);
/// Long enough for the instances of the new version to be ready, short enough for a few turns a run.
const REDEPLOY_EVERY: Duration = Duration::from_millis(1_500);
/// Writes of one probe to one register.
const PROBE_EPOCH: u64 = 60;
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
    pub engine: Engine,
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
    pub population: Vec<Population>,
    pub stalls: Vec<(u64, u64)>,
    pub census: Census,
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
        tasks.spawn(census::watch(stage.clone(), plan.nodes, Arc::clone(&seen), stop.clone()));
        tasks.spawn(watch_machine(stage.clone(), scratch, Arc::clone(&seen), stop.clone()));
        for worker in 0..plan.workers {
            tasks.spawn(work(stage.clone(), plan.clone(), worker, stop.clone()));
        }
        for node in 1..=plan.nodes {
            tasks.spawn(probe(stage.clone(), plan.clone(), node, stop.clone()));
            tasks.spawn(watch::node(stage.clone(), node, Arc::clone(&seen), stop.clone()));
        }
        tasks.spawn(watch::population(stage.clone(), Arc::clone(&seen), stop.clone()));
        tasks.spawn(redeploy(stage.clone(), plan.clone(), stop.clone()));
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

/// Gives functions new versions while they are invoked: the old ones must finish what they serve.
async fn redeploy(stage: Stage, plan: Plan, stop: CancellationToken) -> Result<()> {
    // The last of the workers; those who look at what is alive at the end come behind it.
    let worker = plan.workers + plan.nodes + 2;
    let mut specs = Vec::new();
    for name in REDEPLOYED {
        let deployed: muster_api::Function = stage.cluster.get(1, &format!("/v1/functions/{name}")).await?;
        specs.push((name, deployed.spec));
    }
    for (version, node) in (1_u64..).zip((1..=plan.nodes).cycle()) {
        rest(&stop, REDEPLOY_EVERY).await;
        if stop.is_cancelled() {
            break;
        }
        let turn = usize::try_from(version % specs.len() as u64).context("a small number")?;
        let (name, spec) = &mut specs[turn];
        spec.env.insert("VERSION".into(), version.to_string());
        let spec = serde_json::to_value(&*spec).context("a spec is plain data")?;
        stage.act(worker, node, &Op::Deploy { function: (*name).to_owned(), spec }, None).await?;
    }
    Ok(())
}

/// Writes through one node, to registers that nobody else writes, and at once reads what it wrote:
/// there from the node's own state, and through another node.
async fn probe(stage: Stage, plan: Plan, node: u64, stop: CancellationToken) -> Result<()> {
    let worker = plan.workers + node;
    for rev in 1.. {
        if stop.is_cancelled() {
            break;
        }
        let op = Op::PutFunction { name: probed(node, rev), rev };
        let written = stage.act(worker, node, &op, Some(PROBE_LIMIT)).await?;
        if written.verdict == Verdict::Done {
            // Before anyone has caught up of its own accord.
            for (at, local) in [(node, true), (node % plan.nodes + 1, false)] {
                let read = Op::ReadFunction { name: probed(node, rev), local };
                stage.act(worker, at, &read, Some(READ_BACK_LIMIT)).await?;
            }
        }
        rest(&stop, PROBE_EVERY).await;
    }
    Ok(())
}

fn probed(node: u64, rev: u64) -> String {
    format!("probe-{node}-{}", rev / PROBE_EPOCH)
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

pub(super) async fn rest(stop: &CancellationToken, span: Duration) {
    // Stopped or rested: the loop's head tells.
    let _rested = tokio::time::timeout(span, stop.cancelled()).await;
}
