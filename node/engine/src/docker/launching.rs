//! From a launch to a container that runs: in a namespace that is ready, or with one of its own.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bollard::models::ContainerCreateBody;
use bollard::query_parameters::CreateContainerOptionsBuilder;
use muster_core::functions::{EngineKind, Source};
use tokio::sync::watch;
use tokio::time::timeout;

use super::container::{self, Place, Sighting};
use super::exits::tail;
use super::{
    CONFLICT_PAUSE, CREATE_DEADLINE, DockerEngine, READ_DEADLINE, docker_status, missing_image, network,
    within,
};
use crate::EngineError;
use crate::instance::Launch;

/// For all of it, with what a create waits for that has the same name.
const LAUNCH_DEADLINE: Duration = Duration::from_secs(150);

/// What came of a launch.
enum Made {
    /// With the address, where that is known already.
    New(Option<SocketAddr>),
    /// It was there.
    Adopted,
}

/// Counts a launch for as long as it is under way.
struct UnderWay(watch::Sender<usize>);

impl UnderWay {
    fn begin(count: &watch::Sender<usize>) -> Self {
        count.send_modify(|launches| *launches += 1);
        UnderWay(count.clone())
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.send_modify(|launches| *launches -= 1);
    }
}

impl DockerEngine {
    pub(super) async fn launch_instance(&self, launch: &Launch) -> Result<SocketAddr, EngineError> {
        assert_eq!((launch.cluster, launch.node), (self.cluster, self.node), "a launch for another node");
        let loaded;
        let image = match &launch.spec.source {
            Source::Image(image) => image,
            Source::PackagedImage { package, image } => {
                // By its id: whatever else is called so on this host is another image.
                loaded = self.loaded(*package, image).await?;
                let missing = || EngineError::NoSuchPackage { package: package.to_string() };
                loaded.as_ref().ok_or_else(missing)?
            }
            Source::Command(_) | Source::PackagedCommand { .. } => {
                return Err(EngineError::WrongEngine { engine: EngineKind::Docker });
            }
        };
        let name = container::name(launch.cluster, launch.instance);
        let under_way = UnderWay::begin(&self.launching);
        let permit = self.creates.acquire().await.expect("the semaphore is never closed");
        self.shut().await?;
        let made = match self.launch_joined(launch, image, &name).await {
            Some(made) => made,
            None => self.launch_apart(launch, image, &name).await,
        };
        drop((permit, under_way));
        match made? {
            Made::New(Some(addr)) => Ok(addr),
            Made::New(None) | Made::Adopted => self.address(launch, &name).await,
        }
    }

    /// Launches with a namespace of its own.
    async fn launch_apart(&self, launch: &Launch, image: &str, name: &str) -> Result<Made, EngineError> {
        let place = Place::Network(self.network.id().await?);
        let made = self.create_and_start(launch, image, name, &place).await;
        if !made.as_ref().is_err_and(network::is_missing) {
            return made;
        }
        // Someone removed the network since it was last seen: make it again, once.
        self.network.forget().await;
        let place = Place::Network(self.network.id().await?);
        self.create_and_start(launch, image, name, &place).await
    }

    /// Sees to it that containers are kept from what they must not reach.
    async fn shut(&self) -> Result<(), EngineError> {
        let Some(firewall) = &self.firewall else { return Ok(()) };
        if !firewall.has_stood().await {
            self.network.id().await?;
            firewall.ensure().await;
        } else if !firewall.is_fresh().await {
            let firewall = Arc::clone(firewall);
            tokio::spawn(async move { firewall.ensure().await });
        }
        Ok(())
    }

    /// Launches into a namespace that is ready, if one is. `None`: there is none, or it was of no use.
    async fn launch_joined(
        &self,
        launch: &Launch,
        image: &str,
        name: &str,
    ) -> Option<Result<Made, EngineError>> {
        let pool = self.pool()?;
        let taken = pool.take()?;
        let place = Place::Joined(taken.namespace().clone());
        match self.create_and_start(launch, image, name, &place).await {
            Ok(Made::New(addr)) => Some(Ok(Made::New(addr))),
            Ok(Made::Adopted) => {
                taken.give_back();
                Some(Ok(Made::Adopted))
            }
            Err(error) => {
                use EngineError::{NameTaken, NoSuchImage, NoSuchProgram, WrongPlatform};
                // Nothing was made: it is as good as before.
                if matches!(error, NoSuchImage { .. } | WrongPlatform { .. } | NameTaken { .. }) {
                    taken.give_back();
                    return Some(Err(error));
                }
                let (pool, silent) = (Arc::clone(pool), docker_status(&error).is_none());
                tokio::spawn(async move { pool.release(&taken.namespace().holder).await });
                // Docker may refuse to join it, as after its own restart; what else it refuses it will again.
                if silent || matches!(error, NoSuchProgram { .. }) { Some(Err(error)) } else { None }
            }
        }
    }

    /// Creates the container unless it exists, and starts it unless it has been started.
    async fn create_and_start(
        &self,
        launch: &Launch,
        image: &str,
        name: &str,
        place: &Place,
    ) -> Result<Made, EngineError> {
        let config = within("inspect the image", READ_DEADLINE, self.docker.inspect_image(image))
            .await
            .map_err(|error| missing_image(error, image))?;
        self.platform.check(image, &config)?;
        let body = container::body(launch, image, &config, place, self.has_init);
        let addr = match place {
            Place::Network(_) => None,
            Place::Joined(namespace) => Some(SocketAddr::new(namespace.addr, launch.spec.port)),
        };
        let made = async {
            // Another create of this name may be under way, as after a lost reply: then the name is
            // taken, and there is nothing to inspect until that create has succeeded or failed.
            loop {
                if self.create(name, image, body.clone()).await? {
                    self.start(launch, name).await?;
                    return Ok(Made::New(addr));
                }
                if self.adopt(launch, name).await? {
                    return Ok(Made::Adopted);
                }
                tokio::time::sleep(CONFLICT_PAUSE).await;
            }
        };
        timeout(LAUNCH_DEADLINE, made)
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
        match container::sighting(&found, launch.spec.port)? {
            Sighting::Removing => return Ok(false),
            Sighting::Created => self.start(launch, name).await?,
            Sighting::Running(_) | Sighting::Exited { .. } => {}
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
                let last_output = tail(&self.docker, name).await?.last_lines();
                let exit = container::exit(code, oom_killed, last_output);
                let id = found.id.as_deref().unwrap_or(name);
                Err(EngineError::Exited { exit: self.exits.explain(id, exit).await })
            }
            Sighting::Created => {
                Err(EngineError::Unexpected { operation, problem: "it was started and did not run".into() })
            }
            Sighting::Removing => {
                Err(EngineError::Unexpected { operation, problem: "somebody removes it".into() })
            }
        }
    }
}
