//! Stands before Docker's socket, for one node, and misbehaves as an engine in trouble does.

use std::env;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use futures_util::stream;
use http::{Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, Limited, StreamBody};
use hyper::body::Incoming;
use hyper::server::conn::http1 as server;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::task::AbortOnDropHandle;

/// What Docker says where nothing else is said.
const SOCKET: &str = "/var/run/docker.sock";
/// The largest request: a container's description is a few kilobytes.
const BODY_MAX_BYTES: usize = 1 << 20;
/// Requests held at a time; a node has far fewer under way.
const HELD_MAX: u64 = 1_024;

/// What is wrong with the engine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Trouble {
    #[default]
    None,
    /// Requests are taken and not answered, and what was being told stops. When it is over they are
    /// carried out, even those whose senders gave up: as with a daemon that was stopped.
    Hang,
    /// Each request waits before it is carried out.
    Slow { least: Duration, most: Duration },
    /// Of so many requests one is answered 500 and not carried out.
    Fail { every: u64 },
    /// Of so many requests one is carried out and its answer lost.
    LoseReplies { every: u64 },
}

/// A socket that leads to Docker's. Ends when it is dropped.
#[derive(Debug)]
pub struct DockerProxy {
    socket: PathBuf,
    shared: Arc<Shared>,
    _serving: AbortOnDropHandle<()>,
}

#[derive(Debug)]
struct Shared {
    docker: PathBuf,
    trouble: watch::Sender<Trouble>,
    /// Requests since the trouble began.
    seen: AtomicU64,
    /// Those of them that suffered it.
    felt: AtomicU64,
    held: AtomicU64,
}

impl DockerProxy {
    /// Listens at `socket` for who should reach this host's Docker Engine.
    ///
    /// # Errors
    /// Where the socket cannot be made.
    pub fn start(socket: PathBuf) -> Result<Self> {
        Self::before(&docker_socket(), socket)
    }

    fn before(docker: &Path, socket: PathBuf) -> Result<Self> {
        let listener =
            UnixListener::bind(&socket).with_context(|| format!("cannot make {}", socket.display()))?;
        let shared = Arc::new(Shared {
            docker: docker.to_owned(),
            trouble: watch::Sender::default(),
            seen: AtomicU64::new(0),
            felt: AtomicU64::new(0),
            held: AtomicU64::new(0),
        });
        let serving = tokio::spawn(serve(listener, Arc::clone(&shared)));
        Ok(DockerProxy { socket, shared, _serving: AbortOnDropHandle::new(serving) })
    }

    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// From now on, for requests to come.
    pub fn set(&self, trouble: Trouble) {
        self.shared.seen.store(0, Relaxed);
        self.shared.felt.store(0, Relaxed);
        self.shared.trouble.send_replace(trouble);
    }

    /// How many requests have suffered the present trouble.
    pub fn felt(&self) -> u64 {
        self.shared.felt.load(Relaxed)
    }
}

fn docker_socket() -> PathBuf {
    let host = env::var("DOCKER_HOST").ok();
    host.as_deref().and_then(|host| host.strip_prefix("unix://")).unwrap_or(SOCKET).into()
}

async fn serve(listener: UnixListener, shared: Arc<Shared>) {
    // Dropped with the proxy: connections end with it.
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                // A connection that broke before it was accepted is its client's concern.
                if let Ok((stream, _)) = accepted {
                    connections.spawn(connection(stream, Arc::clone(&shared)));
                }
            }
            Some(_ended) = connections.join_next() => {}
        }
    }
}

