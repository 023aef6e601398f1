//! One invocation's way, on the node it entered: admitted, given a slot here or elsewhere, run, and
//! run again only where that is safe.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{AUTHORIZATION, EXPECT};
use http::request::Parts;
use http::{HeaderMap, Method, Request, Response, Uri};
use http_body_util::BodyExt;
use hyper::body::{Body as HttpBody, Incoming};
use muster_api::InvocationState;
use muster_core::functions::Spec;
use muster_core::ids::{AccountName, FunctionName, NodeId};
use muster_core::mutant;
use tokio::time::{Instant, timeout_at};

use crate::admit::{Admitted, admit, overdue, still_admitted};
use crate::answer::{Answer, Observer};
use crate::body::Body;
use crate::demand::{raise, remote_hosts};
use crate::failure::{Failure, Kind};
use crate::pool::{Pool, SlotGuard};
use crate::request_body::{Fault, RequestBody, Source, linger};
use crate::run::{Attempt, Message, SUSPECT_FOR, run};
use crate::server::Cut;
use crate::slots::{Slot, Token};
use crate::tally::Bill;
use crate::{Gateway, headers};

/// Times an idempotent function may run for one invocation.
const RUNS_MAX: u32 = 3;
const NO_LEASE_RETRY_S: u64 = 1;
const QUEUE_FULL_RETRY_S: u64 = 1;

/// Makes invocation ids: unique in the cluster, without asking the random generator each time.
pub(crate) struct InvocationIds {
    process: u64,
    next: AtomicU64,
}

impl InvocationIds {
    pub(crate) fn new() -> Self {
        let process = getrandom::u64().expect("the system's random generator works");
        InvocationIds { process, next: AtomicU64::new(1) }
    }

    fn next(&self) -> String {
        format!("{:016x}{:016x}", self.process, self.next.fetch_add(1, Relaxed))
    }
}

pub(crate) async fn handle(
    gateway: &Arc<Gateway>,
    request: Request<Incoming>,
    remote: SocketAddr,
) -> Response<Body> {
    let arrived = Instant::now();
    let invocation = gateway.ids.next();
    let observer = Observer { metrics: Arc::clone(&gateway.metrics), arrived };
    let (head, body) = request.into_parts();
    let invited = !head.headers.contains_key(EXPECT);
    let mut rest = Rest::Unread(body);
    let outcome = invoke(gateway, &invocation, head, &mut rest, remote, arrived).await;
    match outcome {
        Ok(response) => {
            gateway.metrics.answered();
            tracing::debug!(invocation, status = response.status().as_u16(), "answered");
            response.map(|answer| Body::answer(answer.observed(observer)))
        }
        Err(failure) => {
            gateway.metrics.failed(failure.kind);
            tracing::debug!(invocation, kind = failure.kind.label(), detail = failure.detail, "failed");
            // A client that asked before sending sends nothing after a refusal.
            if invited && let Some(body) = rest.take() {
                linger(body);
            }
            failure.into_response(&invocation)
        }
    }
}

/// What is left of the request's body, should the answer come before its end.
enum Rest {
    Unread(Incoming),
    Shared(Arc<Source>),
    Nothing,
}

impl Rest {
    fn take(self) -> Option<Incoming> {
        match self {
            Rest::Unread(body) => Some(body).filter(|body| !body.is_end_stream()),
            Rest::Shared(source) => source.take(),
            Rest::Nothing => None,
        }
    }
}

async fn invoke(
    gateway: &Arc<Gateway>,
    invocation: &str,
    head: Parts,
    rest: &mut Rest,
    remote: SocketAddr,
    arrived: Instant,
) -> Result<Response<Answer>, Failure> {
    let Admitted { key, account, function, spec, target } = admitted(gateway, &head).await?;
    let deadline = arrived + spec.timeout.to_duration();
    let payload = receive(gateway, rest, deadline).await?;
    let call = Call {
        gateway,
        invocation,
        pool: gateway.host.pool(&function),
        key,
        account,
        function,
        spec,
        deadline,
        method: head.method,
        target,
        headers: headers::from_client(&head.headers, remote.ip()),
        payload,
        cut: head.extensions.get::<Cut>().cloned(),
    };
    call.serve().await
}

async fn admitted(gateway: &Gateway, head: &Parts) -> Result<Admitted, Failure> {
    if check_lease(gateway).is_err() {
        gateway.control.refresh().await;
        check_lease(gateway)?;
    }
    let body_max_bytes = gateway.config.body_max_bytes;
    let state =
        || mutant!("permissions-kept", kept by head.headers.get(AUTHORIZATION) => gateway.control.state());
    match admit(&state(), head, body_max_bytes) {
        // The key, function or grant may have been made through another node a moment ago.
        Err(refusal) if refusal.kind.may_be_stale() && head.headers.contains_key(AUTHORIZATION) => {
            gateway.control.refresh().await;
            admit(&gateway.control.state(), head, body_max_bytes)
        }
        decided => decided,
    }
}

