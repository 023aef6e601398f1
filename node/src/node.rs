//! One node: what is started, in which order, and what feeds what.
//!
//! ```text
//! public listener ─▶ gateway (/function/…) and http (the rest)
//! peer listener ───▶ consensus, controller (reports), gateway (invocations sent here)
//! consensus ───────▶ published state ─▶ gateway, http, agent, controller
//! agent ───────────▶ engines; gateway's host; reports ─▶ the leader's controller
//! gateway ─────────▶ meter ─▶ journal ─▶ consensus (ledger)
//! ```

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use muster_consensus::Identity;
use muster_core::ids::{Incarnation, NodeId, StoreId};
use muster_gateway::{Door, Refusals};
use muster_storage::{Options, Store};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::Config;
use crate::credentials::Own;
use crate::host_engines::HostEngines;
use crate::listeners::{keep_reloaded, listen, public_door, serve_peers, serve_public};
use crate::parts::{Engines, Parts, Surroundings};
use crate::peer::PeerService;
use crate::transport::PeerTransport;
use crate::{enrollment, leaving, random};

/// How long a stopping node waits for its usage to reach the ledger; the journal keeps the rest.
const SETTLE_LIMIT: Duration = Duration::from_secs(2);
/// How long requests in flight may take to finish when the node stops.
const STOP_LIMIT: Duration = Duration::from_secs(10);

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
        parts.spawn_vital(until(parts.stop.clone(), renewing));
        let refusals = Refusals::default();
        let peer_service = PeerService { parts: parts.clone(), certificate_lasts, refusals };
        parts.spawn_vital(serve_peers(peer_listener, tls, peer_service, parts.stop.clone()));
        let public_address = public_listener.local_addr().context("the listener has no address")?;
        let (stop_public, public) = (CancellationToken::new(), TaskTracker::new());
        if let Door::Public(tls) = &door {
            parts.spawn_vital(until(parts.stop.clone(), keep_reloaded(tls.clone())));
        }
        let gateway = Arc::clone(&parts.gateway);
        let app = parts.app(stop_public.clone());
        let serving = serve_public(public_listener, door, gateway, app, stop_public.clone());
        public.spawn(parts.vital.clone().watch(serving));
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

/// Runs something without an end until the node stops.
async fn until(stop: CancellationToken, work: impl Future<Output = ()>) {
    tokio::select! {
        () = work => {}
        () = stop.cancelled() => {}
    }
}
