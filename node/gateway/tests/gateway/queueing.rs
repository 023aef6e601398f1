//! Requests that wait: their order, their limits and why they stop waiting.

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

use muster_api::InvocationState;
use muster_core::Command;
use muster_core::functions;
use muster_core::ids::{AccountName, ChangeId};
use muster_core::instances::{self, DecidedAction, Decision, Inputs};
use muster_core::units::Millis;
use muster_gateway::Config;

use crate::cluster::*;
use crate::function::Function;

#[tokio::test]
async fn first_come_first_served() {
    let cluster = Cluster::start(2).await;
    let alpha = Function::start().await;
    cluster.deploy("alpha", |_| ());
    cluster.run(0, "alpha", alpha.addr);
    // In turn at the host and at another node: the order is by age across both.
    let pressure = cluster.nodes[0].gateway.pressure();
    let mut calls = vec![spawn(request(&cluster.url(0, "alpha/hold"), "0"))];
    until(|| cluster.in_flight() == 1).await;
    for (n, entry) in [(1, 0), (2, 1), (3, 0), (4, 0), (5, 1)] {
        let before = cluster.waiting(entry);
        calls.push(spawn(request(&cluster.url(entry, "alpha/hold"), n.to_string())));
        until(|| cluster.waiting(entry) == before + 1).await;
        // Ages are told apart between nodes to within what a message takes: the host must have heard of it.
        until(|| entry == 0 || cluster.nodes[0].asked.load(SeqCst) > 0).await;
    }
    within(pressure.notified()).await;
    let queue = &cluster.nodes[0].gateway.queues()[0];
    let alice = AccountName::new("alice").unwrap();
    assert_eq!((queue.waiting, queue.accounts.as_slice()), (3, &[(alice, 3)][..]));
    for n in 1..=6 {
        until(|| alpha.seen().len() == n).await;
        alpha.gate.add_permits(1);
    }
    for call in calls {
        assert_eq!(read(within(call).await.unwrap()).await.0.status, 200);
    }
    let order: Vec<_> = alpha.seen().into_iter().map(|seen| seen.body).collect();
    assert_eq!(order, ["0", "1", "2", "3", "4", "5"]);
    assert_eq!(alpha.peak.load(SeqCst), 1);
    assert!(cluster.nodes[0].gateway.queues().is_empty());
}

#[tokio::test]
async fn a_full_queue() {
    let cluster = Cluster::start(1).await;
    let alpha = Function::start().await;
    cluster.deploy("alpha", |spec| spec.max_waiting = 1);
    cluster.run(0, "alpha", alpha.addr);
    let held = spawn(request(&cluster.url(0, "alpha/hold"), ""));
    until(|| cluster.in_flight() == 1).await;
    let waiting = spawn(request(&cluster.url(0, "alpha"), ""));
    until(|| cluster.waiting(0) == 1).await;
    let (head, problem) = problem(call(request(&cluster.url(0, "alpha"), "")).await).await;
    assert_eq!((head.status, head.get("retry-after")), (429, "1"));
    assert_eq!(problem.invocation_state, Some(InvocationState::NotStarted));
    alpha.gate.add_permits(1);
    for call in [held, waiting] {
        assert_eq!(within(call).await.unwrap().status(), 200);
    }
}

#[tokio::test]
async fn who_waits_alone_is_served_once_an_instance_is_there() {
    let cluster = Cluster::start(1).await;
    let alpha = Function::start().await;
    cluster.deploy("alpha", |_| ());
    let cold = spawn(request(&cluster.url(0, "alpha"), ""));
    until(|| cluster.waiting(0) == 1).await;
    cluster.run(0, "alpha", alpha.addr);
    // Nobody else comes, so nothing but the instance itself brings the request on.
    let (head, _) = read(within(cold).await.unwrap()).await;
    assert_eq!((head.status, head.get("muster-cold-start")), (200, "true"));
}

#[tokio::test]
async fn cold_starts_are_told_from_waits() {
    let cluster = Cluster::start(2).await;
    let alpha = Function::start().await;
    cluster.deploy("alpha", |_| ());
    let calls = [0, 1].map(|entry| spawn(request(&cluster.url(entry, "alpha"), "")));
    // Times are told apart between nodes to within what a message takes.
    let waited = |entry: usize| cluster.nodes[entry].gateway.queues().iter().any(|q| q.oldest_ms >= 1_000);
    until(|| waited(0) && waited(1)).await;
    cluster.run(0, "alpha", alpha.addr);
    for call in calls {
        let (head, _) = read(within(call).await.unwrap()).await;
        assert_eq!((head.status, head.get("muster-cold-start")), (200, "true"));
    }
    // Waiting for an instance that is ready already is no cold start.
    let held = spawn(request(&cluster.url(0, "alpha/hold"), ""));
    until(|| cluster.in_flight() == 1).await;
    let calls = [0, 1].map(|entry| spawn(request(&cluster.url(entry, "alpha"), "")));
    until(|| cluster.waiting(0) == 1 && cluster.waiting(1) == 1).await;
    alpha.gate.add_permits(1);
    for call in calls.into_iter().chain([held]) {
        let (head, _) = read(within(call).await.unwrap()).await;
        assert_eq!((head.status, head.get("muster-cold-start")), (200, "false"));
    }
    let (rows, usage) = cluster.usage();
    assert_eq!((rows, usage.cold_starts), (5, 2));
}

