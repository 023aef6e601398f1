//! Functions: small HTTP servers that do what a test tells them.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures_util::stream;
use http::{Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// What a function saw of a request; `/…` answers with it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Seen {
    pub(crate) method: String,
    pub(crate) target: String,
    pub(crate) headers: BTreeMap<String, Vec<String>>,
    pub(crate) body: String,
}

pub(crate) struct Function {
    pub(crate) addr: SocketAddr,
    seen: Mutex<Vec<Seen>>,
    running: AtomicUsize,
    pub(crate) peak: AtomicUsize,
    /// `/hold` and each chunk of `/stream` take one permit.
    pub(crate) gate: Semaphore,
    _server: JoinSet<()>,
}

type Body = UnsyncBoxBody<Bytes, Infallible>;

impl Function {
    pub(crate) async fn start() -> Arc<Function> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        Arc::new_cyclic(|this: &std::sync::Weak<Function>| {
            let this = this.clone();
            let mut server = JoinSet::new();
            server.spawn(async move {
                let mut connections = JoinSet::new();
                loop {
                    let (stream, _) = listener.accept().await.unwrap();
                    stream.set_nodelay(true).unwrap();
                    let this = this.clone();
                    let service = service_fn(move |request| {
                        let this = this.upgrade().expect("the function outlives its requests");
                        async move { Ok::<_, Infallible>(this.answer(request).await) }
                    });
                    connections.spawn(async move {
                        let _ended =
                            http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
                    });
                }
            });
            Function {
                addr,
                seen: Mutex::default(),
                running: AtomicUsize::new(0),
                peak: AtomicUsize::new(0),
                gate: Semaphore::new(0),
                _server: server,
            }
        })
    }

    /// Requests so far, in order of arrival.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Response<Body> {
        let running = self.running.fetch_add(1, SeqCst) + 1;
        self.peak.fetch_max(running, SeqCst);
        let leave = Leave(Arc::clone(&self));
        let (head, body) = request.into_parts();
        let path = head.uri.path().to_owned();
        let mut headers: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (name, value) in &head.headers {
            headers.entry(name.to_string()).or_default().push(value.to_str().unwrap().to_owned());
        }
        let index = {
            let mut seen = self.seen.lock().unwrap();
            seen.push(Seen {
                method: head.method.to_string(),
                target: head.uri.to_string(),
                headers,
                body: String::new(),
            });
            seen.len() - 1
        };
        if path == "/early" {
            return text("before the request's end");
        }
        let Ok(body) = body.collect().await else { return text("cut") };
        self.seen.lock().unwrap()[index].body = String::from_utf8_lossy(&body.to_bytes()).into_owned();
        match path.as_str() {
            "/hold" => {
                self.gate.acquire().await.unwrap().forget();
                text("held")
            }
            "/stream" => {
                let chunks = stream::unfold((0, self, leave), |(n, this, leave)| async move {
                    this.gate.acquire().await.unwrap().forget();
                    let chunk = Frame::data(Bytes::from(format!("chunk {n}\n")));
                    (n < 3).then_some((Ok(chunk), (n + 1, this, leave)))
                });
                Response::new(BodyExt::boxed_unsync(StreamBody::new(chunks)))
            }
            "/endless" => {
                let chunk = || Ok(Frame::data(Bytes::from(vec![b'x'; 64 * 1024])));
                let chunks = stream::repeat_with(chunk);
                Response::new(BodyExt::boxed_unsync(StreamBody::new(chunks)))
            }
            "/headers" => {
                let mut response = text("with headers");
                for (name, value) in [
                    ("connection", "x-hop"),
                    ("x-hop", "1"),
                    ("muster-node", "99"),
                    ("muster-x", "1"),
                    ("x-own", "1"),
                ] {
                    response.headers_mut().insert(name, value.parse().unwrap());
                }
                response
            }
            "/nothing" => {
                let mut response = text("");
                *response.status_mut() = http::StatusCode::NO_CONTENT;
                response
            }
            _ => {
                let seen = self.seen()[index].clone();
                text(serde_json::to_string(&seen).unwrap())
            }
        }
    }
}

struct Leave(Arc<Function>);

impl Drop for Leave {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, SeqCst);
    }
}

fn text(text: impl Into<Bytes>) -> Response<Body> {
    Response::new(Full::new(text.into()).boxed_unsync())
}

/// A server that reads a request's head, says `reply` and closes the connection. Lives as long as
/// the returned set.
pub(crate) async fn rude(reply: &'static str) -> (SocketAddr, Arc<AtomicUsize>, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let requests = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&requests);
    let mut server = JoinSet::new();
    server.spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut read = Vec::new();
            while !read.windows(4).any(|w| w == b"\r\n\r\n") {
                if stream.read_buf(&mut read).await.unwrap_or(0) == 0 {
                    break;
                }
            }
            if !read.is_empty() {
                count.fetch_add(1, SeqCst);
            }
            let _written = stream.write_all(reply.as_bytes()).await;
        }
    });
    (addr, requests, server)
}

/// An address where nobody listens, and nobody else can while the socket is kept.
pub(crate) fn nobody() -> (SocketAddr, TcpSocket) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    (socket.local_addr().unwrap(), socket)
}
