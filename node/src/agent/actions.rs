//! What an agent does about one instance. Every action is harmless to repeat; one that fails is
//! found due again by the next comparison.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use muster_core::functions::{EngineKind, Source, Spec};
use muster_core::ids::{FunctionName, Generation, InstanceId};
use muster_core::instances::{self, Instance};
use muster_core::mutant;
use muster_core::reconcile::AgentAction;
use muster_core::units::{Millis, Timestamp};
use muster_core::{ClusterState, Command};
use muster_engine::{Engine, EngineError, Launch, RunState, Running};
use muster_gateway::Hosted;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use super::Tools;

/// How long usage may take to reach the ledger before its instance's end does. Late usage still
/// counts; it only no longer splits the instance's cost.
const SETTLE_LIMIT: Duration = Duration::from_secs(2);
/// The pause before a launch is tried again that failed for a passing reason.
const RETRY_PAUSE: Duration = Duration::from_millis(500);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The instance takes requests.
    Serving,
    /// Nothing of it is left here.
    Forgotten,
    Other,
}

type Listed = Option<(EngineKind, Running)>;

/// What was found running, to be adopted.
#[derive(Clone, Copy)]
struct Found {
    kind: EngineKind,
    addr: SocketAddr,
    /// And was not seen to go on.
    paused: bool,
}

pub(super) async fn run(
    tools: Arc<Tools>,
    action: AgentAction,
    listed: Listed,
    instance: Option<Arc<Instance>>,
    call_off: CancellationToken,
) -> Outcome {
    tracing::debug!(?action, "acting");
    match (action, instance) {
        (AgentAction::Launch { instance: id }, Some(instance)) => {
            mark(&tools, instances::Command::MarkStarting { instance: id, generation: instance.generation });
            start(&tools, id, &instance, None, call_off).await
        }
        (AgentAction::Adopt { instance: id }, Some(instance)) => {
            let mut running = listed.and_then(|(kind, running)| match running.state {
                RunState::Running { addr } => Some(Found { kind, addr, paused: running.paused }),
                _ => None,
            });
            // An earlier life of this node may have paused it.
            if let Some(found) = running.as_mut().filter(|found| found.paused)
                && let Some(engine) = engine(&tools, found.kind)
            {
                match engine.resume(id).await {
                    Ok(()) => found.paused = false,
                    Err(error) => {
                        let reason = error.reason();
                        tracing::warn!(instance = %id, "a paused instance was not seen to go on: {reason}");
                    }
                }
            }
            start(&tools, id, &instance, running, call_off).await
        }
        (AgentAction::Drain { instance: id }, Some(instance)) => drain(&tools, id, &instance).await,
        (AgentAction::ReportFailed { instance: id, generation, reason }, Some(instance)) => {
            fail(&tools, id, generation, instance.engine, reason).await
        }
        (AgentAction::ReportStopped { instance: id, generation }, Some(instance)) => {
            remove(&tools, id, Some(instance.engine), Millis::ZERO).await;
            report_stopped(&tools, id, generation).await
        }
        (AgentAction::Stop { instance: id }, instance) => {
            let kind = listed.map(|(kind, _)| kind).or(instance.map(|i| i.engine));
            // The cluster has given it up, but whoever still waits for its answer may get it.
            finish_in_flight(&tools, id).await;
            remove(&tools, id, kind, Millis(tools.settings.stop_grace_ms)).await;
            Outcome::Forgotten
        }
        (AgentAction::Forget { instance: id }, instance) => {
            let kind = listed.map(|(kind, _)| kind).or(instance.map(|i| i.engine));
            remove(&tools, id, kind, Millis::ZERO).await;
            Outcome::Forgotten
        }
        (action, None) => unreachable!("reconcile named an instance that is not in the state: {action:?}"),
    }
}

