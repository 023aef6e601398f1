//! A host's container engine, simulated: launches and stops take virtual time and fail when told to,
//! and containers outlive the node's process, as Docker's do.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use muster_chaos::chaos::dice::Dice;
use muster_core::functions::EngineKind;
use muster_core::ids::{ClusterId, Generation, InstanceId};
use muster_core::units::Millis;
use muster_engine::readiness::{Attempt, NotReady};
use muster_engine::{Engine, EngineError, Exit, Launch, RunState, Running};
use muster_node::parts::Engines;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

/// The containers of one host. A clone is a handle to the same.
#[derive(Clone, Debug)]
pub struct Containers(Arc<Mutex<Host>>);

#[derive(Debug)]
struct Host {
    node: u64,
    dice: Dice,
    running: BTreeMap<InstanceId, Running>,
    /// Those that hold a slot of one of them, by what runs.
    serving: BTreeMap<InstanceId, u32>,
    /// What was told to stop, with its generation: to launch it again would be a mistake.
    stopped: BTreeSet<(InstanceId, Generation)>,
    launched: BTreeSet<InstanceId>,
    failing_percent: u64,
    launch_ms: (u64, u64),
    violation: Option<String>,
    changes: Arc<Notify>,
}

impl Containers {
    pub fn new(node: u64, seed: u64) -> Containers {
        Containers(Arc::new(Mutex::new(Host {
            node,
            dice: Dice::new(seed, 1_000 + node),
            running: BTreeMap::new(),
            serving: BTreeMap::new(),
            stopped: BTreeSet::new(),
            launched: BTreeSet::new(),
            failing_percent: 0,
            launch_ms: (5, 300),
            violation: None,
            changes: Arc::default(),
        })))
    }

    /// From now on so many of a hundred calls fail, and launches take this long.
    pub fn set_trouble(&self, failing_percent: u64, launch_ms: (u64, u64)) {
        let mut host = self.lock();
        host.failing_percent = failing_percent;
        host.launch_ms = launch_ms;
    }

    /// The program in one of the containers ends by itself.
    pub fn kill_one(&self) {
        let mut host = self.lock();
        let alive: Vec<InstanceId> = host.alive().collect();
        if alive.is_empty() {
            return;
        }
        let id = *host.dice.pick(&alive);
        if let Some(running) = host.running.get_mut(&id) {
            running.state = RunState::Exited(Exit { code: Some(1), ..Exit::default() });
        }
        host.changes.notify_one();
    }

    /// The host itself restarts: no program survives.
    pub fn kill_all(&self) {
        let mut host = self.lock();
        for running in host.running.values_mut() {
            running.state = RunState::Exited(Exit { code: Some(255), ..Exit::default() });
        }
    }

    /// What runs.
    pub fn alive(&self) -> BTreeSet<InstanceId> {
        self.lock().alive().collect()
    }

    /// A request is at work in one of them until what is returned is dropped, as it is when the node dies.
    pub fn serve(&self, id: InstanceId) -> Serving {
        let mut host = self.lock();
        let requests = host.serving.entry(id).or_default();
        *requests += 1;
        if *requests > CONCURRENCY {
            let (node, requests) = (host.node, host.serving[&id]);
            host.violation = Some(format!("{requests} requests at a time in {id} on node {node}"));
        }
        host.check_awake(id);
        Serving { containers: self.clone(), id }
    }

    /// Everything that was ever launched here.
    pub fn launched(&self) -> BTreeSet<InstanceId> {
        self.lock().launched.clone()
    }

    pub fn violation(&self) -> Option<String> {
        self.lock().violation.clone()
    }

    /// As a node's process connects to it, anew in each life.
    pub fn connection(&self) -> Box<dyn Engines> {
        self.lock().changes = Arc::default();
        Box::new(Connection(self.clone()))
    }

