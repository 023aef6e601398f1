//! Instances that come and go, and what the host reports of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};

use http::Request;
use muster_core::ids::FunctionName;
use muster_gateway::{Config, ControlPlane};

use crate::cluster::*;
use crate::function::Function;

#[tokio::test]
async fn scaling_down_loses_no_request() {
    let cluster = Arc::new(Cluster::start(2).await);
    cluster.deploy("alpha", |spec| spec.concurrency = 2);
    let first = Function::start().await;
    let mut running = cluster.run(0, "alpha", first.addr);
    let mut functions = vec![first];
    let stop = Arc::new(AtomicBool::new(false));
    let served = Arc::new(AtomicUsize::new(0));
    let clients: Vec<_> = (0..6)
        .map(|n| {
            let (cluster, stop, served) = (Arc::clone(&cluster), Arc::clone(&stop), Arc::clone(&served));
            tokio::spawn(async move {
                while !stop.load(SeqCst) {
                    let (head, body) = post(&cluster.url(n % 2, "alpha"), "").await;
                    assert_eq!(head.status, 200, "{body:?}");
                    served.fetch_add(1, SeqCst);
                }
            })
        })
        .collect();
    // Four times: a new instance, now here and now there, then the old one drained and stopped.
    for round in 1..=4 {
        let index = round % 2;
        let function = Function::start().await;
        let next = cluster.run(index, "alpha", function.addr);
        functions.push(function);
        let before = served.load(SeqCst);
        until(|| served.load(SeqCst) > before + 20).await;
        let old_index = (round + 1) % 2;
        cluster.drain(old_index, running);
        let host = cluster.nodes[old_index].gateway.host();
        within(host.drained(running)).await;
        host.remove(running);
        let gone = functions.remove(0);
        let at_stop = gone.seen().len();
        drop(gone);
        assert!(at_stop > 0, "the old instance served before");
        running = next;
        let before = served.load(SeqCst);
        until(|| served.load(SeqCst) > before + 20).await;
    }
    stop.store(true, SeqCst);
    for client in clients {
        within(client).await.unwrap();
    }
    let (rows, usage) = cluster.usage();
    assert_eq!((rows, usage.failures), (served.load(SeqCst), 0));
}

#[tokio::test]
async fn a_new_instance_anywhere_serves_those_who_wait() {
    let cluster = Cluster::start(3).await;
    let busy = Function::start().await;
    cluster.deploy("alpha", |_| ());
    cluster.run(0, "alpha", busy.addr);
    let held = spawn(request(&cluster.url(0, "alpha/hold"), ""));
    until(|| cluster.in_flight() == 1).await;
    let calls = [0, 1, 2].map(|entry| spawn(request(&cluster.url(entry, "alpha"), "")));
    until(|| (0..3).all(|entry| cluster.waiting(entry) == 1)).await;
    let free = Function::start().await;
    cluster.run(2, "alpha", free.addr);
    for call in calls {
        let (head, _) = read(within(call).await.unwrap()).await;
        assert_eq!((head.status, head.get("muster-node")), (200, "3"));
    }
    busy.gate.add_permits(1);
    assert_eq!(within(held).await.unwrap().status(), 200);
}

