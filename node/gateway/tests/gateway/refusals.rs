//! Requests that are refused before they wait for anything.

use std::sync::atomic::Ordering::SeqCst;

use muster_api::InvocationState;
use muster_core::Command;
use muster_core::accounts;
use muster_core::ids::{AccountName, KeyId};
use muster_core::instances::Phase;
use muster_core::units::Timestamp;
use muster_gateway::{Config, ControlPlane};

use crate::cluster::*;
use crate::function::Function;

#[tokio::test]
async fn who_may_call_what() {
    let cluster = Cluster::start(1).await;
    let alpha = Function::start().await;
    cluster.deploy("alpha", |_| ());
    cluster.run(0, "alpha", alpha.addr);
    cluster.account("bob", &["beta*"]);
    let expired = accounts::format_key(KeyId(99), &[9; 32]);
    cluster.apply(vec![Command::Accounts(accounts::Command::CreateKey {
        account: AccountName::new("alice").unwrap(),
        id: KeyId(99),
        hash: hash_of(&expired),
        expires_at: Some(Timestamp(1)),
    })]);
    let good = format!("Bearer {}", key("alice"));
    let nobodys = format!("Bearer {}", key("nobody"));
    let bobs = format!("Bearer {}", key("bob"));
    let expired = format!("Bearer {expired}");
    let forged = format!("{}{}", &good[..good.len() - 1], if good.ends_with('0') { '1' } else { '0' });
    for (authorization, name, status) in [
        (None, "alpha", 401),
        (Some("Bearer"), "alpha", 401),
        (Some("Bearer mk_1_2"), "alpha", 401),
        (Some("Basic YWxpY2U6"), "alpha", 401),
        (Some(nobodys.as_str()), "alpha", 401),
        (Some(forged.as_str()), "alpha", 401),
        (Some(expired.as_str()), "alpha", 401),
        (None, "missing", 401),
        (Some(good.as_str()), "missing", 404),
        (Some(good.as_str()), "Bad%20Name", 404),
        (Some(good.as_str()), "", 404),
        (Some(bobs.as_str()), "missing", 404),
        (Some(bobs.as_str()), "alpha", 403),
        (Some(good.as_str()), "alpha", 200),
    ] {
        let mut request = request(&cluster.url(0, name), "body");
        request.headers_mut().remove("authorization");
        if let Some(text) = authorization {
            request.headers_mut().insert("authorization", text.parse().unwrap());
        }
        let response = call(request).await;
        assert_eq!(response.status().as_u16(), status, "{authorization:?} calls {name:?}");
        if status == 200 {
            read(response).await;
            continue;
        }
        let (head, problem) = problem(response).await;
        assert_eq!(problem.invocation_state, Some(InvocationState::NotStarted));
        assert_eq!(!head.get("www-authenticate").is_empty(), status == 401);
    }
    until(|| cluster.in_flight() == 0).await;
    assert_eq!(alpha.seen().len(), 1, "only the permitted call reached the function");
    assert_eq!(cluster.usage().0, 1);
    let mut metrics = String::new();
    cluster.nodes[0].gateway.render_metrics(&mut metrics);
    for want in ["unauthenticated\"} 8", "no_function\"} 4", "forbidden\"} 1", "answered\"} 1"] {
        assert!(metrics.contains(want), "{want} in\n{metrics}");
    }
}

