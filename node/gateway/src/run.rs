//! One attempt on an instance of this node.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use http::header::HOST;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri};
use muster_api::headers::{ACCOUNT, INVOCATION_ID};
use tokio::time::{Instant, sleep_until};

use crate::answer::Answer;
use crate::body::BodyError;
use crate::connections::SendError;
use crate::failure::{Failure, Kind, Place};
use crate::headers;
use crate::host::{Host, Instance};
use crate::outside::Meter;
use crate::pool::SlotGuard;
use crate::request_body::{RequestBody, Source};
use crate::server::Cut;
use crate::tally::{Bill, RequestBytes, Tally};

/// How long an instance that refuses connections is left alone; also one that broke off, where the
/// request is to be tried again elsewhere.
pub(crate) const SUSPECT_FOR: Duration = Duration::from_millis(100);

/// What an attempt is about, wherever it runs.
pub(crate) struct Attempt {
    pub(crate) invocation: String,
    pub(crate) bill: Bill,
    /// When the request began to wait for a slot, if it had to.
    pub(crate) waiting_since: Option<Instant>,
    pub(crate) deadline: Instant,
    pub(crate) cut: Option<Cut>,
}

/// What the function is sent.
pub(crate) struct Message {
    pub(crate) method: Method,
    /// Path and query, as the function sees them.
    pub(crate) target: Uri,
    /// Fit to be passed on: see [`headers::from_client`].
    pub(crate) headers: HeaderMap,
    pub(crate) body: RequestBody,
}

/// Sends the request to the slot's instance. The answer carries the slot until it is through.
pub(crate) async fn run(
    host: &Host,
    slot: SlotGuard,
    attempt: Attempt,
    message: Message,
) -> Result<Response<Answer>, Failure> {
    let instance = Arc::clone(&slot.instance);
    let waited_for_it = attempt.waiting_since.is_some_and(|since| since < instance.ready_at);
    let cold_start = waited_for_it && !instance.adopted;
    let place = Place { node: host.node, instance: instance.id, cold_start };
    let source = message.body.source().cloned();
    let bytes = match &message.body {
        RequestBody::Whole(bytes) => RequestBytes::Whole(u64::try_from(bytes.len()).unwrap_or(u64::MAX)),
        RequestBody::Stream(stream) => RequestBytes::Streamed(Arc::clone(stream.source())),
    };
    let mut deadline = Box::pin(sleep_until(attempt.deadline));
    // Before its time is counted: nobody pays for an instance that is on its way.
    let unfit = tokio::select! {
        biased;
        woken = instance.wake(host) => woken.err().map(|error| {
            slot.suspect(SUSPECT_FOR);
            (Kind::Broken, format!("the function's instance was paused, and does not go on: {error}"))
        }),
        () = instance.gone.cancelled() => {
            Some((Kind::Broken, "the function's instance was removed".to_owned()))
        }
        () = &mut deadline => {
            Some((Kind::Deadline, "the function's instance did not go on before the deadline".to_owned()))
        }
    };
    if let Some((kind, detail)) = unfit {
        return Err(Failure { place: Some(place), ..Failure::not_started(kind, detail) });
    }
    let meter: Arc<dyn Meter> = Arc::clone(&host.meter);
    let mut tally = Tally::new(meter, attempt.bill.clone(), slot, cold_start, bytes);
    let request = request(&attempt, message, &instance);
    let sent = tokio::select! {
        biased;
        sent = instance.connections.send(request, |sent| tally.sent = sent) => sent,
        () = instance.gone.cancelled() => {
            return Err(lost(tally, place, Kind::Broken, "the function's instance was removed"));
        }
        () = &mut deadline => {
            if tally.sent {
                instance.silent.fetch_add(1, Relaxed);
            }
            let detail = "the function did not answer before its deadline";
            return Err(lost(tally, place, Kind::Deadline, detail));
        }
    };
    let (response, lease) = sent.map_err(|error| failed(&mut tally, &error, source.as_deref(), place))?;
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        let detail = "the function answered 101, which nobody asked for";
        return Err(lost(tally, place, Kind::Broken, detail));
    }
    tally.head_seen = true;
    instance.silent.store(0, Relaxed);
    if cold_start {
        host.metrics.cold_starts.fetch_add(1, Relaxed);
    }
    let (mut parts, incoming) = response.into_parts();
    headers::strip_hop_by_hop(&mut parts.headers);
    headers::strip_own(&mut parts.headers);
    place.write(&mut parts.headers);
    parts.headers.insert(INVOCATION_ID, printable(&attempt.invocation));
    let gone = instance.gone.clone();
    let mut answer = Answer::new(incoming, deadline, lease, source, attempt.cut).metered(tally).until(gone);
    answer.settle_if_empty().await.map_err(|error| {
        let kind = if matches!(error, BodyError::Deadline) { Kind::Deadline } else { Kind::Unrecorded };
        Failure::started(kind, error.to_string(), place)
    })?;
    Ok(Response::from_parts(parts, answer))
}

fn request(attempt: &Attempt, message: Message, instance: &Instance) -> Request<RequestBody> {
    let Message { method, target, mut headers, body } = message;
    if !headers.contains_key(HOST)
        && let Ok(address) = HeaderValue::try_from(instance.connections.address())
    {
        headers.insert(HOST, address);
    }
    headers.insert(ACCOUNT, printable(attempt.bill.account.as_str()));
    headers.insert(INVOCATION_ID, printable(&attempt.invocation));
    let mut request = Request::new(body);
    *request.method_mut() = method;
    *request.uri_mut() = target;
    *request.headers_mut() = headers;
    request
}

/// The attempt ended while the function may have been at work.
fn lost(mut tally: Tally, place: Place, kind: Kind, detail: &str) -> Failure {
    let started = tally.sent;
    tally.end_failed(kind);
    match started {
        true => Failure::started(kind, detail, place),
        false => Failure { place: Some(place), ..Failure::not_started(kind, detail) },
    }
}

fn failed(tally: &mut Tally, error: &SendError, source: Option<&Source>, place: Place) -> Failure {
    if let Some(fault) = source.and_then(Source::fault) {
        tally.end_failed(fault.kind());
        return Failure::started(fault.kind(), fault.detail(), place);
    }
    // Not after every break: a caller whose requests make it break would keep others from it.
    if error.is_unsent() || tally.may_retry() {
        tally.suspect(SUSPECT_FOR);
    }
    if error.is_unsent() {
        tally.sent = false;
    }
    tally.end_failed(Kind::Broken);
    let detail = format!("the function's instance: {}", error.describe());
    match error.is_unsent() {
        true => Failure { place: Some(place), ..Failure::not_started(Kind::Broken, detail) },
        false => Failure::started(Kind::Broken, detail, place),
    }
}

fn printable(text: &str) -> HeaderValue {
    HeaderValue::try_from(text).expect("names and ids are printable ASCII")
}