/// Launches or adopts, waits until it is ready, and routes to it.
async fn start(
    tools: &Tools,
    id: InstanceId,
    instance: &Instance,
    running: Option<Found>,
    call_off: CancellationToken,
) -> Outcome {
    let spec = tools.consensus.with_state(|state| spec_of(state, instance));
    let born = tools.consensus.with_state(|state| born(state, &instance.function));
    let limit = spec.as_ref().map_or(Millis::from_secs(60), |spec| spec.startup_timeout);
    let deadline = Instant::now() + limit.to_duration();
    let starting = async {
        let addr = match running {
            Some(found) => found.addr,
            None => launch(tools, id, instance, born, spec.clone()).await?,
        };
        let path = spec.as_ref().and_then(|spec| spec.readiness_path.clone());
        let engine = engine(tools, instance.engine).ok_or("this host lacks its engine")?;
        engine
            .wait_ready(addr, path.as_deref(), deadline)
            .await
            .map_err(|error| format!("{:#}", anyhow::Error::new(error)))?;
        Ok(addr)
    };
    let not_in_time = || {
        let pulled = spec.as_ref().and_then(|spec| match &spec.source {
            Source::Image(image) => tools.images.progress(image),
            _ => None,
        });
        Err(match pulled {
            Some(progress) => format!("its image is still being pulled, {progress} so far"),
            None => format!("was not ready within {limit}"),
        })
    };
    let starting = async {
        if let (Some(spec), None) = (&spec, running) {
            provide(tools, id, &spec.source, deadline).await?;
        }
        timeout_at(deadline, starting).await.unwrap_or_else(|_elapsed| not_in_time())
    };
    let started: Result<SocketAddr, String> = tokio::select! {
        started = starting => started,
        () = call_off.cancelled() => return Outcome::Other,
    };
    match started {
        Ok(addr) => {
            tools.gateway.host().add(Hosted {
                instance: id,
                generation: instance.generation,
                function: instance.function.clone(),
                addr,
                concurrency: instance.concurrency,
                memory_mb: instance.resources.memory_mb,
                adopted: !instance.phase.is_launching(),
                resting: running.is_some_and(|found| found.paused),
            });
            if instance.phase.is_launching() {
                mark(tools, instances::Command::MarkReady { instance: id, generation: instance.generation });
            }
            tracing::info!(instance = %id, function = %instance.function, %addr, "serving");
            Outcome::Serving
        }
        Err(reason) => fail(tools, id, instance.generation, instance.engine, reason).await,
    }
}

/// Waits until the package that an instance is of, if it is of one, can be run here.
async fn provide(tools: &Tools, id: InstanceId, source: &Source, deadline: Instant) -> Result<(), String> {
    let Some(package) = source.package() else { return Ok(()) };
    let mut trouble = "it is still on its way".to_owned();
    let providing = async {
        while let Err(why) = tools.packages.provide(source).await {
            tracing::debug!(instance = %id, %package, why, "a launch waits for its package");
            trouble = why;
            tokio::time::sleep(RETRY_PAUSE).await;
        }
    };
    let in_time = timeout_at(deadline, providing).await;
    in_time.map_err(|_elapsed| format!("its package {package} was not ready in time: {trouble}"))
}

pub(super) fn spec_of(state: &ClusterState, instance: &Instance) -> Option<Arc<Spec>> {
    let function = state.functions.get(instance.function.as_str())?;
    let version = function.versions().iter().find(|version| version.number == instance.version)?;
    Some(Arc::clone(&version.spec))
}

fn born(state: &ClusterState, function: &FunctionName) -> Option<Timestamp> {
    state.functions.get(function.as_str()).map(|function| function.created_at)
}

