//! A server driven over real sockets with hand-written HTTP: the oracle shares no code with the SDK.

#![expect(clippy::unwrap_used, reason = "the lint exempts test functions, not their helpers")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use muster_runtime::http::StatusCode;
use muster_runtime::{Body, Failure, Request, Response, Server, read_body};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinHandle;

/// Nothing here takes long: a wait beyond this is a failure.
const DEADLINE: Duration = Duration::from_secs(20);
const LIMIT_BYTES: usize = 1000;

#[derive(Deserialize)]
struct Input {
    args: Args,
}

#[derive(Deserialize)]
struct Args {
    prompt: String,
    times: Option<u8>,
}

#[derive(Serialize)]
struct Output {
    response: String,
    account: Option<String>,
    invocation_id: Option<String>,
}

/// A running server; dropping `stop` without sending leaves it to the test's runtime to end it.
struct Running {
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    served: JoinHandle<()>,
}

async fn start<H, F>(server: Server, handler: H) -> Running
where
    H: Fn(Request) -> F + Send + Sync + 'static,
    F: Future<Output: muster_runtime::IntoResponse> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel();
    let stopped = async move { stopped.await.expect("the test keeps the sender") };
    let served = tokio::spawn(server.serve_until(stopped, listener, handler));
    Running { address, stop, served }
}

async fn start_json() -> Running {
    let server = Server::on(([127, 0, 0, 1], 0).into()).body_limit_bytes(LIMIT_BYTES);
    let handler = server.json_handler(|input: Input, context| async move {
        match input.args.prompt.as_str() {
            "panic" => panic!("as asked"),
            "refuse" => return Err(Failure::new(StatusCode::CONFLICT, "as asked")),
            "fail" => drop(std::fs::read("/nonexistent/secret")?),
            _ => {}
        }
        let response = input.args.prompt.repeat(usize::from(input.args.times.unwrap_or(1)));
        Ok(Output { response, account: context.account, invocation_id: context.invocation_id })
    });
    start(server, handler).await
}

fn plain() -> Server {
    Server::on(([127, 0, 0, 1], 0).into())
}

fn request(method: &str, path: &str, headers: &str, body: &str) -> String {
    format!("{method} {path} HTTP/1.1\r\nhost: f\r\ncontent-length: {}\r\n{headers}\r\n{body}", body.len())
}

