//! A server that stands in for a node: it answers as a test says and remembers what it was asked.
#![expect(clippy::unwrap_used, reason = "a helper of tests fails as they do")]
#![allow(dead_code, clippy::allow_attributes, reason = "each test file uses its own part of it")]

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use axum::body::{Body, Bytes, to_bytes};
use axum::http::{HeaderMap, Request, Response};
use muster_tls::{PublicTls, Stream};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::oneshot;

/// The most bytes of one request.
const BODY_MAX: usize = 64 * 1024 * 1024;

/// One request as it arrived.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) method: String,
    /// Path and query.
    pub(crate) target: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Seen {
    pub(crate) fn line(&self) -> String {
        format!("{} {}", self.method, self.target)
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|v| v.to_str().unwrap())
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }
}

pub(crate) struct Reply {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
}

impl Reply {
    pub(crate) fn json(status: u16, value: &Value) -> Self {
        Reply::raw(status, value.to_string()).with("content-type", "application/json")
    }

    pub(crate) fn raw(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Reply { status, headers: Vec::new(), body: body.into() }
    }

    pub(crate) fn problem(status: u16, title: &str, detail: &str) -> Self {
        Reply::raw(status, json!({"status": status, "title": title, "detail": detail}).to_string())
            .with("content-type", "application/problem+json")
    }

    /// A problem of an invocation.
    pub(crate) fn invocation_problem(status: u16, title: &str, detail: &str, state: &str) -> Self {
        let body = json!({"status": status, "title": title, "detail": detail,
            "invocation_id": "inv-1", "invocation_state": state});
        Reply::raw(status, body.to_string()).with("content-type", "application/problem+json")
    }

    pub(crate) fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }
}

pub(crate) struct Fake {
    pub(crate) url: String,
    seen: Arc<Mutex<Vec<Seen>>>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Fake {
    /// Answers each request as `handler` says, which is told how many came before.
    pub(crate) fn new(handler: impl Fn(&Seen, usize) -> Reply + Send + Sync + 'static) -> Self {
        let handler = Arc::new(handler);
        Self::start(move |listener, seen| async move {
            let app = axum::Router::new().fallback(move |request: Request<Body>| {
                let (handler, seen) = (handler.clone(), seen.clone());
                async move { answer(&*handler, &seen, request).await }
            });
            axum::serve(listener, app).await.unwrap();
        })
    }

    /// As [`new`](Self::new), by TLS, with a certificate for 127.0.0.1 that it leaves in `cert.pem`.
    pub(crate) fn secured(
        dir: &std::path::Path,
        handler: impl Fn(&Seen, usize) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
        let (certificate, key) = (dir.join("cert.pem"), dir.join("key.pem"));
        std::fs::write(&certificate, made.cert.pem()).unwrap();
        std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
        let tls = PublicTls::load(&certificate, &key).unwrap();
        let handler = Arc::new(handler);
        let mut fake = Self::start(move |listener, seen| async move {
            let app = axum::Router::new().fallback(move |request: Request<Body>| {
                let (handler, seen) = (handler.clone(), seen.clone());
                async move { answer(&*handler, &seen, request).await }
            });
            axum::serve(Secured { listener, tls }, app).await.unwrap();
        });
        fake.url = fake.url.replace("http://", "https://");
        fake
    }

    /// Reads each request's head and breaks the connection off.
    pub(crate) fn breaking() -> Self {
        Self::start(|listener, seen| async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut head = [0; 4096];
                let count = stream.read(&mut head).await.unwrap();
                let head = String::from_utf8_lossy(&head[..count]).into_owned();
                let mut words = head.split(' ').map(str::to_owned);
                let (method, target) = (words.next().unwrap(), words.next().unwrap());
                seen.lock().unwrap().push(Seen {
                    method,
                    target,
                    headers: HeaderMap::new(),
                    body: Bytes::new(),
                });
            }
        })
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        self.seen().iter().map(Seen::line).collect()
    }

    fn start<F: Future<Output = ()>>(
        serve: impl FnOnce(TcpListener, Arc<Mutex<Vec<Seen>>>) -> F + Send + 'static,
    ) -> Self {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (stop, stopped) = oneshot::channel();
        let (tell, told) = std::sync::mpsc::channel::<SocketAddr>();
        let shared = seen.clone();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
                tell.send(listener.local_addr().unwrap()).unwrap();
                tokio::select! {
                    () = serve(listener, shared) => {}
                    _ = stopped => {}
                }
            });
        });
        let url = format!("http://{}", told.recv().unwrap());
        Fake { url, seen, stop: Some(stop), thread: Some(thread) }
    }
}

/// Accepts what gets through the handshake.
struct Secured {
    listener: TcpListener,
    tls: PublicTls,
}

impl axum::serve::Listener for Secured {
    type Io = Stream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, SocketAddr) {
        loop {
            let (stream, from) = self.listener.accept().await.unwrap();
            if let Ok(stream) = self.tls.accept(stream).await {
                return (Stream::Server(Box::new(stream)), from);
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A port that is taken, so that no other test gets it, but where nobody listens.
pub(crate) struct Closed {
    pub(crate) url: String,
    _socket: TcpSocket,
}

impl Closed {
    pub(crate) fn new() -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        Closed { url: format!("http://{}", socket.local_addr().unwrap()), _socket: socket }
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn answer(
    handler: &(dyn Fn(&Seen, usize) -> Reply + Send + Sync),
    seen: &Mutex<Vec<Seen>>,
    request: Request<Body>,
) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let body = to_bytes(body, BODY_MAX).await.unwrap();
    let one = Seen {
        method: parts.method.to_string(),
        target: parts.uri.to_string(),
        headers: parts.headers,
        body,
    };
    let before = {
        let mut seen = seen.lock().unwrap();
        seen.push(one.clone());
        seen.len() - 1
    };
    let reply = handler(&one, before);
    let mut response = Response::builder().status(reply.status);
    for (name, value) in reply.headers {
        response = response.header(name, value);
    }
    response.body(Body::from(reply.body)).unwrap()
}

pub(crate) const THEN: &str = "2020-01-02T03:04:05Z";

pub(crate) fn function(name: &str, version: u64) -> Value {
    json!({"name": name, "owner": "root", "version": version, "created_at": THEN, "changed_at": THEN,
        "spec": {"image": "muster/alpha:latest"},
        "instances": {"launching": 1, "ready": 2, "draining": 0},
        "health": "ok", "last_failure": null, "retry_at": null})
}

pub(crate) fn account(name: &str) -> Value {
    json!({"name": name, "role": "user", "created_at": THEN,
        "keys": [{"id": "00ff", "created_at": THEN, "expires_at": null}],
        "grants": [{"pattern": "al*", "actions": ["invoke", "manage"]}]})
}
