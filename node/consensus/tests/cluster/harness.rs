//! Starts and stops consensus nodes, and waits for conditions with a deadline.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::routing::post;
use http::StatusCode;
use muster_consensus::{Config, Consensus, Member};
use muster_core::accounts::{self, Role};
use muster_core::ids::{AccountName, NodeId};
use muster_core::{Command, ledger};
use muster_storage::{Options, Store, StoreError};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

const DEADLINE: Duration = Duration::from_secs(30);

pub(crate) struct Cluster {
    config: Config,
    members: BTreeMap<NodeId, Member>,
    dirs: BTreeMap<u64, TempDir>,
    running: BTreeMap<u64, Running>,
}

struct Running {
    consensus: Consensus,
    store: Store,
    server: JoinHandle<()>,
    stop: watch::Sender<bool>,
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
        let mut cluster =
            Cluster { config, members: BTreeMap::new(), dirs: BTreeMap::new(), running: BTreeMap::new() };
        let mut listeners = Vec::new();
        let address = own_address();
        for id in 1..=nodes {
            let listener = TcpListener::bind((address, 0)).await.unwrap();
            let peer = listener.local_addr().unwrap().to_string();
            cluster.members.insert(NodeId(id), Member { http: peer.clone(), peer });
            cluster.dirs.insert(id, tempfile::tempdir().unwrap());
            listeners.push((id, listener));
        }
        for (id, listener) in listeners {
            cluster.run(id, listener).await;
        }
        cluster.node(1).initialize(cluster.members.clone()).await.unwrap();
        cluster.leader().await;
        cluster
    }

    async fn run(&mut self, id: u64, listener: TcpListener) {
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
        store.claim_node(NodeId(id)).unwrap();
        let incarnation = store.begin_incarnation().unwrap();
        let consensus =
            Consensus::start(NodeId(id), incarnation, &self.config, &store, "secret".into()).await.unwrap();
        let router = Router::new()
            .route("/peer/raft/{method}", post(answer))
            .layer(axum::extract::DefaultBodyLimit::max(muster_consensus::RPC_BODY_MAX))
            .with_state(Arc::new(consensus.clone()));
        let (stop, mut stopped) = watch::channel(false);
        let server = tokio::spawn(async move {
            let until = async move {
                let _told = stopped.wait_for(|stop| *stop).await;
            };
            axum::serve(listener, router).with_graceful_shutdown(until).await.unwrap();
        });
        self.running.insert(id, Running { consensus, store, server, stop });
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
        self.eventually("all agree on a leader", || agreed().is_some()).await;
        agreed().expect("it was just there")
    }

    /// Some running node that does not lead.
    pub(crate) fn follower(&self) -> &Consensus {
        self.nodes().find(|node| !node.is_leader()).expect("a follower")
    }

    pub(crate) async fn take_down(&mut self, id: u64) {
        let Running { consensus, store, server, stop } = self.running.remove(&id).unwrap();
        consensus.shutdown().await;
        server.abort();
        let _gone = server.await;
        drop(stop);
        drop(consensus);
        tokio::task::spawn_blocking(move || store.close()).await.unwrap();
    }

    pub(crate) async fn bring_up(&mut self, id: u64) {
        let address = self.members[&NodeId(id)].peer.clone();
        let deadline = Instant::now() + DEADLINE;
        let listener = loop {
            match TcpListener::bind(&address).await {
                Ok(listener) => break listener,
                Err(error) if Instant::now() > deadline => panic!("cannot listen on {address}: {error}"),
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        };
        self.run(id, listener).await;
    }

    /// All running nodes have applied the same, everything acknowledged so far.
    pub(crate) async fn converged(&self) {
        for node in self.nodes() {
            node.linearize().await.unwrap();
        }
        self.eventually("all have applied the same", || {
            let mut applied = self.nodes().map(|node| node.state().applied_index());
            let first = applied.next().unwrap();
            applied.all(|index| index == first)
        })
        .await;
        let states: Vec<_> = self.nodes().map(|node| node.state().state.clone()).collect();
        assert!(states.windows(2).all(|pair| pair[0] == pair[1]), "replicas differ at the same index");
    }

    pub(crate) async fn eventually(&self, what: &str, condition: impl Fn() -> bool) {
        let deadline = Instant::now() + DEADLINE;
        while !condition() {
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

/// An address that no other cluster of the tests has: the port of a node that is down must not become
/// that of another cluster's node.
fn own_address() -> Ipv4Addr {
    static CLUSTERS: AtomicU8 = AtomicU8::new(1);
    let [_, _, high, low] = std::process::id().to_be_bytes();
    Ipv4Addr::new(127, high.max(1), low, CLUSTERS.fetch_add(1, Ordering::Relaxed))
}

async fn answer(
    State(consensus): State<Arc<Consensus>>,
    Path(method): Path<String>,
    body: Bytes,
) -> Result<Vec<u8>, (StatusCode, String)> {
    consensus.handle_rpc(&method, &body).await.map_err(|error| (StatusCode::BAD_REQUEST, error.to_string()))
}
