//! After the faults: shows that the cluster lives, waits until it is quiet, and collects what is
//! judged.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use muster_api::{Account, Function, Instance, Usage};
use serde_json::Value;

use super::catalog;
use super::evidence::{Bounds, FinalView, Finals, Liveness};
use super::op::{Mode, Op, Verdict};
use super::perform::{granted, rev};
use super::plan::Plan;
use super::recorder;
use super::workload::Stage;
use crate::Engine;
use crate::wait::until;

/// Between two attempts at something that must succeed soon.
const RETRY_PAUSE: Duration = Duration::from_millis(200);
/// Usage that has not changed for as long is in the ledger: nodes ship it ten times a second.
const QUIET: Duration = Duration::from_secs(1);
/// What every replica must answer alike. Loads are soft state and taken out.
const LOCAL_VIEWS: [&str; 5] = [
    "/v1/functions?consistency=local",
    "/v1/accounts?consistency=local",
    "/v1/nodes?consistency=local",
    "/v1/instances?consistency=local&all=true",
    "/v1/usage?consistency=local&by=hour",
];
/// Lines of panics kept per node.
const PANICS_MAX: usize = 20;

/// A write and an invocation through each node, each within the bound.
///
/// # Errors
/// Where the history cannot be written.
pub async fn liveness(stage: &Stage, plan: &Plan) -> Result<Vec<Liveness>> {
    let worker = plan.workers + plan.nodes + 1;
    let mut all = Vec::new();
    let invoked = [catalog::ACKNOWLEDGED, catalog::REPLICATED, catalog::INTERVAL, catalog::COLD];
    for node in 1..=plan.nodes {
        let name = format!("alive-{node}");
        let mut asked = vec![("write".to_owned(), Op::PutFunction { name: name.clone(), rev: 1 })];
        asked.push(("read".to_owned(), Op::ReadFunction { name, local: false }));
        for function in invoked {
            let (function, caller) = (function.to_owned(), catalog::ACCOUNTS[0].to_owned());
            let op = Op::Invoke { function: function.clone(), caller, work_ms: 0, mode: Mode::Answer };
            asked.push((format!("invoke {function}"), op));
        }
        for (what, op) in asked {
            all.push(attempt(stage, worker, node, what, &op).await?);
        }
    }
    Ok(all)
}

async fn attempt(stage: &Stage, worker: u64, node: u64, what: String, op: &Op) -> Result<Liveness> {
    let began = Instant::now();
    let bound = Duration::from_millis(stage.bounds.liveness_ms);
    loop {
        let outcome = stage.act(worker, node, op, None).await?;
        let took = began.elapsed();
        if outcome.verdict == Verdict::Done {
            let after_ms = u64::try_from(took.as_millis()).ok();
            return Ok(Liveness { node, what, after_ms, detail: String::new() });
        }
        if took >= bound {
            return Ok(Liveness { node, what, after_ms: None, detail: outcome.detail });
        }
        tokio::time::sleep(RETRY_PAUSE).await;
    }
}

/// Collects the end of the run. What does not come to rest within the bound is collected as it is:
/// the invariants will find it.
///
/// # Errors
/// Where a node does not answer at all.
pub async fn finals(stage: &Stage, plan: &Plan, executions: &Path) -> Result<Finals> {
    let mut finals = Finals::default();
    let within = Duration::from_millis(stage.bounds.settle_ms);
    // In vain or not: what is collected afterwards tells.
    let _quiet = until("usage is in the ledger", within, || quiet(stage)).await;
    let _agree = until("instances and processes agree", within, || agree(stage, plan.engine())).await;
    for node in 1..=plan.nodes {
        finals.views.insert(node, view(stage, node).await?);
    }
    // Kept though they differ: what differs is what a reader wants to see.
    let seen = Mutex::new(Replicas::default());
    let _same = until("replicas agree", within, || async {
        let (applied, replicas) = replicas(stage, plan).await?;
        let same = replicas.values().all(|view| Some(view) == replicas.values().next());
        *seen.lock().unwrap_or_else(PoisonError::into_inner) = (applied, replicas);
        ensure!(same, "replicas differ");
        Ok(())
    })
    .await;
    (finals.applied, finals.replicas) = seen.into_inner().unwrap_or_else(PoisonError::into_inner);
    finals.usage = get(stage, 1, "/v1/usage?by=total").await?;
    finals.instances = get(stage, 1, "/v1/instances?all=true").await?;
    finals.running = running(stage, plan.engine())?;
    if plan.engine() == Engine::Process {
        finals.executions = Some(recorder::executions(executions)?);
    }
    for node in 1..=plan.nodes {
        let log = stage.cluster.log(node);
        let telling = log.lines().filter(|line| line.contains("panicked at") || line.starts_with("Error:"));
        let telling = telling.filter(|line| !line.contains("cannot listen on"));
        finals.panics.extend(telling.take(PANICS_MAX).map(|line| (node, line.to_owned())));
        if stage.cluster.ended(node, Duration::ZERO).await.is_ok() {
            finals.ended.push(node);
        }
    }
    Ok(finals)
}