#[tokio::test]
async fn a_token_nobody_uses_returns_its_slot() {
    let cluster = Cluster::with(1, Config { token_ttl_ms: 3_000, ..Config::default() }).await;
    let alpha = Function::start().await;
    cluster.deploy("alpha", |_| ());
    cluster.run(0, "alpha", alpha.addr);
    let node = &cluster.nodes[0];
    let ask = || {
        let text = r#"{"function":"alpha","want":3,"wait_ms":50,"waited_us":0}"#;
        Request::post("/peer/gateway/slots").body(whole(text)).unwrap()
    };
    let (_, body) = read(call_peer(node, ask()).await).await;
    let granted: serde_json::Value = serde_json::from_slice(&body).unwrap();
    let tokens = granted["tokens"].as_array().unwrap().clone();
    assert_eq!((tokens.len(), cluster.in_flight()), (1, 1), "one slot, one token");
    let (_, body) = read(call_peer(node, ask()).await).await;
    assert_eq!(&body[..], br#"{"tokens":[]}"#, "none is left");
    // Nobody uses it, and who waits gets the slot.
    assert_eq!(post(&cluster.url(0, "alpha"), "").await.0.status, 200);
    // What the token stood for is gone: it cannot be used any more.
    let token = tokens[0].as_str().unwrap();
    let mut late = request(&format!("/peer/gateway/invoke/{token}/"), "");
    let envelope = r#"{"invocation":"x","account":"alice","function":"alpha","durability":"Interval",
        "may_retry":false,"waited_us":null,"left_ms":1000}"#
        .replace('\n', "");
    late.headers_mut().insert("muster-peer-invocation", envelope.parse().unwrap());
    let (head, _) = read(call_peer(node, late).await).await;
    assert_eq!((head.status, head.get("muster-peer-result")), (409, "refused"));
    assert_eq!((alpha.seen().len(), cluster.in_flight()), (1, 0));
}

#[tokio::test]
async fn slot_time_is_counted_while_requests_run() {
    let cluster = Cluster::start(1).await;
    let alpha = Function::start().await;
    cluster.deploy("alpha", |spec| spec.concurrency = 2);
    let instance = cluster.run(0, "alpha", alpha.addr);
    let host = cluster.nodes[0].gateway.host();
    let load = || host.loads().into_iter().find(|load| load.instance == instance).unwrap();
    assert_eq!((load().in_flight, load().busy_ms), (0, 0));
    let calls = [0, 0].map(|entry| spawn(request(&cluster.url(entry, "alpha/hold"), "")));
    until(|| load().in_flight == 2).await;
    let before = load();
    until(|| load().ready_ms >= before.ready_ms + 100).await;
    let after = load();
    let (busy, passed) = (after.busy_ms - before.busy_ms, after.ready_ms - before.ready_ms);
    assert!((2 * passed - 4..=2 * passed + 4).contains(&busy), "{busy} ms of two slots in {passed} ms");
    assert_eq!(after.completed, 0);
    alpha.gate.add_permits(2);
    for call in calls {
        within(call).await.unwrap();
    }
    until(|| load().in_flight == 0).await;
    let idle = load();
    until(|| load().ready_ms > idle.ready_ms + 20).await;
    assert_eq!((load().busy_ms, load().completed), (idle.busy_ms, 2));
    assert!(idle.busy_ms <= 2 * idle.ready_ms);
}

#[tokio::test]
async fn hosting_is_idempotent() {
    let cluster = Cluster::start(1).await;
    let alpha = Function::start().await;
    cluster.deploy("alpha", |_| ());
    let instance = cluster.run(0, "alpha", alpha.addr);
    let known = Arc::clone(cluster.plane.state().instances.get(instance).unwrap());
    let host = cluster.nodes[0].gateway.host();
    let hosted = muster_gateway::Hosted {
        instance,
        generation: known.generation,
        function: FunctionName::new("alpha").unwrap(),
        addr: alpha.addr,
        concurrency: 1,
        memory_mb: 128,
        adopted: false,
        resting: false,
    };
    host.add(hosted.clone());
    assert_eq!(host.loads().len(), 1);
    let held = spawn(request(&cluster.url(0, "alpha/hold"), ""));
    until(|| cluster.in_flight() == 1).await;
    host.drain(instance);
    let waiting = spawn(request(&cluster.url(0, "alpha"), ""));
    until(|| cluster.waiting(0) == 1).await;
    alpha.gate.add_permits(1);
    within(held).await.unwrap();
    within(host.drained(instance)).await;
    assert_eq!(cluster.waiting(0), 1, "a draining instance takes nobody");
    host.remove(instance);
    host.remove(instance);
    within(host.drained(instance)).await;
    host.add(hosted);
    assert_eq!(within(waiting).await.unwrap().status(), 200);
}
