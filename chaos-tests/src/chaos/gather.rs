//! After the faults: shows that the cluster lives, waits until it is quiet, and collects what is
//! judged.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use muster_api::{Account, Function, Instance, Usage};
use serde_json::Value;

use super::evidence::{Bounds, FinalView, Finals, Liveness};
use super::notes::Notes;
use super::op::{Mode, Op, Verdict};
use super::perform::{granted, rev};
use super::plan::Plan;
use super::watch;
use super::workload::Stage;
use super::{catalog, faults};
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
/// An error is told with its causes below it, a panic with its message.
const REASON_LINES: usize = 6;

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
pub async fn finals(stage: &Stage, plan: &Plan, notes: &Notes) -> Result<Finals> {
    let mut finals = Finals::default();
    let within = Duration::from_millis(stage.bounds.settle_ms);
    // In vain or not: what is collected afterwards tells.
    let _quiet = until("usage is in the ledger", within, || quiet(stage)).await;
    let _agreed = until("instances and processes agree", within, || agree(stage)).await;
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
    for node in 1..=plan.nodes {
        finals.samples.extend(watch::sample(stage, node).await);
    }
    (finals.applied, finals.replicas) = seen.into_inner().unwrap_or_else(PoisonError::into_inner);
    let books = Mutex::new(None);
    let still = || async {
        let (taken, same) = books_of_now(stage).await?;
        *books.lock().unwrap_or_else(PoisonError::into_inner) = Some(taken);
        ensure!(same, "instances come and go");
        Ok(())
    };
    let unsettled = until("usage and instances are of one moment", within, still).await;
    let taken = books.into_inner().unwrap_or_else(PoisonError::into_inner);
    let Some((usage, instances, running)) = taken else {
        return Err(unsettled.err().context("nothing was collected")?);
    };
    (finals.usage, finals.instances, finals.running) = (usage, instances, running);
    finals.remains = stage.cluster.remains().await?;
    finals.networks = stage.cluster.networks()?;
    finals.executions = Some(notes.executions()?);
    finals.panics = panics(stage, plan);
    finals.ended = ended(stage, plan).await;
    Ok(finals)
}

/// What nodes say who have panicked, or ended though no fault made them.
pub fn panics(stage: &Stage, plan: &Plan) -> Vec<(u64, String)> {
    let faults = plan.faults.iter().filter_map(|name| faults::by_name(name));
    let last_words: Vec<&str> = faults.flat_map(|fault| fault.frame().last_words.iter().copied()).collect();
    let own = (1..=plan.nodes).map(|node| (node, stage.cluster.log(node)));
    let guests = stage.cluster.guest_numbers().into_iter().map(|n| (n, stage.cluster.guest_log(n)));
    let mut panics = Vec::new();
    for (node, log) in own.chain(guests) {
        let expected = |line: &String| last_words.iter().any(|words| line.contains(words));
        let telling = telling(&log).into_iter();
        let telling = telling.filter(|line| !line.contains("cannot listen on") && !expected(line));
        panics.extend(telling.take(PANICS_MAX).map(|line| (node, line)));
    }
    panics
}

/// Nodes that do not run, though everything is mended.
pub async fn ended(stage: &Stage, plan: &Plan) -> Vec<u64> {
    let mut ended = Vec::new();
    for node in 1..=plan.nodes {
        if stage.cluster.ended(node, Duration::ZERO).await.is_ok() {
            ended.push(node);
        }
    }
    ended
}

/// Panics, and errors that ended a node, each with the lines that say why.
fn telling(log: &str) -> Vec<String> {
    let lines: Vec<&str> = log.lines().collect();
    let tells = |line: &str| line.contains("panicked at") || line.starts_with("Error:");
    let first = (0..lines.len()).filter(|at| tells(lines[*at]));
    first.map(|at| lines[at..lines.len().min(at + REASON_LINES)].join(" ")).collect()
}

async fn get<T: serde::de::DeserializeOwned>(stage: &Stage, node: u64, path: &str) -> Result<T> {
    stage.cluster.get(node, path).await
}

type Books = (Vec<Usage>, Vec<Instance>, BTreeMap<String, u64>);

/// What is charged, listed and running, and whether all three are of one moment: an instance that
/// ends between two of the questions is in one answer and not in the other.
async fn books_of_now(stage: &Stage) -> Result<(Books, bool)> {
    let phases = |instances: &[Instance]| -> BTreeSet<(String, String)> {
        instances.iter().map(|i| (i.id.clone(), i.phase.clone())).collect()
    };
    let before: Vec<Instance> = get(stage, 1, "/v1/instances?all=true").await?;
    let usage = get(stage, 1, "/v1/usage?by=total").await?;
    let running = running(stage).await?;
    let after: Vec<Instance> = get(stage, 1, "/v1/instances?all=true").await?;
    let moving = |i: &Instance| ["placed", "starting", "draining"].contains(&i.phase.as_str());
    let live: BTreeSet<&str> =
        after.iter().filter(|i| i.ended_at.is_none()).map(|instance| instance.id.as_str()).collect();
    let really: BTreeSet<&str> = running.keys().map(String::as_str).collect();
    let same = phases(&before) == phases(&after) && !after.iter().any(moving) && live == really;
    Ok(((usage, after, running), same))
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
async fn agree(stage: &Stage) -> Result<()> {
    let instances: Vec<Instance> = get(stage, 1, "/v1/instances").await?;
    let listed: BTreeSet<&str> = instances.iter().map(|instance| instance.id.as_str()).collect();
    let running = running(stage).await?;
    let really: BTreeSet<&str> = running.keys().map(String::as_str).collect();
    ensure!(listed == really, "listed {listed:?}, running {really:?}");
    let remains = stage.cluster.remains().await?;
    ensure!(remains.iter().all(|id| listed.contains(id.as_str())), "listed {listed:?}, left {remains:?}");
    Ok(())
}

/// What really runs, by instance.
pub(super) async fn running(stage: &Stage) -> Result<BTreeMap<String, u64>> {
    let mut counts = BTreeMap::new();
    for body in stage.cluster.bodies().await? {
        *counts.entry(body.instance).or_default() += 1;
    }
    Ok(counts)
}

/// Bounds shown with the report.
pub fn describe(bounds: &Bounds) -> String {
    format!(
        "recovery {} ms, liveness {} ms, margin {} ms, settling {} ms",
        bounds.recovery_ms, bounds.liveness_ms, bounds.margin_ms, bounds.settle_ms
    )
}
