//! The end of a connection to a client when the node stops.
//!
//! A connection that is kept for the next request is closed by the server some time, and a request may be on its
//! way just then. HTTP/1.1 leaves its client not knowing whether anybody read it, so it cannot send it again. Here
//! the last word on such a connection is an answer, 503: a client with a request on its way takes it for what it is,
//! a refusal of what was not started, and one without drops the connection, as it would have anyway. (RFC 9112, section
//! 9.5, and HAProxy's 408 on idle connections are the same idea.)

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::rt::{Read, ReadBuf, ReadBufCursor, Write};
use muster_api::{InvocationState, PROBLEM_JSON, Problem};
use tokio::time::Sleep;

/// How long the client may take to hang up once it was told. What it sent meanwhile is read: otherwise the kernel
/// would take back the answer with a reset.
const HEARD_WITHIN: Duration = Duration::from_millis(250);

static LAST_WORD: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let problem = Problem {
        status: 503,
        title: "No capacity".to_owned(),
        detail: "the node is shutting down".to_owned(),
        invocation_id: None,
        invocation_state: Some(InvocationState::NotStarted),
    };
    let body = serde_json::to_string(&problem).expect("a problem is plain data");
    let head = format!(
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: {PROBLEM_JSON}\r\nretry-after: 1\r\nconnection: close\r\n\
         content-length: {}\r\n\r\n",
        body.len()
    );
    (head + &body).into_bytes()
});

/// What decides whether there is a last word. A clone is a handle to the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ending(Arc<Known>);

#[derive(Debug, Default)]
struct Known {
    /// The server ends it.
    begun: AtomicBool,
    /// The last answer has said that it ends.
    announced: AtomicBool,
}

impl Ending {
    pub(crate) fn begin(&self) {
        self.0.begun.store(true, Ordering::Relaxed);
    }

    pub(crate) fn announce(&self) {
        self.0.announced.store(true, Ordering::Relaxed);
    }

    fn comes_unannounced(&self) -> bool {
        self.0.begun.load(Ordering::Relaxed) && !self.0.announced.load(Ordering::Relaxed)
    }
}

/// A connection with a last word.
pub(crate) struct Parting<T> {
    io: T,
    ending: Ending,
    stage: Stage,
}

enum Stage {
    Open,
    /// So much of the last word was written.
    Telling(usize),
    Closing {
        told: bool,
    },
    /// Until the client hangs up, or this has passed.
    Hearing(Pin<Box<Sleep>>),
    Closed,
}

impl<T> Parting<T> {
    pub(crate) fn new(io: T, ending: Ending) -> Self {
        Parting { io, ending, stage: Stage::Open }
    }
}

impl<T: Read + Unpin> Read for Parting<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(context, into)
    }
}

impl<T: Read + Write + Unpin> Write for Parting<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(context, bytes)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Parting { io, ending, stage } = &mut *self;
        loop {
            *stage = match stage {
                Stage::Open if ending.comes_unannounced() => Stage::Telling(0),
                Stage::Open => Stage::Closing { told: false },
                Stage::Telling(written) if *written == LAST_WORD.len() => {
                    ready!(Pin::new(&mut *io).poll_flush(context))?;
                    Stage::Closing { told: true }
                }
                Stage::Telling(written) => {
                    match ready!(Pin::new(&mut *io).poll_write(context, &LAST_WORD[*written..]))? {
                        0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                        more => Stage::Telling(*written + more),
                    }
                }
                Stage::Closing { told } => {
                    ready!(Pin::new(&mut *io).poll_shutdown(context))?;
                    match *told {
                        true => Stage::Hearing(Box::pin(tokio::time::sleep(HEARD_WITHIN))),
                        false => Stage::Closed,
                    }
                }
                Stage::Hearing(limit) => {
                    if limit.as_mut().poll(context).is_ready() {
                        Stage::Closed
                    } else {
                        let mut bytes = [MaybeUninit::uninit(); 1024];
                        let mut read = ReadBuf::uninit(&mut bytes);
                        ready!(Pin::new(&mut *io).poll_read(context, read.unfilled()))?;
                        match read.filled().len() {
                            0 => Stage::Closed,
                            _ => continue,
                        }
                    }
                }
                Stage::Closed => return Poll::Ready(Ok(())),
            };
        }
    }
}
