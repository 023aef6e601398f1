//! One run, from start to verdict.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use muster_api::{Action, CreateKey, Role};

use super::catalog::{self, ACCOUNTS};
use super::evidence::{Bounds, Evidence, Finals, Liveness};
use super::history::Recorder;
use super::machine::Machine;
use super::nemesis::{self, Felt};
use super::notes::Notes;
use super::perform::Keys;
use super::plan::Plan;
use super::workload::{Stage, Workload};
use super::{faults, gather};
use crate::cluster::programs;
use crate::{Cluster, Engine, Settings, functions};

/// A node's first look at a binary it has never run may take a while.
const DEPLOY_WITHIN: Duration = Duration::from_secs(30);
/// Shorter than the workload waits for an answer, so that it hears the node's own word.
const PROPOSE_TIMEOUT_MS: i64 = 4_000;
const READ_TIMEOUT_MS: i64 = 3_000;
/// Low, so that snapshots are made and installed in a short run.
const SNAPSHOT_AFTER_ENTRIES: i64 = 500;
const KEEP_ENTRIES: i64 = 100;

/// Carries `plan` out and leaves the history and node logs in `report_dir`.
///
/// # Errors
/// Where the run itself failed: what it found is no error.
pub async fn run(plan: Plan, bounds: Bounds, report_dir: &Path) -> Result<Evidence> {
    fs::create_dir_all(report_dir).with_context(|| format!("cannot make {}", report_dir.display()))?;
    let image = match plan.engine() {
        Engine::Process => None,
        Engine::Docker => Some(
            tokio::task::spawn_blocking(programs::image)
                .await
                .context("the image was not built")?
                .context("no Docker Engine answers")?,
        ),
    };
    let settings = Settings::default()
        .nodes(plan.nodes)
        .engine(plan.engine())
        .set("raft.propose_timeout_ms", PROPOSE_TIMEOUT_MS)
        .set("raft.read_timeout_ms", READ_TIMEOUT_MS)
        .set("raft.snapshot_after_entries", SNAPSHOT_AFTER_ENTRIES)
        .set("raft.keep_entries", KEEP_ENTRIES);
    let mut settings = match plan.engine() {
        Engine::Process => settings,
        // Functions tell a collector on this host what they do. All nodes, and guests that come and go, are on one host.
        Engine::Docker => settings.set("engine.firewall", false).set("engine.prepared_namespaces", 1),
    };
    for name in &plan.faults {
        let fault = faults::by_name(name).with_context(|| format!("there is no fault {name}"))?;
        if let Some(reason) = fault.frame().needs.unmet(plan.engine()) {
            bail!("the fault {name} cannot be tried here: {reason}");
        }
        settings = fault.frame().needs.fit(settings);
    }
    let cluster = Arc::new(Cluster::start(settings).await.context("the cluster did not start")?);
    let outcome = on(&cluster, plan, bounds, report_dir, image).await;
    let logs = cluster.numbers().into_iter().map(|node| (node, cluster.log(node)));
    for (node, log) in logs.chain(cluster.guest_numbers().into_iter().map(|n| (n, cluster.guest_log(n)))) {
        let path = report_dir.join(format!("node{node}.log"));
        fs::write(&path, log).with_context(|| format!("cannot write {}", path.display()))?;
    }
    let Some(cluster) = Arc::into_inner(cluster) else {
        return outcome.and_then(|_done| bail!("something still uses the cluster"));
    };
    // Told in the report, where a node's panic stands already, or by the error: an alarm here would only hide it.
    let taken_down = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| drop(cluster)));
    let mut evidence = outcome?;
    if let Err(alarm) = taken_down
        && evidence.finals.panics.is_empty()
    {
        let said = alarm.downcast::<String>().map_or_else(|_| "it did not end well".to_owned(), |said| *said);
        evidence.finals.left.push(said);
    }
    Ok(evidence)
}

