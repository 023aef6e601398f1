//! Instances as Docker containers. Docker itself holds all there is to know, as labels: a node that
//! restarts lists its containers again, and nothing is kept here that must survive.
//!
//! [`launching`] has them run and [`stopping`] ends them. [`container`] says how one is made and how one is
//! read back, [`exits`] how one ended, [`network`] keeps the cluster's bridge network, [`events`] turns
//! Docker's events into hints, [`logs`] is what containers write. [`namespaces`] makes launches fast,
//! [`firewall`] keeps containers from the nodes.

mod container;
mod credentials;
mod events;
mod exits;
mod firewall;
mod launching;
mod load;
mod logs;
mod namespaces;
mod network;
mod oom;
mod pausing;
mod pull;
mod stopping;
mod wait_image;

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bollard::Docker;
use bollard::models::ContainerSummary;
use bollard::query_parameters::ListContainersOptionsBuilder;
use futures_util::future::join_all;
use futures_util::{StreamExt, TryStreamExt, stream};
use muster_core::functions::{EngineKind, Source};
use muster_core::ids::{ClusterId, FunctionName, InstanceId, NodeId, PackageDigest};
use muster_core::units::{Millis, Timestamp};
use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::timeout;

use crate::error::status;
use crate::instance::{Launch, Running};
use crate::logs::{LogRead, LogStream, Origin, Store};
use crate::{Engine, EngineError, Progress};
pub use namespaces::PREPARED_MAX;

use container::{Listed, Platform};
use exits::{Exits, tail};

/// Containers being created at once: dockerd starts a few a second, and more only wait inside it,
/// where nobody sees them.
const PARALLEL_CREATES: usize = 4;
/// Removals at once: they hold up launches inside dockerd.
const PARALLEL_REMOVALS: usize = 2;
/// Exited containers looked at together.
const PARALLEL_READS: usize = 4;

/// Between looks at a container that another call is creating or removing.
const CONFLICT_PAUSE: Duration = Duration::from_millis(50);
/// A loaded dockerd takes seconds to create; one that takes this long is stuck.
const CREATE_DEADLINE: Duration = Duration::from_secs(60);
const REMOVE_DEADLINE: Duration = Duration::from_secs(60);
const READ_DEADLINE: Duration = Duration::from_secs(20);
/// Gigabytes are unpacked meanwhile.
const LOAD_DEADLINE: Duration = Duration::from_secs(600);
const PROBE_DEADLINE: Duration = Duration::from_secs(3);

/// Whether a Docker Engine answers on `socket` (default: `DOCKER_HOST`, else the usual path).
pub async fn docker_answers(socket: Option<&str>) -> bool {
    let Ok(docker) = client(socket) else { return false };
    within("ping Docker", PROBE_DEADLINE, docker.ping()).await.is_ok()
}

/// The Docker Engine on this host, seen as one node of one cluster: containers of others, of another
/// cluster or another node alike, are neither listed nor touched.
#[derive(Debug)]
pub struct DockerEngine {
    docker: Docker,
    cluster: ClusterId,
    node: NodeId,
    /// Where the output of containers goes that are removed.
    logs: Store,
    /// What this host runs; images for anything else are refused.
    platform: Platform,
    /// Whether there is a program for containers that wait.
    can_wait: bool,
    /// Whether Docker has an init to put before the program: it reaps orphans and passes signals on.
    has_init: bool,
    network: Arc<network::Handle>,
    /// Network namespaces that are ready, if any are to be.
    pool: Option<(Arc<namespaces::Pool>, namespaces::Filling)>,
    firewall: Option<Arc<firewall::Firewall>>,
    /// A file with credentials for registries, as `docker login` writes it.
    registry_auth: Option<PathBuf>,
    /// Launches under way.
    launching: watch::Sender<usize>,
    creates: Semaphore,
    removals: Semaphore,
    exits: Exits,
    changes: Arc<Notify>,
    /// Ends the watch of Docker's events with the engine.
    _watch: events::Watch,
}

