//! One row per invocation, and answers that wait for it.

use std::time::Instant;

use bytes::Bytes;
use http_body_util::BodyExt;
use muster_core::functions::UsageDurability;
use muster_core::units::Millis;
use muster_gateway::MeterError;

use crate::cluster::*;
use crate::function::Function;

#[tokio::test]
async fn rows_carry_what_was_used() {
    let cluster = Cluster::start(2).await;
    let alpha = Function::start().await;
    cluster.deploy("alpha", |_| ());
    let instance = cluster.run(0, "alpha", alpha.addr);
    cluster.account("bob", &["alpha"]);
    let mut limits_ms = Vec::new();
    for (account, entry) in [("alice", 0), ("bob", 1)] {
        let began = Instant::now();
        let held = spawn(request_by(account, &cluster.url(entry, "alpha/hold"), "12345"));
        until(|| cluster.in_flight() == 1).await;
        let busy = || cluster.nodes[0].gateway.host().loads()[0].busy_ms;
        let before = busy();
        until(|| busy() >= before + 20).await;
        alpha.gate.add_permits(1);
        read(within(held).await.unwrap()).await;
        until(|| cluster.in_flight() == 0).await;
        // The row's time is rounded up.
        limits_ms.push(began.elapsed().as_millis() + 1);
    }
    let rows = cluster.nodes[0].meter.rows();
    let callers: Vec<_> = rows.iter().map(|row| row.account.as_str()).collect();
    assert_eq!(callers, ["alice", "bob"]);
    for (row, limit_ms) in rows.into_iter().zip(limits_ms) {
        let usage = row.usage;
        assert_eq!((row.function.as_str(), row.instance, row.hour), ("alpha", instance, now().hour()));
        assert_eq!((usage.invocations, usage.failures, usage.cold_starts), (1, 0, 0));
        assert_eq!((usage.request_bytes, usage.response_bytes), (5, 4));
        assert!((20..=limit_ms).contains(&u128::from(usage.busy_ms)), "{}", usage.busy_ms);
        assert_eq!(usage.memory_mb_ms, usage.busy_ms * 128);
    }
}

#[tokio::test]
async fn an_answer_is_complete_only_once_its_usage_is_durable() {
    let cluster = Cluster::start(2).await;
    let alpha = Function::start().await;
    cluster.deploy("alpha", |spec| spec.usage_durability = UsageDurability::Acknowledged);
    cluster.run(0, "alpha", alpha.addr);
    cluster.deploy("beta", |_| ());
    cluster.run(0, "beta", alpha.addr);
    let meter = &cluster.nodes[0].meter;
    let next = || meter.pending.lock().unwrap().pop();
    // With a length, without one, and without a body: nothing looks complete before the record.
    for entry in [0, 1] {
        for path in ["alpha", "alpha/stream", "alpha/nothing"] {
            for outcome in [Ok(()), Err(MeterError::NotDurable)] {
                alpha.gate.add_permits(if path.ends_with("stream") { 4 } else { 0 });
                let request = request(&cluster.url(entry, path), "");
                let answer = tokio::spawn(async move {
                    let response = call(request).await;
                    (response.status().as_u16(), response.into_body().collect().await.map(|b| b.to_bytes()))
                });
                until(|| !meter.pending.lock().unwrap().is_empty()).await;
                until(|| cluster.in_flight() == 0).await;
                // A whole other call's time is enough for the end of this answer, were it not held.
                assert_eq!(post(&cluster.url(entry, "beta"), "").await.0.status, 200);
                assert!(!answer.is_finished(), "{path} must wait");
                let failed = outcome.is_err();
                next().unwrap().send(outcome).unwrap();
                let (status, body) = within(answer).await.unwrap();
                match (path, failed) {
                    ("alpha/nothing", false) => assert_eq!(status, 204),
                    ("alpha/nothing", true) => assert_eq!(status, 503),
                    (_, false) => assert!(body.is_ok_and(|body: Bytes| !body.is_empty()), "{path}"),
                    (_, true) => assert!(body.is_err(), "{path} must be cut"),
                }
            }
        }
    }
    assert_eq!(cluster.usage().0, 24, "half of them are the other calls");
}

#[tokio::test]
async fn a_record_that_never_ends_does_not_outlast_the_deadline() {
    let cluster = Cluster::start(1).await;
    let alpha = Function::start().await;
    cluster.deploy("alpha", |spec| {
        spec.usage_durability = UsageDurability::Replicated;
        spec.timeout = Millis(1_500);
    });
    cluster.run(0, "alpha", alpha.addr);
    let response = call(request(&cluster.url(0, "alpha"), "")).await;
    assert!(within(response.into_body().collect()).await.is_err());
    let (head, _) = problem(call(request(&cluster.url(0, "alpha/nothing"), "")).await).await;
    assert_eq!(head.status, 504);
}