async fn on(
    cluster: &Arc<Cluster>,
    plan: Plan,
    bounds: Bounds,
    report_dir: &Path,
    image: Option<&str>,
) -> Result<Evidence> {
    let notes = Notes::take(cluster.dir(), image).await?;
    let recorder = Arc::new(Recorder::create(&report_dir.join("history.jsonl"))?);
    let stage = Stage {
        cluster: Arc::clone(cluster),
        recorder,
        keys: Arc::default(),
        bounds: bounds.clone(),
        engine: plan.engine(),
    };
    prepare(&stage.cluster, &stage.keys, &plan, &notes).await.context("cannot set the stage")?;
    let hosts: Vec<muster_api::Node> = cluster.get(1, "/v1/nodes").await?;
    let version = hosts.first().map(|host| host.version.clone()).unwrap_or_default();

    let machine = Machine::here();
    let workload = Workload::start(&stage, &plan, &cluster.dir().join("scratch"))?;
    let nemesis = nemesis::run(stage.clone(), &plan);
    let (felt, ()) = tokio::join!(nemesis, tokio::time::sleep(Duration::from_secs(plan.seconds)));
    let busy_until_us = stage.recorder.now_us();
    let seen = workload.stop().await?;
    let (felt, (liveness, finals)) = match felt {
        Ok(felt) => (felt, end(&stage, &plan, &notes).await?),
        Err(error) => (Felt::default(), cut_short(&stage, &plan, Vec::new(), error)?),
    };
    Ok(Evidence {
        plan,
        bounds,
        version,
        machine,
        entries: stage.recorder.take(),
        windows: felt.windows,
        missed: felt.missed,
        samples: seen.samples,
        population: seen.population,
        stalls: seen.stalls,
        census: seen.census,
        busy_until_us,
        liveness,
        finals,
    })
}

/// Shows that the cluster lives, and collects what is judged.
async fn end(stage: &Stage, plan: &Plan, notes: &Notes) -> Result<(Vec<Liveness>, Finals)> {
    stage.recorder.note("everything is mended")?;
    let ended = gather::ended(stage, plan).await;
    if !ended.is_empty() {
        let why = anyhow!("nodes {ended:?} ended though nobody killed them");
        return cut_short(stage, plan, ended, why);
    }
    let liveness = gather::liveness(stage, plan).await?;
    match gather::finals(stage, plan, notes).await.context("cannot collect the end") {
        Ok(finals) => Ok((liveness, finals)),
        Err(error) => cut_short(stage, plan, gather::ended(stage, plan).await, error),
    }
}

/// The end of a run that could not go on because nodes panicked, or ended by themselves.
///
/// # Errors
/// With `why`, where none did.
fn cut_short(
    stage: &Stage,
    plan: &Plan,
    ended: Vec<u64>,
    why: anyhow::Error,
) -> Result<(Vec<Liveness>, Finals)> {
    let panics = gather::panics(stage, plan);
    if panics.is_empty() && ended.is_empty() {
        return Err(why);
    }
    Ok((Vec::new(), Finals { panics, ended, cut_short: Some(format!("{why:#}")), ..Finals::default() }))
}

async fn prepare(cluster: &Cluster, keys: &Keys, plan: &Plan, notes: &Notes) -> Result<()> {
    let root = cluster.client();
    let guests = (0..plan.workers).map(catalog::guest);
    let holders = (0..plan.workers).map(catalog::holder);
    let all = ACCOUNTS.iter().map(|name| (*name).to_owned()).chain(guests).chain(holders);
    for account in all {
        root.create_account(&account, Role::User).await?;
        if !account.starts_with("guest") {
            root.put_grant(&account, "*", &[Action::Invoke]).await?;
        }
        if !account.starts_with("holder") {
            let made = root.create_key(&account, &CreateKey::default()).await?;
            keys.put(&account, &made.id, &made.key);
        }
    }
    for (name, spec) in catalog::invoked(notes)? {
        root.put_function(name, &spec).await.with_context(|| format!("cannot deploy {name}"))?;
    }
    for worker in 0..plan.workers {
        // Root's own: an admin who owns a function cannot be dismissed.
        let never_invoked = functions::command("/never/launched");
        root.put_function(&catalog::ruled(worker), &never_invoked).await.context("cannot deploy")?;
    }
    for (_, name) in catalog::INVOKED {
        if ![catalog::CRASH].contains(&name) {
            root.wait_ready(name, DEPLOY_WITHIN).await?;
        }
    }
    cluster.spread().await
}
