//! Clients that are too slow or too large, and the listener itself.

use std::net::SocketAddr;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use muster_api::InvocationState;
use muster_gateway::{Body, Config, Door, Limits, serve};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio_util::sync::CancellationToken;

use crate::cluster::*;
use crate::function::Function;

async fn raw(addr: SocketAddr, text: &str) -> (TcpStream, String) {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    // The server may answer and close before it has read everything.
    let _cut = stream.write_all(text.as_bytes()).await;
    let mut answer = Vec::new();
    while !answer.windows(4).any(|w| w == b"\r\n\r\n") {
        if within(stream.read_buf(&mut answer)).await.unwrap_or(0) == 0 {
            break;
        }
    }
    (stream, String::from_utf8(answer).unwrap())
}

#[tokio::test]
async fn a_slow_body() {
    let cluster = Cluster::with(2, Config { body_idle_ms: 1_000, ..Config::default() }).await;
    let alpha = Function::start().await;
    cluster.deploy("alpha", |_| ());
    cluster.run(0, "alpha", alpha.addr);
    let key = key("alice");
    for node in &cluster.nodes {
        // Short: read before it costs a slot. Long and of unknown length: streamed, then cut.
        for (length, seen) in [
            ("content-length: 10\r\n\r\nabc", 0),
            ("content-length: 100000\r\n\r\nabc", 1),
            ("transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n", 1),
        ] {
            let before = alpha.seen().len();
            let head = format!(
                "POST /function/alpha HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\n{length}"
            );
            let (_stream, answer) = raw(node.public, &head).await;
            assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
            until(|| alpha.seen().len() >= before + seen).await;
            assert_eq!(alpha.seen().len(), before + seen, "{length}");
            until(|| cluster.in_flight() == 0).await;
        }
    }
}

#[tokio::test]
async fn heads_have_a_limit() {
    let cluster = Cluster::start(1).await;
    let addr = cluster.nodes[0].public;
    let (_stream, answer) = raw(addr, &format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(10))).await;
    assert!(answer.starts_with("HTTP/1.1 401 "), "{answer}");
    let long = format!("GET / HTTP/1.1\r\nx: {}\r\n\r\n", "x".repeat(70_000));
    let (_stream, answer) = raw(addr, &long).await;
    assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
}

#[tokio::test]
async fn a_head_that_never_ends() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let stop = CancellationToken::new();
    let limits = Limits { head_timeout: Duration::from_millis(100), connections_max: 1, ..Limits::default() };
    let server = tokio::spawn(serve(
        listener,
        Door::Plain,
        |_, _| async { Response::new(Body::from("ok")) },
        limits,
        stop.clone(),
    ));
    let (_stream, answer) = raw(addr, "GET / HTTP/1.1\r\nhost").await;
    assert_eq!(answer, "", "closed");
    // Its place is free for the next.
    let (_stream, answer) = raw(addr, "GET / HTTP/1.1\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    stop.cancel();
    within(server).await.unwrap();
}

#[tokio::test]
async fn who_has_connected_before_a_shutdown_is_answered() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let mut clients = Vec::new();
    for _ in 0..50 {
        let mut client = TcpStream::connect(addr).await.unwrap();
        client.write_all(b"POST / HTTP/1.1\r\ncontent-length: 0\r\n\r\n").await.unwrap();
        clients.push(client);
    }
    // All of them wait in the backlog as it begins.
    let stop = CancellationToken::new();
    stop.cancel();
    let handler = |_, _| async { Response::new(Body::from("ok")) };
    let server = tokio::spawn(serve(listener, Door::Plain, handler, Limits::default(), stop));
    for mut client in clients {
        let mut answer = String::new();
        within(client.read_to_string(&mut answer)).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("connection: close"), "{answer}");
    }
    within(server).await.unwrap();
}

#[tokio::test]
async fn the_last_word_on_an_idle_connection_is_that_nothing_was_started() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let stop = CancellationToken::new();
    let handler = |_, _| async { Response::new(Body::from("ok")) };
    let server = tokio::spawn(serve(listener, Door::Plain, handler, Limits::default(), stop.clone()));
    let get = "GET / HTTP/1.1\r\n\r\n";
    let (mut idle, _) = raw(addr, get).await;
    let (mut half, _) = raw(addr, get).await;
    let (mut used, _) = raw(addr, get).await;
    half.write_all(b"POST / HTT").await.unwrap();
    stop.cancel();
    used.write_all(get.as_bytes()).await.unwrap();
    let mut said = Vec::new();
    for stream in [&mut idle, &mut half, &mut used] {
        let mut text = String::new();
        within(stream.read_to_string(&mut text)).await.unwrap();
        said.push(text);
    }
    for text in &said[..2] {
        let text = text.trim_start_matches("ok");
        assert!(text.starts_with("HTTP/1.1 503 ") && text.contains("connection: close"), "{text}");
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("content-length: {}", body.len())), "{text}");
        let problem: muster_api::Problem = serde_json::from_str(body).unwrap();
        assert_eq!(problem.invocation_state, Some(InvocationState::NotStarted));
    }
    // Who was told by the answer needs no other.
    let text = said[2].trim_start_matches("ok");
    assert!(text.starts_with("HTTP/1.1 200 ") && text.ends_with("\r\n\r\nok"), "{text}");
    drop((idle, half, used));
    within(server).await.unwrap();
}

/// Bound to an address that others made by this may be bound to as well.
fn shared(addr: SocketAddr) -> TcpSocket {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_reuseport(true).unwrap();
    socket.bind(addr).unwrap();
    socket
}

#[tokio::test]
async fn shutdown_finishes_what_is_in_flight() {
    let listening = shared("127.0.0.1:0".parse().unwrap());
    let addr = listening.local_addr().unwrap();
    // Nobody else gets the port once the listener is gone.
    let _kept = shared(addr);
    let listener = listening.listen(16).unwrap();
    let url = format!("http://{addr}/");
    let (stop, gate) = (CancellationToken::new(), CancellationToken::new());
    let (waiting, at_gate) = tokio::sync::mpsc::unbounded_channel();
    let (opened, mut at_gate) = (gate.clone(), at_gate);
    let handler = move |_request: Request<Incoming>, _| {
        let (opened, waiting) = (opened.clone(), waiting.clone());
        async move {
            waiting.send(()).unwrap();
            opened.cancelled().await;
            Response::new(Body::from("done"))
        }
    };
    let server = tokio::spawn(serve(listener, Door::Plain, handler, Limits::default(), stop.clone()));
    let answer = spawn(request(&url, ""));
    within(at_gate.recv()).await.unwrap();
    stop.cancel();
    assert!(!server.is_finished());
    gate.cancel();
    let (head, body) = read(within(answer).await.unwrap()).await;
    assert_eq!((head.status, &body[..]), (200, &b"done"[..]));
    within(server).await.unwrap();
    assert!(client().request(request(&url, "")).await.is_err(), "nobody listens any more");
}
