//! Requests that are malformed in every way, over the wire as a client might send them.

#![expect(clippy::unwrap_used, reason = "a test ends where what it relies on does not hold")]

use std::time::Duration;

use http::Method;
use muster_api::InvocationState;
use muster_chaos::cluster::send;
use muster_chaos::{Cluster, Settings, functions};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const SOON: Duration = Duration::from_secs(20);
const BODY_MAX: usize = 6 * 1024 * 1024;

#[tokio::test(flavor = "multi_thread")]
async fn what_is_malformed_is_refused_by_name() {
    let cluster = Cluster::start(Settings::default()).await.unwrap();
    cluster.client().put_function("echo", &functions::faulty("echo")).await.unwrap();
    cluster.client().create_account("alice", Default::default()).await.unwrap();
    cluster.spread().await.unwrap();
    specs(&cluster).await;
    admin_requests(&cluster).await;
    bodies(&cluster).await;
    heads(&cluster).await;
    // After all this the cluster is none the worse.
    let answer = cluster.invoke(2, cluster.root_key(), "echo", "fine").await.unwrap();
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(cluster.client().functions().await.unwrap().len(), 1, "no refused spec was kept");
}

/// Specs that break one rule: 400, and the detail names the field.
async fn specs(cluster: &Cluster) {
    let good = json!({ "image": "muster/alpha:latest" });
    let with = |field: &str, value: Value| {
        let mut spec = good.clone();
        match field.split_once('.') {
            Some((table, field)) => spec[table][field] = value,
            None => spec[field] = value,
        }
        spec.to_string()
    };
    let rows = [
        ("image", "{}".to_owned()),
        ("image", r#"{"image":"a b"}"#.to_owned()),
        ("image", with("command", json!(["a"]))),
        ("command", r#"{"command":[]}"#.to_owned()),
        ("command", r#"{"command":"ls"}"#.to_owned()),
        ("imagination", with("imagination", json!(1))),
        ("env", with("env", json!([1]))),
        ("env.PORT", with("env.PORT", json!("1"))),
        ("env.A=B", with("env.A=B", json!("1"))),
        ("env", with("env.A", json!("x".repeat(25 * 1024)))),
        ("port", with("port", json!(0))),
        ("port", with("port", json!(65536))),
        ("readiness_path", with("readiness_path", json!("ready"))),
        ("memory_mb", with("memory_mb", json!(1))),
        ("memory_mb", with("memory_mb", json!(-1))),
        ("cpu_millis", with("cpu_millis", json!(0))),
        ("concurrency", with("concurrency", json!(0))),
        ("timeout_ms", with("timeout_ms", json!(0))),
        ("timeout_ms", with("timeout_ms", json!("soon"))),
        ("timeout_ms", with("timeout_ms", json!(u64::MAX))),
        ("startup_timeout_ms", with("startup_timeout_ms", json!(0))),
        ("scaling.max", with("scaling.max", json!(0))),
        ("scaling.min", with("scaling.min", json!(11))),
        ("scaling.target_utilization", with("scaling.target_utilization", json!(1.5))),
        ("scaling.target_utilization", with("scaling.target_utilization", json!(0))),
        ("scaling.window_ms", with("scaling.window_ms", json!(1))),
        ("scaling.keep_alive_ms", with("scaling.keep_alive_ms", json!(u64::MAX))),
        ("scaling.speed", with("scaling.speed", json!(1))),
        ("queue.max_waiting", with("queue.max_waiting", json!(1_000_000))),
        ("payer", with("payer", json!("nobody"))),
        ("usage_durability", with("usage_durability", json!("never"))),
        ("idempotent", with("idempotent", json!("perhaps"))),
    ];
    for (row, (field, body)) in rows.into_iter().enumerate() {
        let n = u64::try_from(row).unwrap() % 3 + 1;
        let path = "/v1/functions/spec";
        let answer = send(cluster.request(n, Method::PUT, path, Some(cluster.root_key())).body(body.clone()));
        let answer = answer.await.unwrap();
        let body = &body[..body.len().min(200)];
        assert_eq!(answer.status, 400, "{field} of {body}: {answer:?}");
        let problem = answer.problem.unwrap();
        let named = field.rsplit_once('.').map_or(field, |(_, last)| last);
        let by_path = problem.detail.contains(field);
        assert!(by_path || problem.detail.contains(named), "{field} of {body} is not named: {problem:?}");
    }
    for body in ["", "{", "[]", "null", "not json", "{\"image\":\"a\"} and more", "\u{0}"] {
        let request = cluster.request(1, Method::PUT, "/v1/functions/spec", Some(cluster.root_key()));
        let answer = send(request.body(body)).await.unwrap();
        assert_eq!(answer.status, 400, "{body:?}: {answer:?}");
    }
}

/// Names, parameters, methods and paths of the admin API.
async fn admin_requests(cluster: &Cluster) {
    let spec = r#"{"image":"muster/alpha:latest"}"#;
    let long = "a".repeat(64);
    let rows = [
        (Method::PUT, "/v1/functions/Upper".to_owned(), spec, 400, "Upper"),
        (Method::PUT, "/v1/functions/-a".into(), spec, 400, "-a"),
        (Method::PUT, "/v1/functions/a%20b".into(), spec, 400, "a b"),
        (Method::PUT, "/v1/functions/a%2Fb".into(), spec, 400, "a/b"),
        (Method::PUT, format!("/v1/functions/{long}"), spec, 400, &long),
        (Method::PUT, "/v1/functions/%FF".into(), spec, 400, ""),
        (Method::GET, "/v1/functions/nope".into(), "", 404, "nope"),
        (Method::DELETE, "/v1/functions/nope".into(), "", 404, "nope"),
        (Method::DELETE, "/v1/functions/echo?force=perhaps".into(), "", 400, "force"),
        (Method::POST, "/v1/accounts".into(), r#"{"name":"A b"}"#, 400, "A b"),
        (Method::POST, "/v1/accounts".into(), "{}", 400, "name"),
        (Method::POST, "/v1/accounts".into(), r#"{"name":"bob","age":7}"#, 400, "age"),
        (Method::POST, "/v1/accounts".into(), r#"{"name":"bob","role":"king"}"#, 400, "king"),
        (Method::POST, "/v1/accounts".into(), r#"{"name":"alice"}"#, 409, "alice"),
        (Method::POST, "/v1/accounts/alice/keys".into(), r#"{"expires_in_ms":0}"#, 400, "expires_in_ms"),
        (Method::POST, "/v1/accounts/nobody/keys".into(), "", 404, "nobody"),
        (Method::DELETE, "/v1/accounts/alice/keys/xyz".into(), "", 400, "xyz"),
        (Method::PUT, "/v1/accounts/alice/grants/echo".into(), r#"{"actions":[]}"#, 400, "actions"),
        (Method::PUT, "/v1/accounts/alice/grants/echo".into(), r#"{"actions":["fly"]}"#, 400, "fly"),
        (Method::PUT, "/v1/accounts/alice/grants/A%20B".into(), r#"{"actions":["invoke"]}"#, 400, ""),
        (Method::PUT, "/v1/accounts/nobody/grants/echo".into(), r#"{"actions":["invoke"]}"#, 404, "nobody"),
        (Method::GET, "/v1/functions?consistency=maybe".into(), "", 400, "maybe"),
        (Method::GET, "/v1/functions?colour=red".into(), "", 400, "colour"),
        (Method::GET, "/v1/instances?function=A".into(), "", 400, "A"),
        (Method::GET, "/v1/usage?by=week".into(), "", 400, "week"),
        (Method::GET, "/v1/usage?from=yesterday".into(), "", 400, "from"),
        (Method::GET, "/v1/nothing".into(), "", 404, "/v1/nothing"),
        (Method::GET, "/".into(), "", 404, ""),
        (Method::POST, "/v1/functions/echo".into(), spec, 405, "POST"),
        (Method::PATCH, "/v1/accounts".into(), "", 405, "PATCH"),
        (Method::DELETE, "/readyz".into(), "", 405, "DELETE"),
    ];
    for (row, (method, path, body, status, named)) in rows.into_iter().enumerate() {
        let n = u64::try_from(row).unwrap() % 3 + 1;
        let request = cluster.request(n, method.clone(), &path, Some(cluster.root_key()));
        let answer = send(request.body(body)).await.unwrap();
        assert_eq!(answer.status, status, "{method} {path} {body}: {answer:?}");
        let problem =
            answer.problem.unwrap_or_else(|| panic!("{method} {path} is answered without a problem"));
        assert!(problem.detail.contains(named), "{method} {path}: {named:?} is not in {problem:?}");
        assert_eq!(problem.status, status);
    }
    for (key, status) in [(None, 401), (Some("mk_x"), 401)] {
        let answer = send(cluster.request(1, Method::GET, "/v1/functions", key)).await.unwrap();
        assert_eq!(answer.status, status, "{answer:?}");
    }
    let alice = cluster.key_for("alice").await.unwrap();
    for (method, path, body) in [
        (Method::GET, "/v1/nodes", ""),
        (Method::POST, "/v1/accounts", r#"{"name":"carol"}"#),
        (Method::DELETE, "/v1/functions/echo", ""),
        (Method::PUT, "/v1/functions/hers", r#"{"image":"a"}"#),
        (Method::GET, "/v1/accounts/root", ""),
        (Method::GET, "/v1/usage?account=root", ""),
    ] {
        let answer = send(cluster.request(1, method.clone(), path, Some(&alice)).body(body)).await.unwrap();
        assert_eq!(answer.status, 403, "{method} {path}: {answer:?}");
    }
}

/// Bodies of invocations and of admin requests around their limits, with and without a length.
async fn bodies(cluster: &Cluster) {
    for (entry, over) in [(1, 0), (2, 0), (1, 1), (2, 1), (3, 1)] {
        for chunked in [false, true] {
            let size = BODY_MAX + over;
            let body = move || {
                let pieces =
                    (0..size).step_by(64 * 1024).map(move |at| vec![b'x'; (size - at).min(64 * 1024)]);
                match chunked {
                    true => reqwest::Body::wrap_stream(futures_util::stream::iter(
                        pieces.map(Ok::<_, std::convert::Infallible>),
                    )),
                    false => reqwest::Body::from(vec![b'x'; size]),
                }
            };
            let what = format!("{size} bytes through node {entry}, chunked: {chunked}");
            let answer = match cluster.invoke(entry, cluster.root_key(), "echo", body()).await {
                Ok(answer) => answer,
                // A busy machine may let nobody send for longer than a node reads on behind a refusal.
                Err(_) if over > 0 => {
                    let again = cluster.invoke(entry, cluster.root_key(), "echo", body()).await;
                    again.unwrap_or_else(|error| panic!("{what}, twice: {error:?}"))
                }
                Err(error) => panic!("{what}: {error:?}"),
            };
            match over {
                0 => assert_eq!(answer.json().unwrap()["body_bytes"], size, "{what}"),
                _ => assert_eq!(answer.status, 413, "{what}: {answer:?}"),
            }
        }
    }
    // A length alone is enough to be refused, before anything has run.
    let claimed = format!(
        "POST /function/echo HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\ncontent-length: 99999999\r\n\r\n",
        cluster.root_key()
    );
    let (status, body) = raw(cluster, 1, claimed.as_bytes()).await;
    assert_eq!(status, 413, "{body}");
    assert!(body.contains(r#""invocation_state":"not_started""#), "{body}");

    let spec = format!(r#"{{"image":"{}"}}"#, "x".repeat(300 * 1024));
    let request = cluster.request(1, Method::PUT, "/v1/functions/large", Some(cluster.root_key()));
    let answer = send(request.body(spec)).await.unwrap();
    assert_eq!(answer.status, 413, "{answer:?}");
}

/// What no HTTP library would send.
async fn heads(cluster: &Cluster) {
    let key = cluster.root_key();
    let auth = format!("host: x\r\nauthorization: Bearer {key}\r\n");
    let large = "x".repeat(100 * 1024);
    let many = (0..200).fold(String::new(), |all, n| all + &format!("x-{n}: y\r\n"));
    let rows = [
        ("a header too large", format!("GET /function/echo HTTP/1.1\r\n{auth}x-large: {large}\r\n\r\n"), 431),
        ("too many headers", format!("GET /function/echo HTTP/1.1\r\n{auth}{many}\r\n"), 431),
        ("a line that is none", "GET\r\n\r\n".to_owned(), 400),
        ("a header that is none", format!("GET /function/echo HTTP/1.1\r\n{auth}no colon\r\n\r\n"), 400),
        (
            "a length that is none",
            format!("POST /function/echo HTTP/1.1\r\n{auth}content-length: -1\r\n\r\n"),
            400,
        ),
        (
            "two lengths",
            format!("POST /function/echo HTTP/1.1\r\n{auth}content-length: 1\r\ncontent-length: 2\r\n\r\nxx"),
            400,
        ),
        (
            "two keys",
            format!("GET /function/echo HTTP/1.1\r\n{auth}authorization: Bearer mk_1_2\r\n\r\n"),
            401,
        ),
        (
            "basic credentials",
            "GET /function/echo HTTP/1.1\r\nhost: x\r\nauthorization: Basic eA==\r\n\r\n".into(),
            401,
        ),
    ];
    for (row, (what, request, status)) in rows.into_iter().enumerate() {
        let n = u64::try_from(row).unwrap() % 3 + 1;
        let (answered, body) = raw(cluster, n, request.as_bytes()).await;
        assert_eq!(answered, status, "{what}: {body}");
    }
    let broken = send(cluster.request(1, Method::GET, "/function/Echo", Some(key))).await.unwrap();
    assert_eq!((broken.status, broken.state()), (404, Some(InvocationState::NotStarted)), "{broken:?}");
}

/// Sends bytes and reads one answer: its status, and what came after the status line.
async fn raw(cluster: &Cluster, n: u64, request: &[u8]) -> (u16, String) {
    let exchange = async {
        let mut stream = TcpStream::connect(cluster.address(n)).await.unwrap();
        // The node may answer and close before it has read everything.
        let _cut_short = stream.write_all(request).await;
        let mut answer = Vec::new();
        let mut piece = [0; 4096];
        loop {
            match stream.read(&mut piece).await {
                Ok(0) | Err(_) => break,
                Ok(read) => answer.extend_from_slice(&piece[..read]),
            }
            let text = String::from_utf8_lossy(&answer);
            if text.split_once("\r\n\r\n").is_some_and(|(_, body)| body.ends_with('}')) {
                break;
            }
        }
        String::from_utf8_lossy(&answer).into_owned()
    };
    let answer = tokio::time::timeout(SOON, exchange).await.unwrap();
    let (status, rest) = answer.split_once("\r\n").unwrap_or((&answer, ""));
    let status = status.split(' ').nth(1).and_then(|status| status.parse().ok());
    (
        status.unwrap_or_else(|| {
            panic!(
                "no answer to {:?}: {answer:?}",
                String::from_utf8_lossy(&request[..80.min(request.len())])
            )
        }),
        rest.to_owned(),
    )
}
