//! The instances on this node. The host owns its instances: only through it are they reached.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::AtomicU32;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use muster_core::ids::{FunctionName, Generation, InstanceId, NodeId};
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::connections::{Connections, Options, Server};
use crate::metrics::Metrics;
use crate::outside::{Meter, Pausing};
use crate::pool::Pool;
use crate::rest::Rest;
use crate::slots::Tokens;

/// An instance that is ready to serve.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hosted {
    pub instance: InstanceId,
    pub generation: Generation,
    pub function: FunctionName,
    pub addr: SocketAddr,
    /// Requests it serves at a time; enforced here.
    pub concurrency: u32,
    pub memory_mb: u64,
    /// It served before this node was restarted: nobody who waited for it saw a cold start.
    pub adopted: bool,
    /// It may stand still, paused by an earlier life of this node: the first request has it go on.
    pub resting: bool,
}

/// What an instance did since it was added. The times are cumulative and grow while requests run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InstanceLoad {
    pub instance: InstanceId,
    /// Slots taken now.
    pub in_flight: u32,
    /// Slot time: the integral of `in_flight`. At most `ready_ms` times its concurrency.
    pub busy_ms: u64,
    pub ready_ms: u64,
    pub completed: u64,
    /// Requests in a row that reached their deadline before it had answered anything.
    pub silent: u32,
}

/// The instances here and the queue of each function.
pub struct Host {
    pub(crate) node: NodeId,
    pub(crate) meter: Arc<dyn Meter>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) tokens: Tokens,
    options: Options,
    pools: RwLock<HashMap<FunctionName, Arc<Pool>>>,
    instances: Mutex<HashMap<InstanceId, Known>>,
    /// Where instances that serve nobody are paused.
    pub(crate) pausing: OnceLock<Arc<dyn Pausing>>,
}

pub(crate) struct Known {
    pub(crate) instance: Arc<Instance>,
    pub(crate) pool: Arc<Pool>,
}

/// One instance, as those who hold its slots see it.
pub(crate) struct Instance {
    pub(crate) id: InstanceId,
    pub(crate) generation: Generation,
    pub(crate) concurrency: u32,
    pub(crate) memory_mb: u64,
    pub(crate) ready_at: Instant,
    pub(crate) adopted: bool,
    pub(crate) connections: Arc<Connections>,
    /// Cancelled when it is removed: what still runs on it then will never be answered.
    pub(crate) gone: CancellationToken,
    /// Notified when its last slot becomes free.
    pub(crate) idle: Notify,
    pub(crate) rest: Rest,
    /// See [`InstanceLoad::silent`].
    pub(crate) silent: AtomicU32,
}

impl Host {
    pub(crate) fn new(config: &Config, meter: Arc<dyn Meter>, metrics: Arc<Metrics>) -> Self {
        let options = Options {
            connect_timeout: config.connect_timeout(),
            idle_timeout: Duration::from_millis(config.upstream_idle_ms),
            head_max_bytes: config.upstream_head_max_bytes,
        };
        Host {
            node: config.node,
            meter,
            metrics,
            tokens: Tokens::default(),
            options,
            pools: RwLock::default(),
            instances: Mutex::default(),
            pausing: OnceLock::new(),
        }
    }

    /// Takes an instance into service. Repeating it is harmless; another generation of the same
    /// instance replaces it.
    pub fn add(&self, hosted: Hosted) {
        let pool = self.pool(&hosted.function);
        let instance = Arc::new(Instance {
            id: hosted.instance,
            generation: hosted.generation,
            concurrency: hosted.concurrency,
            memory_mb: hosted.memory_mb,
            ready_at: Instant::now(),
            adopted: hosted.adopted,
            connections: Connections::new(hosted.addr.to_string(), Server::Instance, self.options),
            gone: CancellationToken::new(),
            idle: Notify::new(),
            rest: Rest::new(hosted.resting),
            silent: AtomicU32::new(0),
        });
        let replaced = {
            let mut instances = self.instances();
            let known = instances.get(&hosted.instance);
            if known.is_some_and(|known| known.instance.is_same_as(&instance)) {
                return;
            }
            let known = Known { instance: Arc::clone(&instance), pool: Arc::clone(&pool) };
            instances.insert(hosted.instance, known)
        };
        if let Some(replaced) = replaced {
            replaced.end();
        }
        pool.add(instance);
    }

