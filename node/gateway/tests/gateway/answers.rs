//! What reaches a function and what comes back, here and on another node.

use bytes::Bytes;
use futures_util::stream;
use http::Request;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use tokio::sync::mpsc;

use crate::cluster::*;
use crate::function::{Function, Seen};

#[tokio::test]
async fn warm_calls_from_the_host_and_from_another_node() {
    let cluster = Cluster::start(2).await;
    let alpha = Function::start().await;
    cluster.deploy("alpha", |_| ());
    let instance = cluster.run(0, "alpha", alpha.addr);
    let mut ids = std::collections::BTreeSet::new();
    for (entry, path, target) in [
        (0, "alpha", "/"),
        (0, "alpha?x=1", "/?x=1"),
        (1, "alpha/a/b%20c?x=1&y=%2F", "/a/b%20c?x=1&y=%2F"),
        (1, "alpha/", "/"),
    ] {
        let (head, body) = post(&cluster.url(entry, path), "hello").await;
        let seen: Seen = serde_json::from_slice(&body).unwrap();
        assert_eq!((head.status, seen.target.as_str(), seen.body.as_str()), (200, target, "hello"));
        assert_eq!(seen.method, "POST");
        assert_eq!(head.get("muster-node"), "1", "the node it ran on");
        assert_eq!(head.get("muster-instance"), instance.to_string());
        assert_eq!(head.get("muster-cold-start"), "false");
        assert_eq!(seen.headers["muster-invocation-id"], [head.get("muster-invocation-id")]);
        assert!(ids.insert(head.get("muster-invocation-id").to_owned()), "ids are unique");
    }
    let (rows, usage) = cluster.usage();
    assert_eq!((rows, usage.invocations, usage.failures, usage.cold_starts), (4, 4, 0, 0));
    assert!(cluster.nodes[1].meter.rows().is_empty(), "usage is counted on the host");
    assert_eq!(cluster.in_flight(), 0);
}

#[tokio::test]
async fn headers_that_pass_and_headers_that_do_not() {
    let cluster = Cluster::start(2).await;
    let alpha = Function::start().await;
    cluster.deploy("alpha", |_| ());
    cluster.run(0, "alpha", alpha.addr);
    for entry in [0, 1] {
        let mut request = request(&cluster.url(entry, "alpha"), "");
        for (name, value) in [
            ("host", "example.org"),
            ("x-mine", "1"),
            ("x-mine", "2"),
            ("connection", "x-hop"),
            ("x-hop", "1"),
            ("te", "trailers"),
            ("muster-account", "root"),
            ("muster-peer-invocation", "{}"),
            ("x-forwarded-for", "192.0.2.7"),
        ] {
            request.headers_mut().append(name, value.parse().unwrap());
        }
        let (_, body) = read(call(request).await).await;
        let seen: Seen = serde_json::from_slice(&body).unwrap();
        let names: Vec<_> = seen.headers.keys().map(String::as_str).collect();
        let want =
            ["content-length", "host", "muster-account", "muster-invocation-id", "x-forwarded-for", "x-mine"];
        let names: Vec<_> = names.into_iter().filter(|name| *name != "content-length").collect();
        assert_eq!(names, want[1..], "entry {entry}");
        assert_eq!(seen.headers["host"], ["example.org"]);
        assert_eq!(seen.headers["x-mine"], ["1", "2"]);
        assert_eq!(seen.headers["muster-account"], ["alice"]);
        assert_eq!(seen.headers["x-forwarded-for"], ["192.0.2.7, 127.0.0.1"]);

        let (head, _) = post(&cluster.url(entry, "alpha/headers"), "").await;
        assert_eq!((head.get("x-own"), head.get("x-hop"), head.get("muster-x")), ("1", "", ""));
        assert_eq!(head.get("muster-node"), "1", "a function cannot speak for Muster");
    }
}

#[tokio::test]
async fn bodies_stream_both_ways() {
    let cluster = Cluster::start(2).await;
    let alpha = Function::start().await;
    cluster.deploy("alpha", |_| ());
    cluster.run(0, "alpha", alpha.addr);
    for entry in [0, 1] {
        // The answer: each chunk arrives before the next is made.
        let mut response = call(request(&cluster.url(entry, "alpha/stream"), "")).await;
        for n in 0..3 {
            alpha.gate.add_permits(1);
            let frame = within(response.body_mut().frame()).await.unwrap().unwrap();
            assert_eq!(frame.into_data().unwrap(), format!("chunk {n}\n"));
            assert_eq!(cluster.in_flight(), 1, "the slot is held to the end");
        }
        alpha.gate.add_permits(1);
        assert!(within(response.body_mut().frame()).await.is_none());
        until(|| cluster.in_flight() == 0).await;

        // The request: the function has it running while the client still sends.
        let before = alpha.seen().len();
        let (chunks, receiver) = mpsc::channel::<Bytes>(1);
        let body = stream::unfold(receiver, |mut receiver| async move {
            let chunk = receiver.recv().await?;
            Some((Ok::<_, std::io::Error>(Frame::data(chunk)), receiver))
        });
        let request = request(&cluster.url(entry, "alpha"), "").map(|_| StreamBody::new(body).boxed_unsync());
        let answer = spawn(request);
        chunks.send("one, ".into()).await.unwrap();
        until(|| alpha.seen().len() == before + 1).await;
        chunks.send("two".into()).await.unwrap();
        drop(chunks);
        let (head, body) = read(within(answer).await.unwrap()).await;
        let seen: Seen = serde_json::from_slice(&body).unwrap();
        assert_eq!((head.status, seen.body.as_str()), (200, "one, two"));

        // A long one of known length.
        let long = "x".repeat(1 << 20);
        let (_, body) = post(&cluster.url(entry, "alpha"), long.clone()).await;
        assert_eq!(serde_json::from_slice::<Seen>(&body).unwrap().body, long);
    }
    let (rows, usage) = cluster.usage();
    assert_eq!((rows, usage.failures), (6, 0));
    assert_eq!(usage.request_bytes, 2 * (8 + (1 << 20)));
}

#[tokio::test]
async fn answers_without_a_body() {
    let cluster = Cluster::start(2).await;
    let alpha = Function::start().await;
    cluster.deploy("alpha", |_| ());
    cluster.run(0, "alpha", alpha.addr);
    for entry in [0, 1] {
        let (head, body) = post(&cluster.url(entry, "alpha/nothing"), "").await;
        assert_eq!((head.status, body.len()), (204, 0));
        let request = request(&cluster.url(entry, "alpha"), "");
        let (mut parts, body) = request.into_parts();
        parts.method = http::Method::HEAD;
        let (head, body) = read(call(Request::from_parts(parts, body)).await).await;
        assert_eq!((head.status, body.len()), (200, 0));
        assert_ne!(head.get("content-length"), "0");
    }
    until(|| cluster.usage().0 == 4 && cluster.in_flight() == 0).await;
}

#[tokio::test]
async fn an_answer_may_come_before_the_end_of_the_request() {
    let cluster = Cluster::start(2).await;
    let alpha = Function::start().await;
    cluster.deploy("alpha", |_| ());
    cluster.run(0, "alpha", alpha.addr);
    for entry in [0, 1] {
        let endless = stream::pending::<Result<Frame<Bytes>, std::io::Error>>();
        let body = StreamBody::new(endless).boxed_unsync();
        let response = call(request(&cluster.url(entry, "alpha/early"), "").map(|_| body)).await;
        let (head, body) = read(response).await;
        assert_eq!((head.status, &body[..]), (200, &b"before the request's end"[..]));
        until(|| cluster.in_flight() == 0).await;
    }
}
