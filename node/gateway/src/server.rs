//! The accept loop of both listeners: HTTP/1.1, mostly over TLS, with bounds on everything a client can grow.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, HeaderValue};
use http::{Request, Response};
use hyper::body::{Body as HttpBody, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use muster_core::ids::NodeId;
use muster_tls::{PeerTls, PublicTls, Stream};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::parting::{Ending, Parting};
use crate::refusals::Refusals;

/// A connection on which nothing is asked is kept for so long into a shutdown: a request may be on its way. Those that
/// are used are told that they end, and so end between two requests.
const LINGER: Duration = Duration::from_millis(250);
/// The most connections that are taken from the backlog at the very end: nobody may keep a listener from closing.
const LATE_MAX: usize = 4_096;

/// The bounds of a listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections at a time; more wait in the kernel's backlog.
    pub connections_max: usize,
    /// The head of a request; above it the answer is 431.
    pub head_max_bytes: usize,
    /// How long a client may take to send a head, and how long an idle connection is kept.
    pub head_timeout: Duration,
    /// How long requests in flight may take to finish at shutdown.
    pub grace: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            connections_max: 10_000,
            head_max_bytes: 64 * 1024,
            head_timeout: Duration::from_secs(30),
            grace: Duration::from_secs(30),
        }
    }
}

impl Limits {
    /// For the listener for other nodes: the head of an invocation grows on its way between them.
    pub fn for_peers() -> Self {
        let public = Limits::default();
        Limits { head_max_bytes: 2 * public.head_max_bytes, ..public }
    }
}

/// What a connection must bring along to be let in.
#[derive(Clone, Debug)]
pub enum Door {
    /// Nothing.
    Plain,
    /// TLS. Clients have API keys, not certificates.
    Public(PublicTls),
    /// TLS with a node's certificate, or with none: what that may do is the handler's to say.
    Peers(PeerTls, Refusals),
}

/// Who a request comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    pub address: SocketAddr,
    /// The node, if its certificate says so.
    pub node: Option<NodeId>,
}

/// How long a TLS handshake may take.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);
/// The pause after a failed accept: it fails because something ran out, mostly file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Cuts the connection that a request came over. In each request's extensions.
#[derive(Clone, Debug)]
pub(crate) struct Cut(CancellationToken);

impl Cut {
    pub(crate) fn now(&self) {
        self.0.cancel();
    }
}

/// Serves a listener until `shutdown`, then lets requests in flight finish within the grace.
pub async fn serve<H, F, B>(
    listener: TcpListener,
    door: Door,
    handler: H,
    limits: Limits,
    shutdown: CancellationToken,
) where
    H: Fn(Request<Incoming>, Caller) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<B>> + Send + 'static,
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let room = Arc::new(Semaphore::new(limits.connections_max));
    let connections = TaskTracker::new();
    // Dropped connections end their requests, so whatever is left after the grace is cut.
    let kill = CancellationToken::new();
    let serve_on = |(stream, remote, permit)| {
        let connection = Connection { stream, remote, permit, kill: kill.child_token() };
        connections.spawn(connection.run(door.clone(), handler.clone(), limits.clone(), shutdown.clone()));
    };
    loop {
        tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = accept(&listener, &room) => serve_on(accepted),
        }
    }
    // From here on others are refused, and can tell.
    for accepted in last_of(listener, &room) {
        serve_on(accepted);
    }
    connections.close();
    if tokio::time::timeout(limits.grace, connections.wait()).await.is_err() {
        tracing::warn!(connections = connections.len(), "cutting connections that outlast the grace");
        kill.cancel();
        connections.wait().await;
    }
}

struct Connection {
    stream: TcpStream,
    remote: SocketAddr,
    permit: OwnedSemaphorePermit,
    kill: CancellationToken,
}

