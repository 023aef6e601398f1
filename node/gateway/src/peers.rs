//! The client of other nodes' gateways: asking for slots, giving them back, sending invocations.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::header::{HOST, HeaderValue};
use http::{Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use muster_core::functions::UsageDurability;
use muster_core::ids::{AccountName, FunctionName, Incarnation, NodeId};
use muster_core::nodes::Condition;
use muster_core::{ClusterState, mutant};
use muster_tls::PeerTls;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use crate::answer::Answer;
use crate::config::Config;
use crate::connections::{Connections, Lease, Options, SendError, Server};
use crate::failure::{Failure, Kind};
use crate::headers::{PEER_INVOCATION, PEER_RESULT, strip_hop_by_hop};
use crate::metrics::Metrics;
use crate::outside::ControlPlane;
use crate::request_body::{RequestBody, Source};
use crate::run::{Attempt, Message};
use crate::slots::{RemoteSlot, Token};
use crate::tally::Bill;

/// `GET`: 204 says that this node is let in.
pub(crate) const HELLO_PATH: &str = "/peer/gateway/hello";
pub(crate) const SLOTS_PATH: &str = "/peer/gateway/slots";
pub(crate) const RELEASE_PATH: &str = "/peer/gateway/release";
/// Followed by a token, or [`ANY_SLOT`], and the path for the function.
pub(crate) const INVOKE_PATH: &str = "/peer/gateway/invoke/";
/// Stands for a token: run it if a slot is free and nobody waits, else refuse.
pub(crate) const ANY_SLOT: &str = "any";

/// The largest message between gateways other than bodies of invocations.
pub(crate) const MESSAGE_MAX_BYTES: usize = 64 * 1024;
/// Slots asked for at a time.
pub(crate) const WANT_MAX: u32 = 64;
/// Idle connections to nodes are kept shorter than the listener keeps them.
pub(crate) const IDLE_TIMEOUT: Duration = Duration::from_secs(10);
/// What a host may take beyond the deadline or the length of a poll, which it observes itself.
const PATIENCE: Duration = Duration::from_millis(250);
/// The state tells late that a node is down or was restarted. It may have been sent something in its new life by then,
/// and answers it: so what was sent this short a time ago is not given up yet.
const LIFE_SIGN_WITHIN: Duration = Duration::from_secs(1);

/// `POST /peer/gateway/slots`.
#[derive(Serialize, Deserialize)]
pub(crate) struct Ask {
    pub(crate) function: FunctionName,
    pub(crate) want: u32,
    /// How long to keep the poll open.
    pub(crate) wait_ms: u64,
    /// How long the oldest request has waited already.
    pub(crate) waited_us: u64,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct Granted {
    pub(crate) tokens: Vec<String>,
}

/// What a host needs to know of an attempt, in the header [`PEER_INVOCATION`].
#[derive(Serialize, Deserialize)]
pub(crate) struct Envelope {
    pub(crate) invocation: String,
    pub(crate) account: AccountName,
    pub(crate) function: FunctionName,
    pub(crate) durability: UsageDurability,
    pub(crate) may_retry: bool,
    pub(crate) waited_us: Option<u64>,
    pub(crate) left_ms: u64,
}

impl Envelope {
    fn of(attempt: &Attempt) -> Self {
        let left = attempt.deadline.saturating_duration_since(Instant::now());
        let Bill { account, function, durability, may_retry } = attempt.bill.clone();
        let waited = attempt.waiting_since.map(|since| since.elapsed().as_micros());
        Envelope {
            invocation: attempt.invocation.clone(),
            account,
            function,
            durability,
            may_retry,
            waited_us: waited.map(|us| u64::try_from(us).unwrap_or(u64::MAX)),
            left_ms: u64::try_from(left.as_millis()).unwrap_or(u64::MAX),
        }
    }
}

/// Why another node could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum PeerError {
    #[error("the node has no address")]
    NoAddress,
    #[error("cannot reach the node")]
    Send(#[source] SendError),
    #[error("the connection to the node broke")]
    Broken(#[source] hyper::Error),
    #[error("the node went down")]
    Down,
    #[error("the node did not answer in time")]
    Timeout,
    #[error("the node answered {0}")]
    Status(StatusCode),
    #[error("the node answered nonsense")]
    Nonsense,
}

/// What a node sends bit by bit. Dropping it cuts the connection, by which the node knows.
pub struct PeerStream {
    body: Incoming,
    lost: CancellationToken,
    _lease: Lease,
}

impl PeerStream {
    /// The next bytes, or `None` at the end.
    ///
    /// # Errors
    /// When the connection breaks, or the cluster takes the node to be down.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, PeerError> {
        loop {
            let frame = tokio::select! {
                frame = self.body.frame() => frame,
                () = self.lost.cancelled() => return Err(PeerError::Down),
            };
            match frame.transpose().map_err(PeerError::Broken)? {
                None => return Ok(None),
                Some(frame) => {
                    if let Ok(data) = frame.into_data() {
                        return Ok(Some(data));
                    }
                }
            }
        }
    }
}

impl std::fmt::Debug for PeerStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PeerStream")
    }
}

