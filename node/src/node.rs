//! One node: what is started, in which order, and what feeds what.
//!
//! ```text
//! public listener ─▶ gateway (/function/…) and http (the rest)
//! peer listener ───▶ consensus, controller (reports), gateway (invocations sent here)
//! consensus ───────▶ published state ─▶ gateway, http, agent, controller
//! agent ───────────▶ engines; gateway's host; reports ─▶ the leader's controller
//! gateway ─────────▶ meter ─▶ journal ─▶ consensus (ledger)
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use http::Request;
use hyper::body::Incoming;
use muster_consensus::Consensus;
use muster_core::functions::EngineKind;
use muster_core::ids::{ClusterId, Incarnation};
use muster_core::{Command, nodes};
use muster_engine::{DockerEngine, Engine, ProcessEngine};
use muster_gateway::Gateway;
use muster_storage::{Options, Store};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

use crate::agent::Agent;
use crate::config::{Config, EngineChoice};
use crate::controller::Controller;
use crate::http::App;
use crate::meter::Meter;
use crate::peer::{PeerSecret, PeerService};
use crate::plane::Plane;
use crate::{bootstrap, host};

/// The pause before something that needs a quorum is tried again at start.
const RETRY_PAUSE: Duration = Duration::from_millis(100);
/// How long a stopping node waits for its usage to reach the ledger; the journal keeps the rest.
const SETTLE_LIMIT: Duration = Duration::from_secs(2);
/// How long requests in flight may take to finish when the node stops.
const STOP_LIMIT: Duration = Duration::from_secs(10);

/// A running node.
#[derive(Debug)]
pub struct Node {
    store: Store,
    consensus: Consensus,
    meter: Meter,
    public_address: SocketAddr,
    /// Public listener first: peers must be served while its requests finish.
    stop_public: CancellationToken,
    public: TaskTracker,
    stop_rest: CancellationToken,
    rest: TaskTracker,
    /// Cancelled if the controller or the agent panics.
    broken: CancellationToken,
}

impl Node {
    /// Opens the store, takes part in the cluster and listens. Returns when the listeners are
    /// bound; whether the node is ready, `/readyz` tells.
    pub async fn start(config: Config) -> anyhow::Result<Self> {
        let secret = config.peer_secret()?;
        let id = config.node();
        let public_listener = listen(config.http.listen).await?;
        let peer_listener = listen(config.peer.listen).await?;
        let (store, incarnation) = open(&config).await?;
        let consensus = Consensus::start(id, incarnation, &config.raft, &store, secret.clone())
            .await
            .context("cannot start consensus")?;
        let meter = Meter::spawn(id, incarnation, store.journal(), consensus.clone());
        let gateway_config = muster_gateway::Config {
            node: id,
            peer_secret: muster_gateway::Secret::new(secret.clone()),
            ..config.gateway.clone()
        };
        let plane = Arc::new(Plane { consensus: consensus.clone() });
        let gateway = Gateway::new(gateway_config, plane, Arc::new(meter.clone()));
        let controller = Controller::new(&config, consensus.clone(), secret.clone());
        let (stop_public, stop_rest) = (CancellationToken::new(), CancellationToken::new());
        let (public, rest) = (TaskTracker::new(), TaskTracker::new());

        let peer_service = PeerService {
            consensus: consensus.clone(),
            controller: controller.clone(),
            gateway: Arc::clone(&gateway),
            secret: Arc::new(PeerSecret::new(&secret)),
        };
        rest.spawn(serve_peers(peer_listener, peer_service, stop_rest.clone()));
        let app = App {
            consensus: consensus.clone(),
            controller: controller.clone(),
            gateway: Arc::clone(&gateway),
            store: store.clone(),
        };
        let public_address = public_listener.local_addr().context("the listener has no address")?;
        public.spawn(serve_public(public_listener, Arc::clone(&gateway), app, stop_public.clone()));
        let broken = CancellationToken::new();
        rest.spawn(vital(controller.clone().run(stop_rest.clone()), broken.clone()));
        let joining = join(
            config,
            incarnation,
            consensus.clone(),
            controller,
            gateway,
            meter.clone(),
            stop_rest.clone(),
        );
        let hosting = async move {
            if let Err(error) = joining.await {
                tracing::error!("this host runs no instances: {error:#}");
            }
        };
        rest.spawn(vital(hosting, broken.clone()));
        tracing::info!(node = %id, %incarnation, address = %public_address, "listening");
        Ok(Node { store, consensus, meter, public_address, stop_public, public, stop_rest, rest, broken })
    }

    /// Where the public listener is.
    pub fn public_address(&self) -> SocketAddr {
        self.public_address
    }

    /// Resolves, with the reason, if the node can no longer take part in the cluster.
    pub async fn failed(&self) -> String {
        tokio::select! {
            reason = self.consensus.stopped() => format!("consensus has stopped: {reason}"),
            // Half a node is worse than none: it would keep its instances and follow no decision.
            () = self.broken.cancelled() => "a part of the node panicked".to_owned(),
        }
    }

    /// Finishes what is in flight, ships usage, closes the store.
    pub async fn stop(self) {
        self.stop_public.cancel();
        self.public.close();
        if tokio::time::timeout(STOP_LIMIT, self.public.wait()).await.is_err() {
            tracing::warn!("requests were still in flight when the node stopped");
        }
        if !self.meter.settle(SETTLE_LIMIT).await {
            tracing::info!("some usage stays in the journal until the next start");
        }
        self.stop_rest.cancel();
        // Before the peers' requests have finished: a leader that nobody reaches any more must not
        // keep the others from electing one.
        self.consensus.shutdown().await;
        self.rest.close();
        if tokio::time::timeout(STOP_LIMIT, self.rest.wait()).await.is_err() {
            tracing::warn!("some work did not stop in time");
        }
        if !self.meter.journal(SETTLE_LIMIT).await {
            tracing::warn!("usage of the last requests was not journaled");
        }
        let store = self.store;
        if tokio::task::spawn_blocking(move || store.close()).await.is_err() {
            tracing::error!("closing the store panicked");
        }
    }
}