async fn connection(stream: UnixStream, shared: Arc<Shared>) {
    let service = service_fn(move |request| {
        // A task of its own: what is held is carried out though its sender may have gone.
        let carried = tokio::spawn(carry_out(Arc::clone(&shared), request));
        async move { carried.await.context("a request panicked")? }
    });
    // The client sees how it ends, which is all there is to say.
    let _ended = server::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

type Answer = Response<UnsyncBoxBody<Bytes, hyper::Error>>;

/// An error closes the connection without an answer.
async fn carry_out(shared: Arc<Shared>, request: Request<Incoming>) -> Result<Answer> {
    let (head, body) = request.into_parts();
    let body = Limited::new(body, BODY_MAX_BYTES).collect().await.map_err(anyhow::Error::from_boxed)?;
    let request = Request::from_parts(head, Full::new(body.to_bytes()));
    let trouble = *shared.trouble.borrow();
    let number = shared.seen.fetch_add(1, Relaxed) + 1;
    let hit = match trouble {
        Trouble::None => false,
        Trouble::Hang | Trouble::Slow { .. } => true,
        Trouble::Fail { every } | Trouble::LoseReplies { every } => number.is_multiple_of(every),
    };
    if !hit {
        return forward(&shared, request).await;
    }
    shared.felt.fetch_add(1, Relaxed);
    match trouble {
        Trouble::None => {}
        Trouble::Hang => shared.hold().await?,
        Trouble::Slow { least, most } => tokio::time::sleep(spread(number, least, most)).await,
        Trouble::Fail { .. } => return Ok(failure()),
        Trouble::LoseReplies { .. } => {
            // Docker begins its answer when it has done what was asked.
            drop(forward(&shared, request).await?);
            anyhow::bail!("the answer is lost");
        }
    }
    forward(&shared, request).await
}

/// Uneven, and the same in every run.
fn spread(number: u64, least: Duration, most: Duration) -> Duration {
    let percent = u32::try_from(number * 37 % 101).expect("below 101");
    least + most.saturating_sub(least) * percent / 100
}

fn failure() -> Answer {
    let body = Full::from(r#"{"message":"the engine fails, as the chaos run asks"}"#);
    let mut answer = Response::new(body.map_err(|never| match never {}).boxed_unsync());
    *answer.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
    answer.headers_mut().insert("content-type", http::HeaderValue::from_static("application/json"));
    answer
}

async fn forward(shared: &Shared, request: Request<Full<Bytes>>) -> Result<Answer> {
    let stream = UnixStream::connect(&shared.docker).await.context("Docker does not listen")?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    // It ends with the answer's body.
    tokio::spawn(connection);
    let (head, body) = sender.send_request(request).await?.into_parts();
    let trouble = shared.trouble.subscribe();
    let frames = stream::unfold((body, trouble), |(mut body, mut trouble)| async {
        let frame = body.frame().await?;
        // Long answers, such as the stream of events, stand still as everything does.
        trouble.wait_for(|trouble| *trouble != Trouble::Hang).await.ok()?;
        Some((frame, (body, trouble)))
    });
    Ok(Response::from_parts(head, StreamBody::new(frames).boxed_unsync()))
}

impl Shared {
    /// Returns when nothing hangs any more.
    async fn hold(&self) -> Result<()> {
        let mut trouble = self.trouble.subscribe();
        let held = self.held.fetch_add(1, Relaxed);
        let over = async {
            anyhow::ensure!(held < HELD_MAX, "more than {HELD_MAX} requests are held");
            trouble.wait_for(|trouble| *trouble != Trouble::Hang).await.context("the proxy is gone")?;
            Ok(())
        };
        let over = over.await;
        self.held.fetch_sub(1, Relaxed);
        over
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::time::timeout;

    use super::*;

    const LONG: Duration = Duration::from_secs(10);
    const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok";

    /// A proxy before a server that counts its requests and answers each with `ok`.
    fn engine(dir: &Path) -> (DockerProxy, Arc<AtomicU64>) {
        let docker = dir.join("docker.sock");
        let listener = UnixListener::bind(&docker).unwrap();
        let done = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&done);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let read = stream.read(&mut [0; 4096]).await.unwrap();
                assert!(read > 0);
                count.fetch_add(1, Relaxed);
                stream.write_all(ANSWER).await.unwrap();
            }
        });
        (DockerProxy::before(&docker, dir.join("proxy.sock")).unwrap(), done)
    }

    async fn send(proxy: &DockerProxy) -> UnixStream {
        let mut client = UnixStream::connect(proxy.socket()).await.unwrap();
        client.write_all(b"POST /start HTTP/1.1\r\nhost: d\r\nconnection: close\r\n\r\n").await.unwrap();
        client
    }

    async fn ask(proxy: &DockerProxy) -> String {
        let mut answer = String::new();
        timeout(LONG, send(proxy).await.read_to_string(&mut answer)).await.unwrap().unwrap();
        answer
    }

    #[tokio::test]
    async fn answers_pass_fail_and_get_lost() {
        let dir = tempfile::tempdir().unwrap();
        let (proxy, done) = engine(dir.path());
        assert!(ask(&proxy).await.ends_with("ok"));
        proxy.set(Trouble::Fail { every: 2 });
        assert!(ask(&proxy).await.ends_with("ok"));
        let failed = ask(&proxy).await;
        assert!(failed.starts_with("HTTP/1.1 500 ") && failed.contains(r#"{"message":"#), "{failed}");
        assert_eq!((proxy.felt(), done.load(Relaxed)), (1, 2), "what failed was not carried out");
        proxy.set(Trouble::LoseReplies { every: 1 });
        assert_eq!(ask(&proxy).await, "");
        assert_eq!((proxy.felt(), done.load(Relaxed)), (1, 3), "what was lost was carried out");
        proxy.set(Trouble::None);
        assert!(ask(&proxy).await.ends_with("ok"));
    }

    #[tokio::test]
    async fn what_hangs_is_carried_out_afterwards() {
        let dir = tempfile::tempdir().unwrap();
        let (proxy, done) = engine(dir.path());
        proxy.set(Trouble::Hang);
        drop(send(&proxy).await);
        let mut waits = send(&proxy).await;
        let both = crate::wait::until("both are felt", LONG, || async {
            anyhow::ensure!(proxy.felt() == 2, "{}", proxy.felt());
            Ok(())
        });
        both.await.unwrap();
        let silent = timeout(Duration::from_millis(100), waits.read_u8()).await;
        assert!(silent.is_err() && done.load(Relaxed) == 0);
        proxy.set(Trouble::None);
        let mut answer = String::new();
        timeout(LONG, waits.read_to_string(&mut answer)).await.unwrap().unwrap();
        assert!(answer.ends_with("ok"), "{answer}");
        let both = crate::wait::until("both were carried out", LONG, || async {
            anyhow::ensure!(done.load(Relaxed) == 2, "{}", done.load(Relaxed));
            Ok(())
        });
        both.await.unwrap();
    }

    #[tokio::test]
    async fn a_slow_engine_answers_late() {
        let dir = tempfile::tempdir().unwrap();
        let (proxy, _done) = engine(dir.path());
        let (least, most) = (Duration::from_millis(100), Duration::from_millis(150));
        proxy.set(Trouble::Slow { least, most });
        let began = std::time::Instant::now();
        assert!(ask(&proxy).await.ends_with("ok"));
        assert!(began.elapsed() >= least);
        for number in 0..500 {
            assert!((least..=most).contains(&spread(number, least, most)));
        }
    }
}
