//! Network namespaces made ahead of need. To create one, with its device, address and rules, is most of
//! what a container's start takes; one that joins the namespace of a waiting container starts in a
//! third of the time. So a few waiting containers are kept ready. Each gives its namespace to one instance
//! and goes with it: no two instances ever share one, not even one after the other.
//!
//! All of it is a matter of speed alone: where there is none ready, or it turns out to be gone, an instance
//! gets a namespace of its own.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bollard::Docker;
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, InspectContainerOptions, RemoveContainerOptionsBuilder,
    StartContainerOptions,
};
use futures_util::future::join_all;
use muster_core::ids::{ClusterId, NodeId};
use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, timeout};

use super::{
    CREATE_DEADLINE, READ_DEADLINE, REMOVE_DEADLINE, container, docker_status, network, wait_image, within,
};
use crate::EngineError;

/// The most a node may keep ready: each is a process and a network device.
pub const PREPARED_MAX: usize = 32;
/// Before another try after one failed.
const RETRY_PAUSE: Duration = Duration::from_secs(5);
/// How long launches may hold up the making of a namespace: under constant load some are made all the same.
const IDLE_PATIENCE: Duration = Duration::from_secs(10);
/// A waiting container that belongs to nobody for this long is left from an earlier life of the node. One
/// that is being made, or joined, belongs to someone sooner.
const ORPHAN_AFTER: Duration = Duration::from_secs(30);

/// A namespace for one instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Namespace {
    /// The waiting container's id.
    pub(super) holder: String,
    pub(super) addr: IpAddr,
}

/// A namespace that a launch has. When it is dropped an instance has it, and says so by its label; or it is
/// nobody's, and is removed after a while.
#[derive(Debug)]
pub(super) struct Taken {
    namespace: Namespace,
    /// None once it was given back.
    pool: Option<Arc<Pool>>,
}

impl Taken {
    pub(super) fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// Gives back what no container has joined.
    pub(super) fn give_back(mut self) {
        if let Some(pool) = self.pool.take() {
            pool.state().ready.push_front(self.namespace.clone());
        }
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        if let Some(pool) = &self.pool {
            pool.state().own.remove(&self.namespace.holder);
        }
    }
}

#[derive(Debug)]
pub(super) struct Pool {
    docker: Docker,
    cluster: ClusterId,
    node: NodeId,
    size: usize,
    network: Arc<network::Handle>,
    /// Launches under way.
    launching: watch::Sender<usize>,
    state: Mutex<State>,
    wanted: Notify,
    /// Held while one is made.
    making: tokio::sync::Mutex<()>,
    /// Distinguishes the names of waiting containers.
    number: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    ready: VecDeque<Namespace>,
    /// Waiting containers that this process has, ready ones and those that launches have taken.
    own: BTreeSet<String>,
    /// Waiting containers that belong to nobody, and since when.
    orphans: BTreeMap<String, Instant>,
    /// Whether anything is launched here at all.
    in_use: bool,
    /// Whether the node stops: nothing is made any more.
    retired: bool,
}

/// The filling task; it ends when this is dropped.
#[derive(Debug)]
pub(super) struct Filling(AbortHandle);

impl Drop for Filling {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Pool {
    pub(super) fn new(
        docker: Docker,
        (cluster, node): (ClusterId, NodeId),
        size: usize,
        network: Arc<network::Handle>,
        launching: watch::Sender<usize>,
    ) -> Arc<Pool> {
        let size = size.min(PREPARED_MAX);
        let (state, wanted, making) = (Mutex::default(), Notify::new(), tokio::sync::Mutex::default());
        let number = AtomicU64::new(0);
        Arc::new(Pool { docker, cluster, node, size, network, launching, state, wanted, making, number })
    }

    pub(super) fn fill(self: &Arc<Self>) -> Filling {
        Filling(tokio::spawn(Arc::clone(self).fill_for_ever()).abort_handle())
    }

    /// From now on some are kept ready: there is something to launch here.
    pub(super) fn begin(&self) {
        let begun = std::mem::replace(&mut self.state().in_use, true);
        if !begun {
            self.wanted.notify_one();
        }
    }

    /// One that is ready, for one instance.
    pub(super) fn take(self: &Arc<Self>) -> Option<Taken> {
        self.begin();
        let taken = self.state().ready.pop_front();
        self.wanted.notify_one();
        Some(Taken { namespace: taken?, pool: Some(Arc::clone(self)) })
    }

    /// How many are ready.
    pub(super) fn ready(&self) -> usize {
        self.state().ready.len()
    }

