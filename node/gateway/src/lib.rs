//! The invocation path: authenticate, authorize, route, queue, proxy, meter.
//!
//! A request enters at any node (the *entry*) and runs on the node whose container serves it (the
//! *host*); often they are the same. Nothing here waits for Raft: the path reads an immutable
//! snapshot of the state through [`ControlPlane`].
//!
//! Read in this order:
//! * `entry`: one invocation's way from its first byte to its answer, with its retries;
//!   `admit` (who, what, how large) and `failure` (every way it can go wrong, as HTTP).
//! * `pool`: per function, the instances here, their slots and one queue by age for local
//!   requests and peers' polls alike; `host` keeps the pools and is what the agent talks to.
//! * `demand`: while requests wait here, one long poll per remote host asks for slots there.
//!   `peer` answers such polls, and runs what other entries send; `peers` is their client.
//! * `run`: one attempt on an instance here; `answer` the body of its answer, which
//!   carries the slot, the deadline and the usage record (`tally`) to the end.
//! * `rest`: instances that serve nobody for a while are paused until somebody asks.
//! * `rounds`: upon each change of the state, which waiting requests can no longer be served.
//! * `calls`: messages of the rest of the node to other nodes, over the same kind of connections.
//! * `reserve`: an invocation's way without one, for simulations.
//! * `connections`, `headers`, `request_body`, `server`, `metrics`, `config`: the tools.
//!
//! **Invariant.** A slot is a value. Whoever holds it may send one request to its instance; when it
//! is dropped, for whatever reason, the slot is free again and the oldest waiter gets it.
//!
//! **Invariant.** No lock is held across an await, and none while another task is handed a slot.

mod admit;
mod answer;
mod body;
mod calls;
mod config;
mod connections;
mod demand;
mod entry;
mod failure;
mod headers;
mod host;
mod metrics;
mod outside;
mod parting;
mod peer;
mod peers;
mod pool;
mod refusals;
mod request_body;
mod reserve;
mod rest;
mod rounds;
mod run;
mod server;
mod slots;
mod tally;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use hyper::body::Incoming;
use muster_core::ids::{AccountName, FunctionName, NodeId};
use muster_tls::PeerTls;
use tokio::sync::Notify;

pub use body::{Body, BodyError, boxed, full};
pub use calls::{CallError, Calls};
pub use config::{Config, ConfigError};
pub use connections::SendError;
pub use host::{Host, Hosted, InstanceLoad};
pub use metrics::Metrics;
pub use outside::{BoxFuture, ControlPlane, Meter, MeterError, Pausing};
pub use peers::{PeerError, PeerStream};
pub use refusals::Refusals;
pub use request_body::{Lingering, lingering};
pub use reserve::{Refused, Reservation};
pub use server::{Caller, Door, Limits, serve};

/// Accounts named in a queue's report: as many as a launch's cause can hold.
pub const QUEUE_ACCOUNTS_MAX: usize = muster_core::instances::CAUSE_ACCOUNTS_MAX;

/// The requests that entered at this node and wait for a slot of one function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueLoad {
    pub function: FunctionName,
    pub waiting: u32,
    pub oldest_ms: u64,
    /// Whose they are, most waiting first; at most [`QUEUE_ACCOUNTS_MAX`].
    pub accounts: Vec<(AccountName, u32)>,
}

/// Whether [`Gateway::handle`] is to answer a request of the public listener.
pub fn is_invocation<B>(request: &Request<B>) -> bool {
    request.uri().path().starts_with(admit::PREFIX)
}

/// One node's invocation path. Both listeners hand it their requests; the agent tells its
/// [`Host`] which instances are there.
pub struct Gateway {
    config: Config,
    control: Arc<dyn ControlPlane>,
    host: Host,
    peers: Arc<peers::Peers>,
    metrics: Arc<Metrics>,
    pressure: Arc<Notify>,
    ids: entry::InvocationIds,
}

impl Gateway {
    /// Whoever makes it runs its [`rounds`](Gateway::rounds), too. Without `tls` it calls no other node.
    pub fn new(
        config: Config,
        control: Arc<dyn ControlPlane>,
        meter: Arc<dyn Meter>,
        tls: Option<PeerTls>,
    ) -> Arc<Gateway> {
        let metrics = Arc::new(Metrics::default());
        Arc::new(Gateway {
            host: Host::new(&config, meter, Arc::clone(&metrics)),
            peers: peers::Peers::new(&config, Arc::clone(&control), tls),
            pressure: Arc::new(Notify::new()),
            ids: entry::InvocationIds::new(),
            config,
            control,
            metrics,
        })
    }

    /// What becomes of those who wait as the world changes: without it they wait until their deadlines. Ends when the
    /// gateway is dropped.
    pub fn rounds(self: &Arc<Self>) -> impl Future<Output = ()> + Send + use<> {
        rounds::watch(Arc::downgrade(self), self.control.changes())
    }

    /// Answers a request of the public listener whose path starts with `/function/`.
    pub async fn handle(self: &Arc<Self>, request: Request<Incoming>, remote: SocketAddr) -> Response<Body> {
        entry::handle(self, request, remote).await
    }

    /// Answers a request of the peer listener whose path starts with `/peer/gateway/`. It must
    /// come from another node of the cluster.
    pub async fn handle_peer(self: &Arc<Self>, request: Request<Incoming>) -> Response<Body> {
        peer::handle(self, request).await
    }

    /// Asks another node for what it sends bit by bit, over the connections that invocations take.
    ///
    /// # Errors
    /// When the head of its answer is not there within `patience`, or is none of success.
    pub async fn open_peer(
        &self,
        node: NodeId,
        path: &'static str,
        message: Bytes,
        patience: Duration,
    ) -> Result<PeerStream, PeerError> {
        self.peers.open(node, path, message, patience).await
    }

    /// The instances here.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// Functions for which requests that entered here wait.
    pub fn queues(&self) -> Vec<QueueLoad> {
        self.host.pools().iter().filter_map(|pool| pool.queue_load()).collect()
    }

    /// Notified when a request begins to wait, so that the leader hears of it at once.
    pub fn pressure(&self) -> Arc<Notify> {
        Arc::clone(&self.pressure)
    }

    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Appends the gateway's metrics in Prometheus' text format.
    pub fn render_metrics(&self, out: &mut String) {
        self.metrics.render(out);
    }
}

impl std::fmt::Debug for Gateway {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gateway").field("config", &self.config).finish_non_exhaustive()
    }
}
