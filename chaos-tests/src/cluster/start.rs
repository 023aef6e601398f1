//! How a cluster comes about: folders, ports, what stands between its parts, processes.

use std::collections::BTreeMap;
use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::Mutex;

use anyhow::{Context, Result, ensure};
use muster_faultdisk::Mount;

use super::cleanup::{CLUSTER_ID_FILE, Guard};
use super::node::{Launch, Node};
use super::settings::{Address, ROOT_KEY_FILE, SECRET_FILE, Settings, disk_dir, docker_socket};
use super::{Clock, Cluster, DockerProxy, Network, Proxy, READY_WITHIN, Turn, programs};
use crate::wait::until;

/// Starts tried where another program takes a port between its choice and its use.
const STARTS_MAX: u32 = 5;

impl Cluster {
    /// Starts a cluster and waits until every node is ready and takes instances.
    ///
    /// # Errors
    /// With the end of a node's log, where one does not become ready.
    pub async fn start(settings: Settings) -> Result<Self> {
        tokio::task::spawn_blocking(programs::built).await.context("the programs were not built")?;
        for start in 1..=STARTS_MAX {
            let mut cluster = Self::spawn(&settings).await?;
            match cluster.settle().await {
                Ok(()) => return Ok(cluster),
                Err(error) if start == STARTS_MAX || !cluster.lost_a_port() => return Err(error),
                Err(_port_taken) => {}
            }
        }
        unreachable!("the last start returns")
    }

    async fn spawn(settings: &Settings) -> Result<Self> {
        let turn = Turn::take().await?;
        // Its own, not a link to it: processes are recognized by their folder.
        let dir = tempfile::Builder::new().prefix("muster-chaos-").tempdir().context("no folder")?;
        let path = dir.path();
        let secret = fs::read_to_string("/proc/sys/kernel/random/uuid").context("no random secret")?;
        fs::write(path.join(SECRET_FILE), secret).context("cannot write the peer secret")?;
        ensure!(!(settings.networked && settings.proxied), "a proxy cannot reach into a namespace");
        let network = match settings.networked {
            true => Some(Network::start(settings.nodes).context("cannot make a network")?),
            false => None,
        };
        let mut links = BTreeMap::new();
        let mut addresses = Vec::new();
        let ports = free_ports(usize::try_from(2 * settings.nodes).context("too many nodes")?)?;
        for (id, ports) in (1..=settings.nodes).zip(ports.chunks(2)) {
            let host = network.as_ref().map_or(Ipv4Addr::LOCALHOST, |network| network.address(id));
            let at = |port: u16| format!("{host}:{port}");
            let mut address =
                Address { id, http: at(ports[0]), peer: at(ports[1]), peer_advertised: at(ports[1]) };
            if settings.proxied {
                let proxy = Proxy::start(address.peer.parse().context("an address")?).await?;
                address.peer_advertised = proxy.address().to_string();
                links.insert(id, proxy);
            }
            addresses.push(address);
        }
        let guard = Guard::over(path)?;
        let mut docker_links = BTreeMap::new();
        if settings.docker_proxied {
            for id in 1..=settings.nodes {
                docker_links.insert(id, DockerProxy::start(docker_socket(path, id))?);
            }
        }
        let (mut nodes, mut disks, mut clocks) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        for address in &addresses {
            let wrapper = network.as_ref().map(|network| network.wrapper(address.id)).unwrap_or_default();
            let mut launch = Launch { wrapper, ..Launch::default() };
            if settings.faulty_disks {
                let program = tokio::task::spawn_blocking(programs::faultdisk).await??;
                let mount = Mount::start(&program, &disk_dir(path, address.id));
                disks.insert(address.id, mount.context("cannot mount a faulty disk")?);
            }
            if settings.faulty_clocks {
                let library = tokio::task::spawn_blocking(programs::clock).await??;
                let clock = Clock::new(path.join(format!("clock{}", address.id)), library)?;
                launch.env.extend(clock.env());
                clocks.insert(address.id, clock);
            }
            let node = Node::new(path, address.clone(), &settings.log, launch);
            node.write_config(&settings.config(path, address, &addresses)?)?;
            node.claim(settings.versions.as_deref());
            nodes.insert(address.id, node);
        }
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(trusting_nobody()?)
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .build()?;
        let cluster = Cluster {
            nodes,
            retired: Vec::new(),
            guests: Mutex::default(),
            settings: settings.clone(),
            links,
            docker_links,
            clocks,
            may_end: Mutex::default(),
            network,
            paused: Mutex::default(),
            incarnations: Mutex::default(),
            engine: settings.engine,
            root_key: String::new(),
            id: String::new(),
            http,
            disks,
            _guard: guard,
            dir,
            _turn: turn,
        };
        for n in cluster.numbers() {
            cluster.begin(n)?;
        }
        Ok(cluster)
    }

    /// Waits until all nodes are ready, and learns what only a cluster that has begun can tell.
    async fn settle(&mut self) -> Result<()> {
        let key_file = self.dir.path().join(ROOT_KEY_FILE);
        let look = || async {
            for n in self.numbers() {
                self.revive_if_its_port_was_taken(n)?;
            }
            Ok(fs::read_to_string(&key_file)?.trim().to_owned())
        };
        let waited = until("the cluster has begun", READY_WITHIN, look).await;
        self.root_key = waited.with_context(|| self.log_tails())?;
        for n in self.numbers() {
            self.await_ready(n).await?;
        }
        let cluster: muster_api::Cluster = self.get(self.running_node()?, "/v1/cluster").await?;
        self.id = cluster.cluster_id.context("a cluster that has begun has an id")?;
        fs::write(self.dir.path().join(CLUSTER_ID_FILE), &self.id).context("cannot note the cluster's id")
    }

    fn lost_a_port(&self) -> bool {
        self.nodes.values().any(Node::lost_its_port)
    }
}

/// Ports that were free a moment ago. All are held before the first is given back: no two alike.
pub(super) fn free_ports(count: usize) -> Result<Vec<u16>> {
    let listen = |_| TcpListener::bind("127.0.0.1:0").context("no port is free");
    let held: Vec<TcpListener> = (0..count).map(listen).collect::<Result<_>>()?;
    held.iter().map(|listener| Ok(listener.local_addr().context("a port without a number")?.port())).collect()
}

/// The client wants to know how to speak TLS, though nobody here does.
fn trusting_nobody() -> Result<rustls::ClientConfig> {
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = config.context("cannot set up TLS")?;
    Ok(config.with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth())
}