pub(crate) struct Peers {
    control: Arc<dyn ControlPlane>,
    tls: Option<PeerTls>,
    options: Options,
    avoid_for: Duration,
    nodes: Mutex<HashMap<NodeId, Peer>>,
    avoided: Mutex<HashMap<NodeId, Instant>>,
}

#[derive(Clone)]
struct Peer {
    connections: Arc<Connections>,
    incarnation: Incarnation,
    /// Cancelled when the state says that the node is down or restarted: it will not answer what it was sent
    /// before, even if no packet ever says so.
    lost: CancellationToken,
}

impl Peers {
    pub(crate) fn new(config: &Config, control: Arc<dyn ControlPlane>, tls: Option<PeerTls>) -> Arc<Self> {
        Arc::new(Peers {
            control,
            tls,
            options: Options {
                connect_timeout: config.connect_timeout(),
                idle_timeout: IDLE_TIMEOUT,
                head_max_bytes: config.upstream_head_max_bytes.saturating_add(MESSAGE_MAX_BYTES),
            },
            avoid_for: Duration::from_millis(config.avoid_ms),
            nodes: Mutex::default(),
            avoided: Mutex::default(),
        })
    }

    /// Until when a node that could not be reached is left alone.
    pub(crate) fn avoided_until(&self, node: NodeId) -> Option<Instant> {
        let avoided = self.avoided.lock().unwrap_or_else(PoisonError::into_inner);
        avoided.get(&node).copied().filter(|until| *until > Instant::now())
    }

    pub(crate) fn avoid(&self, node: NodeId) {
        let until = Instant::now() + self.avoid_for;
        self.avoided.lock().unwrap_or_else(PoisonError::into_inner).insert(node, until);
    }

    /// Lets go of nodes that are down, gone or restarted, and of what waits for them.
    pub(crate) fn notice(&self, state: &ClusterState) {
        let alive = |id: &NodeId, peer: &Peer| {
            let known = state.nodes.get(*id);
            known.is_none_or(|n| n.condition != Condition::Down && n.incarnation == peer.incarnation)
        };
        let lost: Vec<_> = self.nodes().extract_if(|id, peer| !alive(id, peer)).collect();
        for (_, peer) in lost {
            peer.lost.cancel();
        }
    }

    /// Has a connection to each node ready, so that no invocation waits for one to be made.
    pub(crate) fn keep_warm(&self, state: &ClusterState, own: NodeId) {
        let others = state.nodes.iter().filter(|(id, node)| *id != own && node.condition != Condition::Down);
        for (id, _) in others.filter(|(id, _)| self.avoided_until(*id).is_none()) {
            let Some(peer) = self.peer(id) else { continue };
            tokio::spawn(async move {
                if let Err(error) = peer.connections.keep_warm().await {
                    tracing::debug!(node = %id, error = error.describe(), "no connection is ready");
                }
            });
        }
    }

    /// Asks a host for slots; it answers once it has some, or after `wait` with none.
    pub(crate) async fn ask(
        self: &Arc<Self>,
        node: NodeId,
        ask: &Ask,
        wait: Duration,
    ) -> Result<Vec<RemoteSlot>, PeerError> {
        let answer = self.call(node, SLOTS_PATH, ask, wait + PATIENCE + self.options.connect_timeout).await?;
        let granted: Granted = serde_json::from_slice(&answer).map_err(|_| PeerError::Nonsense)?;
        let slot = |text: &String| Some(RemoteSlot::new(node, text.parse().ok()?, Arc::clone(self)));
        Ok(granted.tokens.iter().filter_map(slot).collect())
    }