#[tokio::test]
async fn what_is_revoked_admits_nobody() {
    let cluster = Cluster::start(1).await;
    let alpha = Function::start().await;
    cluster.deploy("alpha", |_| ());
    cluster.run(0, "alpha", alpha.addr);
    assert_eq!(post(&cluster.url(0, "alpha"), "").await.0.status, 200);
    cluster.apply(vec![Command::Accounts(accounts::Command::Revoke {
        account: AccountName::new("alice").unwrap(),
        pattern: accounts::Pattern::new("*").unwrap(),
    })]);
    assert_eq!(post(&cluster.url(0, "alpha"), "").await.0.status, 403);
    cluster.account("bob", &["alpha"]);
    let held = spawn(request_by("bob", &cluster.url(0, "alpha/hold"), ""));
    until(|| cluster.in_flight() == 1).await;
    let waiting = spawn(request_by("bob", &cluster.url(0, "alpha"), ""));
    until(|| cluster.waiting(0) == 1).await;
    let bob = AccountName::new("bob").unwrap();
    cluster.apply(vec![Command::Accounts(accounts::Command::Delete { name: bob })]);
    alpha.gate.add_permits(1);
    assert_eq!(within(held).await.unwrap().status(), 200, "what runs is not cut");
    assert_eq!(within(waiting).await.unwrap().status(), 401, "what waits is not admitted");
    until(|| cluster.in_flight() == 0).await;
    cluster.plane.lease.store(false, SeqCst);
    let (head, _) = problem(call(request(&cluster.url(0, "alpha"), "")).await).await;
    assert_eq!((head.status, head.get("retry-after")), (503, "1"), "no lease, no calls");
}

#[tokio::test]
async fn a_body_over_the_limit() {
    let cluster = Cluster::with(2, Config { body_max_bytes: 100_000, ..Config::default() }).await;
    let alpha = Function::start().await;
    cluster.deploy("alpha", |_| ());
    cluster.run(0, "alpha", alpha.addr);
    for entry in [0, 1] {
        let url = cluster.url(entry, "alpha");
        assert_eq!(post(&url, "x".repeat(100_000)).await.0.status, 200);
        // Told by its length: refused unseen, also while the client still sends.
        for length in [100_001, 20_000_000] {
            let (head, problem) = problem(call(request(&url, "x".repeat(length))).await).await;
            assert_eq!((head.status, problem.invocation_state), (413, Some(InvocationState::NotStarted)));
        }
        // Not told: noticed on the way.
        let chunks = futures_util::stream::repeat_with(|| {
            Ok::<_, std::io::Error>(hyper::body::Frame::data(bytes::Bytes::from(vec![b'x'; 10_000])))
        });
        let chunks = futures_util::StreamExt::take(chunks, 50);
        let body = http_body_util::BodyExt::boxed_unsync(http_body_util::StreamBody::new(chunks));
        let (head, _) = problem(call(request(&url, "").map(|_| body)).await).await;
        assert_eq!(head.status, 413);
        until(|| cluster.in_flight() == 0).await;
    }
}

#[tokio::test]
async fn a_function_that_fails_to_start() {
    let cluster = Cluster::start(1).await;
    cluster.deploy("alpha", |_| ());
    let first = cluster.place(cluster.nodes[0].id, "alpha");
    let waiting = spawn(request(&cluster.url(0, "alpha"), ""));
    until(|| cluster.waiting(0) == 1).await;
    cluster.fail(first, "exited with code 1");
    for _ in 0..2 {
        let id = cluster.place(cluster.nodes[0].id, "alpha");
        assert_eq!(cluster.plane.state().instances.get(id).unwrap().phase, Phase::Placed);
        assert_eq!(cluster.waiting(0), 1, "it is not given up while a launch is under way");
        cluster.fail(id, "exited with code 1");
    }
    // Those who wait and those who come are told alike, long before the deadline.
    for response in [within(waiting).await.unwrap(), call(request(&cluster.url(0, "alpha"), "")).await] {
        let (head, problem) = problem(response).await;
        assert_eq!(head.status, 502);
        assert_eq!(problem.invocation_state, Some(InvocationState::NotStarted));
        for part in
            ["function `alpha` fails to start: exited with code 1", "3 failures in a row; next attempt in"]
        {
            assert!(problem.detail.contains(part), "{}", problem.detail);
        }
        assert!((1..=2).contains(&head.get("retry-after").parse().unwrap()));
    }
    assert_eq!(cluster.usage().0, 0);
}
