//! What is sent, where, and how often.

mod fake;

use std::time::{Duration, Instant};

use fake::{Closed, Fake, Reply};
use muster_client::api::{InvocationState, Role};
use muster_client::{Body, Client, Consistency, Error, Key, Options, Request};
use serde_json::json;

fn functions() -> Reply {
    Reply::json(200, &json!([fake::function("alpha", 1)]))
}

fn client(urls: &[&str]) -> Client {
    Client::new(urls, None).expect("node URLs")
}

#[tokio::test]
async fn a_node_that_refuses_is_passed_over_and_remembered() {
    let (closed, node) = (
        Closed::new(),
        Fake::new(|seen, _| match seen.method.as_str() {
            "POST" => Reply::json(201, &fake::account("bob")),
            _ => functions(),
        }),
    );
    let client = client(&[&closed.url, &node.url]);
    assert_eq!(client.functions().await.unwrap().len(), 1);
    // Nothing was sent to the closed port, so even a creation goes on to the next.
    assert_eq!(client.create_account("bob", Role::User).await.unwrap().name, "bob");
    assert_eq!(node.lines(), ["GET /v1/functions", "POST /v1/accounts"]);
    assert_eq!(node.seen()[1].json(), json!({"name": "bob", "role": "user"}));
}

#[tokio::test]
async fn the_node_that_answered_last_is_asked_first() {
    let breaking = Fake::breaking();
    let node = Fake::new(|_, _| functions());
    let client = client(&[&breaking.url, &node.url]);
    for _ in 0..3 {
        client.functions().await.unwrap();
    }
    assert_eq!((breaking.lines().len(), node.lines().len()), (1, 3));
}

#[tokio::test]
async fn no_node_at_all() {
    let urls = [Closed::new(), Closed::new()];
    let error =
        Client::new(urls.each_ref().map(|closed| &closed.url), None).unwrap().functions().await.unwrap_err();
    assert_eq!(error.invocation_state(), InvocationState::NotStarted);
    let Error::Unreachable { tried } = error else { panic!("{error:?}") };
    assert_eq!(tried.iter().map(|t| &t.url).collect::<Vec<_>>(), urls.each_ref().map(|closed| &closed.url));
    assert!(tried.iter().all(|t| t.why.contains("refused")), "{tried:?}");
}

/// What is repeated on the next node when the first one breaks off after it was sent something.
#[tokio::test]
async fn broken_connections_by_request() {
    for (request, repeated) in [
        ("list", true),
        ("put", true),
        ("delete", true),
        ("create", false),
        ("invoke", false),
        ("invoke with GET", false),
        ("invoke idempotent", true),
        ("invoke idempotent, stream", false),
    ] {
        let breaking = Fake::breaking();
        let node = Fake::new(|seen, _| match seen.method.as_str() {
            "GET" => functions(),
            "PUT" => Reply::json(200, &fake::function("alpha", 1)),
            "DELETE" => Reply::raw(204, ""),
            _ => Reply::raw(200, "ok"),
        });
        let client = client(&[&breaking.url, &node.url]);
        let spec = serde_json::from_value(json!({"image": "a"})).unwrap();
        let chunks = futures_util::stream::iter([Ok("ab".into())]);
        let result = match request {
            "list" => client.functions().await.map(drop),
            "put" => client.put_function("alpha", &spec).await.map(drop),
            "delete" => client.delete_function("alpha", true).await,
            "create" => client.create_account("bob", Role::Admin).await.map(drop),
            "invoke" => client.invoke("alpha", Request::post("x")).await.map(drop),
            "invoke with GET" => client.invoke("alpha", Request::get()).await.map(drop),
            "invoke idempotent" => client.invoke("alpha", Request::post("x").idempotent()).await.map(drop),
            _ => client.invoke("alpha", Request::post(Body::stream(chunks)).idempotent()).await.map(drop),
        };
        assert_eq!(breaking.lines().len(), 1, "{request}");
        assert_eq!(node.lines().len(), usize::from(repeated), "{request}");
        match result {
            Ok(()) => assert!(repeated, "{request}"),
            Err(error) => {
                assert!(!repeated && matches!(error, Error::Broken { .. }), "{request}: {error:?}");
                assert_eq!(error.invocation_state(), InvocationState::Unknown, "{request}");
            }
        }
    }
}

#[tokio::test]
async fn a_stream_that_has_not_begun_fails_over_whole() {
    let (closed, node) = (Closed::new(), Fake::new(|_, _| Reply::raw(200, "ok")));
    let chunks = futures_util::stream::iter(["ab", "cd"].map(|part| Ok(part.into())));
    let answer = client(&[&closed.url, &node.url]).invoke("alpha", Request::post(Body::stream(chunks))).await;
    assert_eq!(answer.unwrap().body.bytes().await.unwrap(), "ok");
    assert_eq!(node.seen()[0].body, "abcd");
}

