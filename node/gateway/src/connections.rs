//! Keep-alive connections to one server: an instance or a node.
//!
//! One small pool per server instead of one for all: no lock that every request of the node takes,
//! connections go away with their instance, and it is always known whether a request was sent. A
//! request is sent again only if hyper hands it back, that is if no byte of it was written.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use crate::request_body::RequestBody;

/// Idle connections kept to one server.
const IDLE_MAX: usize = 1024;
/// How long a connection that was given back may take to become ready. It is waiting to be polled.
const SETTLE: Duration = Duration::from_millis(20);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SendError {
    #[error("cannot connect")]
    Connect(#[source] std::io::Error),
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

pub(crate) struct Connections {
    /// `host:port`.
    address: String,
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
        let Lease { home, sender } = self;
        let expired;
        {
            let mut idle = home.lock();
            let stale = idle.iter().take_while(|i| i.since.elapsed() >= home.options.idle_timeout).count();
            expired = idle.drain(..stale).collect::<Vec<_>>();
            if idle.len() < IDLE_MAX {
                idle.push(Idle { sender, since: Instant::now() });
            }
        }
        drop(expired);
    }
}

impl Connections {
    pub(crate) fn new(address: String, options: Options) -> Arc<Self> {
        Arc::new(Connections { address, options, idle: Mutex::default() })
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

    async fn connect(&self) -> Result<http1::SendRequest<RequestBody>, SendError> {
        let connecting = TcpStream::connect(self.address.as_str());
        let stream = timeout(self.options.connect_timeout, connecting)
            .await
            .map_err(|_| SendError::Connect(std::io::ErrorKind::TimedOut.into()))?
            .map_err(SendError::Connect)?;
        stream.set_nodelay(true).map_err(SendError::Connect)?;
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

    fn lock(&self) -> MutexGuard<'_, Vec<Idle>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