/// Runs a part without which the node is of no use, and tells if it panics.
async fn vital(part: impl Future<Output = ()>, broken: CancellationToken) {
    let armed = broken.drop_guard();
    part.await;
    armed.disarm();
}

async fn listen(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))
}

async fn open(config: &Config) -> anyhow::Result<(Store, Incarnation)> {
    let (dir, id) = (config.data_dir.clone(), config.node());
    let opening = tokio::task::spawn_blocking(move || -> anyhow::Result<_> {
        let store = Store::open(&dir, Options::default())
            .with_context(|| format!("cannot open the store in {}", dir.display()))?;
        store.claim_node(id).context("this store is another node's")?;
        let incarnation = store.begin_incarnation().context("cannot begin a new incarnation")?;
        Ok((store, incarnation))
    });
    opening.await.context("opening the store panicked")?
}

async fn serve_peers(listener: TcpListener, service: PeerService, stop: CancellationToken) {
    let handler = move |request: Request<Incoming>, _remote| service.clone().handle(request);
    muster_gateway::serve(listener, handler, muster_gateway::Limits::for_peers(), stop).await;
}

/// One port for both: invocations never pass through the admin API's router.
async fn serve_public(listener: TcpListener, gateway: Arc<Gateway>, app: App, stop: CancellationToken) {
    let admin = crate::http::router(app);
    let handler = move |request: Request<Incoming>, remote| {
        let (gateway, admin) = (Arc::clone(&gateway), admin.clone());
        async move {
            if muster_gateway::is_invocation(&request) {
                return gateway.handle(request, remote).await;
            }
            let answer = admin.oneshot(request).await.unwrap_or_else(|never| match never {});
            answer.map(muster_gateway::boxed)
        }
    };
    muster_gateway::serve(listener, handler, muster_gateway::Limits::default(), stop).await;
}

/// What needs a quorum: begin the cluster if asked to, register this host, then run its agent.
async fn join(
    config: Config,
    incarnation: Incarnation,
    consensus: Consensus,
    controller: Controller,
    gateway: Arc<Gateway>,
    meter: Meter,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let joined = async {
        if let Some(bootstrap) = &config.bootstrap {
            bootstrap::run(&consensus, bootstrap).await?;
        }
        let cluster = cluster_id(&consensus).await?;
        let engines = engines(&config, cluster).await?;
        register(&config, incarnation, &consensus, engines.keys().copied().collect()).await?;
        anyhow::Ok((cluster, engines))
    };
    let (cluster, engines) = tokio::select! {
        joined = joined => joined?,
        () = stop.cancelled() => return Ok(()),
    };
    Agent::new(&config, cluster, incarnation, engines, consensus, controller, gateway, meter).run(stop).await;
    Ok(())
}

async fn cluster_id(consensus: &Consensus) -> anyhow::Result<ClusterId> {
    let mut changes = consensus.changes();
    loop {
        if let Some(cluster) = consensus.with_state(|state| state.cluster) {
            return Ok(cluster);
        }
        changes.changed().await.context("consensus has stopped")?;
    }
}

async fn engines(
    config: &Config,
    cluster: ClusterId,
) -> anyhow::Result<BTreeMap<EngineKind, Arc<dyn Engine>>> {
    let mut engines: BTreeMap<EngineKind, Arc<dyn Engine>> = BTreeMap::new();
    if config.engine.kind != EngineChoice::Docker {
        let dir = config.data_dir.join("instances");
        let engine =
            ProcessEngine::new(cluster, config.node(), dir).context("cannot start the process engine")?;
        engines.insert(EngineKind::Process, Arc::new(engine));
    }
    if config.engine.kind != EngineChoice::Process {
        let socket = config.engine.docker_socket.as_deref();
        let engine = loop {
            match DockerEngine::connect(socket, cluster, config.node()).await {
                Ok(engine) => break engine,
                // The engine may be restarting; the node serves and votes meanwhile.
                Err(error) => {
                    tracing::warn!("the Docker Engine does not answer: {:#}", anyhow::Error::new(error));
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        };
        engines.insert(EngineKind::Docker, Arc::new(engine));
    }
    Ok(engines)
}

async fn register(
    config: &Config,
    incarnation: Incarnation,
    consensus: &Consensus,
    engines: BTreeSet<EngineKind>,
) -> anyhow::Result<()> {
    let node = config.node();
    let profile = host::profile(config, engines)?;
    loop {
        let command = nodes::Command::Register { node, incarnation, profile: profile.clone() };
        match consensus.propose(Command::Nodes(command)).await {
            Ok(Ok(_)) => return Ok(()),
            Ok(Err(rejection)) => anyhow::bail!("the cluster refused this node: {rejection}"),
            Err(error) => {
                tracing::debug!(%error, "waiting for a quorum to register");
                tokio::time::sleep(RETRY_PAUSE).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_part_that_panics_is_told_and_one_that_ends_is_not() {
        let broken = CancellationToken::new();
        vital(async {}, broken.clone()).await;
        assert!(!broken.is_cancelled());
        let panicking = vital(async { panic!("as intended") }, broken.clone());
        assert!(tokio::spawn(panicking).await.is_err());
        assert!(broken.is_cancelled());
    }
}
