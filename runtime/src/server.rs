//! The server: accept, answer, and stop without breaking a request off.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::{Context, Error, Failure, IntoResponse, Request, Response, json, settings, shutdown};

/// What a typed handler's input may measure: the cluster's own default.
pub const BODY_LIMIT_BYTES: usize = 6 * 1024 * 1024;
/// How long requests in flight may go on after the signal to stop. The node's own grace period, after
/// which it kills, is the bound that counts; this one only ends a process that nobody kills.
pub const GRACE: Duration = Duration::from_secs(60);
/// More than a function's highest concurrency. Connections beyond it are closed.
pub const CONNECTIONS_MAX: usize = 16_384;

/// Pause after a failed accept, such as one without a free file descriptor, so as not to spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

/// How a function listens and stops.
#[derive(Clone, Debug)]
pub struct Server {
    address: SocketAddr,
    grace: Duration,
    body_limit_bytes: usize,
}

impl Server {
    /// Listens on `PORT` (default 8080) at `MUSTER_BIND_ADDRESS` (default 0.0.0.0).
    ///
    /// # Errors
    /// [`Error::Setting`] where one of them is malformed.
    pub fn from_env() -> Result<Self, Error> {
        settings::listen_address().map(Self::on)
    }

    /// Listens on `address`.
    pub fn on(address: SocketAddr) -> Self {
        Server { address, grace: GRACE, body_limit_bytes: BODY_LIMIT_BYTES }
    }

    /// Where it will listen.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Overrides [`GRACE`].
    #[must_use]
    pub fn grace(self, grace: Duration) -> Self {
        Server { grace, ..self }
    }

    /// Overrides [`BODY_LIMIT_BYTES`] for [`Server::serve_json`].
    #[must_use]
    pub fn body_limit_bytes(self, body_limit_bytes: usize) -> Self {
        Server { body_limit_bytes, ..self }
    }

    /// Serves until SIGTERM or SIGINT, then stops accepting and finishes what is in flight.
    ///
    /// A handler that panics answers 500 and the process goes on. A handler whose caller has gone is
    /// dropped at its next await.
    ///
    /// # Errors
    /// [`Error::Listen`] or [`Error::Signals`]; none once it listens.
    pub async fn serve<H, F>(self, handler: H) -> Result<(), Error>
    where
        H: Fn(Request) -> F + Send + Sync + 'static,
        F: Future<Output: IntoResponse> + Send + 'static,
    {
        let stop = shutdown::requested()?;
        let failed = |source| Error::Listen { address: self.address, source };
        let listener = TcpListener::bind(self.address).await.map_err(failed)?;
        eprintln!("listening on {}", listener.local_addr().map_err(failed)?);
        self.serve_until(stop, listener, handler).await;
        Ok(())
    }

    /// As [`Server::serve`], with typed JSON: `POST /` with an `In` answers an `Out`. A malformed input
    /// answers 400 and names the field, one above the body limit 413, another path 404, another method
    /// 405.
    ///
    /// # Errors
    /// As [`Server::serve`].
    pub async fn serve_json<In, Out, H, F>(self, handler: H) -> Result<(), Error>
    where
        In: DeserializeOwned + Send + 'static,
        Out: Serialize + Send + 'static,
        H: Fn(In, Context) -> F + Send + Sync + 'static,
        F: Future<Output = Result<Out, Failure>> + Send + 'static,
    {
        let handler = self.json_handler(handler);
        self.serve(handler).await
    }

    /// The plain handler that [`Server::serve_json`] serves, for use with [`Server::serve_until`].
    pub fn json_handler<In, Out, H, F>(
        &self,
        handler: H,
    ) -> impl Fn(Request) -> std::pin::Pin<Box<dyn Future<Output = Response> + Send>>
    + Send
    + Sync
    + use<In, Out, H, F>
    where
        In: DeserializeOwned + Send + 'static,
        Out: Serialize + Send + 'static,
        H: Fn(In, Context) -> F + Send + Sync + 'static,
        F: Future<Output = Result<Out, Failure>> + Send + 'static,
    {
        let handler = Arc::new(handler);
        let limit = self.body_limit_bytes;
        move |request| {
            let handler = handler.clone();
            Box::pin(async move { json::respond(request, limit, &*handler).await })
        }
    }

    /// Serves on a listener of your own until `stop` completes, then as [`Server::serve`].
    pub async fn serve_until<H, F>(self, stop: impl Future<Output = ()>, listener: TcpListener, handler: H)
    where
        H: Fn(Request) -> F + Send + Sync + 'static,
        F: Future<Output: IntoResponse> + Send + 'static,
    {
        let handler = Arc::new(handler);
        // Each connection holds a receiver: sending tells it to finish, and `closed` waits for the last.
        let (stopping, stopped) = watch::channel(());
        let mut stop = pin!(stop);
        loop {
            let accepted = tokio::select! {
                biased;
                () = &mut stop => break,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, _)) if stopping.receiver_count() <= CONNECTIONS_MAX => {
                    tokio::spawn(connection(stream, handler.clone(), stopped.clone()));
                }
                Ok(_) => eprintln!("closed a connection: {CONNECTIONS_MAX} are open"),
                Err(error) => {
                    eprintln!("cannot accept a connection: {error}");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        drop((listener, stopped));
        stopping.send_replace(());
        if tokio::time::timeout(self.grace, stopping.closed()).await.is_err() {
            eprintln!("stopped with {} connections open after {:?}", stopping.receiver_count(), self.grace);
        }
    }
}

async fn connection<H, F>(stream: TcpStream, handler: Arc<H>, mut stopped: watch::Receiver<()>)
where
    H: Fn(Request) -> F + Send + Sync + 'static,
    F: Future<Output: IntoResponse> + Send + 'static,
{
    // Without this, small answers wait for the peer's delayed acknowledgement. Where it fails they do.
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |request| {
        let handler = handler.clone();
        async move { Ok::<_, Infallible>(guarded(handler, request).await) }
    });
    let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service).with_upgrades();
    let mut connection = pin!(connection);
    // How a connection ends is its peer's affair: the peer sees it too, and the process goes on.
    let _ = tokio::select! {
        ended = connection.as_mut() => ended,
        _ = stopped.changed() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
}

/// The handler's answer, or 500 where it panics. The panic's own message is on stderr by then.
async fn guarded<H, F>(handler: Arc<H>, request: Request) -> Response
where
    H: Fn(Request) -> F,
    F: Future<Output: IntoResponse>,
{
    let mut answer = pin!(async move { handler(request).await.into_response() });
    let answered = poll_fn(|cx| match catch_unwind(AssertUnwindSafe(|| answer.as_mut().poll(cx))) {
        Ok(poll) => poll.map(Some),
        Err(_) => std::task::Poll::Ready(None),
    });
    answered.await.unwrap_or_else(|| {
        Failure::new(StatusCode::INTERNAL_SERVER_ERROR, "the function panicked; its log says where")
            .into_response()
    })
}