/// A slot on this node for the invocation with this head, and who is charged for it.
pub(crate) async fn reserve(gateway: &Arc<Gateway>, head: &Parts) -> Result<(SlotGuard, Bill), Failure> {
    let arrived = Instant::now();
    let Admitted { key, account, function, spec, target } = admitted(gateway, head).await?;
    let call = Call {
        gateway,
        invocation: "reserved",
        pool: gateway.host.pool(&function),
        key,
        account,
        function,
        deadline: arrived + spec.timeout.to_duration(),
        spec,
        method: Method::POST,
        target,
        headers: HeaderMap::new(),
        payload: Payload::Whole(Bytes::new()),
        cut: None,
    };
    let mut waiting_since = None;
    loop {
        let Way::Slot(Slot::Local(slot)) = call.find_slot(&mut waiting_since, &mut false).await? else {
            let detail = "the slot is on another node";
            return Err(Failure::not_started(Kind::NoCapacity, detail));
        };
        if slot.instance.wake(&gateway.host).await.is_ok() {
            return Ok((slot, call.bill(false)));
        }
        slot.suspect(SUSPECT_FOR);
    }
}

/// Without a lease nobody is admitted.
fn check_lease(gateway: &Gateway) -> Result<(), Failure> {
    if gateway.control.may_admit() {
        return Ok(());
    }
    let detail = "this node has not heard from a leader lately and cannot know who may call what";
    Err(Failure::not_started(Kind::NoLease, detail).retry_after(NO_LEASE_RETRY_S))
}

/// The request's body, so that an attempt can be made of it.
enum Payload {
    Whole(Bytes),
    Streamed(Arc<Source>),
}

/// Reads a short body whole before a slot is taken. Others stream.
async fn receive(gateway: &Gateway, rest: &mut Rest, deadline: Instant) -> Result<Payload, Failure> {
    let body = match std::mem::replace(rest, Rest::Nothing) {
        Rest::Unread(body) if !body.is_end_stream() => body,
        _ => return Ok(Payload::Whole(Bytes::new())),
    };
    let exact = body.size_hint().exact();
    let config = &gateway.config;
    let source = Source::new(body, config.body_max_bytes, Some(Duration::from_millis(config.body_idle_ms)));
    *rest = Rest::Shared(Arc::clone(&source));
    if exact.is_none_or(|bytes| bytes > config.replay_max_bytes) {
        return Ok(Payload::Streamed(source));
    }
    let fault = |fault: Fault| Failure::not_started(fault.kind(), fault.detail());
    match timeout_at(deadline, read_whole(&source)).await {
        Ok(Ok(bytes)) => Ok(Payload::Whole(bytes)),
        Ok(Err(())) => Err(fault(source.fault().unwrap_or(Fault::BrokeOff))),
        Err(_elapsed) => Err(fault(Fault::TooSlow)),
    }
}

async fn read_whole(source: &Arc<Source>) -> Result<Bytes, ()> {
    let mut body = source.attempt().ok_or(())?;
    let mut first = Bytes::new();
    let mut all = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|_| ())?.into_data() else { continue };
        if first.is_empty() {
            first = data;
        } else {
            if all.is_empty() {
                all.extend_from_slice(&first);
            }
            all.extend_from_slice(&data);
        }
    }
    Ok(if all.is_empty() { first } else { all.freeze() })
}

/// An admitted invocation.
struct Call<'a> {
    gateway: &'a Arc<Gateway>,
    invocation: &'a str,
    pool: Arc<Pool>,
    key: String,
    account: AccountName,
    function: FunctionName,
    spec: Arc<Spec>,
    deadline: Instant,
    method: Method,
    target: Uri,
    headers: HeaderMap,
    payload: Payload,
    cut: Option<Cut>,
}

/// Where an attempt goes.
enum Way {
    Slot(Slot),
    /// Another node that probably has a free slot: sent there without asking first, which saves a
    /// round trip. It refuses if it has none.
    Guess(NodeId),
}

