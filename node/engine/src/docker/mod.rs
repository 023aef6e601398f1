//! Instances as Docker containers. Docker itself holds all there is to know, as labels: a node that
//! restarts lists its containers again, and nothing is kept here that must survive.
//!
//! [`container`] says how a container is made and how one is read back, [`network`] keeps the
//! cluster's bridge network, [`events`] turns Docker's events into hints.

mod container;
mod events;
mod network;

use std::collections::HashMap;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bollard::Docker;
use bollard::models::ContainerCreateBody;
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, KillContainerOptionsBuilder, ListContainersOptionsBuilder,
    LogsOptionsBuilder, RemoveContainerOptionsBuilder, WaitContainerOptionsBuilder,
};
use futures_util::{StreamExt, TryStreamExt, stream};
use muster_core::functions::{EngineKind, Source};
use muster_core::ids::{ClusterId, InstanceId, NodeId};
use muster_core::units::Millis;
use tokio::sync::{Notify, Semaphore};

use crate::error::status;
use crate::instance::{Exit, Launch, RunState, Running};
use crate::output::Tail;
use crate::{Engine, EngineError, OUTPUT_MAX};
use container::{Listed, Platform, Sighting};

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
/// For all of it, with what a create waits for that has the same name.
const LAUNCH_DEADLINE: Duration = Duration::from_secs(150);
const REMOVE_DEADLINE: Duration = Duration::from_secs(60);
const READ_DEADLINE: Duration = Duration::from_secs(20);
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
    /// What this host runs; images for anything else are refused.
    platform: Platform,
    /// Whether Docker has an init to put before the program: it reaps orphans and passes signals on.
    has_init: bool,
    network: network::Handle,
    creates: Semaphore,
    removals: Semaphore,
    /// How containers ended, by container id. An ended one never changes, and asking takes two calls.
    exits: Mutex<HashMap<String, Exit>>,
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
            platform: Platform::new(version.os, version.arch),
            has_init,
            network: network::Handle::new(docker.clone(), cluster),
            creates: Semaphore::new(PARALLEL_CREATES),
            removals: Semaphore::new(PARALLEL_REMOVALS),
            exits: Mutex::default(),
            changes: changes.clone(),
            _watch: events::watch(docker.clone(), cluster, node, changes),
            docker,
        })
    }

    /// Removes the cluster's network from this host. Refused while containers are on it.
    pub async fn remove_network(&self) -> Result<(), EngineError> {
        self.network.remove().await
    }

    /// Creates the container unless it exists, and starts it unless it has been started.
    async fn create_and_start(&self, launch: &Launch, image: &str, name: &str) -> Result<(), EngineError> {
        let network = self.network.id().await?;
        let config = within("inspect the image", READ_DEADLINE, self.docker.inspect_image(image))
            .await
            .map_err(|error| missing_image(error, image))?;
        self.platform.check(image, &config)?;
        let body = container::body(launch, image, &config, &network, self.has_init);
        let made = async {
            // Another create of this name may be under way, as after a lost reply: then the name is
            // taken, and there is nothing to inspect until that create has succeeded or failed.
            loop {
                if self.create(name, image, body.clone()).await? {
                    return self.start(launch, name).await;
                }
                if self.adopt(launch, name).await? {
                    return Ok(());
                }
                tokio::time::sleep(CONFLICT_PAUSE).await;
            }
        };
        tokio::time::timeout(LAUNCH_DEADLINE, made)
            .await
            .unwrap_or(Err(EngineError::Deadline { operation: "create the container" }))
    }

    /// Whether the container was created: false where its name is taken.
    async fn create(&self, name: &str, image: &str, body: ContainerCreateBody) -> Result<bool, EngineError> {
        let options = CreateContainerOptionsBuilder::new().name(name).build();
        let creation = self.docker.create_container(Some(options), body);
        match within("create the container", CREATE_DEADLINE, creation).await {
            Ok(_) => Ok(true),
            Err(error) if docker_status(&error) == Some(409) => Ok(false),
            Err(error) => Err(missing_image(error, image)),
        }
    }

    /// Takes over what has the name, started or not, as long as it is this very instance. False where
    /// there is nothing to take over.
    async fn adopt(&self, launch: &Launch, name: &str) -> Result<bool, EngineError> {
        let inspection = self.docker.inspect_container(name, None);
        let found = match within("inspect the container", READ_DEADLINE, inspection).await {
            Err(error) if docker_status(&error) == Some(404) => return Ok(false),
            found => found?,
        };
        if !container::is_of(&found, launch) {
            return Err(EngineError::NameTaken { name: name.to_owned() });
        }
        if container::sighting(&found, launch.spec.port)? == Sighting::Created {
            self.start(launch, name).await?;
        }
        Ok(true)
    }

    /// Starts a created container. One that cannot start is removed: it would be listed as starting.
    async fn start(&self, launch: &Launch, name: &str) -> Result<(), EngineError> {
        let started = within("start the container", CREATE_DEADLINE, self.docker.start_container(name, None));
        let Err(error) = started.await else { return Ok(()) };
        // After a lost answer it may well be running: whoever launches again adopts it.
        if docker_status(&error).is_some()
            && let Err(left) = self.remove(name).await
        {
            tracing::warn!(instance = %launch.instance, reason = left.reason(), "container not removed");
        }
        Err(container::explain_start(error))
    }

    /// Where the started instance listens, or how it ended.
    async fn address(&self, launch: &Launch, name: &str) -> Result<SocketAddr, EngineError> {
        let operation = "inspect the container";
        let found = within(operation, READ_DEADLINE, self.docker.inspect_container(name, None)).await?;
        match container::sighting(&found, launch.spec.port)? {
            Sighting::Running(addr) => Ok(addr),
            Sighting::Exited { code, oom_killed } => {
                let exit = container::exit(code, oom_killed, self.tail(name).await?.last_lines());
                Err(EngineError::Exited { exit })
            }
            Sighting::Created => {
                Err(EngineError::Unexpected { operation, problem: "it was started and did not run".into() })
            }
        }
    }

    /// How an exited container ended; `None` if it has been removed meanwhile.
    async fn exit_of(&self, id: &str) -> Result<Option<Exit>, EngineError> {
        if let Some(exit) = self.exits().get(id) {
            return Ok(Some(exit.clone()));
        }
        let found =
            within("inspect the container", READ_DEADLINE, self.docker.inspect_container(id, None)).await;
        let found = match found {
            Err(error) if docker_status(&error) == Some(404) => return Ok(None),
            found => found?,
        };
        let Sighting::Exited { code, oom_killed } = container::sighting(&found, 0)? else { return Ok(None) };
        // Output that cannot be read hides no exit.
        let last_output = self.tail(id).await.map(|tail| tail.last_lines()).unwrap_or_default();
        let exit = container::exit(code, oom_killed, last_output);
        self.exits().insert(id.to_owned(), exit.clone());
        Ok(Some(exit))
    }

    /// The end of a container's output.
    async fn tail(&self, name: &str) -> Result<Tail, EngineError> {
        let options =
            LogsOptionsBuilder::new().stdout(true).stderr(true).tail(container::OUTPUT_LINES).build();
        let collected = self.docker.logs(name, Some(options)).try_fold(
            Tail::new(OUTPUT_MAX),
            |mut tail, chunk| async move {
                tail.push(chunk.as_ref());
                Ok(tail)
            },
        );
        within("read the container's output", READ_DEADLINE, collected).await
    }

    /// Removes a container whatever its state. One that is gone, or on its way, is fine.
    async fn remove(&self, name: &str) -> Result<(), EngineError> {
        let _permit = self.removals.acquire().await.expect("the semaphore is never closed");
        let removal = async {
            loop {
                let options = RemoveContainerOptionsBuilder::new().force(true).v(true).build();
                match self.docker.remove_container(name, Some(options)).await {
                    Err(error) if status(&error) == Some(404) => return Ok(()),
                    // Its removal is already in progress: see it through.
                    Err(error) if status(&error) == Some(409) => tokio::time::sleep(CONFLICT_PAUSE).await,
                    done => return done,
                }
            }
        };
        within("remove the container", REMOVE_DEADLINE, removal).await
    }

    fn exits(&self) -> std::sync::MutexGuard<'_, HashMap<String, Exit>> {
        self.exits.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets how containers ended that are no longer listed.
    fn forget_exits(&self, listed: &[Listed]) {
        self.exits().retain(|id, _| listed.iter().any(|l| l.id == *id));
    }
}