    fn set_paused(&self, id: InstanceId, paused: bool) {
        let mut host = self.lock();
        if let Some(running) = host.running.get_mut(&id) {
            running.paused = paused;
        }
        if paused && host.serving.get(&id).is_some_and(|requests| *requests > 0) {
            host.check_awake(id);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Host> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets time pass; an error if the call fails.
    async fn delay(
        &self,
        operation: &'static str,
        span: impl FnOnce(&mut Host) -> u64,
    ) -> Result<(), EngineError> {
        let (millis, fails) = {
            let mut host = self.lock();
            let failing = host.failing_percent;
            (span(&mut host), host.dice.chance(failing))
        };
        sleep(Duration::from_millis(millis)).await;
        if fails { Err(EngineError::Deadline { operation }) } else { Ok(()) }
    }
}

/// A request at work.
#[derive(Debug)]
pub struct Serving {
    containers: Containers,
    id: InstanceId,
}

impl Drop for Serving {
    fn drop(&mut self) {
        let mut host = self.containers.lock();
        host.check_awake(self.id);
        if let Some(requests) = host.serving.get_mut(&self.id) {
            *requests -= 1;
        }
    }
}

impl Host {
    /// What is at work does not stand still.
    fn check_awake(&mut self, id: InstanceId) {
        if self.running.get(&id).is_some_and(|running| running.paused) {
            self.violation = Some(format!("{id} on node {} stands still with a request", self.node));
        }
    }

    fn alive(&self) -> impl Iterator<Item = InstanceId> {
        let alive = self.running.iter().filter(|(_, running)| !matches!(running.state, RunState::Exited(_)));
        alive.map(|(id, _)| *id)
    }

    fn launch(&mut self, launch: &Launch) -> Result<SocketAddr, EngineError> {
        if let Some(known) = self.running.get(&launch.instance) {
            return match &known.state {
                RunState::Exited(exit) => Err(EngineError::Exited { exit: exit.clone() }),
                RunState::Starting | RunState::Running { .. } | RunState::Ended => Ok(ADDRESS),
            };
        }
        if launch.node.0 != self.node {
            self.violation = Some(format!("node {} launched an instance of node {}", self.node, launch.node));
        }
        if self.stopped.contains(&(launch.instance, launch.generation)) {
            let what = launch.instance;
            self.violation =
                Some(format!("node {} launched {what} again after it had stopped it", self.node));
        }
        self.launched.insert(launch.instance);
        let running = Running {
            instance: launch.instance,
            generation: launch.generation,
            function: launch.function.clone(),
            state: RunState::Running { addr: ADDRESS },
            paused: false,
        };
        self.running.insert(launch.instance, running);
        self.changes.notify_one();
        Ok(ADDRESS)
    }
}

/// Requests that an instance serves at a time, as [`crate::workload`] deploys them.
pub const CONCURRENCY: u32 = 1;
/// Nobody connects to it: invocations are not simulated beyond their slots.
const ADDRESS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1)), 80);

struct Connection(Containers);

#[async_trait]
impl Engines for Connection {
    async fn connect(&self, _cluster: ClusterId) -> anyhow::Result<BTreeMap<EngineKind, Arc<dyn Engine>>> {
        let engine: Arc<dyn Engine> = Arc::new(self.0.clone());
        Ok(BTreeMap::from([(EngineKind::Docker, engine)]))
    }
}

#[async_trait]
impl Engine for Containers {
    fn kind(&self) -> EngineKind {
        EngineKind::Docker
    }

    async fn launch(&self, launch: &Launch) -> Result<SocketAddr, EngineError> {
        self.delay("create a container", |host| host.dice.between(host.launch_ms.0, host.launch_ms.1))
            .await?;
        let launched = self.lock().launch(launch);
        // The answer may be lost although the container is there.
        self.delay("start a container", |host| host.dice.below(5)).await?;
        launched
    }

    async fn wait_ready(&self, _: SocketAddr, _: Option<&str>, _: Instant) -> Result<(), NotReady> {
        let millis = {
            let mut host = self.lock();
            host.dice.between(1, 200)
        };
        sleep(Duration::from_millis(millis)).await;
        Ok(())
    }

    async fn probe(&self, _: SocketAddr, _: Option<&str>) -> Result<(), Attempt> {
        Ok(())
    }

    async fn list(&self) -> Result<Vec<Running>, EngineError> {
        // As Docker's: what is listed is how it was when the list was made.
        let listed = self.lock().running.values().cloned().collect();
        self.delay("list containers", |host| host.dice.below(20)).await?;
        Ok(listed)
    }

    async fn stop(&self, instance: InstanceId, _grace: Millis) -> Result<(), EngineError> {
        self.delay("stop a container", |host| host.dice.below(50)).await?;
        let mut host = self.lock();
        if let Some(gone) = host.running.remove(&instance) {
            host.stopped.insert((instance, gone.generation));
            host.changes.notify_one();
        }
        Ok(())
    }

    async fn pause(&self, instance: InstanceId) -> Result<(), EngineError> {
        self.delay("pause a container", |host| host.dice.below(10)).await?;
        self.set_paused(instance, true);
        // Done, and the answer may be lost.
        self.delay("pause a container", |host| host.dice.below(5)).await
    }

    async fn resume(&self, instance: InstanceId) -> Result<(), EngineError> {
        self.delay("unpause a container", |host| host.dice.below(10)).await?;
        self.set_paused(instance, false);
        self.delay("unpause a container", |host| host.dice.below(5)).await
    }

    fn changes(&self) -> Arc<Notify> {
        Arc::clone(&self.lock().changes)
    }

    async fn has_image(&self, _image: &str) -> Result<bool, EngineError> {
        Ok(true)
    }

    async fn output(&self, _instance: InstanceId) -> Result<Vec<u8>, EngineError> {
        Ok(Vec::new())
    }
}
