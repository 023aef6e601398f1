//! A place to test an engine in: a cluster of its own, the fixture in the form the engine runs, and a
//! guard that removes what is left.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bollard::Docker;
use bollard::query_parameters::{
    ListContainersOptionsBuilder, RemoveContainerOptionsBuilder, RemoveImageOptions,
};
use muster_core::functions::{EngineKind, KeepAlive, Payer, ScalingPolicy, Source, Spec, UsageDurability};
use muster_core::ids::{ClusterId, FunctionName, Generation, InstanceId, NodeId};
use muster_core::units::{Millis, Timestamp};
use muster_engine::logs::{Limits, Store};
use muster_engine::{DockerEngine, Engine, Launch, ProcessEngine, RunState, docker_answers, readiness};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::{image, program};

/// Long enough for a loaded machine; a test that works never waits for it.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);
pub(crate) const NODE: NodeId = NodeId(1);
/// For stops that are not what a test is about.
pub(crate) const NO_GRACE: Millis = Millis(0);

pub(crate) struct Bench {
    pub engine: Arc<dyn Engine>,
    pub cluster: ClusterId,
    pub source: Source,
    /// Where processes have their folders.
    folder: tempfile::TempDir,
    /// Dropped last: it removes what the engine left.
    _leftovers: Option<Leftovers>,
}

impl Bench {
    /// `None` where no Docker Engine answers, which is said on stderr.
    pub(crate) async fn docker() -> Option<Bench> {
        if !docker_answers(None).await {
            eprintln!("skipped: no Docker Engine answers on this machine");
            return None;
        }
        let cluster = ClusterId(random());
        let leftovers = Leftovers { cluster, images: vec![format!("muster-engine-test:{cluster}")] };
        let tag = leftovers.images[0].clone();
        let fixture =
            image::Image { tag: &tag, architecture: image::native(), user: "", entrypoint: &["/program"] };
        fixture.load(&client()).await.expect("Docker loads the image");
        let folder = tempfile::tempdir().expect("a temporary folder");
        let engine = DockerEngine::connect(None, cluster, NODE, logs_in(folder.path())).await;
        Some(Bench {
            engine: Arc::new(engine.expect("Docker answers")),
            cluster,
            source: Source::Image(tag),
            folder,
            _leftovers: Some(leftovers),
        })
    }

    pub(crate) fn process() -> Bench {
        Bench::process_of(program::path().to_str().expect("a plain path").to_owned())
    }

    /// With a program that has been compiled already.
    pub(crate) fn process_of(program: String) -> Bench {
        let cluster = ClusterId(random());
        let folder = tempfile::tempdir().expect("a temporary folder");
        let engine = ProcessEngine::new(cluster, NODE, folder.path(), logs_in(folder.path()))
            .expect("a process engine");
        Bench {
            engine: Arc::new(engine),
            cluster,
            source: Source::Command(vec![program]),
            folder,
            _leftovers: None,
        }
    }

    /// Another engine of the same kind on this host, as another node or another cluster has it.
    pub(crate) async fn neighbour(
        &self,
        cluster: ClusterId,
        node: NodeId,
    ) -> (Arc<dyn Engine>, Option<Leftovers>) {
        let logs = logs_in(&self.folder.path().join(format!("{cluster}-{node}-logs")));
        match self.engine.kind() {
            EngineKind::Docker => {
                let engine = DockerEngine::connect(None, cluster, node, logs).await.expect("Docker answers");
                // In the same cluster the bench's own guard is enough, and another would be too much.
                let foreign = cluster != self.cluster;
                (Arc::new(engine), foreign.then(|| Leftovers { cluster, images: Vec::new() }))
            }
            EngineKind::Process => {
                let folder = self.folder.path().join(format!("{cluster}-{node}"));
                let engine = ProcessEngine::new(cluster, node, folder, logs).expect("a process engine");
                (Arc::new(engine), None)
            }
        }
    }

    pub(crate) fn folder(&self) -> &std::path::Path {
        self.folder.path()
    }

    /// A new instance of the fixture.
    pub(crate) fn launch(&self, behaviour: &str) -> Launch {
        self.launch_of(self.source.clone(), behaviour)
    }

    pub(crate) fn launch_of(&self, source: Source, behaviour: &str) -> Launch {
        let spec = Spec {
            source,
            env: BTreeMap::from([("BEHAVIOUR".to_owned(), behaviour.to_owned())]),
            port: 8080,
            readiness_path: None,
            memory_mb: 32,
            cpu_millis: 500,
            concurrency: 1,
            timeout: Millis(30_000),
            startup_timeout: Millis(60_000),
            scaling: ScalingPolicy {
                min: 0,
                max: 10,
                step: None,
                target_permille: 700,
                window: Millis(60_000),
                keep_alive: KeepAlive::Fixed(Millis(300_000)),
            },
            max_waiting: 1000,
            payer: Payer::Owner,
            usage_durability: UsageDurability::Interval,
            idempotent: false,
        };
        Launch {
            cluster: self.cluster,
            node: NODE,
            instance: InstanceId(random()),
            generation: Generation(random() % 1_000_000),
            function: FunctionName::new("fixture").expect("a valid name"),
            version: 1,
            born: Timestamp(1_700_000_000_000),
            spec: Arc::new(spec),
        }
    }