impl Call<'_> {
    async fn serve(&self) -> Result<Response<Answer>, Failure> {
        let mut earlier = None;
        self.serve_again(&mut earlier).await.map_err(|failure| failure.after(earlier))
    }

    /// `earlier` is what is known of runs before the one that decides.
    async fn serve_again(&self, earlier: &mut Option<InvocationState>) -> Result<Response<Answer>, Failure> {
        let mut waiting_since = None;
        let mut may_guess = matches!(self.payload, Payload::Whole(_));
        let mut runs = 0;
        loop {
            let way = self.find_slot(&mut waiting_since, &mut may_guess).await?;
            let Some(body) = self.body() else {
                // Only a streamed body is used up, by an attempt that was refused half-way.
                let detail = "the slot was withdrawn while the request was on its way; send it again";
                return Err(Failure::not_started(Kind::NoCapacity, detail).retry_after(1));
            };
            let may_retry = self.spec.idempotent && self.is_replayable() && runs + 1 < RUNS_MAX;
            let failure = match self.attempt(way, waiting_since, may_retry, body).await {
                Ok(response) => return Ok(response),
                Err(failure) => failure,
            };
            let safe = match failure.state {
                InvocationState::NotStarted => true,
                state @ (InvocationState::Started | InvocationState::Unknown) => {
                    runs += 1;
                    if *earlier != Some(InvocationState::Started) {
                        *earlier = Some(state);
                    }
                    may_retry || mutant!("retry-after-start")
                }
            };
            if failure.kind != Kind::Broken || !safe {
                return Err(failure);
            }
            self.gateway.metrics.retries.fetch_add(1, Relaxed);
            tracing::debug!(self.invocation, detail = failure.detail, "trying again");
        }
    }

    /// A slot here if one is free, else elsewhere if it looks as if, else whichever comes first.
    async fn find_slot(
        &self,
        waiting_since: &mut Option<Instant>,
        may_guess: &mut bool,
    ) -> Result<Way, Failure> {
        if let Some(slot) = self.pool.try_take() {
            return Ok(Way::Slot(Slot::Local(slot)));
        }
        if std::mem::take(may_guess)
            && self.pool.waiting().0 == 0
            && let Some(node) = self.guess()
        {
            return Ok(Way::Guess(node));
        }
        let slot = self.wait(waiting_since).await?;
        check_lease(self.gateway)?;
        still_admitted(&self.gateway.control.state(), &self.key, &self.function)?;
        Ok(Way::Slot(slot))
    }

    /// Waits in the queue. A request that was granted a slot in vain is as old as it was.
    async fn wait(&self, waiting_since: &mut Option<Instant>) -> Result<Slot, Failure> {
        let begun = Instant::now();
        let max = waiting_since.is_none().then_some(self.spec.max_waiting);
        let since = *waiting_since.get_or_insert(begun);
        let Some(mut ticket) = self.pool.wait(&self.account, since, max) else {
            let detail =
                format!("{} requests wait for `{}` here already", self.spec.max_waiting, self.function);
            return Err(Failure::not_started(Kind::QueueFull, detail).retry_after(QUEUE_FULL_RETRY_S));
        };
        self.gateway.pressure.notify_one();
        raise(self.gateway, &self.pool, &self.gateway.control.state());
        let granted = timeout_at(self.deadline, ticket.granted()).await;
        self.gateway.metrics.waited(begun.elapsed());
        match granted {
            Ok(Some(grant)) => grant,
            Ok(None) => {
                Err(Failure::not_started(Kind::NoCapacity, "the node is shutting down").retry_after(1))
            }
            Err(_elapsed) => Err(overdue(&self.gateway.control.state(), &self.function)),
        }
    }

    /// A reachable node with ready instances; another one each time.
    fn guess(&self) -> Option<NodeId> {
        let here = self.gateway.config.node;
        let hosts = remote_hosts(&self.gateway.control.state(), &self.function, here);
        let reachable: Vec<NodeId> =
            hosts.into_iter().filter(|node| self.gateway.peers.avoided_until(*node).is_none()).collect();
        let turn = usize::try_from(self.gateway.ids.next.load(Relaxed)).unwrap_or(0);
        reachable.get(turn.checked_rem(reachable.len())?).copied()
    }

    async fn attempt(
        &self,
        way: Way,
        waiting_since: Option<Instant>,
        may_retry: bool,
        body: RequestBody,
    ) -> Result<Response<Answer>, Failure> {
        let attempt = Attempt {
            invocation: self.invocation.to_owned(),
            bill: self.bill(may_retry),
            waiting_since,
            deadline: self.deadline,
            cut: self.cut.clone(),
        };
        let message = Message {
            method: self.method.clone(),
            target: self.target.clone(),
            headers: self.headers.clone(),
            body,
        };
        let (node, token): (NodeId, Option<Token>) = match way {
            Way::Slot(Slot::Local(slot)) => return run(&self.gateway.host, slot, attempt, message).await,
            Way::Slot(Slot::Remote(slot)) => {
                let (node, token) = slot.spend();
                (node, Some(token))
            }
            Way::Guess(node) => (node, None),
        };
        self.gateway.peers.invoke(node, token, attempt, message, &self.gateway.metrics).await
    }

    fn bill(&self, may_retry: bool) -> Bill {
        Bill {
            account: self.account.clone(),
            function: self.function.clone(),
            durability: self.spec.usage_durability,
            may_retry,
        }
    }

    fn body(&self) -> Option<RequestBody> {
        match &self.payload {
            Payload::Whole(bytes) => Some(RequestBody::Whole(bytes.clone())),
            Payload::Streamed(source) => source.attempt(),
        }
    }

    fn is_replayable(&self) -> bool {
        matches!(self.payload, Payload::Whole(_))
    }
}
