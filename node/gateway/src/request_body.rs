//! The body of a request on its way to a function: whole in memory, or streamed with a limit.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http::header::EXPECT;
use http_body_util::BodyExt;
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use tokio::time::{Instant, Sleep};

use crate::failure::Kind;

/// How long the sender may pause while the rest of its body is read after the answer, and how long that may take.
const LINGER_PAUSE: Duration = Duration::from_secs(5);
const LINGER: Duration = Duration::from_secs(10);
const LINGER_MAX_BYTES: usize = 64 * 1024 * 1024;

/// Why a body did not arrive whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    TooLarge,
    TooSlow,
    /// The sender went away.
    BrokeOff,
}

impl Fault {
    pub(crate) fn kind(self) -> Kind {
        match self {
            Fault::TooLarge => Kind::BodyTooLarge,
            Fault::TooSlow => Kind::BodyTooSlow,
            Fault::BrokeOff => Kind::ClientGone,
        }
    }

    pub(crate) fn detail(self) -> &'static str {
        match self {
            Fault::TooLarge => "the request's body exceeds the limit",
            Fault::TooSlow => "the request's body arrives too slowly",
            Fault::BrokeOff => "the request's body broke off",
        }
    }
}

#[derive(Debug, thiserror::Error)]
#[error("{}", .0.detail())]
pub(crate) struct Incomplete(pub(crate) Fault);

/// One attempt's body. An attempt that never read it leaves a streamed one to the next.
pub(crate) enum RequestBody {
    Whole(Bytes),
    Stream(Stream),
}

/// A streamed body, shared by the attempts that may send it and whoever wants to know what became
/// of it.
pub(crate) struct Source {
    /// There until an attempt reads from it; put back when it breaks a limit.
    unread: Mutex<Option<Incoming>>,
    limit: u64,
    idle: Option<Duration>,
    bytes: AtomicU64,
    fault: AtomicU8,
    ended: AtomicBool,
}

impl Source {
    /// `limit` in bytes; `idle` is how long the sender may pause.
    pub(crate) fn new(body: Incoming, limit: u64, idle: Option<Duration>) -> Arc<Self> {
        Arc::new(Source {
            unread: Mutex::new(Some(body)),
            limit,
            idle,
            bytes: AtomicU64::new(0),
            fault: AtomicU8::new(0),
            ended: AtomicBool::new(false),
        })
    }

    /// A body for an attempt; `None` if an earlier one has read from it.
    pub(crate) fn attempt(self: &Arc<Self>) -> Option<RequestBody> {
        let unread = self.unread();
        let body = unread.as_ref()?;
        let size = body.size_hint();
        Some(RequestBody::Stream(Stream { source: Arc::clone(self), reading: None, idle: None, size }))
    }

    /// Bytes passed on so far.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Relaxed)
    }

    pub(crate) fn fault(&self) -> Option<Fault> {
        match self.fault.load(Relaxed) {
            1 => Some(Fault::TooLarge),
            2 => Some(Fault::TooSlow),
            3 => Some(Fault::BrokeOff),
            _ => None,
        }
    }

    pub(crate) fn is_ended(&self) -> bool {
        self.ended.load(Relaxed)
    }

    /// Takes what was not read.
    pub(crate) fn take(&self) -> Option<Incoming> {
        self.unread().take()
    }

    fn fail(&self, fault: Fault, rest: Option<Incoming>) -> Incomplete {
        let code = match fault {
            Fault::TooLarge => 1,
            Fault::TooSlow => 2,
            Fault::BrokeOff => 3,
        };
        self.fault.store(code, Relaxed);
        *self.unread() = rest;
        Incomplete(fault)
    }

    fn unread(&self) -> std::sync::MutexGuard<'_, Option<Incoming>> {
        self.unread.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One attempt's reading of a [`Source`].
pub(crate) struct Stream {
    source: Arc<Source>,
    reading: Option<Incoming>,
    idle: Option<Pin<Box<Sleep>>>,
    size: SizeHint,
}

impl Stream {
    pub(crate) fn source(&self) -> &Arc<Source> {
        &self.source
    }

