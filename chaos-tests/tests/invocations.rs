//! Invoking through any node: who may, what comes back, and what a stopping node still finishes.

use std::time::Duration;

use anyhow::{Context, ensure};
use http::Method;
use muster_api::{Action, InvocationState};
use muster_chaos::cluster::{Answer, send};
use muster_chaos::wait::until;
use muster_chaos::{Cluster, Settings, functions};
use serde_json::json;

const SOON: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread")]
async fn every_node_admits_whom_it_should_and_says_where_it_ran() {
    let cluster = Cluster::start(Settings::default()).await.unwrap();
    let admin = cluster.client();
    for name in ["alpha", "beta"] {
        admin.put_function(name, &functions::example(name)).await.unwrap();
    }
    let alice = cluster.key_for("alice").await.unwrap();
    admin.put_grant("alice", "alpha", &[Action::Invoke]).await.unwrap();
    let lost = admin.create_key("alice", &Default::default()).await.unwrap();
    cluster.spread().await.unwrap();

    let body = r#"{"args":{"prompt":"hello"}}"#;
    for n in cluster.numbers() {
        let answer = cluster.invoke(n, &alice, "alpha", body).await.unwrap();
        // The others know of the instance before they are asked, too.
        cluster.spread().await.unwrap();
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(answer.json().unwrap(), json!({ "response": "alpha says: hello" }));
        assert_eq!(answer.cold_start, Some(n == 1), "only the first waits for a start: {answer:?}");
        assert_eq!(answer.invocation_id.as_deref().map(str::len), Some(32));
        let instances = cluster.instances_ever("alpha").await.unwrap();
        let ran_on = instances.iter().find(|i| Some(&i.id) == answer.instance.as_ref()).unwrap();
        assert_eq!(answer.node, Some(ran_on.node));
    }

    // A key that works everywhere, then nowhere.
    for n in cluster.numbers() {
        assert_eq!(cluster.invoke(n, &lost.key, "alpha", body).await.unwrap().status, 200);
    }
    admin.revoke_key("alice", &lost.id).await.unwrap();
    cluster.spread().await.unwrap();
    let unknown = format!("mk_{}_{}", "0".repeat(16), "a".repeat(52));
    for n in cluster.numbers() {
        let cases = [
            ("another's function", Some(alice.as_str()), "beta", 403),
            ("no such function", Some(alice.as_str()), "gamma", 404),
            ("no such function, by its path", Some(alice.as_str()), "gamma/delta?x=1", 404),
            ("no key", None, "alpha", 401),
            ("no key, no function", None, "gamma", 401),
            ("not a key", Some("hunter2"), "alpha", 401),
            ("half a key", Some("mk_"), "alpha", 401),
            ("an unknown key", Some(unknown.as_str()), "alpha", 401),
            ("a revoked key", Some(lost.key.as_str()), "alpha", 401),
        ];
        for (what, key, function, status) in cases {
            let path = format!("/function/{function}");
            let answer = send(cluster.request(n, Method::POST, &path, key).body(body)).await.unwrap();
            assert_eq!(answer.status, status, "{what} at node {n}: {answer:?}");
            assert_eq!(answer.state(), Some(InvocationState::NotStarted), "{what}: {answer:?}");
            let problem = answer.problem.unwrap();
            assert!(problem.invocation_id.is_some() && problem.status == status, "{what}: {problem:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn method_path_query_headers_and_body_reach_the_function_and_its_status_comes_back() {
    let cluster = Cluster::start(Settings::default()).await.unwrap();
    cluster.client().put_function("echo", &functions::faulty("echo")).await.unwrap();
    cluster.spread().await.unwrap();
    for n in cluster.numbers() {
        for (method, body) in [
            (Method::GET, ""),
            (Method::POST, "héllo"),
            (Method::PUT, "x"),
            (Method::DELETE, ""),
            (Method::PATCH, "y"),
        ] {
            let path = "/function/echo/a%20b//c?status=418&q=%26";
            let request = cluster
                .request(n, method.clone(), path, Some(cluster.root_key()))
                .header("x-mine", "one")
                .header("x-mine", "two")
                .body(body);
            let answer = send(request).await.unwrap();
            assert_eq!(answer.status, 418, "{answer:?}");
            let seen = answer.json().unwrap();
            assert_eq!(seen["method"], method.as_str());
            assert_eq!(seen["path"], "/a%20b//c");
            assert_eq!(seen["query"], "status=418&q=%26");
            assert_eq!(seen["headers"]["x-mine"], json!(["one", "two"]));
            assert_eq!(seen["headers"]["authorization"], json!(null), "credentials stay with Muster");
            assert_eq!(seen["headers"]["muster-account"], json!(["root"]));
            assert_eq!(seen["body"], body);
        }
    }
}

/// SIGTERM to the node that runs a request, which entered there or elsewhere: the answer still comes.
#[tokio::test(flavor = "multi_thread")]
async fn a_terminated_node_finishes_what_it_runs() {
    let cluster = Cluster::start(Settings::default()).await.unwrap();
    let mut spec = functions::faulty("echo");
    spec.scaling.min = 1;
    spec.scaling.max = 1;
    spec.concurrency = 4;
    cluster.client().put_function("slow", &spec).await.unwrap();
    cluster.client().wait_ready("slow", SOON).await.unwrap();
    cluster.spread().await.unwrap();
    let warm = cluster.invoke(1, cluster.root_key(), "slow", "").await.unwrap();
    let host = warm.node.unwrap();
    let elsewhere = cluster.others(host)[0];

    let key = cluster.root_key();
    let call = |n| cluster.invoke(n, key, "slow?work_ms=5000", "");
    let terminated = async {
        let busy = || async {
            let instances = cluster.client_at(elsewhere).instances(Some("slow")).await?;
            let in_flight = instances.first().context("no instance")?.in_flight;
            ensure!(in_flight == Some(2), "in flight: {in_flight:?}");
            Ok(())
        };
        until("both requests run", Duration::from_millis(4500), busy).await.unwrap();
        cluster.terminate(host).unwrap();
    };
    let (there, through_another, ()) = tokio::join!(call(host), call(elsewhere), terminated);
    for (entered, answer) in [("at its host", there), ("elsewhere", through_another)] {
        let answer: Answer =
            answer.unwrap_or_else(|error| panic!("the request that entered {entered}: {error:?}"));
        assert_eq!((answer.status, answer.node), (200, Some(host)), "entered {entered}: {answer:?}");
    }
    let status = cluster.ended(host, SOON).await.unwrap();
    assert!(status.success(), "{status}");

    // The others carry on, with an instance of their own.
    let again = cluster.invoke(elsewhere, key, "slow", "").await.unwrap();
    assert_eq!(again.status, 200, "{again:?}");
    assert_ne!(again.instance, warm.instance);
}