impl Connection {
    async fn run<H, F, B>(self, door: Door, handler: H, limits: Limits, shutdown: CancellationToken)
    where
        H: Fn(Request<Incoming>, Caller) -> F,
        F: Future<Output = Response<B>>,
        B: HttpBody<Data = Bytes> + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let Connection { stream, remote, permit, kill } = self;
        let entered = tokio::select! {
            entered = door.let_in(stream, remote) => entered,
            // Not at once: what it sent must be read, or it cannot know.
            () = lingered(&shutdown) => None,
        };
        let Some((stream, caller)) = entered else { return };
        let (cut, last) = (Cut(kill.clone()), shutdown.clone());
        // What nodes say to each other has other ways to be sure.
        let (ending, has_last_word) = (Ending::default(), !matches!(door, Door::Peers(..)));
        let announced = ending.clone();
        let service = service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(cut.clone());
            let (response, last, announced) = (handler(request, caller), last.clone(), announced.clone());
            async move {
                let mut response = response.await;
                if last.is_cancelled() {
                    announced.announce();
                    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
                }
                Ok::<_, std::convert::Infallible>(response)
            }
        });
        let serving = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(limits.head_timeout)
            .max_header_size(limits.head_max_bytes)
            .serve_connection(Parting::new(TokioIo::new(stream), ending.clone()), service);
        tokio::pin!(serving);
        let mut stopping = false;
        loop {
            tokio::select! {
                ended = serving.as_mut() => {
                    if let Err(error) = ended {
                        tracing::debug!(%remote, %error, "connection ended early");
                    }
                    break;
                }
                () = kill.cancelled() => break,
                () = lingered(&shutdown), if !stopping => {
                    stopping = true;
                    if has_last_word {
                        ending.begin();
                    }
                    serving.as_mut().graceful_shutdown();
                }
            }
        }
        drop(permit);
    }
}

/// Resolves some time after the shutdown has begun.
async fn lingered(shutdown: &CancellationToken) {
    shutdown.cancelled().await;
    tokio::time::sleep(LINGER).await;
}

impl Door {
    /// Who is there, and the connection to speak with; none if that is over already.
    async fn let_in(&self, stream: TcpStream, address: SocketAddr) -> Option<(Stream<TcpStream>, Caller)> {
        let handshake = async {
            Ok::<_, io::Error>(match self {
                Door::Plain => (Stream::Plain(stream), None),
                Door::Public(tls) => (Stream::Server(Box::new(tls.accept(stream).await?)), None),
                Door::Peers(tls, _) => {
                    let (stream, node) = tls.accept(stream).await?;
                    (Stream::Server(Box::new(stream)), node)
                }
            })
        };
        let done = tokio::time::timeout(HANDSHAKE_LIMIT, handshake).await;
        let error = match done.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
            Ok((stream, node)) => return Some((stream, Caller { address, node })),
            Err(error) => error,
        };
        match self {
            // What the other end showed or asked for was wrong; anything else is a connection that broke off.
            Door::Peers(_, refusals) if error.kind() == io::ErrorKind::InvalidData => {
                if let Some(untold) = refusals.tell(address.ip(), &error.to_string()) {
                    tracing::warn!(remote = %address, reason = %error, untold, "a caller was refused at the peer port");
                }
            }
            _ => tracing::debug!(remote = %address, %error, "no TLS came about"),
        }
        None
    }
}

/// Closes a listener, and returns who waits in its backlog: they have connected, and may have sent a request. Cut off
/// they could not tell that nobody has read it.
fn last_of(
    listener: TcpListener,
    room: &Arc<Semaphore>,
) -> Vec<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
    // The runtime knows of those only that it has been told of.
    let Ok(listener) = listener.into_std() else { return Vec::new() };
    let waiting = std::iter::from_fn(|| {
        let permit = Arc::clone(room).try_acquire_owned().ok()?;
        let (stream, remote) = listener.accept().ok()?;
        let stream = stream.set_nonblocking(true).and_then(|()| TcpStream::from_std(stream)).ok()?;
        Some((stream, remote, permit))
    });
    waiting.take(LATE_MAX).collect()
}

/// The next connection, once there is room for it. Errors are waited out: they concern one
/// connection, or pass.
async fn accept(
    listener: &TcpListener,
    room: &Arc<Semaphore>,
) -> (TcpStream, SocketAddr, OwnedSemaphorePermit) {
    let permit = Arc::clone(room).acquire_owned().await.expect("the semaphore is never closed");
    loop {
        match listener.accept().await {
            Ok((stream, remote)) => match stream.set_nodelay(true) {
                Ok(()) => return (stream, remote, permit),
                Err(error) => tracing::debug!(%remote, %error, "connection closed at once"),
            },
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}
