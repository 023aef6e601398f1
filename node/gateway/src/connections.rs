//! Keep-alive connections to one server: an instance, or a node by TLS.
//!
//! One small pool per server instead of one for all: no lock that every request of the node takes,
//! connections go away with their instance, and it is always known whether a request was sent. A
//! request is sent again only if hyper hands it back, that is if no byte of it was written.
//!
//! A connection to a node is used for requests once the node has answered a greeting over it: in TLS 1.3 a
//! client may write before it hears that its certificate was refused, and would not know whether what it
//! wrote was read. It is made in a task of its own, so that a call with a short limit leaves it to the next.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::header::{HOST, HeaderValue};
use http::{Request, Response, StatusCode, Uri};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use muster_core::ids::NodeId;
use muster_tls::{PeerTls, Stream};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};

use crate::peers::HELLO_PATH;
use crate::request_body::RequestBody;

/// Idle connections kept to one server.
const IDLE_MAX: usize = 1024;
/// How long a connection that was given back may take to become ready. It is waiting to be polled.
const SETTLE: Duration = Duration::from_millis(20);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    #[error("cannot connect")]
    Connect(#[source] io::Error),
    #[error("the node did not answer a greeting")]
    Greeting(#[source] hyper::Error),
    #[error("the node does not accept this one, it says {0}")]
    Unwelcome(StatusCode),
    #[error("the connection closed before the request was sent")]
    Unsent(#[source] hyper::Error),
    #[error("the connection broke off")]
    Broken(#[source] hyper::Error),
}

impl SendError {
    /// Whether it is certain that the server saw nothing.
    pub(crate) fn is_unsent(&self) -> bool {
        !matches!(self, SendError::Broken(_))
    }

    /// With its causes, for people.
    pub(crate) fn describe(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            text.push_str(": ");
            text.push_str(&error.to_string());
            cause = error.source();
        }
        text
    }
}

/// The limits of a server's connections.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Options {
    pub(crate) connect_timeout: Duration,
    pub(crate) idle_timeout: Duration,
    pub(crate) head_max_bytes: usize,
}

/// What is at the other end.
pub(crate) enum Server {
    /// An instance on this host.
    Instance,
    Node(PeerTls, NodeId),
}

pub(crate) struct Connections {
    /// `host:port`.
    address: String,
    server: Server,
    options: Options,
    idle: Mutex<Vec<Idle>>,
}

struct Idle {
    sender: http1::SendRequest<RequestBody>,
    since: Instant,
}

/// A connection in use. Dropping it closes the connection.
pub(crate) struct Lease {
    home: Arc<Connections>,
    sender: http1::SendRequest<RequestBody>,
}

impl Lease {
    /// Gives the connection back. Only once request and answer are through.
    pub(crate) fn give_back(self) {
        self.home.keep(self.sender);
    }
}

impl Connections {
    pub(crate) fn new(address: String, server: Server, options: Options) -> Arc<Self> {
        Arc::new(Connections { address, server, options, idle: Mutex::default() })
    }

    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// Sends a request and waits for the head of its answer. `on_sent` hears `true` before each
    /// time the request may reach the server and `false` when it is certain that it did not.
    pub(crate) async fn send(
        self: &Arc<Self>,
        mut request: Request<RequestBody>,
        mut on_sent: impl FnMut(bool),
    ) -> Result<(Response<Incoming>, Lease), SendError> {
        loop {
            let (mut sender, fresh) = match self.reuse().await {
                Some(sender) => (sender, false),
                None => (self.connect().await?, true),
            };
            on_sent(true);
            match sender.try_send_request(request).await {
                Ok(response) => return Ok((response, Lease { home: Arc::clone(self), sender })),
                Err(mut error) => match error.take_message() {
                    None => return Err(SendError::Broken(error.into_error())),
                    Some(unsent) => {
                        on_sent(false);
                        if fresh {
                            return Err(SendError::Unsent(error.into_error()));
                        }
                        request = unsent;
                    }
                },
            }
        }
    }

    /// The connection used last, so that those a burst needed grow old and go.
    async fn reuse(&self) -> Option<http1::SendRequest<RequestBody>> {
        loop {
            let idle = self.lock().pop()?;
            if idle.since.elapsed() >= self.options.idle_timeout || idle.sender.is_closed() {
                continue;
            }
            let mut sender = idle.sender;
            if sender.is_ready() || matches!(timeout(SETTLE, sender.ready()).await, Ok(Ok(()))) {
                return Some(sender);
            }
        }
    }

    /// Sees to it that there is a connection to a node that can be used at once.
    pub(crate) async fn keep_warm(self: &Arc<Self>) -> Result<(), SendError> {
        let sender = match self.reuse().await {
            Some(mut sender) => {
                self.greet(&mut sender).await?;
                sender
            }
            None => self.connect().await?,
        };
        self.keep(sender);
        Ok(())
    }

    async fn connect(self: &Arc<Self>) -> Result<http1::SendRequest<RequestBody>, SendError> {
        if let Server::Instance = self.server {
            return self.dial().await;
        }
        let (made, waiting) = oneshot::channel();
        let home = Arc::clone(self);
        tokio::spawn(async move {
            if let Err(Ok(unclaimed)) = made.send(home.dial().await) {
                home.keep(unclaimed);
            }
        });
        waiting.await.unwrap_or_else(|_| Err(SendError::Connect(io::ErrorKind::Interrupted.into())))
    }

    async fn dial(&self) -> Result<http1::SendRequest<RequestBody>, SendError> {
        let dialled = timeout(self.options.connect_timeout, async {
            let stream = TcpStream::connect(self.address.as_str()).await.map_err(SendError::Connect)?;
            stream.set_nodelay(true).map_err(SendError::Connect)?;
            let Server::Node(tls, node) = &self.server else {
                return self.handshake(Stream::Plain(stream)).await;
            };
            let stream = tls.connect(*node, stream).await.map_err(SendError::Connect)?;
            let mut sender = self.handshake(Stream::Client(Box::new(stream))).await?;
            self.greet(&mut sender).await?;
            Ok(sender)
        });
        dialled.await.unwrap_or_else(|_| Err(SendError::Connect(io::ErrorKind::TimedOut.into())))
    }

    async fn handshake(
        &self,
        stream: Stream<TcpStream>,
    ) -> Result<http1::SendRequest<RequestBody>, SendError> {
        let (sender, connection) = http1::Builder::new()
            .max_header_size(self.options.head_max_bytes)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(SendError::Unsent)?;
        tokio::spawn(async move {
            // How it ended is told to whoever waits for an answer on it.
            let _ended = connection.await;
        });
        Ok(sender)
    }

    async fn greet(&self, sender: &mut http1::SendRequest<RequestBody>) -> Result<(), SendError> {
        let mut greeting = Request::new(RequestBody::Whole(bytes::Bytes::new()));
        *greeting.uri_mut() = Uri::from_static(HELLO_PATH);
        greeting.headers_mut().insert(HOST, HeaderValue::from_static("node"));
        let answer = sender.send_request(greeting).await.map_err(SendError::Greeting)?;
        if answer.status() != StatusCode::NO_CONTENT {
            return Err(SendError::Unwelcome(answer.status()));
        }
        drop(answer);
        sender.ready().await.map_err(SendError::Greeting)
    }

    /// Keeps a connection whose last request and answer are through.
    fn keep(&self, sender: http1::SendRequest<RequestBody>) {
        let expired;
        {
            let mut idle = self.lock();
            let stale = idle.iter().take_while(|i| i.since.elapsed() >= self.options.idle_timeout).count();
            expired = idle.drain(..stale).collect::<Vec<_>>();
            if idle.len() < IDLE_MAX {
                idle.push(Idle { sender, since: Instant::now() });
            }
        }
        drop(expired);
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Idle>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
