//! A cluster of real nodes: started, broken, mended, asked and taken down.
//!
//! [`settings`](Settings) is what kind; [`node`] one process; [`views`] what nodes know; [`invoke`]
//! one invocation; [`proxy`] stands between nodes; [`programs`] builds what runs; [`turn`] keeps a
//! machine from being overrun; [`cleanup`] leaves nothing behind.

mod cleanup;
mod invoke;
mod node;
pub mod programs;
mod proxy;
mod settings;
mod turn;
mod views;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::ExitStatus;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use http::Method;
use muster_api::CreateKey;
use muster_client::{Client, Key, Options};
use nix::sys::signal::Signal;
use tempfile::TempDir;

pub use cleanup::{containers_of, networks_of, processes_of};
pub use invoke::{Answer, Entry, send};
pub use proxy::{Link, Proxy};
pub use settings::{Engine, Settings};
pub use turn::{CLUSTERS_MAX, Turn};

use crate::wait::{Hopeless, until};
use cleanup::{CLUSTER_ID_FILE, Guard};
use node::Node;
use settings::{Address, ROOT_KEY_FILE, SECRET_FILE};

/// A debug build on a busy machine takes a few seconds.
pub const READY_WITHIN: Duration = Duration::from_secs(60);
/// Starts tried where another program takes a port between its choice and its use.
const STARTS_MAX: u32 = 5;
/// What of a node's log is shown when a test fails.
const LOG_TAIL_LINES: usize = 60;
/// A node that does not say who leads within this is not asked for longer.
const ASK_LIMIT: Duration = Duration::from_secs(2);