    fn poll_stream(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Incomplete>>> {
        if self.reading.is_none() {
            if self.source.is_ended() {
                return Poll::Ready(None);
            }
            self.reading = self.source.take();
        }
        let Some(body) = self.reading.as_mut() else {
            return Poll::Ready(Some(Err(self.source.fail(Fault::BrokeOff, None))));
        };
        match Pin::new(&mut *body).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                let added = frame.data_ref().map_or(0, |data| u64::try_from(data.len()).unwrap_or(u64::MAX));
                let total = self.source.bytes().saturating_add(added);
                if total > self.source.limit {
                    let rest = self.reading.take();
                    return Poll::Ready(Some(Err(self.source.fail(Fault::TooLarge, rest))));
                }
                self.source.bytes.store(total, Relaxed);
                if body.is_end_stream() {
                    self.end();
                }
                self.idle = None;
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(_))) => Poll::Ready(Some(Err(self.source.fail(Fault::BrokeOff, None)))),
            Poll::Ready(None) => {
                self.end();
                Poll::Ready(None)
            }
            Poll::Pending => {
                let Some(limit) = self.source.idle else { return Poll::Pending };
                let idle = self
                    .idle
                    .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(Instant::now() + limit)));
                ready!(idle.as_mut().poll(cx));
                let rest = self.reading.take();
                Poll::Ready(Some(Err(self.source.fail(Fault::TooSlow, rest))))
            }
        }
    }

    fn end(&mut self) {
        self.source.ended.store(true, Relaxed);
        self.reading = None;
    }
}

impl RequestBody {
    /// The body of a request from another node, which has bounded it already.
    pub(crate) fn from_peer(body: Incoming) -> Self {
        if body.is_end_stream() {
            return RequestBody::Whole(Bytes::new());
        }
        Source::new(body, u64::MAX, None).attempt().expect("nothing was read yet")
    }

    /// Where it comes from, if it is streamed.
    pub(crate) fn source(&self) -> Option<&Arc<Source>> {
        match self {
            RequestBody::Whole(_) => None,
            RequestBody::Stream(stream) => Some(stream.source()),
        }
    }
}

/// Reads on for a moment, so that a client which is still sending sees the answer that is already on
/// its way: a socket closed with unread data would throw it away.
pub(crate) fn linger(mut rest: Incoming) {
    tokio::spawn(async move {
        let reading = async {
            let mut left = LINGER_MAX_BYTES;
            while let Ok(Some(Ok(frame))) = tokio::time::timeout(LINGER_PAUSE, rest.frame()).await {
                let read = frame.data_ref().map_or(0, Bytes::len);
                if read > left {
                    return;
                }
                left -= read;
            }
        };
        // Whether it came to its end makes no difference.
        let _ended = tokio::time::timeout(LINGER, reading).await;
    });
}

/// A request's body for a service that may answer before the body's end, refusing it for example: the rest
/// is then read for a moment, as [`linger`] does.
#[derive(Debug)]
pub struct Lingering {
    /// There until it ends or this is dropped.
    body: Option<Incoming>,
    /// The client sends without being told to go on.
    sends: bool,
}

/// Lets a service answer a request before the end of its body, with the client still seeing the answer.
pub fn lingering(request: Request<Incoming>) -> Request<Lingering> {
    let sends = !request.headers().contains_key(EXPECT);
    request.map(|body| Lingering { body: Some(body), sends })
}

impl HttpBody for Lingering {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let Some(body) = self.body.as_mut() else { return Poll::Ready(None) };
        let polled = Pin::new(body).poll_frame(cx);
        // Asked for, so the client was told to go on.
        self.sends = true;
        if let Poll::Ready(None | Some(Err(_))) = polled {
            self.body = None;
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(|| SizeHint::with_exact(0), HttpBody::size_hint)
    }
}

impl Drop for Lingering {
    fn drop(&mut self) {
        let rest = self.body.take().filter(|body| self.sends && !body.is_end_stream());
        // Without a runtime nobody is answered any more.
        if let Some(rest) = rest
            && tokio::runtime::Handle::try_current().is_ok()
        {
            linger(rest);
        }
    }
}

impl HttpBody for RequestBody {
    type Data = Bytes;
    type Error = Incomplete;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Incomplete>>> {
        match &mut *self {
            RequestBody::Whole(bytes) if bytes.is_empty() => Poll::Ready(None),
            RequestBody::Whole(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            RequestBody::Stream(stream) => stream.poll_stream(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            RequestBody::Whole(bytes) => bytes.is_empty(),
            RequestBody::Stream(stream) => stream.source.is_ended(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            RequestBody::Whole(bytes) => SizeHint::with_exact(u64::try_from(bytes.len()).unwrap_or(u64::MAX)),
            RequestBody::Stream(stream) => stream.size,
        }
    }
}