    /// Gives the instance no new requests. Slots already granted stay good.
    pub fn drain(&self, id: InstanceId) {
        if let Some(known) = self.instances().get(&id) {
            known.pool.drain(&known.instance);
        }
    }

    /// Waits until no slot of the instance is taken; at once if it is not here.
    pub async fn drained(&self, id: InstanceId) {
        let Some((instance, pool)) =
            self.instances().get(&id).map(|known| (Arc::clone(&known.instance), Arc::clone(&known.pool)))
        else {
            return;
        };
        loop {
            let idle = instance.idle.notified();
            tokio::pin!(idle);
            // Registered before the count is read, so that the last release is not missed.
            idle.as_mut().enable();
            if pool.in_flight(&instance) == 0 {
                return;
            }
            idle.await;
        }
    }

    /// Gives no instance new requests, and waits until no slot is taken, those that other nodes were granted
    /// and have not used included. For a node that is about to stop: who asks it for a slot then asks
    /// another node, and nothing is on its way here when it closes its connections.
    pub async fn wind_down(&self) {
        let all: Vec<InstanceId> = self.instances().keys().copied().collect();
        for id in &all {
            self.drain(*id);
        }
        for id in all {
            self.drained(id).await;
        }
    }

    /// Forgets the instance. What still runs on it is answered 502.
    pub fn remove(&self, id: InstanceId) {
        let known = self.instances().remove(&id);
        if let Some(known) = known {
            known.end();
        }
    }

    pub fn loads(&self) -> Vec<InstanceLoad> {
        self.pools().iter().flat_map(|pool| pool.loads()).collect()
    }

    /// Where an instance here listens.
    pub fn address(&self, id: InstanceId) -> Option<SocketAddr> {
        self.instances().get(&id)?.instance.connections.address().parse().ok()
    }

    /// The pool of a function, made if need be. The caller has checked that the function exists.
    pub(crate) fn pool(&self, function: &FunctionName) -> Arc<Pool> {
        if let Some(pool) = self.pools.read().unwrap_or_else(PoisonError::into_inner).get(function) {
            return Arc::clone(pool);
        }
        let mut pools = self.pools.write().unwrap_or_else(PoisonError::into_inner);
        let new = || Pool::new(function.clone(), Arc::clone(&self.metrics));
        Arc::clone(pools.entry(function.clone()).or_insert_with(new))
    }

    pub(crate) fn pools(&self) -> Vec<Arc<Pool>> {
        self.pools.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// Forgets the pools that nobody uses, of functions that are no more.
    pub(crate) fn forget_pools(&self, exists: impl Fn(&FunctionName) -> bool) {
        let mut pools = self.pools.write().unwrap_or_else(PoisonError::into_inner);
        // Whoever uses a pool holds it: a count of one, seen under this lock, means nobody does.
        pools.retain(|name, pool| Arc::strong_count(pool) > 1 || !pool.is_unused() || exists(name));
    }

    pub(crate) fn instances(&self) -> MutexGuard<'_, HashMap<InstanceId, Known>> {
        self.instances.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Instance {
    fn is_same_as(&self, other: &Instance) -> bool {
        self.generation == other.generation && self.connections.address() == other.connections.address()
    }
}

impl Known {
    fn end(&self) {
        self.pool.remove(&self.instance);
        self.instance.gone.cancel();
    }
}

impl std::fmt::Debug for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Host").field("node", &self.node).finish_non_exhaustive()
    }
}