#[async_trait::async_trait]
impl Engine for DockerEngine {
    fn kind(&self) -> EngineKind {
        EngineKind::Docker
    }

    async fn launch(&self, launch: &Launch) -> Result<SocketAddr, EngineError> {
        assert_eq!((launch.cluster, launch.node), (self.cluster, self.node), "a launch for another node");
        let Source::Image(image) = &launch.spec.source else {
            return Err(EngineError::WrongEngine { engine: EngineKind::Docker });
        };
        let name = container::name(launch.cluster, launch.instance);
        let permit = self.creates.acquire().await.expect("the semaphore is never closed");
        let mut done = self.create_and_start(launch, image, &name).await;
        if done.as_ref().is_err_and(network::is_missing) {
            // Someone removed the network since it was last seen: make it again, once.
            self.network.forget().await;
            done = self.create_and_start(launch, image, &name).await;
        }
        drop(permit);
        done?;
        self.address(launch, &name).await
    }

    async fn list(&self) -> Result<Vec<Running>, EngineError> {
        let filters = container::filters(self.cluster, self.node);
        let options = ListContainersOptionsBuilder::new().all(true).filters(&filters).build();
        let found =
            within("list the containers", READ_DEADLINE, self.docker.list_containers(Some(options))).await?;
        let listed: Vec<Listed> = found.iter().filter_map(container::listed).collect();
        self.forget_exits(&listed);
        let running = stream::iter(listed).map(|listed| async move {
            let state = match listed.state {
                Some(state) => Some(state),
                None => self.exit_of(&listed.id).await?.map(RunState::Exited),
            };
            Ok::<_, EngineError>(state.map(|state| Running {
                instance: listed.instance,
                generation: listed.generation,
                function: listed.function,
                state,
            }))
        });
        let running: Vec<Option<Running>> = running.buffered(PARALLEL_READS).try_collect().await?;
        Ok(running.into_iter().flatten().collect())
    }