impl DockerEngine {
    /// Connects and begins to watch. The error is [`EngineError::Unavailable`] when nothing answers on
    /// `socket` (default: `DOCKER_HOST`, else the usual path).
    pub async fn connect(
        socket: Option<&str>,
        cluster: ClusterId,
        node: NodeId,
        logs: Store,
    ) -> Result<DockerEngine, EngineError> {
        let docker = client(socket)?;
        within("ping Docker", PROBE_DEADLINE, docker.ping()).await?;
        let version = within("ask Docker for its version", READ_DEADLINE, docker.version()).await?;
        let components = version.components.unwrap_or_default();
        let has_init = components.iter().any(|c| c.name == "docker-init" && c.version != "N/A");
        let changes = Arc::new(Notify::new());
        Ok(DockerEngine {
            cluster,
            node,
            logs,
            can_wait: wait_image::is_available(version.arch.as_deref()),
            platform: Platform::new(version.os, version.arch),
            has_init,
            network: Arc::new(network::Handle::new(docker.clone(), cluster)),
            pool: None,
            firewall: Some(Arc::new(firewall::Firewall::new(network::device(cluster)))),
            registry_auth: None,
            launching: watch::Sender::new(0),
            creates: Semaphore::new(PARALLEL_CREATES),
            removals: Semaphore::new(PARALLEL_REMOVALS),
            exits: Exits::new(docker.clone(), changes.clone()),
            changes: changes.clone(),
            _watch: events::watch(docker.clone(), cluster, node, changes),
            docker,
        })
    }

    /// Keeps so many network namespaces ready, at most [`PREPARED_MAX`], once
    /// there is something to launch here. On an architecture without a waiting program there are none.
    #[must_use]
    pub fn prepare_namespaces(mut self, count: usize) -> Self {
        let owner = (self.cluster, self.node);
        self.pool = (count > 0 && self.can_wait).then(|| {
            let (network, launching) = (Arc::clone(&self.network), self.launching.clone());
            let pool = namespaces::Pool::new(self.docker.clone(), owner, count, network, launching);
            let filling = pool.fill();
            (pool, filling)
        });
        self
    }

    /// Shows registries the credentials of a file, as `docker login` writes it, when images are pulled.
    #[must_use]
    pub fn with_registry_auth(mut self, file: Option<PathBuf>) -> Self {
        self.registry_auth = file;
        self
    }

    /// Lets containers reach this host and the nodes' ports.
    #[must_use]
    pub fn without_firewall(mut self) -> Self {
        self.firewall = None;
        self
    }

    /// How many network namespaces are ready.
    pub fn prepared(&self) -> usize {
        self.pool().map_or(0, |pool| pool.ready())
    }

    /// Removes the cluster's network from this host. Refused while containers are on it.
    pub async fn remove_network(&self) -> Result<(), EngineError> {
        self.network.remove().await?;
        if let Some(firewall) = &self.firewall {
            firewall.remove().await;
        }
        Ok(())
    }

    fn pool(&self) -> Option<&Arc<namespaces::Pool>> {
        self.pool.as_ref().map(|(pool, _)| pool)
    }
}

#[async_trait::async_trait]
impl Engine for DockerEngine {
    fn kind(&self) -> EngineKind {
        EngineKind::Docker
    }

    async fn launch(&self, launch: &Launch) -> Result<SocketAddr, EngineError> {
        self.launch_instance(launch).await
    }

    async fn list(&self) -> Result<Vec<Running>, EngineError> {
        let found = self.listed().await?;
        self.reap_waiting(&found);
        let listed: Vec<Listed> = found.iter().filter_map(container::listed).collect();
        self.exits.listed(&listed);
        let running = stream::iter(listed).map(|listed| async move {
            let state = match listed.state {
                Some(state) => Some(state),
                None => self.exits.state_of(&listed.id).await?,
            };
            Ok::<_, EngineError>(state.map(|state| Running {
                instance: listed.instance,
                generation: listed.generation,
                function: listed.function,
                state,
                paused: listed.paused,
            }))
        });
        let running: Vec<Option<Running>> = running.buffered(PARALLEL_READS).try_collect().await?;
        Ok(running.into_iter().flatten().collect())
    }

    async fn stop(&self, instance: InstanceId, grace: Millis) -> Result<(), EngineError> {
        self.stop_instance(instance, grace).await
    }

    async fn pause(&self, instance: InstanceId) -> Result<(), EngineError> {
        self.freeze(instance).await
    }

    async fn resume(&self, instance: InstanceId) -> Result<(), EngineError> {
        self.thaw(instance).await
    }

    fn changes(&self) -> Arc<Notify> {
        self.changes.clone()
    }

