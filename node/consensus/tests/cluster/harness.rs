//! Starts and stops consensus nodes, and waits for conditions with a deadline.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use muster_consensus::{
    CallAnswer, CallError, Config, Consensus, Identity, Member, ProposeError, RPC_PREFIX, ReadError,
    StartError, Transport,
};
use muster_core::accounts::{self, Role};
use muster_core::ids::{AccountName, NodeId, StoreId};
use muster_core::version::Range;
use muster_core::{Command, Rejection, ledger};
use muster_storage::{Options, Store, StoreError};
use tempfile::TempDir;
use tokio::time::Instant;

const DEADLINE: Duration = Duration::from_secs(30);

pub(crate) struct Cluster {
    config: Config,
    /// Nodes that are older than they are.
    claims: BTreeMap<u64, Range>,
    members: BTreeMap<NodeId, Member>,
    dirs: BTreeMap<u64, TempDir>,
    running: BTreeMap<u64, Running>,
    network: Network,
}

struct Running {
    consensus: Consensus,
    store: Store,
}

pub(crate) fn account(name: &str) -> AccountName {
    AccountName::new(name).unwrap()
}

pub(crate) fn create(name: &str) -> Command {
    Command::Accounts(accounts::Command::Create { name: account(name), role: Role::User })
}

pub(crate) fn oversized() -> Command {
    let row = ledger::UsageRow {
        account: account(&"a".repeat(63)),
        function: muster_core::ids::FunctionName::new(&"f".repeat(63)).unwrap(),
        instance: muster_core::ids::InstanceId(1),
        hour: muster_core::units::Hour(1),
        usage: ledger::Usage::default(),
    };
    Command::Ledger(ledger::Command::RecordUsage {
        node: NodeId(1),
        incarnation: muster_core::ids::Incarnation(1),
        batch: 1,
        rows: vec![row; 1000],
    })
}

impl Cluster {
    pub(crate) async fn start(nodes: u64) -> Self {
        Self::start_with(nodes, |_| {}).await
    }

    pub(crate) async fn start_with(nodes: u64, configure: impl FnOnce(&mut Config)) -> Self {
        // Debug builds of three nodes share the machine with other tests: be patient with silence.
        let mut config =
            Config { heartbeat_ms: 100, election_min_ms: 300, election_max_ms: 600, ..Config::default() };
        configure(&mut config);
        let mut cluster = Cluster {
            config,
            claims: BTreeMap::new(),
            members: BTreeMap::new(),
            dirs: BTreeMap::new(),
            running: BTreeMap::new(),
            network: Network::default(),
        };
        for id in 1..=nodes {
            let peer = format!("node-{id}:1");
            cluster.members.insert(NodeId(id), Member { http: peer.clone(), peer });
            cluster.dirs.insert(id, tempfile::tempdir().unwrap());
        }
        for id in 1..=nodes {
            cluster.bring_up(id).await;
        }
        cluster.node(1).initialize(cluster.members.clone()).await.unwrap();
        cluster.leader().await;
        cluster
    }

    /// From its next start on a node supports this.
    pub(crate) fn claim(&mut self, id: u64, versions: Range) {
        self.claims.insert(id, versions);
    }

    /// The data of a node that does not run.
    pub(crate) fn open(&self, id: u64) -> Store {
        Store::open(self.dirs[&id].path(), Options::default()).unwrap()
    }

    pub(crate) async fn bring_up(&mut self, id: u64) {
        self.try_bring_up(id).await.unwrap();
    }