    async fn stop(&self, instance: InstanceId, grace: Millis) -> Result<(), EngineError> {
        let name = container::name(self.cluster, instance);
        let sigterm = KillContainerOptionsBuilder::new().signal("SIGTERM").build();
        let signalled =
            within("signal the container", READ_DEADLINE, self.docker.kill_container(&name, Some(sigterm)));
        match signalled.await {
            Ok(()) => self.wait_for_end(&name, grace).await,
            Err(error) => match docker_status(&error) {
                Some(404) => return Ok(()),
                // Not running, or about to end: there is nothing to wait for.
                Some(409 | 500) => {}
                _ => return Err(error),
            },
        }
        self.remove(&name).await
    }

    fn changes(&self) -> Arc<Notify> {
        self.changes.clone()
    }

    async fn has_image(&self, image: &str) -> Result<bool, EngineError> {
        match within("inspect the image", READ_DEADLINE, self.docker.inspect_image(image)).await {
            Ok(_) => Ok(true),
            Err(error) if docker_status(&error) == Some(404) => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn output(&self, instance: InstanceId) -> Result<Vec<u8>, EngineError> {
        let tail = self.tail(&container::name(self.cluster, instance)).await;
        match tail {
            Err(error) if docker_status(&error) == Some(404) => Err(EngineError::NoSuchInstance { instance }),
            tail => Ok(tail?.to_vec()),
        }
    }
}

impl DockerEngine {
    /// Returns when the container has ended or `grace` has passed. `docker stop` counts in seconds, so
    /// this is its own.
    async fn wait_for_end(&self, name: &str, grace: Millis) {
        let options = WaitContainerOptionsBuilder::new().condition("not-running").build();
        let mut ended = std::pin::pin!(self.docker.wait_container(name, Some(options)));
        // Whatever ends the wait, the forced removal that follows is right.
        let _ = tokio::time::timeout(grace.to_duration(), ended.next()).await;
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
    match tokio::time::timeout(deadline, call).await {
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
