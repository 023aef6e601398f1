//! A cluster of real nodes: started, broken, mended, asked and taken down.
//!
//! [`settings`](Settings) is what kind; [`start`] begins one, [`lifecycle`] ends and begins its nodes,
//! [`members`] has nodes come and go, [`guests`] some that only visit, and [`teardown`] takes it down; [`node`] is one process; [`clients`]
//! ask; [`leader`] says who leads; [`instances`] what really runs; [`views`] what nodes know; [`invoke`] is
//! one invocation; [`proxy`] and [`network`] stand between nodes, [`docker_proxy`] before Docker; [`clock`]
//! is a node's wall clock; [`programs`] builds what runs; [`turn`] keeps a machine from being overrun;
//! [`cleanup`] leaves nothing behind.

mod cleanup;
mod clients;
mod clock;
mod docker_proxy;
mod guests;
mod instances;
mod invoke;
mod leader;
mod lifecycle;
mod members;
pub mod network;
mod node;
pub mod programs;
mod proxy;
mod settings;
mod start;
mod teardown;
mod turn;
mod views;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use muster_faultdisk::Mount;
use tempfile::TempDir;

pub use cleanup::{containers_of, networks_of, processes_of};
pub use clock::Clock;
pub use docker_proxy::{DockerProxy, Trouble};
pub use instances::{Blow, Body, Kind};
pub use invoke::{Answer, Entry, send};
pub use network::Network;
pub use proxy::{Link, Proxy};
pub use settings::{Engine, Settings};
pub use turn::{CLUSTERS_MAX, Turn};

use cleanup::Guard;
use node::Node;

/// A debug build on a busy machine takes a few seconds.
pub const READY_WITHIN: Duration = Duration::from_secs(60);

/// Real nodes in a folder of their own. Nodes are numbered from 1. Dropping it takes everything down.
#[derive(Debug)]
pub struct Cluster {
    nodes: BTreeMap<u64, Node>,
    /// Nodes that are no members any more, for what they have logged.
    retired: Vec<Node>,
    guests: Mutex<guests::Guests>,
    settings: Settings,
    links: BTreeMap<u64, Proxy>,
    docker_links: BTreeMap<u64, DockerProxy>,
    clocks: BTreeMap<u64, Clock>,
    /// Nodes that a fault may make end by themselves.
    may_end: Mutex<BTreeSet<u64>>,
    network: Option<Network>,
    paused: Mutex<BTreeSet<u64>>,
    /// By node: how many times it had registered, and been started, when it was last seen ready.
    incarnations: Mutex<BTreeMap<u64, (u64, u64)>>,
    engine: Engine,
    root_key: String,
    id: String,
    http: reqwest::Client,
    // Dropped in this order: what is mounted, the guard before the folder it watches, the turn at last.
    disks: BTreeMap<u64, Mount>,
    _guard: Guard,
    dir: TempDir,
    _turn: Turn,
}

impl Cluster {
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

    /// How often a node's process was started.
    pub fn starts(&self, n: u64) -> u64 {
        self.node(n).starts()
    }

    pub fn others(&self, n: u64) -> Vec<u64> {
        self.numbers().into_iter().filter(|other| *other != n).collect()
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

    /// A node's configuration.
    pub fn config_file(&self, n: u64) -> &Path {
        self.node(n).config_file()
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

    /// What node `n` reaches Docker through, under [`Settings::docker_proxied`].
    ///
    /// # Panics
    /// Where the cluster was started without.
    pub fn docker_link(&self, n: u64) -> &DockerProxy {
        self.docker_links.get(&n).expect("the settings asked for proxies before Docker")
    }

    /// A node's disk, under [`Settings::faulty_disks`].
    ///
    /// # Panics
    /// Where the cluster was started without.
    pub fn disk(&self, n: u64) -> &Mount {
        self.disks.get(&n).expect("the settings asked for faulty disks")
    }

    /// A node's wall clock, under [`Settings::faulty_clocks`].
    ///
    /// # Panics
    /// Where the cluster was started without.
    pub fn clock(&self, n: u64) -> &Clock {
        self.clocks.get(&n).expect("the settings asked for faulty clocks")
    }

    /// What is between the nodes, under [`Settings::networked`].
    ///
    /// # Panics
    /// Where the cluster was started without.
    pub fn network(&self) -> &Network {
        self.network.as_ref().expect("the settings asked for a network")
    }

    /// All that a node has logged.
    pub fn log(&self, n: u64) -> String {
        self.node(n).log()
    }

    /// How long a node's log is.
    pub fn log_bytes(&self, n: u64) -> u64 {
        self.node(n).log_bytes()
    }

    /// What a node has logged behind so many bytes.
    pub fn log_since(&self, n: u64, bytes: u64) -> String {
        self.node(n).log_since(bytes)
    }

    /// The ids of the containers of this cluster's instances, those that have ended too.
    ///
    /// # Errors
    /// Where Docker does not answer.
    pub fn containers(&self) -> Result<BTreeSet<String>> {
        Ok(cleanup::instances_of(&self.id)?.into_iter().collect())
    }

    /// The processes that belong to the cluster: nodes and their instances.
    pub fn processes(&self) -> Vec<u32> {
        processes_of(self.dir.path())
    }

    fn node(&self, n: u64) -> &Node {
        self.nodes.get(&n).unwrap_or_else(|| panic!("there is no node {n}"))
    }

    /// A node that can be asked.
    fn running_node(&self) -> Result<u64> {
        self.running().first().copied().context("no node runs")
    }

    fn paused(&self) -> MutexGuard<'_, BTreeSet<u64>> {
        self.paused.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn incarnations(&self) -> MutexGuard<'_, BTreeMap<u64, (u64, u64)>> {
        self.incarnations.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
