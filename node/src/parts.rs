//! A node without its listeners: the log, the controller, the agent, the meter and the gateway, wired
//! together over whatever store, peers and engines they are given.
//!
//! [`crate::Node`] gives them sled, HTTP and containers. A simulation gives them a disk, a network and
//! containers of its own, and so runs what a node runs.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use axum::body::Body;
use http::{Request, Response};
use muster_consensus::{Consensus, Identity, Member, RPC_PREFIX, Transport, Vital};
use muster_core::authority::AuthoritySeed;
use muster_core::functions::EngineKind;
use muster_core::ids::{ClusterId, NodeId};
use muster_core::{Command, nodes};
use muster_engine::Engine;
use muster_gateway::Gateway;
use muster_storage::Store;
use muster_tls::PeerTls;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

use crate::agent::Agent;
use crate::config::Config;
use crate::controller::{Controller, REPORT_PREFIX};
use crate::http::{App, Handles};
use crate::images::Images;
use crate::logs::Logs;
use crate::meter::Meter;
use crate::packages::{Files, Packages};
use crate::plane::Plane;
use crate::{bootstrap, host, leaving};

/// The pause before something that needs a quorum is tried again at start.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// Connects to the engines of a host.
#[async_trait::async_trait]
pub trait Engines: Send + Sync {
    /// The engines by kind, for instances of this cluster. Returns when all of them answer.
    async fn connect(&self, cluster: ClusterId) -> anyhow::Result<BTreeMap<EngineKind, Arc<dyn Engine>>>;
}

/// What the parts need from outside of the process.
pub struct Surroundings {
    pub store: Store,
    pub identity: Identity,
    pub transport: Arc<dyn Transport>,
    /// What the gateway calls other nodes with; without it, it calls none.
    pub tls: Option<PeerTls>,
    /// The seed of the cluster's certificate authority, where it is known before the cluster tells it.
    pub authority: Option<AuthoritySeed>,
    pub engines: Box<dyn Engines>,
    /// Where packages are kept; without it, none are.
    pub packages_dir: Option<PathBuf>,
}

impl std::fmt::Debug for Surroundings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Surroundings").field("identity", &self.identity).finish_non_exhaustive()
    }
}

/// The running parts. A clone is a handle to the same.
#[derive(Clone, Debug)]
pub struct Parts {
    pub consensus: Consensus,
    pub gateway: Arc<Gateway>,
    pub(crate) controller: Controller,
    pub(crate) meter: Meter,
    pub(crate) store: Store,
    /// None where certificates are not what tells nodes apart: in a simulation.
    tls: Option<PeerTls>,
    pub(crate) logs: Logs,
    pub(crate) packages: Packages,
    pub(crate) stop: CancellationToken,
    pub(crate) tasks: TaskTracker,
    /// Of the controller, the agent, the meter, the gateway's rounds and the listeners.
    pub(crate) vital: Vital,
}

impl Parts {
    /// Takes part in the cluster. Returns when the log is open; the agent begins once there is a quorum.
    ///
    /// # Errors
    /// When the log cannot be opened.
    pub async fn start(config: Config, surroundings: Surroundings) -> anyhow::Result<Parts> {
        let Surroundings { store, identity, transport, tls, authority, engines, packages_dir } = surroundings;
        let Identity { node, incarnation, .. } = identity;
        let consensus = Consensus::start(identity, &config.raft, &store, Arc::clone(&transport));
        let consensus = consensus.await.context("cannot start consensus")?;
        let remembered = store.identity().cluster;
        let vital = Vital::default();
        let meter = Meter::spawn(node, incarnation, store.journal(), consensus.clone(), &vital);
        let gateway_config = muster_gateway::Config { node, ..config.gateway.clone() };
        let plane = Arc::new(Plane { consensus: consensus.clone() });
        let gateway = Gateway::new(gateway_config, plane, Arc::new(meter.clone()), tls.clone());
        let controller = Controller::new(&config, consensus.clone(), transport);
        let logs = Logs::new(node, consensus.clone(), Arc::clone(&gateway));
        let files = packages_dir.map(Files::open).transpose().context("cannot keep packages")?;
        let packages = Packages::new(&config.packages, files, consensus.clone(), Arc::clone(&gateway));
        let parts = Parts {
            consensus,
            gateway,
            controller,
            meter,
            store: store.clone(),
            tls,
            logs,
            packages,
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
            vital,
        };
        parts.vital.spawn(parts.gateway.rounds());
        let leading = parts.controller.clone().run(parts.stop.clone());
        parts.spawn_vital(leading);
        let keeping = parts.packages.clone().keep(parts.stop.clone());
        parts.spawn_vital(keeping);
        let known = Known { store, cluster: remembered, authority };
        let hosting = take_part(config, identity, known, parts.clone(), engines);
        parts.spawn_vital(hosting);
        Ok(parts)
    }

