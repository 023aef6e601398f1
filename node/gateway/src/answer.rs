//! The body of a function's answer on its way out. It carries the slot, the deadline and the usage
//! record to the last byte.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use tokio::time::{Instant, Sleep, timeout};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tokio_util::task::AbortOnDropHandle;

use crate::body::BodyError;
use crate::connections::Lease;
use crate::metrics::Metrics;
use crate::outside::{BoxFuture, MeterError};
use crate::request_body::Source;
use crate::server::Cut;
use crate::tally::{self, Outcome, Tally};

/// How long after its deadline an answer that its client does not read is cut from outside. Its own
/// timer, which comes first, is looked at only while the client reads.
const CUT_AFTER: Duration = Duration::from_millis(50);

pub(crate) struct Answer {
    incoming: Incoming,
    deadline: Pin<Box<Sleep>>,
    /// The connection it comes over, given back when it is through.
    lease: Option<Lease>,
    /// The request's body, if streamed: the connection is free only after that, too.
    request: Option<Arc<Source>>,
    /// On the host.
    tally: Option<Tally>,
    gone: Option<Gone>,
    /// On the entry.
    observer: Option<Observer>,
    /// Cuts the connection to the client.
    cut: Option<Cut>,
    watchdog: Option<AbortOnDropHandle<()>>,
    /// The last frame, which must not leave before the usage is recorded.
    held: Option<Frame<Bytes>>,
    recording: Option<BoxFuture<'static, Result<(), MeterError>>>,
    /// What it has failed with and not yet told.
    failing: Option<BodyError>,
    done: bool,
}

/// Whether what an answer comes from is no more. Listened to only once the answer has to be waited
/// for: most are there at once.
enum Gone {
    Unheard(CancellationToken),
    Heard(Pin<Box<WaitForCancellationFutureOwned>>),
}

impl Gone {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Gone::Unheard(token) = self {
            *self = Gone::Heard(Box::pin(token.clone().cancelled_owned()));
        }
        match self {
            Gone::Heard(cancelled) => cancelled.as_mut().poll(cx),
            Gone::Unheard(_) => Poll::Pending,
        }
    }
}

/// Measures an invocation to the end of its answer.
pub(crate) struct Observer {
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) arrived: Instant,
}

impl Drop for Observer {
    fn drop(&mut self) {
        self.metrics.lasted(self.arrived.elapsed());
    }
}

impl Answer {
    /// `deadline` cuts it when it is over.
    pub(crate) fn new(
        incoming: Incoming,
        deadline: Pin<Box<Sleep>>,
        lease: Lease,
        request: Option<Arc<Source>>,
        cut: Option<Cut>,
    ) -> Self {
        Answer {
            incoming,
            deadline,
            lease: Some(lease),
            request,
            tally: None,
            gone: None,
            observer: None,
            cut,
            watchdog: None,
            held: None,
            recording: None,
            failing: None,
            done: false,
        }
    }

    pub(crate) fn metered(mut self, tally: Tally) -> Self {
        self.tally = Some(tally);
        self
    }

    /// Cuts it when `gone` comes true: what it comes from is no more.
    pub(crate) fn until(mut self, gone: CancellationToken) -> Self {
        self.gone = Some(Gone::Unheard(gone));
        self
    }

    pub(crate) fn observed(mut self, observer: Observer) -> Self {
        self.observer = Some(observer);
        self
    }

    /// An answer without a body is through already. What it waits for must come before its head.
    pub(crate) async fn settle_if_empty(&mut self) -> Result<(), BodyError> {
        if !self.incoming.is_end_stream() {
            return Ok(());
        }
        self.done = true;
        self.through();
        let Some(recording) = self.tally.as_mut().and_then(|tally| tally.end(Outcome::Answered)) else {
            return Ok(());
        };
        let left = self.deadline.deadline().saturating_duration_since(Instant::now());
        match timeout(left.max(Duration::from_millis(1)), recording).await {
            Ok(recorded) => recorded.map_err(BodyError::Unrecorded),
            Err(_elapsed) => Err(BodyError::Deadline),
        }
    }