/// Sends on a fresh connection and reads until the server closes it.
async fn exchange(address: SocketAddr, text: &str) -> String {
    let exchange = async {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(text.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        String::from_utf8(answer).unwrap()
    };
    tokio::time::timeout(DEADLINE, exchange).await.expect("an answer in time")
}

async fn send(address: SocketAddr, method: &str, path: &str, body: &str) -> String {
    exchange(address, &request(method, path, "connection: close\r\n", body)).await
}

fn status(answer: &str) -> &str {
    answer.split(' ').nth(1).unwrap_or("none")
}

#[tokio::test]
async fn typed_json_by_request() {
    let server = start_json().await;
    let long = format!(r#"{{"args":{{"prompt":"{}"}}}}"#, "x".repeat(LIMIT_BYTES));
    for (method, path, body, want_status, want_text) in [
        ("POST", "/", r#"{"args":{"prompt":"hi"}}"#, "200", r#"{"response":"hi","#),
        ("POST", "/?q=1", r#"{"args":{"prompt":"hi","times":2}}"#, "200", r#"{"response":"hihi","#),
        ("POST", "/", r#"{"args":{}}"#, "400", "`args`: missing field `prompt`"),
        ("POST", "/", r#"{}"#, "400", "missing field `args`"),
        ("POST", "/", r#"{"args":{"prompt":7}}"#, "400", r#""field":"args.prompt""#),
        ("POST", "/", r#"{"args":{"prompt":"a","times":300}}"#, "400", r#""field":"args.times""#),
        ("POST", "/", "", "400", "EOF"),
        ("POST", "/", "nonsense", "400", "not the JSON expected"),
        ("POST", "/", r#"{"args":{"prompt":"hi"}} x"#, "400", "text after the JSON"),
        ("POST", "/", long.as_str(), "413", "exceeds 1000 bytes"),
        ("POST", "/other", r#"{"args":{"prompt":"hi"}}"#, "404", "`/other`"),
        ("GET", "/", "", "405", "allow: POST"),
        ("POST", "/", r#"{"args":{"prompt":"refuse"}}"#, "409", r#""title":"Conflict""#),
        ("POST", "/", r#"{"args":{"prompt":"fail"}}"#, "500", "its log says why"),
        ("POST", "/", r#"{"args":{"prompt":"panic"}}"#, "500", "panicked"),
        ("POST", "/", r#"{"args":{"prompt":"still here"}}"#, "200", "still here"),
    ] {
        let answer = send(server.address, method, path, body).await;
        assert_eq!(status(&answer), want_status, "{method} {path} {body:.60}: {answer}");
        assert!(answer.contains(want_text), "{method} {path} {body:.60}: {answer}");
        let kind = if want_status == "200" { "application/json" } else { "application/problem+json" };
        assert!(answer.contains(&format!("content-type: {kind}\r\n")), "{answer}");
        assert!(!answer.contains("secret") && !answer.contains("No such file"), "{answer}");
    }
}

#[tokio::test]
async fn a_body_without_a_length_is_limited_too() {
    let server = start_json().await;
    let chunk = format!("{:x}\r\n{}\r\n", LIMIT_BYTES + 1, "x".repeat(LIMIT_BYTES + 1));
    let head = "POST / HTTP/1.1\r\nhost: f\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n";
    let answer = exchange(server.address, &format!("{head}{chunk}0\r\n\r\n")).await;
    assert_eq!(status(&answer), "413", "{answer}");
}

#[tokio::test]
async fn the_context_is_what_the_headers_say() {
    let server = start_json().await;
    let body = r#"{"args":{"prompt":"hi"}}"#;
    let headers = "connection: close\r\nMuster-Account: alice\r\nMuster-Invocation-Id: 0f\r\n";
    let answer = exchange(server.address, &request("POST", "/", headers, body)).await;
    assert!(answer.ends_with(r#"{"response":"hi","account":"alice","invocation_id":"0f"}"#), "{answer}");
    let answer = send(server.address, "POST", "/", body).await;
    assert!(answer.ends_with(r#"{"response":"hi","account":null,"invocation_id":null}"#), "{answer}");
}

#[tokio::test]
async fn a_panic_leaves_its_connection_usable() {
    let server = start_json().await;
    let panics = request("POST", "/", "", r#"{"args":{"prompt":"panic"}}"#);
    let works = request("POST", "/", "connection: close\r\n", r#"{"args":{"prompt":"again"}}"#);
    let answers = exchange(server.address, &(panics + &works)).await;
    assert!(answers.starts_with("HTTP/1.1 500 ") && answers.contains("HTTP/1.1 200 "), "{answers}");
}

#[tokio::test]
async fn plain_handlers_see_everything_and_stream() {
    let server = start(plain(), |request: Request| async move {
        let line = format!("{} {}\n", request.method(), request.uri());
        let text = read_body(request.into_body(), 100).await?;
        let (pieces, body) = Body::channel();
        tokio::spawn(async move {
            pieces.send(line).await;
            pieces.send(text).await;
        });
        Ok::<_, Failure>(Response::new(body))
    })
    .await;
    let answer = send(server.address, "PATCH", "/a/b?c=d", "payload").await;
    assert_eq!(status(&answer), "200");
    assert!(answer.contains("PATCH /a/b?c=d\n") && answer.contains("\r\npayload\r\n"), "{answer}");
    assert!(answer.ends_with("0\r\n\r\n"), "a chunked body that is complete: {answer}");
}

#[tokio::test]
async fn a_failed_stream_is_not_taken_for_a_complete_one() {
    let server = start(plain(), |_| async {
        let (pieces, body) = Body::channel();
        tokio::spawn(async move {
            pieces.send("part").await;
            pieces.fail("as asked").await;
        });
        Response::new(body)
    })
    .await;
    let answer = send(server.address, "GET", "/", "").await;
    assert!(!answer.ends_with("0\r\n\r\n"), "{answer}");
}

/// A server whose handler says that it began and then waits to be let go.
async fn start_held(server: Server) -> (Running, Arc<Notify>, Arc<Notify>) {
    let (began, go) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (handler_began, handler_go) = (began.clone(), go.clone());
    let running = start(server, move |_| {
        let (began, go) = (handler_began.clone(), handler_go.clone());
        async move {
            began.notify_one();
            go.notified().await;
            "finished"
        }
    })
    .await;
    (running, began, go)
}

#[tokio::test]
async fn stopping_finishes_what_is_in_flight_and_takes_nothing_new() {
    let (server, began, go) = start_held(plain()).await;
    let mut idle = TcpStream::connect(server.address).await.unwrap();
    let address = server.address;
    // Kept alive as a node's pool would: the server must close it by itself after the answer.
    let in_flight = tokio::spawn(async move { exchange(address, &request("GET", "/", "", "")).await });
    began.notified().await;
    server.stop.send(()).unwrap();

    let closed =
        tokio::time::timeout(DEADLINE, idle.read(&mut [0; 1])).await.expect("idle is closed in time");
    assert_eq!(closed.unwrap(), 0, "an idle connection is closed");
    let refused = TcpStream::connect(address).await.expect_err("no longer listening");
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    assert!(!server.served.is_finished(), "a request is in flight");

    go.notify_one();
    let answer = in_flight.await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("finished"), "{answer}");
    tokio::time::timeout(DEADLINE, server.served).await.expect("it ends by itself").unwrap();
}

#[tokio::test]
async fn a_request_that_never_ends_is_given_up_after_the_grace() {
    let grace = Duration::from_millis(50);
    let (server, began, _go) = start_held(plain().grace(grace)).await;
    let mut hanging = TcpStream::connect(server.address).await.unwrap();
    hanging.write_all(request("GET", "/", "", "").as_bytes()).await.unwrap();
    began.notified().await;
    let asked = Instant::now();
    server.stop.send(()).unwrap();
    tokio::time::timeout(DEADLINE, server.served).await.expect("given up").unwrap();
    assert!(asked.elapsed() >= grace);
}

#[tokio::test]
async fn a_caller_that_leaves_stops_its_handler() {
    struct OnDrop(Arc<Notify>);
    impl Drop for OnDrop {
        fn drop(&mut self) {
            self.0.notify_one();
        }
    }
    let (began, dropped) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (handler_began, handler_dropped) = (began.clone(), dropped.clone());
    let server = start(plain(), move |_| {
        let (began, guard) = (handler_began.clone(), OnDrop(handler_dropped.clone()));
        async move {
            began.notify_one();
            std::future::pending::<()>().await;
            drop(guard);
            "never"
        }
    })
    .await;
    let mut caller = TcpStream::connect(server.address).await.unwrap();
    caller.write_all(request("GET", "/", "", "").as_bytes()).await.unwrap();
    began.notified().await;
    drop(caller);
    tokio::time::timeout(DEADLINE, dropped.notified()).await.expect("the handler is dropped");
}
