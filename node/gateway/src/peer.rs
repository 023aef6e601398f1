//! What other nodes may ask of this one: slots of its instances, and to run an invocation on one.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, HeaderValue};
use http::request::Parts;
use http::{Method, Request, Response, StatusCode, Uri};
use hyper::body::Incoming;
use tokio::time::{Instant, timeout};

use crate::Gateway;
use crate::body::Body;
use crate::failure::Failure;
use crate::headers::{PEER_INVOCATION, PEER_RESULT, strip_own};
use crate::peers::{
    ANY_SLOT, Ask, Envelope, Granted, HELLO_PATH, INVOKE_PATH, RELEASE_PATH, SLOTS_PATH, WANT_MAX,
    read_message,
};
use crate::pool::SlotGuard;
use crate::request_body::{RequestBody, linger};
use crate::run::{Attempt, Message, run};
use crate::server::Cut;
use crate::slots::Token;
use crate::tally::Bill;

/// The longest a poll stays open.
const POLL_MAX: Duration = Duration::from_secs(60);

pub(crate) async fn handle(gateway: &Arc<Gateway>, request: Request<Incoming>) -> Response<Body> {
    let (head, body) = request.into_parts();
    let path = head.uri.path();
    if let Some(rest) = path.strip_prefix(INVOKE_PATH) {
        let token = rest.split('/').next().unwrap_or_default().to_owned();
        return invoke(gateway, head, body, &token).await;
    }
    match (&head.method, path) {
        (&Method::GET, HELLO_PATH) => status(StatusCode::NO_CONTENT),
        (&Method::POST, SLOTS_PATH) => slots(gateway, body).await,
        (&Method::POST, RELEASE_PATH) => release(gateway, body).await,
        _ => status(StatusCode::NOT_FOUND),
    }
}

async fn slots(gateway: &Gateway, body: Incoming) -> Response<Body> {
    let asked = read_message(body).await.and_then(|text| serde_json::from_slice::<Ask>(&text).ok());
    let Some(ask) = asked else { return status(StatusCode::BAD_REQUEST) };
    let mut tokens = Vec::new();
    // A pool is kept for existing functions only, so that names from outside cannot pile up.
    if gateway.control.state().functions.get(ask.function.as_str()).is_some() {
        let now = Instant::now();
        let since = now.checked_sub(Duration::from_micros(ask.waited_us)).unwrap_or(now);
        let wait = Duration::from_millis(ask.wait_ms).min(POLL_MAX);
        let pool = gateway.host.pool(&ask.function);
        if let Some(mut ticket) = pool.poll(ask.want.clamp(1, WANT_MAX), since)
            && let Ok(Some(granted)) = timeout(wait, ticket.granted()).await
        {
            tokens = granted.into_iter().map(|slot| gateway.host.tokens.issue(slot).to_string()).collect();
        }
    }
    let text = serde_json::to_vec(&Granted { tokens }).expect("tokens are plain text");
    Response::new(Body::from(text))
}

async fn release(gateway: &Gateway, body: Incoming) -> Response<Body> {
    let given = read_message(body).await.and_then(|text| serde_json::from_slice::<Granted>(&text).ok());
    let Some(given) = given else { return status(StatusCode::BAD_REQUEST) };
    for token in given.tokens.iter().filter_map(|text| text.parse::<Token>().ok()) {
        drop(gateway.host.tokens.redeem(token));
    }
    status(StatusCode::OK)
}

async fn invoke(gateway: &Gateway, head: Parts, body: Incoming, token: &str) -> Response<Body> {
    let envelope = head.headers.get(PEER_INVOCATION).and_then(|v| serde_json::from_slice(v.as_bytes()).ok());
    let target = target(&head.uri, token);
    let (Some(envelope), Some(target)) = (envelope, target) else {
        linger(body);
        return status(StatusCode::BAD_REQUEST);
    };
    let Some(slot) = take_slot(gateway, token, &envelope) else {
        linger(body);
        return marked(status(StatusCode::CONFLICT), "refused");
    };
    let attempt = attempt(envelope, head.extensions.get::<Cut>().cloned());
    let mut headers = head.headers;
    strip_own(&mut headers);
    headers.remove(AUTHORIZATION);
    let body = RequestBody::from_peer(body);
    let source = body.source().cloned();
    let message = Message { method: head.method, target, headers, body };
    match run(&gateway.host, slot, attempt, message).await {
        Ok(answer) => marked(answer.map(Body::answer), "answer"),
        Err(failure) => {
            if let Some(rest) = source.and_then(|source| source.take()) {
                linger(rest);
            }
            marked(failed(&failure), "failed")
        }
    }
}

fn take_slot(gateway: &Gateway, token: &str, envelope: &Envelope) -> Option<SlotGuard> {
    if token != ANY_SLOT {
        return gateway.host.tokens.redeem(token.parse().ok()?);
    }
    gateway.control.state().functions.get(envelope.function.as_str())?;
    gateway.host.pool(&envelope.function).try_take()
}

fn attempt(envelope: Envelope, cut: Option<Cut>) -> Attempt {
    let now = Instant::now();
    let Envelope { invocation, account, function, durability, may_retry, waited_us, left_ms } = envelope;
    let waited = waited_us.map(Duration::from_micros);
    Attempt {
        invocation,
        bill: Bill { account, function, durability, may_retry },
        waiting_since: waited.map(|waited| now.checked_sub(waited).unwrap_or(now)),
        deadline: now + Duration::from_millis(left_ms),
        cut,
    }
}

/// What follows the token: the path and query for the function.
fn target(uri: &Uri, token: &str) -> Option<Uri> {
    let path = uri.path_and_query()?.as_str();
    path.get(INVOKE_PATH.len() + token.len()..)?.parse().ok()
}

fn failed(failure: &Failure) -> Response<Body> {
    let text: Bytes = serde_json::to_vec(failure).expect("a failure is plain data").into();
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = failure.kind.status();
    response
}

fn marked(mut response: Response<Body>, result: &'static str) -> Response<Body> {
    response.headers_mut().insert(PEER_RESULT, HeaderValue::from_static(result));
    response
}

fn status(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
}