    /// Removes a waiting container whose instance is gone.
    pub(super) async fn release(&self, holder: &str) {
        let options = RemoveContainerOptionsBuilder::new().force(true).v(true).build();
        let removal = self.docker.remove_container(holder, Some(options));
        match within("remove a waiting container", REMOVE_DEADLINE, removal).await {
            // What stays is found as an orphan.
            Err(error) if !matches!(docker_status(&error), Some(404 | 409)) => {
                tracing::warn!(holder, "a waiting container is not removed yet: {}", error.reason());
            }
            _ => {}
        }
        self.state().own.remove(holder);
    }

    /// Makes no more, and removes those that nobody has.
    pub(super) async fn retire(&self) {
        self.state().retired = true;
        // Who makes one just now removes it.
        let _made = self.making.lock().await;
        let ready = std::mem::take(&mut self.state().ready);
        join_all(ready.iter().map(|namespace| self.release(&namespace.holder))).await;
    }

    /// Of the waiting containers that are listed, those to remove: nobody's for a while. `joined` are those
    /// that instances have.
    pub(super) fn orphans(&self, listed: &BTreeSet<String>, joined: &BTreeSet<String>) -> Vec<String> {
        let now = Instant::now();
        let mut state = self.state();
        let State { own, orphans, .. } = &mut *state;
        orphans.retain(|id, _| listed.contains(id) && !joined.contains(id) && !own.contains(id));
        for id in listed.iter().filter(|id| !joined.contains(*id) && !own.contains(*id)) {
            orphans.entry(id.clone()).or_insert(now);
        }
        let old = orphans.iter().filter(|(_, since)| since.elapsed() >= ORPHAN_AFTER);
        old.map(|(id, _)| id.clone()).collect()
    }

    async fn fill_for_ever(self: Arc<Self>) {
        loop {
            let lacks = {
                let state = self.state();
                state.in_use && !state.retired && state.ready.len() < self.size
            };
            if !lacks {
                self.wanted.notified().await;
                continue;
            }
            // A launch that is under way is somebody who waits.
            let mut launching = self.launching.subscribe();
            let idle = async { launching.wait_for(|launches| *launches == 0).await.is_ok() };
            let _idle_or_not = timeout(IDLE_PATIENCE, idle).await;
            if let Err(error) = self.make_another().await {
                tracing::warn!("no network namespace could be prepared: {}", error.reason());
                sleep(RETRY_PAUSE).await;
            }
        }
    }

    /// Puts one more with those that are ready, unless the node stops.
    async fn make_another(&self) -> Result<(), EngineError> {
        let _making = self.making.lock().await;
        if self.state().retired {
            return Ok(());
        }
        let namespace = self.make().await?;
        let superfluous = {
            let mut state = self.state();
            match state.retired {
                true => Some(namespace),
                false => {
                    state.ready.push_back(namespace);
                    None
                }
            }
        };
        if let Some(namespace) = superfluous {
            self.release(&namespace.holder).await;
        }
        Ok(())
    }

    async fn make(&self) -> Result<Namespace, EngineError> {
        wait_image::ensure(&self.docker).await?;
        let network = self.network.id().await?;
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let number = self.number.fetch_add(1, Ordering::Relaxed);
        let name = format!("muster-{}-wait-{:x}-{number}", self.cluster, since.as_nanos());
        let options = CreateContainerOptionsBuilder::new().name(&name).build();
        let body = container::waiting(self.cluster, self.node, &network);
        let creation = self.docker.create_container(Some(options), body);
        let made = within("create a waiting container", CREATE_DEADLINE, creation).await;
        if made.as_ref().is_err_and(network::is_missing) {
            self.network.forget().await;
        }
        let holder = made?.id;
        self.state().own.insert(holder.clone());
        let started = async {
            let start = self.docker.start_container(&holder, None::<StartContainerOptions>);
            within("start a waiting container", CREATE_DEADLINE, start).await?;
            let inspection = self.docker.inspect_container(&holder, None::<InspectContainerOptions>);
            let found = within("inspect a waiting container", READ_DEADLINE, inspection).await?;
            let networks = found.network_settings.and_then(|settings| settings.networks);
            networks.as_ref().and_then(container::address).ok_or(EngineError::Unexpected {
                operation: "start a waiting container",
                problem: "it has no address".into(),
            })
        };
        match started.await {
            Ok(addr) => Ok(Namespace { holder, addr }),
            Err(error) => {
                if network::is_missing(&error) {
                    self.network.forget().await;
                }
                self.release(&holder).await;
                Err(error)
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
