//! Bodies: complete, or sent piece by piece.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::StatusCode;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tokio::sync::mpsc;

use crate::Failure;

/// Any error a body can end with.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The body of a response.
#[derive(Debug)]
pub struct Body(Kind);

#[derive(Debug)]
enum Kind {
    Full(Bytes),
    Channel(mpsc::Receiver<Result<Bytes, BoxError>>),
}

/// Pieces that may wait for a slow reader before [`Sender::send`] waits too.
const CHANNEL_PIECES: usize = 4;

impl Body {
    pub fn empty() -> Self {
        Body(Kind::Full(Bytes::new()))
    }

    /// A body sent piece by piece; each piece leaves at once. It ends when the sender is dropped.
    pub fn channel() -> (Sender, Self) {
        let (sender, receiver) = mpsc::channel(CHANNEL_PIECES);
        (Sender(sender), Body(Kind::Channel(receiver)))
    }
}

impl<T: Into<Bytes>> From<T> for Body {
    fn from(bytes: T) -> Self {
        Body(Kind::Full(bytes.into()))
    }
}

/// The writing end of [`Body::channel`].
#[derive(Clone, Debug)]
pub struct Sender(mpsc::Sender<Result<Bytes, BoxError>>);

impl Sender {
    /// Sends one piece, waiting while the reader is slow. `false`: nobody reads any more.
    pub async fn send(&self, piece: impl Into<Bytes>) -> bool {
        self.0.send(Ok(piece.into())).await.is_ok()
    }

    /// Breaks the body off: the reader sees the connection end early, not a complete answer.
    pub async fn fail(self, error: impl Into<BoxError>) {
        // A reader that has gone needs no news.
        let _ = self.0.send(Err(error.into())).await;
    }
}

/// Collects a request's body, at most `limit_bytes` of it.
///
/// # Errors
/// 413 where it is longer, 400 where it breaks off.
pub async fn read_body<B>(body: B, limit_bytes: usize) -> Result<Bytes, Failure>
where
    B: HttpBody<Data = Bytes, Error: Into<BoxError>>,
{
    let too_long =
        || Failure::new(StatusCode::PAYLOAD_TOO_LARGE, format!("the body exceeds {limit_bytes} bytes"));
    // A declared length is refused before any of it is read.
    if body.size_hint().lower() > u64::try_from(limit_bytes).unwrap_or(u64::MAX) {
        return Err(too_long());
    }
    match Limited::new(body, limit_bytes).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(too_long()),
        Err(error) => Err(Failure::new(StatusCode::BAD_REQUEST, format!("the body broke off: {error}"))),
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match &mut self.0 {
            Kind::Full(bytes) if bytes.is_empty() => Poll::Ready(None),
            Kind::Full(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Kind::Channel(pieces) => pieces.poll_recv(cx).map(|piece| piece.map(|p| p.map(Frame::data))),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(&self.0, Kind::Full(bytes) if bytes.is_empty())
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Full(bytes) => SizeHint::with_exact(u64::try_from(bytes.len()).unwrap_or(u64::MAX)),
            Kind::Channel(_) => SizeHint::default(),
        }
    }
}