    /// Gives an unused slot back. If that fails the host frees it after a moment by itself.
    pub(crate) fn give_back(self: &Arc<Self>, node: NodeId, token: Token) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let peers = Arc::clone(self);
        runtime.spawn(async move {
            let release = Granted { tokens: vec![token.to_string()] };
            if let Err(error) = peers.call(node, RELEASE_PATH, &release, peers.options.connect_timeout).await
            {
                tracing::debug!(%node, %error, "a slot was not given back");
            }
        });
    }

    /// Sends an attempt to its host. Without a token it runs only where a slot is free at once.
    pub(crate) async fn invoke(
        &self,
        node: NodeId,
        token: Option<Token>,
        attempt: Attempt,
        message: Message,
        metrics: &Metrics,
    ) -> Result<Response<Answer>, Failure> {
        let unreachable = || not_run(format!("node {node} has no address"));
        let peer = self.peer(node).ok_or_else(unreachable)?;
        let source = message.body.source().cloned();
        let request = self.request(&peer, token, &attempt, message).map_err(not_run)?;
        metrics.forwarded.fetch_add(1, Relaxed);
        let mut deadline = Box::pin(sleep_until(attempt.deadline + PATIENCE));
        let hoped_for = Instant::now() + LIFE_SIGN_WITHIN;
        let lost = async {
            peer.lost.cancelled().await;
            sleep_until(hoped_for).await;
        };
        let is_sent = AtomicBool::new(false);
        let failure = |kind, detail| match is_sent.load(Relaxed) {
            true => Failure::unknown(kind, detail),
            // It has waited for a connection all the time.
            false => Failure::not_started(kind, detail),
        };
        let sent = tokio::select! {
            biased;
            sent = peer.connections.send(request, |sent| is_sent.store(sent, Relaxed)) => sent,
            () = lost => {
                return Err(failure(Kind::Broken, format!("node {node} went down")));
            }
            () = &mut deadline => {
                self.avoid(node);
                let detail = format!("node {node} did not answer before the deadline");
                return Err(failure(Kind::Deadline, detail));
            }
        };
        let (response, lease) = sent.map_err(|error| self.failed(node, &error, source.as_deref()))?;
        self.answer(node, &peer, response, lease, deadline, source, attempt).await
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of one answer, taken apart by one caller")]
    async fn answer(
        &self,
        node: NodeId,
        peer: &Peer,
        response: Response<Incoming>,
        lease: Lease,
        deadline: std::pin::Pin<Box<tokio::time::Sleep>>,
        source: Option<Arc<Source>>,
        attempt: Attempt,
    ) -> Result<Response<Answer>, Failure> {
        let (mut parts, incoming) = response.into_parts();
        strip_hop_by_hop(&mut parts.headers);
        let result = parts.headers.remove(PEER_RESULT);
        match result.as_ref().map(HeaderValue::as_bytes) {
            Some(b"answer") => {
                let mut answer = Answer::new(incoming, deadline, lease, source, attempt.cut);
                // Who answers although it counts as lost does so in its new life.
                if !peer.lost.is_cancelled() {
                    answer = answer.until(peer.lost.clone());
                }
                // Nothing is recorded here, so there is nothing to wait for.
                let _settled = answer.settle_if_empty().await;
                Ok(Response::from_parts(parts, answer))
            }
            Some(b"failed") => {
                let read = read_message(incoming);
                let left = attempt.deadline.saturating_duration_since(Instant::now()) + PATIENCE;
                let text = timeout(left, read).await.ok().flatten();
                if source.is_none_or(|source| source.is_ended()) {
                    lease.give_back();
                }
                let failure = text.and_then(|text| serde_json::from_slice(&text).ok());
                Err(failure.unwrap_or_else(|| {
                    Failure::unknown(Kind::Broken, format!("node {node} failed and did not say how"))
                }))
            }
            Some(b"refused") => Err(not_run(format!("node {node} had no slot left"))),
            _ if parts.status == StatusCode::FORBIDDEN => {
                self.avoid(node);
                tracing::warn!(%node, "the node does not accept this one any more");
                Err(not_run(format!("node {node} does not accept this node")))
            }
            _ => Err(Failure::unknown(Kind::Broken, format!("node {node} answered nonsense"))),
        }
    }

    fn request(
        &self,
        peer: &Peer,
        token: Option<Token>,
        attempt: &Attempt,
        message: Message,
    ) -> Result<Request<RequestBody>, String> {
        let Message { method, target, mut headers, body } = message;
        let token = token.map_or(ANY_SLOT.to_owned(), |token| token.to_string());
        let uri: Uri = format!("{INVOKE_PATH}{token}{target}").parse().map_err(|_| "the path is too long")?;
        let envelope = serde_json::to_string(&Envelope::of(attempt)).map_err(|e| e.to_string())?;
        headers.insert(PEER_INVOCATION, HeaderValue::try_from(envelope).map_err(|e| e.to_string())?);
        if !headers.contains_key(HOST) {
            let address = HeaderValue::try_from(peer.connections.address()).map_err(|e| e.to_string())?;
            headers.insert(HOST, address);
        }
        let mut request = Request::new(body);
        *request.method_mut() = method;
        *request.uri_mut() = uri;
        *request.headers_mut() = headers;
        Ok(request)
    }

    fn failed(&self, node: NodeId, error: &SendError, source: Option<&Source>) -> Failure {
        if let Some(fault) = source.and_then(Source::fault) {
            return Failure::unknown(fault.kind(), fault.detail());
        }
        self.avoid(node);
        let detail = format!("node {node}: {}", error.describe());
        match error.is_unsent() {
            true => not_run(detail),
            false if mutant!("lost-counts-as-not-run") => not_run(detail),
            false => Failure::unknown(Kind::Broken, detail),
        }
    }

    async fn call<T: Serialize + Sync>(
        &self,
        node: NodeId,
        path: &'static str,
        message: &T,
        patience: Duration,
    ) -> Result<Bytes, PeerError> {
        let peer = self.peer(node).ok_or(PeerError::NoAddress)?;
        let text = serde_json::to_vec(message).map_err(|_| PeerError::Nonsense)?;
        let mut request = Request::new(RequestBody::Whole(text.into()));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = Uri::from_static(path);
        let host = HeaderValue::try_from(peer.connections.address()).map_err(|_| PeerError::NoAddress)?;
        request.headers_mut().insert(HOST, host);
        let call = async {
            let (response, lease) = peer.connections.send(request, |_| ()).await.map_err(PeerError::Send)?;
            if response.status() != StatusCode::OK {
                return Err(PeerError::Status(response.status()));
            }
            let text = read_message(response.into_body()).await.ok_or(PeerError::Nonsense)?;
            lease.give_back();
            Ok(text)
        };
        tokio::select! {
            answer = timeout(patience, call) => answer.map_err(|_| PeerError::Timeout)?,
            () = peer.lost.cancelled() => Err(PeerError::Timeout),
        }
    }

    /// Asks a node for something that it sends bit by bit. `patience` is for the head of its answer.
    pub(crate) async fn open(
        &self,
        node: NodeId,
        path: &'static str,
        message: Bytes,
        patience: Duration,
    ) -> Result<PeerStream, PeerError> {
        let peer = self.peer(node).ok_or(PeerError::NoAddress)?;
        let mut request = Request::new(RequestBody::Whole(message));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = Uri::from_static(path);
        let host = HeaderValue::try_from(peer.connections.address()).map_err(|_| PeerError::NoAddress)?;
        request.headers_mut().insert(HOST, host);
        let sent = tokio::select! {
            sent = timeout(patience, peer.connections.send(request, |_| ())) => sent,
            () = peer.lost.cancelled() => return Err(PeerError::Timeout),
        };
        let (response, lease) = sent.map_err(|_| PeerError::Timeout)?.map_err(PeerError::Send)?;
        match response.status() {
            StatusCode::OK => Ok(PeerStream { body: response.into_body(), lost: peer.lost, _lease: lease }),
            status => Err(PeerError::Status(status)),
        }
    }

    fn peer(&self, node: NodeId) -> Option<Peer> {
        let tls = self.tls.as_ref()?;
        let address = self.control.peer_address(node)?;
        if let Some(peer) = self.nodes().get(&node).filter(|peer| peer.connections.address() == address) {
            return Some(peer.clone());
        }
        let incarnation = self.control.state().nodes.get(node).map(|n| n.incarnation).unwrap_or_default();
        let connections = Connections::new(address, Server::Node(tls.clone(), node), self.options);
        let peer = Peer { connections, incarnation, lost: CancellationToken::new() };
        self.nodes().insert(node, peer.clone());
        Some(peer)
    }

    fn nodes(&self) -> MutexGuard<'_, HashMap<NodeId, Peer>> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The attempt certainly did not run, so it may be made again.
fn not_run(detail: impl Into<String>) -> Failure {
    Failure::not_started(Kind::Broken, detail)
}

/// A small message's text; `None` if it is too long or broke off.
pub(crate) async fn read_message(body: Incoming) -> Option<Bytes> {
    Some(Limited::new(body, MESSAGE_MAX_BYTES).collect().await.ok()?.to_bytes())
}
