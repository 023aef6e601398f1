//! Bodies, both ways. A request's may be sent again unless it is a stream that has begun.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use futures_util::Stream;

use crate::Error;

/// The most bytes [`ResponseBody::bytes`] collects. Read longer answers chunk by chunk.
pub(crate) const COLLECTED_MAX: usize = 256 * 1024 * 1024;

type Chunks = Pin<Box<dyn Stream<Item = io::Result<Bytes>> + Send>>;

/// The body of a request: bytes, or a stream of them.
pub struct Body(Kind);

enum Kind {
    Bytes(Bytes),
    /// Taken by the attempt that first polls it: a connection that is refused leaves it whole.
    Stream(Arc<Mutex<Option<Chunks>>>),
}

impl Body {
    pub fn empty() -> Self {
        Body(Kind::Bytes(Bytes::new()))
    }

    /// A body that is sent as it comes, without a length. It can fail over to another node only
    /// while none of it was read.
    pub fn stream(chunks: impl Stream<Item = io::Result<Bytes>> + Send + 'static) -> Self {
        Body(Kind::Stream(Arc::new(Mutex::new(Some(Box::pin(chunks))))))
    }

    /// The body for one more attempt; `None` when an earlier one has begun to read the stream.
    pub(crate) fn attempt(&self) -> Option<reqwest::Body> {
        match &self.0 {
            Kind::Bytes(bytes) => Some(bytes.clone().into()),
            Kind::Stream(source) => {
                let whole = source.lock().unwrap_or_else(PoisonError::into_inner).is_some();
                whole.then(|| reqwest::Body::wrap_stream(Lazy { source: source.clone(), begun: None }))
            }
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        matches!(&self.0, Kind::Bytes(bytes) if bytes.is_empty())
    }
}

impl<T: Into<Bytes>> From<T> for Body {
    fn from(bytes: T) -> Self {
        Body(Kind::Bytes(bytes.into()))
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kind::Bytes(bytes) => write!(f, "Body({} bytes)", bytes.len()),
            Kind::Stream(_) => f.write_str("Body(stream)"),
        }
    }
}

/// Takes the shared stream when it is first polled.
struct Lazy {
    source: Arc<Mutex<Option<Chunks>>>,
    begun: Option<Chunks>,
}

impl Stream for Lazy {
    type Item = io::Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.begun.is_none() {
            let taken = self.source.lock().unwrap_or_else(PoisonError::into_inner).take();
            self.begun = taken;
        }
        match &mut self.begun {
            Some(chunks) => chunks.as_mut().poll_next(cx),
            None => Poll::Ready(Some(Err(io::Error::other("the body was already read")))),
        }
    }
}

/// The body of an answer, which arrives while it is read.
#[derive(Debug)]
pub struct ResponseBody {
    node: String,
    /// What was read of it before it was handed out.
    prefix: Bytes,
    rest: Option<reqwest::Response>,
}

impl ResponseBody {
    pub(crate) fn new(node: &str, response: reqwest::Response) -> Self {
        ResponseBody { node: node.to_owned(), prefix: Bytes::new(), rest: Some(response) }
    }

    /// The next piece, or `None` at the end.
    ///
    /// # Errors
    /// [`Error::Broken`] or [`Error::Timeout`] when the answer is cut off.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, Error> {
        if !self.prefix.is_empty() {
            return Ok(Some(std::mem::take(&mut self.prefix)));
        }
        self.receive().await
    }

    /// All of it.
    ///
    /// # Errors
    /// As for [`chunk`](Self::chunk), and [`Error::Malformed`] beyond 256 MiB.
    pub async fn bytes(mut self) -> Result<Bytes, Error> {
        if self.fill(COLLECTED_MAX).await? {
            return Ok(self.prefix);
        }
        Err(Error::Malformed {
            status: self.rest.as_ref().map(reqwest::Response::status).unwrap_or_default(),
            node: self.node,
            what: format!("the answer is longer than {COLLECTED_MAX} bytes"),
            source: None,
        })
    }

    /// Reads ahead until the end or past `limit` bytes; whether the end was reached within it.
    pub(crate) async fn fill(&mut self, limit: usize) -> Result<bool, Error> {
        let mut read = BytesMut::from(std::mem::take(&mut self.prefix));
        let ended = loop {
            if read.len() > limit {
                break false;
            }
            match self.receive().await? {
                Some(chunk) => read.extend_from_slice(&chunk),
                None => break true,
            }
        };
        self.prefix = read.freeze();
        Ok(ended)
    }

    /// What [`fill`](Self::fill) has read so far.
    pub(crate) fn peek(&self) -> &Bytes {
        &self.prefix
    }

    async fn receive(&mut self) -> Result<Option<Bytes>, Error> {
        let Some(response) = &mut self.rest else { return Ok(None) };
        let chunk = response.chunk().await.map_err(|e| Error::after_sending(&self.node, e))?;
        if chunk.is_none() {
            self.rest = None;
        }
        Ok(chunk)
    }
}
