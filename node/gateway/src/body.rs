//! The body of every answer on the gateway's listeners: a text, what a function sends, or the answer
//! of another service behind the same listener.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body_util::BodyExt;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::{Body as HttpBody, Frame, SizeHint};

use crate::answer::Answer;
use crate::outside::MeterError;

/// Why an answer ended before it was complete. The connection is then cut, which is how HTTP/1.1
/// tells a client so.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    #[error("the function's answer broke off")]
    Broken(#[source] hyper::Error),
    #[error("the function's deadline passed")]
    Deadline,
    #[error("the function's instance was removed")]
    Gone,
    #[error("the usage of the invocation could not be recorded")]
    Unrecorded(#[source] MeterError),
    #[error("the answer broke off")]
    Other(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// A response body.
pub struct Body(Kind);

enum Kind {
    Text(Bytes),
    Answer(Box<Answer>),
    Other(UnsyncBoxBody<Bytes, BodyError>),
}

impl Body {
    pub fn empty() -> Self {
        Body(Kind::Text(Bytes::new()))
    }

    /// A body made elsewhere, such as by the admin API behind the same listener.
    pub(crate) fn other<B>(body: B) -> Self
    where
        B: HttpBody<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        Body(Kind::Other(body.map_err(|error| BodyError::Other(error.into())).boxed_unsync()))
    }

    pub(crate) fn answer(answer: Answer) -> Self {
        Body(Kind::Answer(Box::new(answer)))
    }
}

/// A body that is there already.
pub fn full(text: Bytes) -> Body {
    Body(Kind::Text(text))
}

/// A body made elsewhere, such as by the admin API behind the same listener.
pub fn boxed<B>(body: B) -> Body
where
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    Body::other(body)
}

impl<T: Into<Bytes>> From<T> for Body {
    fn from(text: T) -> Self {
        Body(Kind::Text(text.into()))
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut self.0 {
            Kind::Text(text) if text.is_empty() => Poll::Ready(None),
            Kind::Text(text) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(text))))),
            Kind::Answer(answer) => Pin::new(answer.as_mut()).poll_frame(cx),
            Kind::Other(body) => Pin::new(body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Kind::Text(text) => text.is_empty(),
            Kind::Answer(answer) => answer.is_end_stream(),
            Kind::Other(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Text(text) => SizeHint::with_exact(u64::try_from(text.len()).unwrap_or(u64::MAX)),
            Kind::Answer(answer) => answer.size_hint(),
            Kind::Other(body) => body.size_hint(),
        }
    }
}

impl std::fmt::Debug for Body {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self.0 {
            Kind::Text(_) => "Body(text)",
            Kind::Answer(_) => "Body(answer)",
            Kind::Other(_) => "Body(other)",
        })
    }
}