#[tokio::test]
async fn a_deletion_whose_answer_was_lost_has_succeeded() {
    let gone = || Fake::new(|_, _| Reply::problem(404, "Not found", "no function `alpha`"));
    let (breaking, node) = (Fake::breaking(), gone());
    client(&[&breaking.url, &node.url]).delete_function("alpha", false).await.unwrap();
    let error = client(&[&gone().url]).delete_function("alpha", false).await.unwrap_err();
    assert_eq!(error.status(), Some(404));
}

#[tokio::test]
async fn retry_after_is_obeyed() {
    let busy = |after| Reply::problem(503, "No quorum", "no leader").with("retry-after", after);
    let node = Fake::new(move |_, before| if before == 0 { busy("1") } else { functions() });
    let began = Instant::now();
    client(&[&node.url]).functions().await.unwrap();
    assert!(began.elapsed() >= Duration::from_secs(1), "{:?}", began.elapsed());
    assert_eq!(node.lines().len(), 2);

    // Another node may know better: it is asked at once.
    let (first, second) = (Fake::new(move |_, _| busy("20")), Fake::new(|_, _| functions()));
    let began = Instant::now();
    client(&[&first.url, &second.url]).functions().await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
}

#[tokio::test]
async fn busy_nodes_are_given_up_in_time() {
    for (retry_after, patient) in [("60", true), ("15", false), ("", true)] {
        let node = Fake::new(move |_, _| {
            Reply::problem(503, "No quorum", "no leader").with("retry-after", retry_after)
        });
        let options = Options { deadline: Duration::from_secs(20), patient, ..Options::default() };
        let client = Client::with_options([&node.url], None, options).unwrap();
        let began = Instant::now();
        let error = client.functions().await.unwrap_err();
        assert!(began.elapsed() < Duration::from_secs(10), "{retry_after} {:?}", began.elapsed());
        assert_eq!((error.status(), node.lines().len()), (Some(503), 1), "{retry_after}");
    }
}

/// Which 503s of an invocation are sent again.
#[tokio::test]
async fn invocations_are_repeated_only_where_they_did_not_start() {
    for (state, idempotent, times) in
        [("not_started", false, 2), ("started", false, 1), ("unknown", false, 1), ("unknown", true, 2)]
    {
        let node = Fake::new(move |_, before| match before {
            0 => Reply::invocation_problem(503, "No capacity", "full", state).with("retry-after", "0"),
            _ => Reply::raw(200, "ok"),
        });
        let request = Request { idempotent, ..Request::post("x") };
        let result = client(&[&node.url]).invoke("alpha", request).await;
        assert_eq!(node.lines().len(), times, "{state} {idempotent}");
        assert_eq!(result.is_ok(), times == 2, "{state} {idempotent}");
    }
}

#[tokio::test]
async fn a_silent_node_is_left_for_another() {
    // It accepts connections, in its backlog, and never answers.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let silent_url = format!("http://{}", silent.local_addr().unwrap());
    let node = Fake::new(|_, _| functions());
    let options = Options { attempt_timeout: Duration::from_secs(2), ..Options::default() };
    let client = Client::with_options([&silent_url, &node.url], None, options.clone()).unwrap();
    assert_eq!(client.functions().await.unwrap().len(), 1);

    let options = Options { invoke_timeout: Some(Duration::from_millis(200)), ..options };
    let client = Client::with_options([&silent_url, &node.url], None, options).unwrap();
    let error = client.invoke("alpha", Request::post("x")).await.unwrap_err();
    assert!(matches!(error, Error::Timeout { .. }), "{error:?}");
}

#[tokio::test]
async fn problems_are_decoded_and_other_answers_are_named() {
    type Expected = fn(&Error) -> bool;
    let answers: [(Reply, Expected); 4] = [
        (Reply::problem(409, "Conflict", "it has live instances"), |e| {
            e.problem().is_some_and(|p| p.detail == "it has live instances") && e.status() == Some(409)
        }),
        (
            Reply::raw(502, "<html>bad gateway"),
            |e| matches!(e, Error::Malformed { what, .. } if what.contains("<html>bad gateway")),
        ),
        (Reply::raw(200, "nonsense"), |e| matches!(e, Error::Malformed { source: Some(_), .. })),
        (Reply::raw(302, "").with("location", "http://127.0.0.1:1/"), |e| e.status() == Some(302)),
    ];
    for (reply, expected) in answers {
        let reply = std::sync::Mutex::new(Some(reply));
        let node = Fake::new(move |_, _| reply.lock().unwrap().take().unwrap());
        let error = client(&[&node.url]).functions().await.unwrap_err();
        assert!(expected(&error), "{error:?}");
    }
}

