//! Functions and nodes that break off, and what is tried again.

use std::sync::atomic::Ordering::SeqCst;

use http::{Request, Response};
use hyper::body::Incoming;
use muster_api::InvocationState;
use muster_core::Command;
use muster_core::ids::{Incarnation, NodeId};
use muster_core::nodes::{self, Condition};
use muster_core::units::Millis;
use muster_gateway::{Body, Door, Limits, Refusals, serve};
use tokio::net::TcpListener;

use crate::cluster::*;
use crate::function::{Function, nobody, rude};

#[tokio::test]
async fn functions_that_break_off_or_talk_nonsense() {
    let cluster = Cluster::start(2).await;
    for (name, reply) in [
        ("closes", ""),
        ("babbles", "what?\r\n\r\n"),
        ("switches", "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n"),
    ] {
        let (addr, requests, _server) = rude(reply).await;
        cluster.deploy(name, |_| ());
        let instance = cluster.run(0, name, addr);
        for entry in [0, 1] {
            let (head, problem) = problem(call(request(&cluster.url(entry, name), "")).await).await;
            assert_eq!(
                (head.status, problem.invocation_state),
                (502, Some(InvocationState::Started)),
                "{name}"
            );
            assert_eq!(head.get("muster-node"), "1");
            assert_eq!(head.get("muster-instance"), instance.to_string());
        }
        assert_eq!(requests.load(SeqCst), 2, "{name}: nothing is tried again");
        until(|| cluster.in_flight() == 0).await;
    }
    let (rows, usage) = cluster.usage();
    assert_eq!((rows, usage.invocations, usage.failures), (6, 6, 6));
}

#[tokio::test]
async fn an_answer_that_breaks_off_still_shows_its_head() {
    let cluster = Cluster::start(2).await;
    for (name, reply) in [
        ("nothing", "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n"),
        ("a-part", "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\npart"),
        ("a-chunk", "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\npart\r\n"),
    ] {
        let (addr, _, _server) = rude(reply).await;
        cluster.deploy(name, |_| ());
        cluster.run(0, name, addr);
        // Whether the end comes with the head or after it is a matter of chance.
        for round in 0..20 {
            for entry in [0, 1] {
                let response = call(request(&cluster.url(entry, name), "")).await;
                assert_eq!(response.status(), 200, "{name} {entry} {round}");
                assert_eq!(response.headers()["muster-node"], "1");
                let body = within(http_body_util::BodyExt::collect(response.into_body())).await;
                assert!(body.is_err(), "{name} {entry} {round}: the answer must not look complete");
            }
        }
    }
    until(|| cluster.in_flight() == 0).await;
    let (rows, usage) = cluster.usage();
    assert_eq!((rows, usage.invocations, usage.failures), (120, 120, 120));
}

#[tokio::test]
async fn an_idempotent_function_is_tried_again() {
    let cluster = Cluster::start(2).await;
    for entry in [0, 1] {
        let name = format!("f{entry}");
        let (addr, requests, _server) = rude("").await;
        let sound = Function::start().await;
        cluster.deploy(&name, |spec| spec.idempotent = true);
        cluster.run(0, &name, addr);
        let (head, _) = problem(call(request(&cluster.url(entry, &name), "again")).await).await;
        assert_eq!((head.status, requests.load(SeqCst)), (502, 3), "three runs and no more");
        until(|| cluster.in_flight() == 0).await;
        let (rows, usage) = cluster.usage();
        assert_eq!((rows, usage.invocations, usage.failures), (3, 1, 1), "one invocation, three runs");

        cluster.run(0, &name, sound.addr);
        let (head, _) = post(&cluster.url(entry, &name), "again").await;
        assert_eq!((head.status, sound.seen()[0].body.as_str()), (200, "again"));
        let (_, after) = cluster.usage();
        assert_eq!((after.invocations, after.failures), (2, 1));
        cluster.nodes.iter().for_each(|node| node.meter.clear());
    }
}

