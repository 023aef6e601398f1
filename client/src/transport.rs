//! Sending a request until a node answers it: failover, repetition, deadlines.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, RETRY_AFTER};
use http::{Method, StatusCode};
use muster_api::{InvocationState, PROBLEM_JSON, Problem, headers};
use reqwest::Url;
use serde::de::DeserializeOwned;

use crate::body::COLLECTED_MAX;
use crate::error::root_cause;
use crate::{Body, Error, Key, Options, ResponseBody, Tried};

/// The most nodes a client is given: it may ask each of them before it gives up.
const NODES_MAX: usize = 256;
/// Problems are short texts; what is longer is somebody else's document.
const PROBLEM_MAX: usize = 64 * 1024;
/// How often all nodes are asked while each of them breaks off without saying when to come back.
const BROKEN_ROUNDS_MAX: u32 = 2;
const BROKEN_PAUSE: Duration = Duration::from_millis(100);
/// The least wait before a node is asked again, whatever `Retry-After` says.
const PAUSE_MIN: Duration = Duration::from_millis(50);
/// The most of an unexpected answer that is quoted in an error, in characters.
const QUOTED_MAX: usize = 200;

#[derive(Debug)]
pub(crate) struct Transport {
    nodes: Vec<Url>,
    key: Option<Key>,
    pub(crate) options: Options,
    http: reqwest::Client,
    /// The node that answered last; the next request starts there.
    current: AtomicUsize,
}

/// When a request that reached a node may be sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Repeat {
    /// Always: carrying it out twice is the same as once.
    Harmless,
    /// Only if Muster says that the function did not start.
    IfNotStarted,
}

#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) method: Method,
    /// Path and query, encoded.
    pub(crate) path: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Body,
    pub(crate) repeat: Repeat,
    /// For one node to answer.
    pub(crate) limit: Option<Duration>,
    /// After this, nothing is sent again.
    pub(crate) deadline: Duration,
    /// Whether to wait and ask again once every node has failed it.
    pub(crate) patient: bool,
    /// For one node to begin its answer.
    pub(crate) head_limit: Option<Duration>,
    /// The answer is read as it comes.
    pub(crate) streams: bool,
    /// An invocation's answer belongs to the function: any status is an answer.
    pub(crate) invocation: bool,
}

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) node: String,
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: ResponseBody,
}

