//! Gateways with listeners, a shared state and a recording meter; and a client.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, RwLock};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use http::{Method, Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use muster_api::Problem;
use muster_core::accounts::{self, Action, KeyHash, Pattern, Role, SECRET_BYTES, format_key, parse_key};
use muster_core::functions::{self, KeepAlive, Payer, ScalingPolicy, Source, Spec, UsageDurability};
use muster_core::ids::*;
use muster_core::instances::{self, DrainReason, LaunchCause, Trigger};
use muster_core::ledger::{Usage, UsageRow};
use muster_core::nodes::{self, Profile, Resources};
use muster_core::units::{Millis, Timestamp};
use muster_core::{Applied, ClusterState, Command, Entry, ProposalId};
use muster_gateway::{
    BoxFuture, Caller, Config, ControlPlane, Door, Gateway, Hosted, Limits, Meter, MeterError, Refusals,
    serve,
};
use muster_tls::{Authority, Credentials, PeerTls, Validity};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

const DEADLINE: Duration = Duration::from_secs(20);

/// The replicated state, as one that every node has applied.
pub(crate) struct Plane {
    state: RwLock<Arc<ClusterState>>,
    changes: watch::Sender<u64>,
    sequence: AtomicU64,
    pub(crate) quorum: AtomicBool,
    pub(crate) lease: AtomicBool,
}

impl ControlPlane for Plane {
    fn state(&self) -> Arc<ClusterState> {
        Arc::clone(&self.state.read().unwrap())
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    fn has_quorum(&self) -> bool {
        self.quorum.load(SeqCst)
    }

    fn may_admit(&self) -> bool {
        self.lease.load(SeqCst)
    }
}

/// Keeps rows; records that are to be durable wait for the test.
#[derive(Default)]
pub(crate) struct Recorder {
    rows: Mutex<Vec<UsageRow>>,
    pub(crate) pending: Mutex<Vec<tokio::sync::oneshot::Sender<Result<(), MeterError>>>>,
}

impl Meter for Recorder {
    fn record(
        &self,
        row: UsageRow,
        durability: UsageDurability,
    ) -> Option<BoxFuture<'static, Result<(), MeterError>>> {
        self.rows.lock().unwrap().push(row);
        if durability == UsageDurability::Interval {
            return None;
        }
        let (done, waiter) = tokio::sync::oneshot::channel();
        self.pending.lock().unwrap().push(done);
        Some(async move { waiter.await.unwrap_or(Err(MeterError::Stopping)) }.boxed())
    }
}

impl Recorder {
    pub(crate) fn rows(&self) -> Vec<UsageRow> {
        self.rows.lock().unwrap().clone()
    }

    pub(crate) fn clear(&self) {
        self.rows.lock().unwrap().clear();
    }
}

pub(crate) struct Node {
    pub(crate) id: NodeId,
    pub(crate) gateway: Arc<Gateway>,
    pub(crate) public: SocketAddr,
    pub(crate) peer: SocketAddr,
    pub(crate) meter: Arc<Recorder>,
    /// How often other nodes have asked it for slots.
    pub(crate) asked: Arc<AtomicU64>,
}