#[tokio::test]
async fn an_invocation_tells_the_functions_answer_from_musters() {
    let node = Fake::new(|seen, _| match seen.target.as_str() {
        "/function/alpha/own?x=1" => Reply::problem(404, "Its own", "problem")
            .with("muster-invocation-id", "inv-7")
            .with("muster-node", "2")
            .with("muster-instance", "i-1")
            .with("muster-cold-start", "true"),
        _ => Reply::invocation_problem(429, "Queue full", "1000 are waiting", "not_started")
            .with("retry-after", "3")
            .with("muster-instance", ""),
    });
    let client = client(&[&node.url]);
    let answer = client.invoke("alpha", Request::get().path("/own?x=1")).await.unwrap();
    assert_eq!((answer.status.as_u16(), answer.cold_start), (404, true));
    assert_eq!(answer.invocation_id.as_deref(), Some("inv-7"));
    assert_eq!((answer.node.as_deref(), answer.instance.as_deref()), (Some("2"), Some("i-1")));
    let body = answer.body.bytes().await.unwrap();
    assert!(body.starts_with(b"{") && body.ends_with(b"}"), "{body:?}");

    let error = client.invoke("alpha", Request::post("x")).await.unwrap_err();
    assert_eq!((error.status(), error.invocation_state()), (Some(429), InvocationState::NotStarted));
    let Error::Problem { retry_after, .. } = error else { panic!("{error:?}") };
    assert_eq!(retry_after, Some(Duration::from_secs(3)));
}

#[tokio::test]
async fn a_key_is_sent_and_never_shown() {
    let node = Fake::new(|_, _| functions());
    let key = Key::new("mk_1_hunter2").unwrap();
    let client = Client::new([&node.url], Some(key)).unwrap().with_consistency(Consistency::Local);
    client.functions().await.unwrap();
    let seen = &node.seen()[0];
    assert_eq!(seen.header("authorization"), Some("Bearer mk_1_hunter2"));
    assert_eq!(seen.target, "/v1/functions?consistency=local");
    assert!(!format!("{client:?}").contains("hunter2"), "{client:?}");
    drop(node);
    let error = client.functions().await.unwrap_err();
    assert!(!format!("{error:?} {error}").contains("hunter2"), "{error:?}");
}

#[tokio::test]
async fn readiness_asks_each_node_once() {
    // It answers in plain text, for probes and people.
    let busy = || Fake::new(|_, _| Reply::raw(503, "no quorum").with("retry-after", "9"));
    let (first, second) = (busy(), busy());
    let began = Instant::now();
    let error = client(&[&first.url, &second.url]).readyz().await.unwrap_err();
    assert_eq!((error.status(), first.lines().len(), second.lines().len()), (Some(503), 1, 1));
    assert!(began.elapsed() < Duration::from_secs(5));
    let ready = Fake::new(|_, _| Reply::raw(200, "ok"));
    client(&[&first.url, &ready.url]).readyz().await.unwrap();
}

#[tokio::test]
async fn waiting_for_a_function() {
    let node = Fake::new(|seen, before| {
        let mut function = fake::function("alpha", 2);
        function["spec"]["scaling"] = json!({"min": 1});
        let ready_version = if before < 3 { 1 } else { 2 };
        match seen.target.as_str() {
            "/v1/functions/broken" => {
                function["health"] = "crash_loop".into();
                function["last_failure"] = "exit status 1".into();
                Reply::json(200, &function)
            }
            "/v1/functions/alpha" => Reply::json(200, &function),
            "/v1/instances?function=alpha" => Reply::json(
                200,
                &json!([{
                "id": "i-1", "function": "alpha", "version": ready_version, "node": 1, "generation": 1,
                "phase": "ready", "memory_mb": 1, "cause": "minimum", "launched_at": fake::THEN}]),
            ),
            _ => Reply::json(200, &json!([])),
        }
    });
    let client = client(&[&node.url]);
    // An instance of the version before does not count.
    client.wait_ready("alpha", Duration::from_secs(20)).await.unwrap();
    assert!(node.lines().len() >= 4, "{:?}", node.lines());
    let error = client.wait_ready("broken", Duration::from_secs(20)).await.unwrap_err();
    assert!(error.to_string().contains("exit status 1"), "{error}");
}