impl Transport {
    pub(crate) fn new(nodes: Vec<Url>, key: Option<Key>, options: Options) -> Result<Self, Error> {
        if !(1..=NODES_MAX).contains(&nodes.len()) {
            return Err(Error::invalid("the list of nodes", format!("expected 1 to {NODES_MAX} URLs")));
        }
        let builder = reqwest::Client::builder();
        // It would cut off, after 30 s, a long body that its function is not yet there to read.
        #[cfg(target_os = "linux")]
        let builder = builder.tcp_user_timeout(None);
        let secured = nodes.iter().any(|node| node.scheme() == "https");
        let tls = crate::tls::config(options.ca_file.as_deref(), secured)?;
        let http = builder
            .tls_backend_preconfigured(tls)
            .connect_timeout(options.connect_timeout)
            // A function's redirect is its answer, and a key must not follow one.
            .redirect(reqwest::redirect::Policy::none())
            // What is repeated is decided here alone.
            .retry(reqwest::retry::never())
            // Failover rests on seeing for itself that a node can't be reached.
            .no_proxy()
            .user_agent(concat!("muster/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|e| Error::invalid("the HTTP client", root_cause(&e)))?;
        Ok(Transport { nodes, key, options, http, current: AtomicUsize::new(0) })
    }

    /// Sends `call` until a node answers it.
    pub(crate) async fn send(&self, call: &Call) -> Result<Answer, Error> {
        self.send_noting(call, &mut false).await
    }

    /// As [`send`](Self::send); `doubted` tells whether an attempt before the last may have been
    /// carried out.
    pub(crate) async fn send_noting(&self, call: &Call, doubted: &mut bool) -> Result<Answer, Error> {
        let began = Instant::now();
        let mut number = 1;
        loop {
            let mut round = Round::default();
            let first = self.current.load(Ordering::Relaxed);
            for index in (first..self.nodes.len()).chain(0..first) {
                let left = call.deadline.saturating_sub(began.elapsed());
                if left.is_zero() && !round.is_empty() {
                    return Err(round.into_error());
                }
                match self.attempt(&self.nodes[index], call, left).await {
                    Ok(answer) => {
                        self.current.store(index, Ordering::Relaxed);
                        return Ok(answer);
                    }
                    Err(Failure::Final(error)) => {
                        self.current.store(index, Ordering::Relaxed);
                        return Err(error);
                    }
                    Err(failure) if !call.may_repeat(&failure) => return Err(failure.into_error()),
                    Err(failure) => {
                        *doubted |= !matches!(failure, Failure::Refused(_));
                        round.note(failure);
                    }
                }
            }
            match round.pause(number) {
                Some(pause) if call.patient && began.elapsed() + pause < call.deadline => {
                    tokio::time::sleep(pause).await;
                }
                _ => return Err(round.into_error()),
            }
            number += 1;
        }
    }

    async fn attempt(&self, node: &Url, call: &Call, left: Duration) -> Result<Answer, Failure> {
        let name = node.as_str().trim_end_matches('/');
        let url = Url::parse(&format!("{name}{}", call.path)).map_err(|e| {
            Failure::Final(Error::invalid(format!("the path `{}`", call.path), e.to_string()))
        })?;
        let Some(body) = call.body.attempt() else {
            return Err(Failure::Final(Error::invalid("the body", "it was already read")));
        };
        let mut headers = call.headers.clone();
        if let Some(key) = &self.key {
            headers.insert(AUTHORIZATION, key.header());
        }
        let mut request = self.http.request(call.method.clone(), url).headers(headers);
        if !call.body.is_empty() {
            request = request.body(body);
        }
        if let Some(limit) = call.limit {
            // An invocation is not cut short by the deadline for repeating it.
            request = request.timeout(if call.invocation { limit } else { limit.min(left) });
        }
        let sending = request.send();
        let sent = match call.head_limit {
            None => sending.await,
            Some(limit) => match tokio::time::timeout(limit.min(left), sending).await {
                Ok(sent) => sent,
                Err(_elapsed) => {
                    let why = format!("no answer within {} s", limit.as_secs_f32());
                    return Err(Failure::Refused(Tried { url: name.to_owned(), why }));
                }
            },
        };
        match sent {
            Ok(response) => Answer::read(name, response, call).await,
            Err(error) if error.is_connect() => {
                Err(Failure::Refused(Tried { url: name.to_owned(), why: root_cause(&error) }))
            }
            Err(error) if error.is_builder() => {
                Err(Failure::Final(Error::invalid("the request", root_cause(&error))))
            }
            Err(error) => Err(Failure::Broken(Error::after_sending(name, error))),
        }
    }
}

impl Call {
    fn may_repeat(&self, failure: &Failure) -> bool {
        let harmless = match failure {
            Failure::Refused(_) => return true,
            Failure::Final(_) => return false,
            Failure::Broken(_) => self.repeat == Repeat::Harmless,
            Failure::Busy { not_started, .. } => self.repeat == Repeat::Harmless || *not_started,
        };
        harmless && self.body.attempt().is_some()
    }
}

impl Answer {
    async fn read(node: &str, response: reqwest::Response, call: &Call) -> Result<Self, Failure> {
        let Call { invocation, streams, .. } = *call;
        let (status, headers) = (response.status(), response.headers().clone());
        let body = ResponseBody::new(node, response);
        let mut answer = Answer { node: node.to_owned(), status, headers, body };
        let is_problem = status.as_u16() >= 400 && answer.is_problem_json();
        let wanted = match (is_problem, streams && (invocation || status.is_success())) {
            (true, _) => PROBLEM_MAX,
            (false, true) => return Ok(answer),
            (false, false) => COLLECTED_MAX,
        };
        let whole = answer.body.fill(wanted).await.map_err(Failure::Broken)?;
        match answer.problem(invocation) {
            Some(problem) if is_problem && whole => {
                let not_started = problem.invocation_state == Some(InvocationState::NotStarted);
                let error = Error::Problem { problem: Box::new(problem), retry_after: answer.retry_after() };
                Err(answer.refusal(error, not_started))
            }
            _ if invocation => Ok(answer),
            _ if !whole => Err(Failure::Final(answer.malformed("it is too long", None))),
            _ if answer.status.is_success() => Ok(answer),
            _ => Err(answer.refusal(answer.unexpected(), false)),
        }
    }

    /// The body as JSON.
    pub(crate) fn json<T: DeserializeOwned>(self) -> Result<T, Error> {
        serde_json::from_slice(self.body.peek())
            .map_err(|error| self.malformed("its body is not the expected JSON", Some(error)))
    }

    fn is_problem_json(&self) -> bool {
        let kind = self.headers.get(CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
        kind.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case(PROBLEM_JSON))
    }

    /// Muster's own problem. A function may answer with one too: that is its answer, and is told
    /// apart by coming from an instance without saying how far the invocation got.
    fn problem(&self, invocation: bool) -> Option<Problem> {
        let problem: Problem = serde_json::from_slice(self.body.peek()).ok()?;
        let from_function = invocation
            && problem.invocation_state.is_none()
            && self.headers.get(headers::INSTANCE).is_some_and(|v| !v.is_empty());
        (!from_function).then_some(problem)
    }

    fn retry_after(&self) -> Option<Duration> {
        let text = self.headers.get(RETRY_AFTER)?.to_str().ok()?;
        text.trim().parse().ok().map(Duration::from_secs)
    }

    fn refusal(&self, error: Error, not_started: bool) -> Failure {
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            Failure::Busy { error, retry_after: self.retry_after(), not_started }
        } else {
            Failure::Final(error)
        }
    }

    /// The error of an answer that is neither a success nor a problem.
    fn unexpected(&self) -> Error {
        let text = String::from_utf8_lossy(self.body.peek());
        let quoted: String = text.trim().chars().take(QUOTED_MAX).collect();
        self.malformed(&format!("no problem document but `{quoted}`"), None)
    }

    fn malformed(&self, what: &str, source: Option<serde_json::Error>) -> Error {
        Error::Malformed { node: self.node.clone(), status: self.status, what: what.to_owned(), source }
    }
}

/// Why an attempt was in vain.
enum Failure {
    /// Nothing was sent.
    Refused(Tried),
    /// It may have been carried out.
    Broken(Error),
    /// The node can't do it now.
    Busy { error: Error, retry_after: Option<Duration>, not_started: bool },
    /// Asking again would not help.
    Final(Error),
}

impl Failure {
    fn into_error(self) -> Error {
        match self {
            Failure::Refused(tried) => Error::Unreachable { tried: vec![tried] },
            Failure::Broken(error) | Failure::Busy { error, .. } | Failure::Final(error) => error,
        }
    }
}

/// What came of asking every node once.
#[derive(Default)]
struct Round {
    tried: Vec<Tried>,
    broken: Option<Error>,
    busy: Option<Error>,
    retry_after: Option<Duration>,
}

impl Round {
    fn note(&mut self, failure: Failure) {
        match failure {
            Failure::Refused(tried) => self.tried.push(tried),
            Failure::Busy { error, retry_after, .. } => {
                self.retry_after = self.retry_after.into_iter().chain(retry_after).min();
                self.busy = Some(error);
            }
            Failure::Broken(error) | Failure::Final(error) => self.broken = Some(error),
        }
    }

    fn is_empty(&self) -> bool {
        self.tried.is_empty() && self.broken.is_none() && self.busy.is_none()
    }

    /// How long to wait before round `number + 1`; `None`: there is no point in one.
    fn pause(&self, number: u32) -> Option<Duration> {
        match self.retry_after {
            Some(wait) => Some(jittered(wait.max(PAUSE_MIN))),
            None if self.broken.is_some() && number < BROKEN_ROUNDS_MAX => Some(jittered(BROKEN_PAUSE)),
            None => None,
        }
    }

    /// The error that tells most: what a node said, before what it did not.
    fn into_error(self) -> Error {
        self.busy.or(self.broken).unwrap_or(Error::Unreachable { tried: self.tried })
    }
}

/// `wait`, and up to a quarter more, so that many clients do not come back as one.
fn jittered(wait: Duration) -> Duration {
    let random = getrandom::u32().unwrap_or_default() % 1024;
    wait + wait / 4 * random / 1024
}