#[tokio::test]
async fn a_refused_connection_costs_no_request() {
    let cluster = Cluster::start(2).await;
    let alpha = Function::start().await;
    cluster.deploy("alpha", |_| ());
    let (closed, _kept) = nobody();
    let dead = cluster.run(0, "alpha", closed);
    cluster.run(0, "alpha", alpha.addr);
    for entry in [0, 1] {
        let (head, _) = post(&cluster.url(entry, "alpha"), "a").await;
        assert_eq!(head.status, 200);
        // Also one whose body cannot be kept: it was not touched yet.
        let (head, _) = post(&cluster.url(entry, "alpha"), "x".repeat(1 << 20)).await;
        assert_eq!(head.status, 200);
    }
    cluster.nodes[0].gateway.host().remove(dead);
    let (rows, usage) = cluster.usage();
    assert_eq!((rows, usage.invocations, usage.failures), (4, 4, 0), "what never ran is not counted");
}

#[tokio::test]
async fn an_instance_that_dies_under_its_requests() {
    let cluster = Cluster::start(2).await;
    let alpha = Function::start().await;
    cluster.deploy("alpha", |spec| spec.concurrency = 2);
    let instance = cluster.run(0, "alpha", alpha.addr);
    let calls = [0, 1].map(|entry| spawn(request(&cluster.url(entry, "alpha/hold"), "")));
    until(|| alpha.seen().len() == 2).await;
    cluster.nodes[0].gateway.host().remove(instance);
    for call in calls {
        let (head, problem) = problem(within(call).await.unwrap()).await;
        assert_eq!((head.status, problem.invocation_state), (502, Some(InvocationState::Started)));
    }
    assert_eq!((cluster.in_flight(), cluster.usage().1.failures), (0, 2));
}

#[tokio::test]
async fn deadlines() {
    let cluster = Cluster::start(2).await;
    let alpha = Function::start().await;
    cluster.deploy("alpha", |spec| spec.timeout = Millis(1_500));
    cluster.run(0, "alpha", alpha.addr);
    for entry in [0, 1] {
        let (head, problem) = problem(call(request(&cluster.url(entry, "alpha/hold"), "")).await).await;
        assert_eq!((head.status, problem.invocation_state), (504, Some(InvocationState::Started)));
        assert_eq!(head.get("muster-node"), "1");
        until(|| cluster.in_flight() == 0).await;
    }
    // In the middle of an answer the connection is cut.
    for entry in [0, 1] {
        alpha.gate.add_permits(1);
        let response = call(request(&cluster.url(entry, "alpha/stream"), "")).await;
        assert_eq!(response.status(), 200);
        let cut = within(http_body_util::BodyExt::collect(response.into_body())).await;
        assert!(cut.is_err(), "the answer must not look complete");
        until(|| cluster.in_flight() == 0).await;
    }
    // Also one whose client does not read: it cannot hold the slot for longer.
    for entry in [0, 1] {
        let response = call(request(&cluster.url(entry, "alpha/endless"), "")).await;
        until(|| cluster.in_flight() == 0).await;
        drop(response);
    }
    let (rows, usage) = cluster.usage();
    assert_eq!((rows, usage.invocations), (6, 6));
}

#[tokio::test]
async fn a_client_that_leaves_frees_the_slot() {
    let cluster = Cluster::start(2).await;
    let alpha = Function::start().await;
    cluster.deploy("alpha", |_| ());
    cluster.run(0, "alpha", alpha.addr);
    for entry in [0, 1] {
        for path in ["alpha/hold", "alpha/stream"] {
            alpha.gate.add_permits(usize::from(path.ends_with("stream")));
            let before = alpha.seen().len();
            let call = tokio::spawn(async move { (client(), before) });
            let (client, _) = call.await.unwrap();
            let request = request(&cluster.url(entry, path), "");
            let task = tokio::spawn(async move {
                let response = client.request(request).await.unwrap();
                std::future::pending::<()>().await;
                drop((response, client));
            });
            until(|| alpha.seen().len() == before + 1).await;
            assert_eq!(cluster.in_flight(), 1);
            task.abort();
            until(|| cluster.in_flight() == 0).await;
        }
        assert_eq!(post(&cluster.url(entry, "alpha"), "").await.0.status, 200);
    }
    // One that waits leaves no trace.
    let held = spawn(request(&cluster.url(0, "alpha/hold"), ""));
    until(|| cluster.in_flight() == 1).await;
    let waiting = spawn(request(&cluster.url(0, "alpha"), ""));
    until(|| cluster.waiting(0) == 1).await;
    waiting.abort();
    until(|| cluster.waiting(0) == 0).await;
    alpha.gate.add_permits(1);
    assert_eq!(within(held).await.unwrap().status(), 200);
}