    /// Spawns what ends when the node stops. The node ends if it panics.
    pub(crate) fn spawn_vital(&self, part: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(self.vital.clone().watch(part));
    }

    /// Answers a call of `path` by the node that is `caller` for certain; none if there is no such path. An
    /// error says what was wrong with the call.
    pub async fn answer_peer(
        &self,
        caller: NodeId,
        path: &str,
        body: &[u8],
    ) -> Option<Result<Vec<u8>, String>> {
        if let Some(method) = path.strip_prefix(RPC_PREFIX) {
            Some(self.consensus.handle_rpc(caller, method, body).await.map_err(|error| describe(&error)))
        } else {
            let method = path.strip_prefix(REPORT_PREFIX)?;
            Some(self.controller.handle_rpc(caller, method, body).map_err(|error| describe(&error)))
        }
    }

    /// Answers a request of the admin API, as the public listener does.
    pub async fn answer_admin(&self, request: Request<Body>) -> Response<Body> {
        let router = crate::http::router(self.app(self.stop.clone()));
        router.oneshot(request).await.unwrap_or_else(|never| match never {})
    }

    /// What the admin API works on; `stop` ends answers that would not end by themselves.
    pub(crate) fn app(&self, stop: CancellationToken) -> App {
        App::new(Handles {
            consensus: self.consensus.clone(),
            controller: self.controller.clone(),
            gateway: Arc::clone(&self.gateway),
            store: self.store.clone(),
            authority: self.tls.as_ref().map(PeerTls::authority),
            logs: self.logs.clone(),
            packages: self.packages.clone(),
            stop,
        })
    }

    /// The invocation path of this node.
    pub fn gateway(&self) -> &Arc<Gateway> {
        &self.gateway
    }

    /// Takes the usage of invocations that ended here.
    pub fn meter(&self) -> &impl muster_gateway::Meter {
        &self.meter
    }

    /// Resolves, with the reason, if the node can no longer take part in the cluster.
    pub async fn failed(&self) -> String {
        tokio::select! {
            reason = self.consensus.stopped() => format!("consensus has stopped: {reason}"),
            () = self.vital.panicked() => "a part of the node panicked".to_owned(),
        }
    }
}

/// An error with its sources.
pub(crate) fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

/// What a node knows before it has read its log.
struct Known {
    store: Store,
    cluster: Option<ClusterId>,
    authority: Option<AuthoritySeed>,
}