#[tokio::test]
async fn a_deadline_in_the_queue() {
    let cluster = Cluster::start(1).await;
    cluster.deploy("alpha", |spec| spec.timeout = Millis(100));
    let (head, problem_seen) = problem(call(request(&cluster.url(0, "alpha"), "")).await).await;
    assert_eq!((head.status, problem_seen.invocation_state), (504, Some(InvocationState::NotStarted)));
    let decision = Decision {
        id: ChangeId(1),
        function: function("alpha"),
        action: DecidedAction::Hold,
        inputs: Inputs::default(),
        reason: "no node has 128 MB free".into(),
    };
    cluster.apply(vec![Command::Instances(instances::Command::Record { decision })]);
    let (head, problem_seen) = problem(call(request(&cluster.url(0, "alpha"), "")).await).await;
    assert_eq!(head.status, 503);
    assert!(problem_seen.detail.contains("no node has 128 MB free"), "{}", problem_seen.detail);
    assert_ne!(head.get("retry-after"), "");
    // With a launch under way it is the deadline again.
    cluster.place(cluster.nodes[0].id, "alpha");
    let (head, _) = problem(call(request(&cluster.url(0, "alpha"), "")).await).await;
    assert_eq!(head.status, 504);
    assert_eq!(cluster.waiting(0), 0);
}

#[tokio::test]
async fn a_function_deleted_under_those_who_wait() {
    let cluster = Cluster::start(1).await;
    cluster.deploy("alpha", |_| ());
    let waiting = spawn(request(&cluster.url(0, "alpha"), ""));
    until(|| cluster.waiting(0) == 1).await;
    let name = function("alpha");
    cluster.apply(vec![Command::Functions(functions::Command::Delete { name, force: false })]);
    let (head, problem) = problem(within(waiting).await.unwrap()).await;
    assert_eq!((head.status, problem.invocation_state), (404, Some(InvocationState::NotStarted)));
}

#[tokio::test]
async fn no_quorum() {
    let cluster = Cluster::with(2, Config { quorum_grace_ms: 100, ..Config::default() }).await;
    let alpha = Function::start().await;
    cluster.deploy("alpha", |_| ());
    cluster.deploy("beta", |_| ());
    cluster.run(0, "beta", alpha.addr);
    let waiting = spawn(request(&cluster.url(0, "alpha"), ""));
    until(|| cluster.waiting(0) == 1).await;
    cluster.plane.quorum.store(false, SeqCst);
    let (head, problem) = problem(within(waiting).await.unwrap()).await;
    assert_eq!((head.status, head.get("retry-after")), (503, "2"));
    assert_eq!(problem.invocation_state, Some(InvocationState::NotStarted));
    // What runs goes on serving, and those who wait for it go on waiting.
    for entry in [0, 1] {
        assert_eq!(post(&cluster.url(entry, "beta"), "").await.0.status, 200);
    }
    let held = spawn(request(&cluster.url(0, "beta/hold"), ""));
    until(|| cluster.in_flight() == 1).await;
    let patient = [0, 1].map(|entry| spawn(request(&cluster.url(entry, "beta"), "")));
    let hopeless = spawn(request(&cluster.url(1, "alpha"), ""));
    assert_eq!(within(hopeless).await.unwrap().status(), 503);
    assert!(patient.iter().all(|call| !call.is_finished()));
    alpha.gate.add_permits(1);
    for call in patient.into_iter().chain([held]) {
        assert_eq!(within(call).await.unwrap().status(), 200);
    }
}

#[tokio::test]
async fn never_more_than_the_concurrency() {
    let cluster = Arc::new(Cluster::start(3).await);
    let functions = [Function::start().await, Function::start().await];
    cluster.deploy("alpha", |spec| spec.concurrency = 2);
    cluster.run(0, "alpha", functions[0].addr);
    cluster.run(1, "alpha", functions[1].addr);
    let calls: Vec<_> = (0..200).map(|n| spawn(request(&cluster.url(n % 3, "alpha/hold"), ""))).collect();
    until(|| functions.iter().map(|f| f.seen().len()).sum::<usize>() == 4).await;
    functions.iter().for_each(|f| f.gate.add_permits(200));
    for call in calls {
        let (head, body) = read(within(call).await.unwrap()).await;
        assert_eq!((head.status, &body[..]), (200, &b"held"[..]));
    }
    for function in &functions {
        assert_eq!(function.peak.load(SeqCst), 2);
        assert!(function.seen().len() > 20, "both served: {}", function.seen().len());
    }
    until(|| cluster.in_flight() == 0).await;
    let (rows, usage) = cluster.usage();
    assert_eq!((rows, usage.invocations, usage.failures), (200, 200, 0));
    let completed = cluster.nodes.iter().flat_map(|n| n.gateway.host().loads()).map(|l| l.completed);
    assert_eq!(completed.sum::<u64>(), 200);
}