    async fn has_image(&self, image: &str) -> Result<bool, EngineError> {
        match within("inspect the image", READ_DEADLINE, self.docker.inspect_image(image)).await {
            Ok(_) => {
                // It is asked about what is deployed: a launch may come.
                if let Some(pool) = self.pool() {
                    pool.begin();
                }
                Ok(true)
            }
            Err(error) if docker_status(&error) == Some(404) => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn pull(&self, image: &str, told: &(dyn Fn(Progress) + Send + Sync)) -> Result<(), EngineError> {
        self.pull_image(image, told).await
    }

    async fn has_package(&self, source: &Source) -> Result<bool, EngineError> {
        let Source::PackagedImage { package, image } = source else { return Ok(false) };
        let loaded = self.loaded(*package, image).await?.is_some();
        if loaded && let Some(pool) = self.pool() {
            pool.begin();
        }
        Ok(loaded)
    }

    async fn take_package(&self, source: &Source, file: &Path) -> Result<(), EngineError> {
        let Source::PackagedImage { package, image } = source else {
            return Err(EngineError::WrongEngine { engine: EngineKind::Docker });
        };
        if self.loaded(*package, image).await?.is_none() {
            self.load(*package, file).await?;
            let missing = || EngineError::NotInPackage { package: *package, image: image.clone() };
            self.loaded(*package, image).await?.ok_or_else(missing)?;
        }
        Ok(())
    }

    async fn retain_packages(&self, packages: &BTreeSet<PackageDigest>) -> Result<(), EngineError> {
        self.unload_all_but(packages).await
    }

    async fn close_ports(&self, names: BTreeSet<String>) {
        if let Some(firewall) = &self.firewall {
            firewall.close(firewall::resolve(names).await).await;
        }
    }

    async fn output(&self, instance: InstanceId) -> Result<Vec<u8>, EngineError> {
        match tail(&self.docker, &container::name(self.cluster, instance)).await {
            Err(error) if docker_status(&error) == Some(404) => Err(EngineError::NoSuchInstance { instance }),
            tail => Ok(tail?.to_vec()),
        }
    }

    async fn logged(&self, function: &FunctionName) -> Result<Vec<Origin>, EngineError> {
        self.logged_instances(function).await
    }

    async fn logs(
        &self,
        function: &FunctionName,
        instance: InstanceId,
        read: LogRead,
    ) -> Result<LogStream, EngineError> {
        self.read_logs(function, instance, read).await
    }

    async fn retire(&self) {
        if let Some(pool) = self.pool() {
            pool.retire().await;
        }
    }

    async fn clear(&self) -> Result<(), EngineError> {
        self.retire().await;
        let waiting = self.listed().await?;
        let waiting = waiting.iter().filter_map(container::waits);
        join_all(waiting.map(|holder| self.remove(holder))).await.into_iter().collect()
    }

    async fn retain_logs(&self, functions: BTreeMap<FunctionName, Timestamp>) {
        self.logs.retain(functions).await;
    }
}

impl DockerEngine {
    /// All containers of this node.
    async fn listed(&self) -> Result<Vec<ContainerSummary>, EngineError> {
        let filters = container::filters(self.cluster, self.node);
        let options = ListContainersOptionsBuilder::new().all(true).filters(&filters).build();
        within("list the containers", READ_DEADLINE, self.docker.list_containers(Some(options))).await
    }

    /// Removes, beside the listing, waiting containers that an earlier life of this node has left.
    fn reap_waiting(&self, found: &[ContainerSummary]) {
        let Some(pool) = self.pool() else { return };
        let waiting = found.iter().filter_map(container::waits).cloned().collect();
        let labels = found.iter().filter_map(|found| found.labels.as_ref());
        let joined = labels.filter_map(container::holder).cloned().collect();
        for orphan in pool.orphans(&waiting, &joined) {
            let pool = Arc::clone(pool);
            tokio::spawn(async move { pool.release(&orphan).await });
        }
    }
}

fn client(socket: Option<&str>) -> Result<Docker, EngineError> {
    // The client's own limit covers what the deadlines here do not: a watch that gets no answer at all.
    let seconds = CREATE_DEADLINE.as_secs();
    let connected = match socket {
        Some(path) => Docker::connect_with_unix(path, seconds, bollard::API_DEFAULT_VERSION),
        None => Docker::connect_with_unix_defaults().map(|docker| docker.with_timeout(CREATE_DEADLINE)),
    };
    connected.map_err(|error| EngineError::docker("connect to Docker", error))
}

/// Runs one operation under its deadline and names it in the error.
async fn within<T>(
    operation: &'static str,
    deadline: Duration,
    call: impl Future<Output = Result<T, bollard::errors::Error>>,
) -> Result<T, EngineError> {
    match timeout(deadline, call).await {
        Ok(done) => done.map_err(|error| EngineError::docker(operation, error)),
        Err(_) => Err(EngineError::Deadline { operation }),
    }
}

/// The HTTP status behind an error, where Docker answered.
fn docker_status(error: &EngineError) -> Option<u16> {
    match error {
        EngineError::Refused { source: crate::Cause::Docker(error), .. } => status(error),
        _ => None,
    }
}

/// While an image is looked up or used, 404 means that it is not there.
fn missing_image(error: EngineError, image: &str) -> EngineError {
    match docker_status(&error) {
        Some(404) if !network::is_missing(&error) => EngineError::NoSuchImage { image: image.to_owned() },
        _ => error,
    }
}
