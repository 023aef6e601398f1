//! One node: what is started, in which order, and what feeds what.
//!
//! ```text
//! public listener ─▶ gateway (/function/…) and http (the rest)
//! peer listener ───▶ consensus, controller (reports), gateway (invocations sent here)
//! consensus ───────▶ published state ─▶ gateway, http, agent, controller
//! agent ───────────▶ engines; gateway's host; reports ─▶ the leader's controller
//! gateway ─────────▶ meter ─▶ journal ─▶ consensus (ledger)
//! ```

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use http::Request;
use hyper::body::Incoming;
use muster_consensus::Identity;
use muster_core::functions::EngineKind;
use muster_core::ids::{ClusterId, Incarnation, NodeId, StoreId};
use muster_engine::{DockerEngine, Engine, ProcessEngine, logs};
use muster_gateway::{Caller, Door, Gateway, Refusals};
use muster_storage::{Options, Store};
use muster_tls::{PeerTls, PublicTls};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

use crate::config::{Config, EngineChoice};
use crate::credentials::Own;
use crate::http::App;
use crate::parts::{Engines, Parts, Surroundings};
use crate::peer::PeerService;
use crate::random;
use crate::transport::PeerTransport;
use crate::{enrollment, leaving};

/// How long a stopping node waits for its usage to reach the ledger; the journal keeps the rest.
const SETTLE_LIMIT: Duration = Duration::from_secs(2);
/// How long requests in flight may take to finish when the node stops.
const STOP_LIMIT: Duration = Duration::from_secs(10);
/// How often it is looked whether the public listener's certificate was replaced.
const RELOAD_EVERY: Duration = Duration::from_secs(1);

/// A running node.
#[derive(Debug)]
pub struct Node {
    store: Store,
    parts: Parts,
    incarnation: Incarnation,
    public_address: SocketAddr,
    /// Public listener first: peers must be served while its requests finish.
    stop_public: CancellationToken,
    public: TaskTracker,
}

impl Node {
    /// Opens the store, takes part in the cluster and listens. Returns when the listeners are
    /// bound; whether the node is ready, `/readyz` tells.
    pub async fn start(config: Config) -> anyhow::Result<Self> {
        Self::start_with(config, |config| Box::new(HostEngines(config.clone()))).await
    }

    /// As [`Node::start`], over other engines than the configuration names, made when the node's id is settled: for
    /// benchmarks and tests.
    pub async fn start_with(
        mut config: Config,
        engines: impl FnOnce(&Config) -> Box<dyn Engines>,
    ) -> anyhow::Result<Self> {
        let door = public_door(&config)?;
        let public_listener = listen(config.http.listen).await?;
        let peer_listener = listen(config.peer.listen).await?;
        let (store, identity) = open(&config).await?;
        let Identity { node: id, incarnation, .. } = identity;
        config.node_id = Some(id.0);
        let certificate_lasts = config.certificate_lasts();
        let own = Own::open(&config)?;
        let tls = own.tls.clone();
        let surroundings = Surroundings {
            store: store.clone(),
            identity,
            transport: Arc::new(PeerTransport::new(tls.clone())),
            tls: Some(tls.clone()),
            authority: own.seed(),
            engines: engines(&config),
            packages_dir: Some(config.data_dir.join("packages")),
        };
        let parts = Parts::start(config, surroundings).await?;

        let renewing = own.keep_renewed(parts.consensus.clone());
        parts.tasks.spawn(until(parts.stop.clone(), renewing));
        let refusals = Refusals::default();
        let peer_service = PeerService { parts: parts.clone(), certificate_lasts, refusals };
        parts.tasks.spawn(serve_peers(peer_listener, tls, peer_service, parts.stop.clone()));
        let public_address = public_listener.local_addr().context("the listener has no address")?;
        let (stop_public, public) = (CancellationToken::new(), TaskTracker::new());
        if let Door::Public(tls) = &door {
            parts.tasks.spawn(until(parts.stop.clone(), keep_reloaded(tls.clone())));
        }
        let gateway = Arc::clone(&parts.gateway);
        let app = parts.app(stop_public.clone());
        public.spawn(serve_public(public_listener, door, gateway, app, stop_public.clone()));
        tracing::info!(node = %id, %incarnation, address = %public_address, "listening");
        Ok(Node { store, parts, incarnation, public_address, stop_public, public })
    }