async fn get<T: serde::de::DeserializeOwned>(stage: &Stage, node: u64, path: &str) -> Result<T> {
    stage.cluster.get(node, path).await
}

async fn quiet(stage: &Stage) -> Result<()> {
    let counts = || async {
        let usage: Vec<Usage> = get(stage, 1, "/v1/usage?by=total").await?;
        anyhow::Ok(usage.into_iter().map(|u| (u.account, u.function, u.invocations)).collect::<Vec<_>>())
    };
    let before = counts().await?;
    tokio::time::sleep(QUIET).await;
    ensure!(before == counts().await?, "usage still arrives");
    Ok(())
}

/// The registers as `node` answers them, linearizably.
async fn view(stage: &Stage, node: u64) -> Result<FinalView> {
    let begin_us = stage.recorder.now_us();
    let functions: Vec<Function> = get(stage, node, "/v1/functions").await?;
    let accounts: Vec<Account> = get(stage, node, "/v1/accounts").await?;
    let end_us = stage.recorder.now_us();
    let mut registers = BTreeMap::new();
    for function in &functions {
        registers.extend(rev(function).map(|rev| (format!("function:{}", function.name), rev)));
    }
    for account in &accounts {
        registers.insert(format!("account:{}", account.name), 1);
        registers.extend(granted(account).map(|bits| (format!("grant:{}", account.name), bits)));
    }
    let keys: BTreeSet<String> = accounts.into_iter().flat_map(|a| a.keys).map(|key| key.id).collect();
    Ok(FinalView { begin_us, end_us, registers, keys })
}

type Replicas = (BTreeMap<u64, u64>, BTreeMap<u64, BTreeMap<String, String>>);

/// What each node knows by itself, at an index that all had applied before and after.
async fn replicas(stage: &Stage, plan: &Plan) -> Result<Replicas> {
    let applied = || async {
        let mut applied = BTreeMap::new();
        for node in 1..=plan.nodes {
            applied.insert(node, stage.cluster.applied(node).await?);
        }
        anyhow::Ok(applied)
    };
    let before = applied().await?;
    let mut replicas: BTreeMap<u64, BTreeMap<String, String>> = BTreeMap::new();
    for node in 1..=plan.nodes {
        for path in LOCAL_VIEWS {
            let mut view: Value = get(stage, node, path).await?;
            for row in view.as_array_mut().into_iter().flatten().filter_map(Value::as_object_mut) {
                row.remove("utilization");
                row.remove("in_flight");
            }
            replicas.entry(node).or_default().insert(path.to_owned(), view.to_string());
        }
    }
    let after = applied().await?;
    ensure!(before == after, "the log goes on");
    ensure!(after.values().min() == after.values().max(), "applied by node: {after:?}");
    Ok((after, replicas))
}

/// Whether what should run and what runs are the same.
async fn agree(stage: &Stage, engine: Engine) -> Result<()> {
    let instances: Vec<Instance> = get(stage, 1, "/v1/instances").await?;
    let listed: BTreeSet<&str> = instances.iter().map(|instance| instance.id.as_str()).collect();
    let running = running(stage, engine)?;
    let really: BTreeSet<&str> = running.keys().map(String::as_str).collect();
    ensure!(listed == really, "listed {listed:?}, running {really:?}");
    Ok(())
}

/// What really runs, by instance.
fn running(stage: &Stage, engine: Engine) -> Result<BTreeMap<String, u64>> {
    let mut counts = BTreeMap::new();
    match engine {
        Engine::Process => {
            for pid in stage.cluster.processes() {
                // An instance works in a folder named after it.
                let Ok(folder) = std::fs::read_link(format!("/proc/{pid}/cwd")) else { continue };
                let name = folder.file_name().and_then(|name| name.to_str()).unwrap_or_default();
                if name.starts_with("i-") {
                    *counts.entry(name.trim_end_matches(" (deleted)").to_owned()).or_default() += 1;
                }
            }
        }
        Engine::Docker => {
            let filter = format!("label=muster.cluster={}", stage.cluster.id());
            let format = "{{.Label \"muster.instance\"}}";
            let listed =
                Command::new("docker").args(["ps", "--filter", &filter, "--format", format]).output();
            let listed = listed.context("cannot run docker")?;
            ensure!(listed.status.success(), "docker ps failed");
            for name in String::from_utf8_lossy(&listed.stdout).lines() {
                *counts.entry(name.to_owned()).or_default() += 1;
            }
        }
    }
    Ok(counts)
}

/// Bounds shown with the report.
pub fn describe(bounds: &Bounds) -> String {
    format!(
        "revocation {} ms, recovery {} ms, liveness {} ms, margin {} ms, settling {} ms",
        bounds.revocation_ms, bounds.recovery_ms, bounds.liveness_ms, bounds.margin_ms, bounds.settle_ms
    )
}