pub(crate) struct Cluster {
    pub(crate) plane: Arc<Plane>,
    pub(crate) nodes: Vec<Node>,
    pub(crate) stop: CancellationToken,
    instances: AtomicU64,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Cluster {
    pub(crate) async fn start(count: u64) -> Cluster {
        Cluster::with(count, Config::default()).await
    }

    pub(crate) async fn with(count: u64, config: Config) -> Cluster {
        #[cfg(feature = "mutants")]
        muster_core::mutants::choose(std::env::var("MUSTER_MUTANT").ok());
        let plane = Arc::new(Plane {
            state: RwLock::default(),
            changes: watch::channel(0).0,
            sequence: AtomicU64::new(0),
            quorum: AtomicBool::new(true),
            lease: AtomicBool::new(true),
        });
        let stop = CancellationToken::new();
        let mut cluster = Cluster { plane, nodes: Vec::new(), stop, instances: AtomicU64::new(0) };
        cluster.apply(vec![Command::Bootstrap {
            cluster: ClusterId(1),
            key: KeyId(1),
            hash: hash_of(&key("root")),
        }]);
        for id in 1..=count {
            cluster.add_node(NodeId(id), &config).await;
        }
        cluster.account("alice", &["*"]);
        cluster
    }

    async fn add_node(&mut self, id: NodeId, config: &Config) {
        let config = Config { node: id, ..config.clone() };
        let tls = peer_tls(id);
        let meter = Arc::new(Recorder::default());
        let control: Arc<dyn ControlPlane> = Arc::clone(&self.plane) as _;
        let gateway = Gateway::new(config, control, Arc::clone(&meter) as _, Some(tls.clone()));
        tokio::spawn(gateway.rounds());
        let public = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let peer = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let node = Node {
            id,
            gateway: Arc::clone(&gateway),
            public: public.local_addr().unwrap(),
            peer: peer.local_addr().unwrap(),
            meter,
            asked: Arc::default(),
        };
        self.register(id, &node.peer.to_string());
        let grace = Duration::from_secs(1);
        let limits = Limits { grace, ..Limits::default() };
        let peer_limits = Limits { grace, ..Limits::for_peers() };
        let invoke = Arc::clone(&gateway);
        let handler = move |request, caller: Caller| {
            let gateway = Arc::clone(&invoke);
            async move { gateway.handle(request, caller.address).await }
        };
        tokio::spawn(serve(public, Door::Plain, handler, limits, self.stop.clone()));
        let asked = Arc::clone(&node.asked);
        let handler = move |request: Request<Incoming>, _| {
            let gateway = Arc::clone(&gateway);
            asked.fetch_add(u64::from(request.uri().path() == "/peer/gateway/slots"), SeqCst);
            async move { gateway.handle_peer(request).await }
        };
        tokio::spawn(serve(
            peer,
            Door::Peers(tls, Refusals::default()),
            handler,
            peer_limits,
            self.stop.clone(),
        ));
        self.nodes.push(node);
    }

    pub(crate) fn register(&self, id: NodeId, peer: &str) {
        self.restart(id, peer, Incarnation(1));
    }

    /// What the state hears when a node has restarted.
    pub(crate) fn restart(&self, id: NodeId, peer: &str, incarnation: Incarnation) {
        let profile = Profile {
            http: String::new(),
            peer: peer.to_owned(),
            capacity: Resources { memory_mb: 100_000, cpu_millis: 100_000 },
            engines: BTreeSet::from([functions::EngineKind::Process]),
            labels: BTreeMap::new(),
            version: "test".into(),
        };
        self.apply(vec![Command::Nodes(nodes::Command::Register { node: id, incarnation, profile })]);
    }

    /// Applies commands, all of which must be accepted.
    pub(crate) fn apply(&self, commands: Vec<Command>) {
        let mut published = self.plane.state.write().unwrap();
        let mut state = ClusterState::clone(&published);
        let sequence = self.plane.sequence.fetch_add(1, SeqCst) + 1;
        let proposal = ProposalId { node: NodeId(1), incarnation: Incarnation(1), sequence };
        let Applied::Answers(answers) = state.apply(&Entry { at: now(), proposal, commands }) else {
            panic!("applied twice")
        };
        for answer in answers {
            answer.unwrap();
        }
        *published = Arc::new(state);
        drop(published);
        self.plane.changes.send_modify(|n| *n += 1);
    }

    pub(crate) fn account(&self, name: &str, patterns: &[&str]) {
        let account = AccountName::new(name).unwrap();
        let (id, hash) = (key_id(name), hash_of(&key(name)));
        let create = accounts::Command::Create { name: account.clone(), role: Role::User };
        let key = accounts::Command::CreateKey { account: account.clone(), id, hash, expires_at: None };
        let grants = patterns.iter().map(|pattern| accounts::Command::Grant {
            account: account.clone(),
            pattern: Pattern::new(pattern).unwrap(),
            actions: BTreeSet::from([Action::Invoke]),
        });
        let commands = [create, key].into_iter().chain(grants).map(Command::Accounts);
        self.apply(commands.collect());
    }

    pub(crate) fn deploy(&self, name: &str, edit: impl FnOnce(&mut Spec)) {
        let mut spec = spec();
        edit(&mut spec);
        self.apply(vec![Command::Functions(functions::Command::Put {
            name: function(name),
            spec,
            owner: AccountName::new("root").unwrap(),
            change: ChangeId(self.plane.sequence.load(SeqCst)),
        })]);
    }

    /// Places an instance on the node with this index, without starting it.
    pub(crate) fn place(&self, node: NodeId, name: &str) -> InstanceId {
        let id = InstanceId(self.instances.fetch_add(1, SeqCst) + 1);
        let version = self.plane.state().functions.get(name).unwrap().current().number;
        let cause = LaunchCause { trigger: Trigger::Queued, accounts: vec![] };
        self.apply(vec![Command::Instances(instances::Command::Place {
            instance: id,
            function: function(name),
            version,
            node,
            cause,
        })]);
        id
    }

    /// What an agent does when an instance is ready.
    pub(crate) fn ready(&self, id: InstanceId, addr: SocketAddr) {
        self.add(id, addr, false);
    }

    /// What an agent does when it has adopted an instance that was not seen to go on.
    pub(crate) fn adopt_resting(&self, id: InstanceId, addr: SocketAddr) {
        self.add(id, addr, true);
    }

    fn add(&self, id: InstanceId, addr: SocketAddr, resting: bool) {
        let instance = Arc::clone(self.plane.state().instances.get(id).unwrap());
        if let Some(node) = self.nodes.iter().find(|node| node.id == instance.node) {
            node.gateway.host().add(Hosted {
                instance: id,
                generation: instance.generation,
                function: instance.function.clone(),
                addr,
                concurrency: instance.concurrency,
                memory_mb: instance.resources.memory_mb,
                adopted: resting,
                resting,
            });
        }
        let generation = instance.generation;
        self.apply(vec![Command::Instances(instances::Command::MarkReady { instance: id, generation })]);
    }

    /// An instance on the node with this index, ready at once.
    pub(crate) fn run(&self, index: usize, name: &str, addr: SocketAddr) -> InstanceId {
        let id = self.place(self.nodes[index].id, name);
        self.ready(id, addr);
        id
    }

    pub(crate) fn drain(&self, index: usize, id: InstanceId) {
        let reason = DrainReason::LowUtilization;
        self.apply(vec![Command::Instances(instances::Command::Drain { instance: id, reason })]);
        self.nodes[index].gateway.host().drain(id);
    }

    pub(crate) fn fail(&self, id: InstanceId, reason: &str) {
        let generation = self.plane.state().instances.get(id).unwrap().generation;
        let reason = reason.to_owned();
        self.apply(vec![Command::Instances(instances::Command::MarkFailed {
            instance: id,
            generation,
            reason,
        })]);
    }

    pub(crate) fn url(&self, index: usize, path: &str) -> String {
        format!("http://{}/function/{path}", self.nodes[index].public)
    }

    /// Requests that wait on the node with this index.
    pub(crate) fn waiting(&self, index: usize) -> u32 {
        self.nodes[index].gateway.queues().iter().map(|queue| queue.waiting).sum()
    }

    pub(crate) fn in_flight(&self) -> u32 {
        let loads = self.nodes.iter().flat_map(|node| node.gateway.host().loads());
        loads.map(|load| load.in_flight).sum()
    }

    /// The usage of all nodes together, and the number of rows.
    pub(crate) fn usage(&self) -> (usize, Usage) {
        let rows: Vec<_> = self.nodes.iter().flat_map(|node| node.meter.rows()).collect();
        let mut sum = Usage::default();
        rows.iter().for_each(|row| sum.add(&row.usage));
        (rows.len(), sum)
    }
}

/// A node's connections to the others of the cluster.
pub(crate) fn peer_tls(node: NodeId) -> PeerTls {
    let authority = Authority::from_secret("the founding nodes' secret").unwrap();
    let validity = Validity { now: std::time::SystemTime::now(), lasts: Duration::from_secs(3600) };
    PeerTls::new(Credentials::issue(&authority, node, validity).unwrap()).unwrap()
}

/// Calls a node at its peer listener, as another node.
pub(crate) async fn call_peer(node: &Node, request: Request<ClientBody>) -> Response<Incoming> {
    let stream = TcpStream::connect(node.peer).await.unwrap();
    let stream = peer_tls(NodeId(99)).connect(node.id, stream).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    within(sender.send_request(request)).await.unwrap()
}

pub(crate) type ClientBody = UnsyncBoxBody<Bytes, std::io::Error>;

pub(crate) fn client() -> Client<HttpConnector, ClientBody> {
    Client::builder(TokioExecutor::new()).build_http()
}

pub(crate) fn whole(text: impl Into<Bytes>) -> ClientBody {
    Full::new(text.into()).map_err(|never| match never {}).boxed_unsync()
}

/// A request by alice.
pub(crate) fn request(url: &str, body: impl Into<Bytes>) -> Request<ClientBody> {
    request_by("alice", url, body)
}

pub(crate) fn request_by(account: &str, url: &str, body: impl Into<Bytes>) -> Request<ClientBody> {
    Request::builder()
        .method(Method::POST)
        .uri(url)
        .header("authorization", format!("Bearer {}", key(account)))
        .body(whole(body))
        .unwrap()
}

pub(crate) async fn call(request: Request<ClientBody>) -> Response<Incoming> {
    within(client().request(request)).await.unwrap()
}

/// Calls by alice.
pub(crate) async fn post(url: &str, body: impl Into<Bytes>) -> (Head, Bytes) {
    read(call(request(url, body)).await).await
}

/// Status and headers of an answer.
#[derive(Debug, Clone)]
pub(crate) struct Head {
    pub(crate) status: u16,
    headers: http::HeaderMap,
}

impl Head {
    pub(crate) fn get(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

pub(crate) async fn read(response: Response<Incoming>) -> (Head, Bytes) {
    let (parts, body) = response.into_parts();
    let body = within(body.collect()).await.unwrap().to_bytes();
    (Head { status: parts.status.as_u16(), headers: parts.headers }, body)
}

/// A failed answer, checked for its form.
pub(crate) async fn problem(response: Response<Incoming>) -> (Head, Problem) {
    let (head, body) = read(response).await;
    assert_eq!(head.get("content-type"), "application/problem+json", "{head:?} {body:?}");
    let problem: Problem = serde_json::from_slice(&body).unwrap();
    assert_eq!(problem.status, head.status);
    assert_eq!(problem.invocation_id.as_deref(), Some(head.get("muster-invocation-id")));
    assert!(problem.invocation_state.is_some() && !problem.detail.is_empty());
    (head, problem)
}

/// Runs a call in the background.
pub(crate) fn spawn(request: Request<ClientBody>) -> tokio::task::JoinHandle<Response<Incoming>> {
    tokio::spawn(call(request))
}

pub(crate) async fn within<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(DEADLINE, future).await.expect("done before the test's deadline")
}

/// Waits until the condition holds.
#[track_caller]
pub(crate) fn until(condition: impl Fn() -> bool) -> impl Future<Output = ()> {
    let place = std::panic::Location::caller();
    async move {
        let waiting = async {
            while !condition() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let held = tokio::time::timeout(DEADLINE, waiting).await;
        assert!(held.is_ok(), "the condition at {place} did not come true");
    }
}

pub(crate) fn function(name: &str) -> FunctionName {
    FunctionName::new(name).unwrap()
}

/// An account's API key: made from its name.
pub(crate) fn key(account: &str) -> String {
    format_key(key_id(account), &[account.as_bytes()[0]; SECRET_BYTES])
}

fn key_id(account: &str) -> KeyId {
    if account == "root" { KeyId(1) } else { KeyId(account.bytes().fold(7, |id, b| id * 31 + u64::from(b))) }
}

pub(crate) fn hash_of(key: &str) -> KeyHash {
    KeyHash::of(parse_key(key).unwrap().1)
}

pub(crate) fn now() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    Timestamp(u64::try_from(since.as_millis()).unwrap())
}

fn spec() -> Spec {
    Spec {
        source: Source::Command(vec!["function".into()]),
        env: BTreeMap::new(),
        port: 8080,
        readiness_path: None,
        memory_mb: 128,
        cpu_millis: 1000,
        concurrency: 1,
        timeout: Millis(10_000),
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
    }
}