    /// Where the public listener is.
    pub fn public_address(&self) -> SocketAddr {
        self.public_address
    }

    /// Resolves, with the reason, if the node can no longer take part in the cluster.
    pub async fn failed(&self) -> String {
        self.parts.failed().await
    }

    /// Resolves once this node was removed from the cluster. One that is to be, and has drained, finishes its
    /// requests and says so on the way.
    pub async fn removed(&self) {
        let consensus = &self.parts.consensus;
        let taking_leave = async {
            leaving::drained(consensus).await;
            tracing::info!(
                "this node is to be removed: it finishes what is in flight and takes no more requests"
            );
            self.stop_public.cancel();
            self.public.close();
            self.public.wait().await;
            leaving::leave(consensus, self.incarnation, &self.parts.meter).await;
            std::future::pending().await
        };
        tokio::select! {
            () = consensus.removed() => {}
            () = taking_leave => {}
        }
    }

    /// Gives the leadership away, finishes what is in flight, ships usage, closes the store.
    pub async fn stop(self) {
        self.parts.consensus.retire().await;
        self.stop_public.cancel();
        self.public.close();
        if tokio::time::timeout(STOP_LIMIT, self.public.wait()).await.is_err() {
            tracing::warn!("requests were still in flight when the node stopped");
        }
        // Only now: requests of its own may have waited for its own instances.
        if tokio::time::timeout(STOP_LIMIT, self.parts.gateway.host().wind_down()).await.is_err() {
            tracing::warn!("requests from other nodes were still in flight when the node stopped");
        }
        if !self.parts.meter.settle(SETTLE_LIMIT).await {
            tracing::info!("some usage stays in the journal until the next start");
        }
        self.parts.stop.cancel();
        // Before the peers' requests have finished: a leader that nobody reaches any more must not
        // keep the others from electing one.
        self.parts.consensus.shutdown().await;
        self.parts.tasks.close();
        let limit = leaving::stop_limit(self.parts.consensus.is_removed());
        if tokio::time::timeout(limit, self.parts.tasks.wait()).await.is_err() {
            tracing::warn!("some work did not stop in time");
        }
        if !self.parts.meter.journal(SETTLE_LIMIT).await {
            tracing::warn!("usage of the last requests was not journaled");
        }
        let store = self.store;
        if tokio::task::spawn_blocking(move || store.close()).await.is_err() {
            tracing::error!("closing the store panicked");
        }
    }
}

async fn listen(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))
}

async fn open(config: &Config) -> anyhow::Result<(Store, Identity)> {
    let dir = config.data_dir.clone();
    let (store, own) = blocking(move || {
        let store = Store::open(&dir, Options::default())
            .with_context(|| format!("cannot open the store in {}", dir.display()))?;
        // Before it is asked which node it is: asked again, it must be the same that asks.
        let own = store.adopt(StoreId(random::id())).context("cannot give the store an id")?;
        Ok((store, own))
    })
    .await?;
    let node = match (store.identity().node, config.node_id, &config.join) {
        (Some(node), ..) if config.node_id.is_none() => node,
        (_, Some(id), _) => NodeId(id),
        (_, None, Some(join)) => {
            enrollment::enroll(config, join, own).await.context("cannot join the cluster")?
        }
        (_, None, None) => bail!(
            "{} is empty, and neither `node_id` (of a founding member) nor `join` (to join a cluster) is set",
            config.data_dir.display()
        ),
    };
    let opened = store.clone();
    let incarnation = blocking(move || {
        opened.claim_node(node, own).context("this store is another node's")?;
        opened.begin_incarnation().context("cannot begin a new incarnation")
    })
    .await?;
    Ok((store, Identity { node, store: own, incarnation }))
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> anyhow::Result<T> + Send + 'static,
) -> anyhow::Result<T> {
    tokio::task::spawn_blocking(work).await.context("opening the store panicked")?
}

fn public_door(config: &Config) -> anyhow::Result<Door> {
    let Some(files) = &config.http.tls else { return Ok(Door::Plain) };
    let tls = PublicTls::load(&files.certificate_file, &files.key_file);
    tls.map(Door::Public).context("cannot use the certificate of `http.tls`")
}