/// What needs a quorum: begin the cluster if asked to, register this host, then run its agent. Returns once the
/// node stops.
async fn take_part(
    config: Config,
    identity: Identity,
    known: Known,
    parts: Parts,
    engines: Box<dyn Engines>,
) {
    let Parts { consensus, gateway, controller, meter, logs, packages, stop, .. } = parts;
    let (authority, membership) = (known.authority, consensus.clone());
    let joined = async {
        if let Some(bootstrap) = &config.bootstrap {
            bootstrap::run(&consensus, bootstrap, authority).await?;
        }
        if let Some(member) = moved(&config, identity.node, &consensus) {
            consensus.move_to(member).await;
        }
        let cluster = cluster_id(&consensus, known.cluster).await?;
        if known.cluster.is_none() {
            remember(&known.store, cluster).await?;
        }
        // The bootstrap may have ended between the two, or have been before there were authorities.
        if let Some(seed) = authority
            && consensus.with_state(|state| state.authority) != Some(seed)
        {
            insist(&consensus, Command::SetAuthority { seed }).await?;
        }
        let engines = engines.connect(cluster).await?;
        register(&config, identity, &consensus, engines.keys().copied().collect()).await?;
        anyhow::Ok((cluster, engines))
    };
    let joined = tokio::select! {
        joined = joined => joined.map(Some),
        () = stop.cancelled() => Ok(None),
    };
    let joined = joined.unwrap_or_else(|error| {
        tracing::error!("this host runs no instances: {error:#}");
        None
    });
    let Some((cluster, engines)) = joined else {
        // It may hear that it was removed long before, or after, it would have hosted anything again.
        stop.cancelled().await;
        if let Some(cluster) = known.cluster.filter(|_| membership.is_removed()) {
            leaving::clear_unhosted(engines.as_ref(), cluster).await;
        }
        return;
    };
    logs.serve(engines.clone());
    packages.serve(engines.clone());
    let images = Images::new(consensus.clone());
    if let Some(docker) = engines.get(&EngineKind::Docker).filter(|_| config.engine.pull_images) {
        images.serve(Arc::clone(docker));
        tokio::spawn(images.clone().pull_ahead(stop.clone()));
    }
    let incarnation = identity.incarnation;
    let agent = Agent::new(
        &config,
        cluster,
        incarnation,
        engines.clone(),
        consensus,
        controller,
        gateway,
        meter,
        packages,
        images,
    );
    agent.run(stop).await;
    match membership.is_removed() {
        true => leaving::clear(&engines).await,
        false => leaving::retire(&engines).await,
    }
}

/// The cluster, once this node has read of it in its log. One that is remembered is waited for: before the
/// log is read again, the state may be that of the cluster which this one was made of.
async fn cluster_id(consensus: &Consensus, remembered: Option<ClusterId>) -> anyhow::Result<ClusterId> {
    let mut changes = consensus.changes();
    loop {
        let known = consensus.with_state(|state| state.cluster);
        if let Some(cluster) = known.filter(|known| remembered.is_none_or(|cluster| cluster == *known)) {
            return Ok(cluster);
        }
        changes.changed().await.context("consensus has stopped")?;
    }
}

async fn remember(store: &Store, cluster: ClusterId) -> anyhow::Result<()> {
    let (snapshots, store) = (store.snapshots(), store.clone());
    let remembering = snapshots.offload(move || store.remember_cluster(cluster)).await;
    remembering.context("cannot remember the cluster")
}

/// Where this node is now, if others were to reach it elsewhere when it registered last. What its founders or its
/// application called it is left alone as long as it stays: that may be another name of the same place.
fn moved(config: &Config, node: NodeId, consensus: &Consensus) -> Option<Member> {
    let now = Member { http: config.http_address(), peer: config.peer_address() };
    let before = consensus.with_state(|state| Some(state.nodes.get(node)?.profile.peer.clone()));
    before.is_some_and(|before| before != now.peer).then_some(now)
}

async fn register(
    config: &Config,
    identity: Identity,
    consensus: &Consensus,
    engines: BTreeSet<EngineKind>,
) -> anyhow::Result<()> {
    let Identity { node, store, incarnation } = identity;
    let profile = host::profile(config, engines)?;
    // In this order: who is refused as this node must not register as it.
    for command in
        [nodes::Command::Claim { node, store }, nodes::Command::Register { node, incarnation, profile }]
    {
        insist(consensus, Command::Nodes(command)).await?;
    }
    Ok(())
}

/// Proposes until a quorum has answered.
async fn insist(consensus: &Consensus, command: Command) -> anyhow::Result<()> {
    loop {
        match consensus.propose(command.clone()).await {
            Ok(Ok(_)) => return Ok(()),
            Ok(Err(rejection)) => anyhow::bail!("the cluster refused this node: {rejection}"),
            Err(error) => {
                tracing::debug!(%error, "waiting for a quorum to register");
                tokio::time::sleep(RETRY_PAUSE).await;
            }
        }
    }
}