    /// Launches an instance that serves, and waits until it does. Where a process loses its port to someone
    /// faster, as it may, another is launched.
    pub(crate) async fn serving(&self, behaviour: &str) -> (Launch, SocketAddr) {
        for _port in 0..3 {
            let launch = self.launch(behaviour);
            let addr = self.engine.launch(&launch).await.expect("it launches");
            tokio::select! {
                () = ready(addr) => return (launch, addr),
                () = self.loses_its_port(launch.instance) => {}
            }
            self.engine.stop(launch.instance, NO_GRACE).await.expect("it has ended");
        }
        panic!("three ports in a row were taken by others");
    }

    /// Returns only where that happens.
    async fn loses_its_port(&self, instance: InstanceId) {
        if self.engine.kind() != EngineKind::Process {
            return std::future::pending().await;
        }
        loop {
            let state = self.state(instance).await;
            if matches!(state, Some(RunState::Exited(exit)) if exit.last_output.contains("AddrInUse")) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// The state of an instance by the engine's list, if it is listed.
    pub(crate) async fn state(&self, instance: InstanceId) -> Option<RunState> {
        let listed = self.engine.list().await.expect("a list");
        listed.into_iter().find(|running| running.instance == instance).map(|running| running.state)
    }
}

/// Removes all that a cluster has in Docker, on drop and so after a panic as well.
pub(crate) struct Leftovers {
    pub cluster: ClusterId,
    pub images: Vec<String>,
}

impl Drop for Leftovers {
    fn drop(&mut self) {
        let removal = remove_all(self.cluster, std::mem::take(&mut self.images));
        // A test's own runtime cannot be waited on from inside it.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let removed = std::thread::spawn(move || runtime.expect("a runtime").block_on(removal)).join();
        if !std::thread::panicking() {
            removed.expect("no panic").expect("nothing of the test is left in Docker");
        }
    }
}

async fn remove_all(cluster: ClusterId, images: Vec<String>) -> anyhow::Result<()> {
    let docker = client();
    let folder = tempfile::tempdir()?;
    let engine = DockerEngine::connect(None, cluster, NODE, logs_in(folder.path())).await?;
    let deadline = Instant::now() + DEADLINE;
    // Docker may still be making what an engine had asked for before it was dropped.
    while let Err(error) = remove_containers(&docker, cluster, &engine).await {
        anyhow::ensure!(Instant::now() < deadline, "{error:#}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    engine.retain_packages(&BTreeSet::new()).await?;
    for image in images {
        docker.remove_image(&image, None::<RemoveImageOptions>, None).await?;
    }
    Ok(())
}

async fn remove_containers(docker: &Docker, cluster: ClusterId, engine: &DockerEngine) -> anyhow::Result<()> {
    let filters = HashMap::from([("label", vec![format!("muster.cluster={cluster}")])]);
    let all = ListContainersOptionsBuilder::new().all(true).filters(&filters).build();
    for container in docker.list_containers(Some(all)).await? {
        let force = RemoveContainerOptionsBuilder::new().force(true).v(true).build();
        docker.remove_container(&container.id.unwrap_or_default(), Some(force)).await?;
    }
    Ok(engine.remove_network().await?)
}

/// Where the engines of a test keep output, in its folder.
pub(crate) fn logs_in(folder: &std::path::Path) -> Store {
    Store::open(folder.join("logs"), Limits::default()).expect("a store of output")
}

pub(crate) fn client() -> Docker {
    Docker::connect_with_unix_defaults().expect("Docker answered before")
}

pub(crate) fn random() -> u64 {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).expect("the system has randomness");
    u64::from_le_bytes(bytes)
}

pub(crate) async fn ready(addr: SocketAddr) {
    readiness::wait_ready(addr, None, Instant::now() + DEADLINE).await.expect("it becomes ready");
}

/// One GET on a connection of its own; the answer's body. The fixture answers everything asked here
/// with 200.
pub(crate) async fn get(addr: SocketAddr, path: &str) -> String {
    let text = try_get(addr, path).await.expect("it answers");
    let (head, body) = text.split_once("\r\n\r\n").expect("a head and a body");
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    body.to_owned()
}

pub(crate) async fn try_get(addr: SocketAddr, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(addr).await?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: {addr}\r\n\r\n").as_bytes()).await?;
    let mut text = String::new();
    stream.read_to_string(&mut text).await?;
    Ok(text)
}

/// Looks until `look` finds something, and fails with `what` after [`DEADLINE`].
pub(crate) async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < deadline, "in {DEADLINE:?} not seen: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