/// Real nodes in a folder of their own. Nodes are numbered from 1. Dropping it takes everything down.
#[derive(Debug)]
pub struct Cluster {
    nodes: BTreeMap<u64, Node>,
    links: BTreeMap<u64, Proxy>,
    paused: Mutex<BTreeSet<u64>>,
    /// By node: how many times it had registered when it was last seen ready.
    incarnations: Mutex<BTreeMap<u64, u64>>,
    engine: Engine,
    root_key: String,
    id: String,
    http: reqwest::Client,
    // Dropped in this order: the guard before the folder it watches, the turn at last.
    _guard: Guard,
    dir: TempDir,
    _turn: Turn,
}

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

    /// The numbers of all nodes.
    pub fn numbers(&self) -> Vec<u64> {
        self.nodes.keys().copied().collect()
    }

    /// Nodes whose process is there and not paused.
    pub fn running(&self) -> Vec<u64> {
        let paused = self.paused().clone();
        let alive = self.nodes.iter().filter(|(_, node)| node.pid().is_some());
        alive.map(|(n, _)| *n).filter(|n| !paused.contains(n)).collect()
    }

    pub fn others(&self, n: u64) -> Vec<u64> {
        self.numbers().into_iter().filter(|other| *other != n).collect()
    }

    /// SIGKILL; returns when the process is gone.
    pub fn kill(&self, n: u64) -> Result<()> {
        self.paused().remove(&n);
        self.node(n).kill()
    }

    /// SIGKILL to all of them, before the end of any is waited for.
    pub fn kill_all(&self) -> Result<()> {
        for n in self.numbers() {
            if self.node(n).pid().is_some() {
                self.node(n).signal(Signal::SIGKILL)?;
            }
        }
        self.numbers().into_iter().try_for_each(|n| self.kill(n))
    }

    /// SIGSTOP: the node keeps its connections and answers nothing.
    pub fn pause(&self, n: u64) -> Result<()> {
        self.paused().insert(n);
        self.node(n).signal(Signal::SIGSTOP)
    }

    /// SIGCONT.
    pub fn resume(&self, n: u64) -> Result<()> {
        self.paused().remove(&n);
        self.node(n).signal(Signal::SIGCONT)
    }

    /// SIGTERM, without waiting; [`ended`](Self::ended) tells when it is through.
    pub fn terminate(&self, n: u64) -> Result<()> {
        self.node(n).signal(Signal::SIGTERM)
    }

    /// Waits until a node's process has ended by itself.
    ///
    /// # Errors
    /// Where it has not, within the time.
    pub async fn ended(&self, n: u64, within: Duration) -> Result<ExitStatus> {
        let node = self.node(n);
        let look = || async { node.ended()?.context("it still runs") };
        until(&format!("node {n} ends"), within, look).await
    }

    /// Kills the node if it runs, starts it again and waits until it is ready and its host has
    /// registered anew.
    ///
    /// # Errors
    /// With the end of its log, where it does not become ready.
    pub async fn restart(&self, n: u64) -> Result<()> {
        self.kill(n)?;
        self.begin(n)?;
        self.await_ready(n).await
    }

    /// Starts a node's process and returns at once.
    pub fn begin(&self, n: u64) -> Result<()> {
        self.node(n).start()
    }

    /// Starts all nodes that do not run and waits until all are ready.
    ///
    /// # Errors
    /// As for [`restart`](Self::restart).
    pub async fn start_all(&self) -> Result<()> {
        for n in self.numbers() {
            if self.node(n).pid().is_none() {
                self.begin(n)?;
            }
        }
        for n in self.numbers() {
            self.await_ready(n).await?;
        }
        Ok(())
    }

    /// Waits until a node is ready and has registered its host since it was last seen ready.
    ///
    /// # Errors
    /// With the end of its log.
    pub async fn await_ready(&self, n: u64) -> Result<()> {
        let known = self.incarnations().get(&n).copied().unwrap_or(0);
        let look = || async {
            self.revive_if_its_port_was_taken(n)?;
            let answer = self.request(n, Method::GET, "/readyz", None).send().await?;
            ensure!(answer.status() == 200, "/readyz answers {}", answer.status());
            let hosts: Vec<muster_api::Node> = self.get(n, "/v1/nodes?consistency=local").await?;
            let host = hosts.into_iter().find(|host| host.id == n).context("its host is unknown")?;
            ensure!(host.incarnation > known && host.condition == "ready", "its host is {host:?}");
            Ok(host.incarnation)
        };
        let waited = until(&format!("node {n} is ready"), READY_WITHIN, look).await;
        let incarnation = waited.with_context(|| format!("the end of its log:\n{}", self.log_tail(n)))?;
        self.incarnations().insert(n, incarnation);
        Ok(())
    }

    /// Who leads, once a running node that is ready says it does, and no running node knows of a
    /// later term.
    ///
    /// # Errors
    /// Where nobody leads within [`READY_WITHIN`].
    pub async fn leader(&self) -> Result<u64> {
        until("there is a leader", READY_WITHIN, || self.present_leader()).await
    }

    /// A client of all nodes with the root key.
    ///
    /// # Panics
    /// Never: the addresses are the harness's own.
    pub fn client(&self) -> Client {
        self.client_of(&self.numbers(), &self.root_key)
    }

    /// A client of one node alone with the root key.
    pub fn client_at(&self, n: u64) -> Client {
        self.client_of(&[n], &self.root_key)
    }

    /// A client of some nodes with some key. Patient: it waits for a quorum.
    ///
    /// # Panics
    /// For a text that cannot be a key.
    pub fn client_of(&self, nodes: &[u64], key: &str) -> Client {
        let key = Key::new(key).expect("a key is printable");
        let options = Options { attempt_timeout: Duration::from_secs(5), ..Options::default() };
        let urls: Vec<String> = nodes.iter().map(|n| self.url(*n)).collect();
        Client::with_options(urls, Some(key), options).expect("the harness's own addresses are valid")
    }

    /// Makes an account with a key, and a client of all nodes with that key.
    ///
    /// # Errors
    /// Where the account cannot be made; it may be there already.
    pub async fn client_for(&self, account: &str) -> Result<Client> {
        Ok(self.client_of(&self.numbers(), &self.key_for(account).await?))
    }

    /// A new key for an account, which is made if need be. Every running node knows the key when
    /// this returns.
    ///
    /// # Errors
    /// Where the cluster refuses.
    pub async fn key_for(&self, account: &str) -> Result<String> {
        let client = self.client();
        match client.create_account(account, muster_api::Role::User).await {
            Ok(_) => {}
            Err(error) if error.status() == Some(409) => {}
            Err(error) => return Err(error).with_context(|| format!("cannot make the account {account}")),
        }
        let created = client.create_key(account, &CreateKey::default()).await.context("cannot make a key")?;
        self.spread().await?;
        Ok(created.key)
    }

    /// Waits until every running node has applied what has been committed by now, so that each of
    /// them acts on it.
    ///
    /// # Errors
    /// Where one does not catch up.
    pub async fn spread(&self) -> Result<()> {
        let running = self.running();
        let mut newest = 0;
        for n in &running {
            // A read at any node, settled by a quorum, shows what was committed before.
            newest = newest.max(self.applied(*n).await?);
        }
        for n in running {
            let look = || async {
                let applied = self.applied(n).await?;
                ensure!(applied >= newest, "it has applied {applied} of {newest}");
                Ok(())
            };
            until(&format!("node {n} catches up"), READY_WITHIN, look).await?;
        }
        Ok(())
    }

    pub fn root_key(&self) -> &str {
        &self.root_key
    }

    /// The cluster's id, with which its containers are labelled.
    pub fn id(&self) -> &str {
        &self.id
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// `http://` and the address of a node's public listener.
    pub fn url(&self, n: u64) -> String {
        format!("http://{}", self.node(n).address.http)
    }

    /// The `host:port` of a node's public listener.
    pub fn address(&self, n: u64) -> &str {
        &self.node(n).address.http
    }

    /// What the others' messages to node `n` pass through, under [`Settings::proxied`].
    ///
    /// # Panics
    /// Where the cluster was started without.
    pub fn peer_link(&self, n: u64) -> &Proxy {
        self.links.get(&n).expect("the settings asked for proxies")
    }

    /// All that a node has logged.
    pub fn log(&self, n: u64) -> String {
        self.node(n).log()
    }

    /// The ids of the containers with this cluster's label, those that have ended too.
    ///
    /// # Errors
    /// Where Docker does not answer.
    pub fn containers(&self) -> Result<BTreeSet<String>> {
        Ok(containers_of(&self.id)?.into_iter().collect())
    }

    /// The processes that belong to the cluster: nodes and their instances.
    pub fn processes(&self) -> Vec<u32> {
        processes_of(self.dir.path())
    }

    async fn spawn(settings: &Settings) -> Result<Self> {
        let turn = Turn::take().await?;
        // Its own, not a link to it: processes are recognized by their folder.
        let dir = tempfile::Builder::new().prefix("muster-chaos-").tempdir().context("no folder")?;
        let path = dir.path();
        let secret = fs::read_to_string("/proc/sys/kernel/random/uuid").context("no random secret")?;
        fs::write(path.join(SECRET_FILE), secret).context("cannot write the peer secret")?;
        let mut links = BTreeMap::new();
        let mut addresses = Vec::new();
        let ports = free_ports(usize::try_from(2 * settings.nodes).context("too many nodes")?)?;
        for (id, ports) in (1..=settings.nodes).zip(ports.chunks(2)) {
            let at = |port: u16| format!("127.0.0.1:{port}");
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
        let mut nodes = BTreeMap::new();
        for address in &addresses {
            let node = Node::new(path, address.clone(), &settings.log);
            node.write_config(&settings.config(path, address, &addresses)?)?;
            nodes.insert(address.id, node);
        }
        let http =
            reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none()).build()?;
        let cluster = Cluster {
            nodes,
            links,
            paused: Mutex::default(),
            incarnations: Mutex::default(),
            engine: settings.engine,
            root_key: String::new(),
            id: String::new(),
            http,
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

    async fn present_leader(&self) -> Result<u64> {
        let mut views = Vec::new();
        for n in self.running() {
            let asked = self.get::<muster_api::Cluster>(n, "/v1/cluster?consistency=local");
            if let Ok(Ok(view)) = tokio::time::timeout(ASK_LIMIT, asked).await {
                views.push((view.term, n, view.leader));
            }
        }
        let term = views.iter().map(|(term, ..)| *term).max().context("no node answers")?;
        let newest = views.iter().find(|(t, n, leader)| *t == term && *leader == Some(*n));
        let (_, leader, _) = newest.with_context(|| format!("(term, node, leader): {views:?}"))?;
        let answer = self.request(*leader, Method::GET, "/readyz", None).send().await?;
        ensure!(answer.status() == 200, "the leader {leader} is not ready");
        Ok(*leader)
    }

    /// A node that can be asked.
    fn running_node(&self) -> Result<u64> {
        self.running().first().copied().context("no node runs")
    }

    /// A port that was free while its node was down may have been lent to someone's connection.
    fn revive_if_its_port_was_taken(&self, n: u64) -> Result<()> {
        let node = self.node(n);
        let Some(status) = node.ended()? else { return Ok(()) };
        // While the cluster begins, all its ports are chosen anew instead.
        if self.incarnations().contains_key(&n) && node.lost_its_port() {
            return node.start();
        }
        Err(Hopeless(format!("its process ended with {status}")).into())
    }

    fn lost_a_port(&self) -> bool {
        self.nodes.values().any(Node::lost_its_port)
    }

    fn node(&self, n: u64) -> &Node {
        self.nodes.get(&n).unwrap_or_else(|| panic!("there is no node {n}"))
    }

    fn log_tail(&self, n: u64) -> String {
        let log = self.log(n);
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(LOG_TAIL_LINES)..].join("\n")
    }

    fn log_tails(&self) -> String {
        let tail = |n: &u64| format!("--- the end of node {n}'s log\n{}", self.log_tail(*n));
        self.nodes.keys().map(tail).collect::<Vec<_>>().join("\n")
    }

    fn paused(&self) -> MutexGuard<'_, BTreeSet<u64>> {
        self.paused.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn incarnations(&self) -> MutexGuard<'_, BTreeMap<u64, u64>> {
        self.incarnations.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take_down(&self) -> Vec<String> {
        let mut troubles = Vec::new();
        for node in self.nodes.values() {
            if let Err(error) = node.kill() {
                troubles.push(format!("{error:#}"));
            }
        }
        troubles.extend(cleanup::kill_processes_of(self.dir.path()).err());
        if self.engine == Engine::Docker && !self.id.is_empty() {
            troubles.extend(cleanup::remove_containers_of(&self.id).err());
        }
        troubles
    }
}

impl Drop for Cluster {
    /// # Panics
    /// If something could not be removed, or a node has panicked, unless the test fails already.
    fn drop(&mut self) {
        let failing = std::thread::panicking();
        if failing {
            eprintln!("{}", self.log_tails());
        }
        let mut troubles = self.take_down();
        for n in self.numbers() {
            let panics = self.log(n).lines().filter(|line| line.contains("panicked at")).count();
            if panics > 0 {
                troubles.push(format!("node {n} panicked {panics} times:\n{}", self.log_tail(n)));
            }
        }
        if !troubles.is_empty() {
            eprintln!("{}", troubles.join("\n"));
            assert!(failing, "the cluster did not end well: {}", troubles.join("; "));
        }
    }
}

/// Ports that were free a moment ago. All are held before the first is given back: no two alike.
fn free_ports(count: usize) -> Result<Vec<u16>> {
    let listen = |_| TcpListener::bind("127.0.0.1:0").context("no port is free");
    let held: Vec<TcpListener> = (0..count).map(listen).collect::<Result<_>>()?;
    held.iter().map(|listener| Ok(listener.local_addr().context("a port without a number")?.port())).collect()
}
