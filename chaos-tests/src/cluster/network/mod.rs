//! A network between nodes that can be broken: every node lives in a network namespace of its own,
//! and the only way to another, or to a client, leads through a switch in this process.
//!
//! [`namespace`] is where a node lives; [`tun`] its way out; [`switch`] carries packets; [`rules`]
//! decides what becomes of each. What is lost or late is real packets, whatever the kernel offers: TCP
//! notices as it would notice a broken cable, by silence.
//!
//! It needs root and `/dev/net/tun`; [`unfit`] tells. Nothing of it outlives this process and those in
//! its namespaces.

mod namespace;
mod rules;
mod switch;
mod tun;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use anyhow::{Context, Result};

use namespace::Namespace;
use rules::Rules;
pub use rules::{Link, Trouble};
use switch::Switch;

/// This process and whatever else runs in its namespace, as the end of a [`Link`].
pub const CLIENTS: u64 = 0;
/// The last byte of its address; nodes have their number.
const CLIENTS_BYTE: u8 = 254;

/// Why there can be no such network on this machine, if there can be none.
pub fn unfit() -> Option<String> {
    if !nix::unistd::geteuid().is_root() {
        return Some("network namespaces need root".into());
    }
    tun::unfit().or_else(namespace::unfit)
}

/// How many nodes may come to those that a network is made for.
const SPARE: u64 = 2;

/// Namespaces for nodes 1, 2, …, and for some more, and the switch between them and this process. Everything passes
/// until something is imposed.
#[derive(Debug)]
pub struct Network {
    // The switch goes first: it reads what the others are the ends of.
    _switch: Switch,
    network: [u8; 3],
    namespaces: BTreeMap<u64, Namespace>,
    rules: Arc<Mutex<Rules>>,
}

impl Network {
    /// Makes a network in a range of addresses that no other on this machine has.
    ///
    /// # Errors
    /// Where [`unfit`] has a reason, or no range is left.
    pub fn start(nodes: u64) -> Result<Self> {
        let (clients, network) = namespace::claim(CLIENTS_BYTE)?;
        let mut stations = BTreeMap::from([(CLIENTS_BYTE, (CLIENTS, clients))]);
        let mut namespaces = BTreeMap::new();
        for node in 1..=nodes + SPARE {
            let byte = u8::try_from(node).ok().filter(|byte| *byte < CLIENTS_BYTE);
            let byte = byte.context("more nodes than a network has addresses")?;
            let (namespace, tun) = Namespace::create(address(network, byte))?;
            namespaces.insert(node, namespace);
            stations.insert(byte, (node, tun));
        }
        let rules = Arc::default();
        let switch = Switch::start(network, stations, Arc::clone(&rules))?;
        Ok(Network { _switch: switch, network, namespaces, rules })
    }

    /// A node's address, or that of [`CLIENTS`].
    ///
    /// # Panics
    /// For a number that no node has.
    pub fn address(&self, station: u64) -> Ipv4Addr {
        assert!(station == CLIENTS || self.namespaces.contains_key(&station), "there is no node {station}");
        let byte = if station == CLIENTS { Some(CLIENTS_BYTE) } else { u8::try_from(station).ok() };
        address(self.network, byte.expect("the number of a node is a byte"))
    }

    /// The stations for nodes that come to those it was made for.
    pub fn spare(&self) -> impl Iterator<Item = u64> {
        let last = self.namespaces.len() as u64;
        last - SPARE + 1..=last
    }

    /// Words that go before a program's to run it where node `n` lives.
    ///
    /// # Panics
    /// For a number that no node has.
    pub fn wrapper(&self, n: u64) -> Vec<String> {
        self.namespace(n).wrapper()
    }

    /// Does something where node `n` lives. Sockets that are made there stay there.
    ///
    /// # Errors
    /// Where its namespace cannot be entered.
    ///
    /// # Panics
    /// For a number that no node has.
    pub fn inside<T: Send>(&self, n: u64, work: impl FnOnce() -> T + Send) -> Result<T> {
        self.namespace(n).inside(work)
    }

    /// Lets a trouble befall the packets on some links until what is returned is dropped. What it
    /// leaves to chance follows from `seed` and the packets. Troubles on one link add up.
    pub fn impose(&self, trouble: Trouble, links: impl IntoIterator<Item = Link>, seed: u64) -> Imposed {
        let id = locked(&self.rules).impose(trouble, links, seed, Instant::now());
        Imposed { id, rules: Arc::clone(&self.rules) }
    }

    /// No packet passes between two stations, either way.
    pub fn cut(&self, a: u64, b: u64) -> Imposed {
        self.impose(Trouble::Cut, Link::between(a, b), 0)
    }

    /// No packet passes between a node and the others; clients still reach it.
    pub fn isolate(&self, n: u64) -> Imposed {
        let others = self.namespaces.keys().filter(|other| **other != n);
        self.impose(Trouble::Cut, others.flat_map(|other| Link::between(n, *other)), 0)
    }

    /// How many packets have been let through on a link since the start.
    pub fn delivered(&self, link: Link) -> u64 {
        locked(&self.rules).delivered(link)
    }

    fn namespace(&self, n: u64) -> &Namespace {
        self.namespaces.get(&n).unwrap_or_else(|| panic!("there is no node {n}"))
    }
}

/// A trouble that lasts for as long as this is kept.
#[derive(Debug)]
#[must_use = "the trouble ends when this is dropped"]
pub struct Imposed {
    id: u64,
    rules: Arc<Mutex<Rules>>,
}

impl Imposed {
    /// How many packets it has touched, by link.
    pub fn touched(&self) -> BTreeMap<Link, u64> {
        locked(&self.rules).touched(self.id)
    }
}

impl Drop for Imposed {
    fn drop(&mut self) {
        locked(&self.rules).lift(self.id);
    }
}

fn address([a, b, c]: [u8; 3], last: u8) -> Ipv4Addr {
    Ipv4Addr::new(a, b, c, last)
}

fn locked(rules: &Mutex<Rules>) -> MutexGuard<'_, Rules> {
    rules.lock().unwrap_or_else(PoisonError::into_inner)
}