async fn launch(
    tools: &Tools,
    id: InstanceId,
    instance: &Instance,
    born: Option<Timestamp>,
    spec: Option<Arc<Spec>>,
) -> Result<SocketAddr, String> {
    let (spec, born) = spec.zip(born).ok_or("its function or version is gone")?;
    let engine = engine(tools, instance.engine).ok_or("this host lacks its engine")?;
    let launch = Launch {
        cluster: tools.cluster,
        node: tools.node,
        instance: id,
        generation: instance.generation,
        function: instance.function.clone(),
        version: instance.version,
        born,
        spec,
    };
    loop {
        match engine.launch(&launch).await {
            Ok(addr) => return Ok(addr),
            // After a pull it is there, or somebody else removes it: the caller's deadline bounds that.
            Err(EngineError::NoSuchImage { image }) => {
                let pulled = tools.images.obtain(&image).await;
                pulled.map_err(|why| format!("{}: {why}", EngineError::NoSuchImage { image }))?;
            }
            // The caller's deadline bounds this.
            Err(error) if error.may_retry() => {
                tracing::warn!(instance = %id, "a launch is tried again: {}", error.reason());
                tokio::time::sleep(RETRY_PAUSE).await;
            }
            Err(error) => return Err(error.reason()),
        }
    }
}

async fn drain(tools: &Tools, id: InstanceId, instance: &Instance) -> Outcome {
    finish_in_flight(tools, id).await;
    remove(tools, id, Some(instance.engine), Millis(tools.settings.stop_grace_ms)).await;
    report_stopped(tools, id, instance.generation).await
}

/// Takes no new requests and lets those in flight finish, up to the grace.
async fn finish_in_flight(tools: &Tools, id: InstanceId) {
    let host = tools.gateway.host();
    host.drain(id);
    let grace_ms = if mutant!("drain-does-not-wait") { 0 } else { tools.settings.drain_grace_ms };
    let grace = Duration::from_millis(grace_ms);
    if timeout(grace, host.drained(id)).await.is_err() {
        tracing::warn!(instance = %id, "requests were still in flight after the drain grace");
    }
}

async fn report_stopped(tools: &Tools, id: InstanceId, generation: Generation) -> Outcome {
    // What it did must be in the ledger before its interval closes.
    tools.meter.settle(SETTLE_LIMIT).await;
    propose(tools, instances::Command::MarkStopped { instance: id, generation }).await;
    Outcome::Forgotten
}

pub(super) async fn fail(
    tools: &Tools,
    id: InstanceId,
    generation: Generation,
    engine: EngineKind,
    reason: String,
) -> Outcome {
    tracing::warn!(instance = %id, reason, "an instance failed");
    tools.gateway.host().remove(id);
    tools.meter.settle(SETTLE_LIMIT).await;
    propose(tools, instances::Command::MarkFailed { instance: id, generation, reason }).await;
    remove(tools, id, Some(engine), Millis::ZERO).await;
    Outcome::Forgotten
}

async fn remove(tools: &Tools, id: InstanceId, kind: Option<EngineKind>, grace: Millis) {
    tools.gateway.host().remove(id);
    let Some(engine) = kind.and_then(|kind| engine(tools, kind)) else { return };
    if let Err(error) = engine.stop(id, grace).await {
        tracing::warn!(instance = %id, "an instance could not be removed yet: {}", error.reason());
    }
}

pub(super) fn engine(tools: &Tools, kind: EngineKind) -> Option<&Arc<dyn Engine>> {
    tools.engines.get(&kind)
}

/// Proposes without waiting: the next comparison sees whether it was applied.
pub(super) fn mark(tools: &Tools, command: instances::Command) {
    if let Err(error) = tools.consensus.propose_detached(Command::Instances(command)) {
        tracing::warn!(%error, "a mark could not be proposed");
    }
}

async fn propose(tools: &Tools, command: instances::Command) {
    match tools.consensus.propose(Command::Instances(command)).await {
        Ok(Ok(_)) => {}
        Ok(Err(rejection)) => tracing::debug!(%rejection, "a report was refused"),
        Err(error) => tracing::warn!(%error, "a report was not committed; it will be repeated"),
    }
}