    /// The function has sent everything.
    fn through(&mut self) {
        let sent_all = self.request.as_ref().is_none_or(|source| source.is_ended());
        if let Some(lease) = self.lease.take()
            && sent_all
        {
            lease.give_back();
        }
    }

    /// More is to come, so the client's pace matters from here on.
    fn watch(&mut self) {
        if let Some(cut) = self.cut.take() {
            let at = self.deadline.deadline() + CUT_AFTER;
            self.watchdog = Some(AbortOnDropHandle::new(tokio::spawn(async move {
                tokio::time::sleep_until(at).await;
                cut.now();
            })));
        }
    }

    /// Ends it with an error, but not at once: hyper drops what it has not yet sent, the head perhaps,
    /// when a body fails, and sends it when a body has nothing more for now.
    fn fail(&mut self, error: BodyError, cx: &Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        self.done = true;
        self.lease = None;
        if let Some(recorded) = self.tally.as_mut().and_then(|tally| tally.end(Outcome::Failed)) {
            tally::finish(recorded);
        }
        if let Some(observer) = &self.observer {
            observer.metrics.answers_cut.fetch_add(1, Relaxed);
        }
        self.failing = Some(error);
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn poll_over(&mut self, cx: &mut Context<'_>) -> Poll<BodyError> {
        if self.deadline.as_mut().poll(cx).is_ready() {
            return Poll::Ready(BodyError::Deadline);
        }
        match self.gone.as_mut().map(|gone| gone.poll(cx)) {
            Some(Poll::Ready(())) => Poll::Ready(BodyError::Gone),
            _ => Poll::Pending,
        }
    }
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        if let Some(error) = this.failing.take() {
            return Poll::Ready(Some(Err(error)));
        }
        loop {
            if let Some(recording) = &mut this.recording {
                match recording.as_mut().poll(cx) {
                    Poll::Ready(Ok(())) => {
                        this.recording = None;
                        this.done = true;
                        return Poll::Ready(this.held.take().map(Ok));
                    }
                    Poll::Ready(Err(error)) => return this.fail(BodyError::Unrecorded(error), cx),
                    Poll::Pending => {
                        return match this.deadline.as_mut().poll(cx) {
                            Poll::Ready(()) => this.fail(BodyError::Deadline, cx),
                            Poll::Pending => Poll::Pending,
                        };
                    }
                }
            }
            if this.done {
                return Poll::Ready(None);
            }
            if this.deadline.deadline() <= Instant::now() {
                return this.fail(BodyError::Deadline, cx);
            }
            let frame = match Pin::new(&mut this.incoming).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => Some(frame),
                Poll::Ready(Some(Err(error))) => return this.fail(BodyError::Broken(error), cx),
                Poll::Ready(None) => None,
                Poll::Pending => {
                    return match this.poll_over(cx) {
                        Poll::Ready(error) => this.fail(error, cx),
                        Poll::Pending => Poll::Pending,
                    };
                }
            };
            if let (Some(data), Some(tally)) = (frame.as_ref().and_then(Frame::data_ref), &mut this.tally) {
                tally.response_bytes += u64::try_from(data.len()).unwrap_or(0);
            }
            // Trailers end a body, and with a known length the last byte does: nobody polls on.
            let last = frame.as_ref().is_none_or(Frame::is_trailers) || this.incoming.is_end_stream();
            if !last {
                this.watch();
                return Poll::Ready(frame.map(Ok));
            }
            this.through();
            this.recording = this.tally.as_mut().and_then(|tally| tally.end(Outcome::Answered));
            if this.recording.is_none() {
                this.done = true;
                return Poll::Ready(frame.map(Ok));
            }
            this.held = frame;
        }
    }

    fn is_end_stream(&self) -> bool {
        self.done && self.failing.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}