    pub(crate) async fn try_bring_up(&mut self, id: u64) -> Result<(), StartError> {
        let dir = self.dirs[&id].path().to_owned();
        let deadline = Instant::now() + DEADLINE;
        let store = loop {
            match Store::open(&dir, Options::default()) {
                Ok(store) => break store,
                // Tasks of the one before let go of it in their own time.
                Err(StoreError::InUse { .. }) if Instant::now() < deadline => {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                Err(error) => panic!("cannot open the store: {error}"),
            }
        };
        let own = store.claim_node(NodeId(id), fresh_store()).unwrap();
        let incarnation = store.begin_incarnation().unwrap();
        let transport = Arc::new(Link { node: NodeId(id), network: self.network.clone() });
        let identity = Identity { node: NodeId(id), store: own, incarnation };
        let versions = self.claims.get(&id).copied().unwrap_or(self.config.versions);
        let config = Config { versions, ..self.config.clone() };
        let consensus = match Consensus::start(identity, &config, &store, transport).await {
            Ok(consensus) => consensus,
            Err(error) => {
                tokio::task::spawn_blocking(move || store.close()).await.unwrap();
                return Err(error);
            }
        };
        self.network.nodes().insert(self.members[&NodeId(id)].peer.clone(), consensus.clone());
        self.running.insert(id, Running { consensus, store });
        Ok(())
    }

    pub(crate) fn nodes(&self) -> impl Iterator<Item = &Consensus> {
        self.running.values().map(|running| &running.consensus)
    }

    pub(crate) fn node(&self, id: u64) -> &Consensus {
        &self.running[&id].consensus
    }

    /// The node that all running nodes take for the leader.
    pub(crate) async fn leader(&self) -> u64 {
        let agreed = || {
            let mut leaders = self.nodes().map(|node| node.leader().map(|(id, _)| id.0));
            let first = leaders.next()??;
            (self.running.contains_key(&first) && leaders.all(|other| other == Some(first))).then_some(first)
        };
        self.found("all agree on a leader", agreed).await
    }

    /// Some running node that does not lead.
    pub(crate) fn follower(&self) -> &Consensus {
        self.nodes().find(|node| !node.is_leader()).expect("a follower")
    }

    /// From now on what this node runs to read linearizably panics, unless it leads.
    pub(crate) fn make_panic(&self, id: NodeId) {
        self.network.panicking.store(id.0, Ordering::Relaxed);
    }

    pub(crate) async fn take_down(&mut self, id: u64) {
        let Running { consensus, store } = self.running.remove(&id).unwrap();
        self.network.nodes().remove(&self.members[&NodeId(id)].peer);
        consensus.shutdown().await;
        drop(consensus);
        tokio::task::spawn_blocking(move || store.close()).await.unwrap();
    }

    /// All running nodes have applied the same, everything acknowledged so far.
    pub(crate) async fn converged(&self) {
        for node in self.nodes() {
            self.caught_up(node).await;
        }
        // Read once: a new leader's first entry may come at any time.
        let same = || {
            let seen: Vec<_> = self.nodes().map(Consensus::state).collect();
            seen.windows(2).all(|pair| pair[0].applied_index() == pair[1].applied_index()).then_some(seen)
        };
        let seen = self.found("all have applied the same", same).await;
        assert!(
            seen.windows(2).all(|pair| pair[0].state == pair[1].state),
            "replicas differ at the same index"
        );
        let digests: Vec<_> = seen.iter().map(|seen| seen.digest).collect();
        assert!(digests.windows(2).all(|pair| pair[0] == pair[1] && pair[0].is_some()), "{digests:?}");
    }

    /// The node has applied everything acknowledged so far. Asks again where an election came between.
    pub(crate) async fn caught_up(&self, node: &Consensus) {
        let deadline = Instant::now() + DEADLINE;
        while let Err(error) = node.linearize().await {
            assert!(matches!(error, ReadError::NoQuorum) && Instant::now() < deadline, "{error}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Has an account created, if need be by a proposal whose answer was lost.
    pub(crate) async fn created(&self, node: &Consensus, name: &str) {
        let deadline = Instant::now() + DEADLINE;
        loop {
            match node.propose(create(name)).await {
                Ok(Ok(_) | Err(Rejection::Exists { .. })) => return,
                Err(ProposeError::NoLeader | ProposeError::Unknown) if Instant::now() < deadline => {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                other => panic!("{name}: {other:?}"),
            }
        }
    }

    pub(crate) async fn eventually(&self, what: &str, condition: impl Fn() -> bool) {
        self.found(what, || condition().then_some(())).await;
    }

    async fn found<T>(&self, what: &str, look: impl Fn() -> Option<T>) -> T {
        let deadline = Instant::now() + DEADLINE;
        loop {
            if let Some(found) = look() {
                return found;
            }
            assert!(Instant::now() < deadline, "not within {DEADLINE:?}: {what}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub(crate) async fn stop(mut self) {
        let ids: Vec<u64> = self.running.keys().copied().collect();
        for id in ids {
            self.take_down(id).await;
        }
    }
}

/// What makes it a cluster, so that it has a version.
pub(crate) fn bootstrap() -> Command {
    let (cluster, key) = (muster_core::ids::ClusterId(7), muster_core::ids::KeyId(1));
    Command::Bootstrap { cluster, key, hash: accounts::KeyHash::of("secret") }
}

fn fresh_store() -> StoreId {
    static STORES: AtomicU64 = AtomicU64::new(1);
    StoreId(STORES.fetch_add(1, Ordering::Relaxed))
}

#[derive(Clone, Default)]
struct Network {
    /// The nodes that run, by their addresses: what is not there cannot be reached.
    running: Arc<Mutex<BTreeMap<String, Consensus>>>,
    /// The node whose tasks panic as they ask for a read index; 0 for none.
    panicking: Arc<AtomicU64>,
}

impl Network {
    fn nodes(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Consensus>> {
        self.running.lock().unwrap()
    }
}

impl std::fmt::Debug for Network {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Network")
    }
}

/// One node's end of the network.
#[derive(Debug)]
struct Link {
    node: NodeId,
    network: Network,
}

impl Transport for Link {
    fn call<'a>(
        &'a self,
        target: NodeId,
        address: &'a str,
        path: &'a str,
        body: Vec<u8>,
        limit: Duration,
    ) -> CallAnswer<'a> {
        Box::pin(async move {
            let called = self.network.nodes().get(address).cloned();
            let refused =
                || CallError::Unreachable(std::io::Error::from(ErrorKind::ConnectionRefused).into());
            let called = called.ok_or_else(refused)?;
            assert_eq!(called.node(), target, "the address of another node");
            let (caller, method) = (self.node, path.strip_prefix(RPC_PREFIX).unwrap().to_owned());
            let panics = self.network.panicking.load(Ordering::Relaxed) == caller.0 && method == "read-index";
            assert!(!panics, "a task panics, as intended");
            // The called node goes on where the caller gives up.
            let answering = tokio::spawn(async move { called.handle_rpc(caller, &method, &body).await });
            let answer = tokio::time::timeout(limit, answering).await;
            match answer.map_err(|late| CallError::Broken(late.into()))? {
                Ok(answer) => answer.map(Bytes::from).map_err(|_| CallError::Refused(400)),
                Err(died) => Err(CallError::Broken(died.into())),
            }
        })
    }
}