/// Takes new files of the public certificate into use, without end.
async fn keep_reloaded(tls: PublicTls) {
    loop {
        tokio::time::sleep(RELOAD_EVERY).await;
        let reloading = tls.clone();
        match tokio::task::spawn_blocking(move || reloading.reload()).await {
            Ok(Ok(true)) => tracing::info!("the certificate of the public listener was replaced"),
            Ok(Ok(false)) => {}
            Ok(Err(error)) => tracing::warn!(
                "the certificate of `http.tls` has changed and cannot be used; the one before stays in use: {:#}",
                anyhow::Error::new(error)
            ),
            Err(_panicked) => return,
        }
    }
}

/// Runs something without an end until the node stops.
async fn until(stop: CancellationToken, work: impl Future<Output = ()>) {
    tokio::select! {
        () = work => {}
        () = stop.cancelled() => {}
    }
}

async fn serve_peers(listener: TcpListener, tls: PeerTls, service: PeerService, stop: CancellationToken) {
    let door = Door::Peers(tls, service.refusals.clone());
    let handler = move |request: Request<Incoming>, caller| service.clone().handle(request, caller);
    let limits = muster_gateway::Limits::for_peers();
    muster_gateway::serve(listener, door, handler, limits, stop).await;
}

/// One port for both: invocations never pass through the admin API's router.
async fn serve_public(
    listener: TcpListener,
    door: Door,
    gateway: Arc<Gateway>,
    app: App,
    stop: CancellationToken,
) {
    let admin = crate::http::router(app);
    let handler = move |request: Request<Incoming>, caller: Caller| {
        let (gateway, admin) = (Arc::clone(&gateway), admin.clone());
        async move {
            if muster_gateway::is_invocation(&request) {
                // In a box: every request to the admin API would carry the room it takes along.
                return Box::pin(gateway.handle(request, caller.address)).await;
            }
            let answer = admin
                .oneshot(muster_gateway::lingering(request))
                .await
                .unwrap_or_else(|never| match never {});
            answer.map(muster_gateway::boxed)
        }
    };
    muster_gateway::serve(listener, door, handler, muster_gateway::Limits::default(), stop).await;
}

/// Child processes and Docker containers, as the configuration says.
struct HostEngines(Config);

impl HostEngines {
    /// Where an engine keeps the output of its instances.
    fn logs(&self, engine: &str) -> anyhow::Result<logs::Store> {
        let dir = self.0.data_dir.join("logs").join(engine);
        logs::Store::open(dir, self.0.logs.limits()).context("cannot keep the output of instances")
    }
}

#[async_trait::async_trait]
impl Engines for HostEngines {
    async fn connect(&self, cluster: ClusterId) -> anyhow::Result<BTreeMap<EngineKind, Arc<dyn Engine>>> {
        let config = &self.0;
        let mut engines: BTreeMap<EngineKind, Arc<dyn Engine>> = BTreeMap::new();
        if config.engine.kind != EngineChoice::Docker {
            let (dir, logs) = (config.data_dir.join("instances"), self.logs("process")?);
            let engine = ProcessEngine::new(cluster, config.node(), dir, logs)
                .context("cannot start the process engine")?;
            engines.insert(EngineKind::Process, Arc::new(engine));
        }
        if config.engine.kind != EngineChoice::Process {
            let socket = config.engine.docker_socket.as_deref();
            let logs = self.logs("docker")?;
            let engine = loop {
                match DockerEngine::connect(socket, cluster, config.node(), logs.clone()).await {
                    Ok(engine) => break engine,
                    // The engine may be restarting; the node serves and votes meanwhile.
                    Err(error) => {
                        tracing::warn!("the Docker Engine does not answer: {:#}", anyhow::Error::new(error));
                        tokio::time::sleep(Duration::from_secs(1)).await;
                    }
                }
            };
            let engine = engine.prepare_namespaces(config.engine.prepared_namespaces);
            let engine = if config.engine.firewall { engine } else { engine.without_firewall() };
            let engine = engine.with_registry_auth(config.engine.registry_auth_file.clone());
            engines.insert(EngineKind::Docker, Arc::new(engine));
        }
        Ok(engines)
    }
}