#[tokio::test]
async fn a_node_that_falls_silent() {
    // It is taken to be down, or comes back together with its host: nothing closes its old connections.
    for restarted in [false, true] {
        let cluster = Cluster::start(1).await;
        // It lets other nodes in and never says another word: what a partition looks like.
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = silent.local_addr().unwrap().to_string();
        cluster.register(NodeId(9), &address);
        let (arrived, mut arrivals) = tokio::sync::mpsc::unbounded_channel();
        let handler = move |request: Request<Incoming>, _| {
            let arrived = arrived.clone();
            async move {
                if !request.uri().path().ends_with("/hello") {
                    arrived.send(()).unwrap();
                    std::future::pending::<()>().await;
                }
                Response::builder().status(204).body(Body::empty()).unwrap()
            }
        };
        let door = Door::Peers(peer_tls(NodeId(9)), Refusals::default());
        tokio::spawn(serve(silent, door, handler, Limits::for_peers(), cluster.stop.clone()));
        cluster.deploy("alpha", |_| ());
        let far = cluster.place(NodeId(9), "alpha");
        let (closed, _kept) = nobody();
        cluster.ready(far, closed);
        let call = spawn(request(&cluster.url(0, "alpha"), ""));
        within(arrivals.recv()).await.unwrap();
        if restarted {
            cluster.restart(NodeId(9), &address, Incarnation(2));
        } else {
            cluster.apply(vec![is_down(NodeId(9))]);
        }
        let (head, problem) = problem(within(call).await.unwrap()).await;
        assert_eq!((head.status, problem.invocation_state), (502, Some(InvocationState::Unknown)));
    }
}

#[tokio::test]
async fn a_node_that_has_restarted_answers_what_it_was_sent_before_the_state_told_of_it() {
    for down_first in [false, true] {
        let cluster = Cluster::start(2).await;
        cluster.deploy("alpha", |_| ());
        let alpha = Function::start().await;
        cluster.run(1, "alpha", alpha.addr);
        let call = spawn(request(&cluster.url(0, "alpha/hold"), ""));
        until(|| cluster.in_flight() == 1).await;
        let node = &cluster.nodes[1];
        if down_first {
            cluster.apply(vec![is_down(node.id)]);
        } else {
            cluster.restart(node.id, &node.peer.to_string(), Incarnation(2));
        }
        // A round of the gateway later: what it hears of next, it acts upon.
        cluster.deploy("beta", |_| ());
        let beta = Function::start().await;
        cluster.run(0, "beta", beta.addr);
        assert_eq!(post(&cluster.url(0, "beta"), "").await.0.status, 200);
        alpha.gate.add_permits(1);
        assert_eq!(read(within(call).await.unwrap()).await.0.status, 200);
    }
}

/// Nothing was heard of a node's first life for a while.
fn is_down(node: NodeId) -> Command {
    Command::Nodes(nodes::Command::SetCondition {
        node,
        incarnation: Incarnation(1),
        condition: Condition::Down,
        reason: "not heard from".into(),
    })
}

#[tokio::test]
async fn a_node_that_is_gone_costs_no_request() {
    // Nobody listens; or someone does and shakes no hands; or it is another node by now.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let another = Cluster::start(1).await;
    let (closed, _kept) = nobody();
    for address in [closed, silent.local_addr().unwrap(), another.nodes[0].peer] {
        let cluster = Cluster::start(2).await;
        let alpha = Function::start().await;
        cluster.deploy("alpha", |_| ());
        cluster.register(NodeId(9), &address.to_string());
        let far = cluster.place(NodeId(9), "alpha");
        cluster.ready(far, closed);
        // The state still believes in it. The request waits, and another node's instance serves it.
        let calls: Vec<_> = (0..4).map(|_| spawn(request(&cluster.url(0, "alpha"), ""))).collect();
        until(|| cluster.waiting(0) == 4).await;
        cluster.run(1, "alpha", alpha.addr);
        for call in calls {
            let (head, _) = read(within(call).await.unwrap()).await;
            assert_eq!((head.status, head.get("muster-node")), (200, "2"));
        }
    }
}
