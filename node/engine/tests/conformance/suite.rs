//! What every engine promises.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::StreamExt;
use muster_core::functions::{EngineKind, Source};
use muster_core::ids::{ClusterId, FunctionName, InstanceId, NodeId};
use muster_core::units::{Millis, Timestamp};
use muster_engine::logs::{Line, LogRead, Nanos, Origin, Stream};
use muster_engine::readiness::wait_ready;
use muster_engine::{EngineError, Exit, Launch, OUTPUT_MAX, RunState, Running};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use crate::bench::{Bench, DEADLINE, NO_GRACE, NODE, get, random, try_get, until};

pub(crate) async fn serves_from_launch_to_stop(bench: &Bench) {
    let (launch, addr) = bench.serving("serve").await;
    assert_eq!(get(addr, "/hello").await, "you asked for /hello");
    let expected = Running {
        instance: launch.instance,
        generation: launch.generation,
        function: launch.function.clone(),
        state: RunState::Running { addr },
        paused: false,
    };
    assert_eq!(bench.engine.list().await.unwrap(), [expected]);
    let output = bench.engine.output(launch.instance).await.unwrap();
    assert!(String::from_utf8(output).unwrap().contains("listening on"));

    bench.engine.stop(launch.instance, NO_GRACE).await.unwrap();
    assert_eq!(bench.engine.list().await.unwrap(), []);
    assert!(TcpStream::connect(addr).await.is_err(), "it still listens");
    let output = bench.engine.output(launch.instance).await;
    assert!(matches!(output, Err(EngineError::NoSuchInstance { instance }) if instance == launch.instance));
}

pub(crate) async fn gets_its_environment(bench: &Bench) {
    let (launch, addr) = bench.serving("serve").await;
    let env = get(addr, "/env").await;
    for expected in [
        format!("PORT={}", addr.port()),
        format!("MUSTER_INSTANCE={}", launch.instance),
        "MUSTER_FUNCTION=fixture".to_owned(),
        "BEHAVIOUR=serve".to_owned(),
    ] {
        assert!(env.lines().any(|line| line == expected), "{expected} is not in\n{env}");
    }
    // Nothing of the node leaks, whatever it was started with: cargo's variables stand for it.
    assert!(!env.contains("CARGO"), "{env}");
}

pub(crate) async fn a_repeated_launch_finds_the_same_instance(bench: &Bench) {
    let launch = bench.launch("serve");
    let (one, two) = tokio::join!(bench.engine.launch(&launch), bench.engine.launch(&launch));
    let addr = one.unwrap();
    assert_eq!(two.unwrap(), addr);
    crate::bench::ready(addr).await;
    let boot = get(addr, "/boot").await;

    assert_eq!(bench.engine.launch(&launch).await.unwrap(), addr);
    assert_eq!(get(addr, "/boot").await, boot, "it was started again");
    assert_eq!(bench.engine.list().await.unwrap().len(), 1);

    let mut other = launch.clone();
    other.generation.0 += 1;
    let refused = bench.engine.launch(&other).await;
    assert!(matches!(refused, Err(EngineError::NameTaken { .. })), "{refused:?}");
    assert_eq!(get(addr, "/boot").await, boot, "a refused launch changed it");
}

pub(crate) async fn an_exit_is_reported(bench: &Bench) {
    let launch = bench.launch("fail");
    let launched = bench.engine.launch(&launch).await;
    assert!(matches!(launched, Ok(_) | Err(EngineError::Exited { .. })), "{launched:?}");
    let exit = ended(bench, &launch).await;
    assert_eq!((exit.code, exit.signal, exit.oom_killed), (Some(3), None, false));
    let said = "exited with code 3: connecting to the database | no such table: users";
    assert_eq!(exit.to_string(), said);
    let output = bench.engine.output(launch.instance).await.unwrap();
    assert_eq!(String::from_utf8(output).unwrap(), "connecting to the database\nno such table: users\n");

    let again = bench.engine.launch(&launch).await.unwrap_err();
    assert!(matches!(&again, EngineError::Exited { exit: same } if *same == exit), "{again:?}");
    assert!(!again.may_retry());
    bench.engine.stop(launch.instance, Millis(60_000)).await.unwrap();
    assert_eq!(bench.engine.list().await.unwrap(), []);
}

pub(crate) async fn a_crash_is_noticed(bench: &Bench) {
    let (launch, addr) = bench.serving("serve").await;
    let changes = bench.engine.changes();
    // It dies while it answers: there is no answer to have.
    let _ = try_get(addr, "/exit").await;
    let noticed = async {
        loop {
            changes.notified().await;
            if let Some(RunState::Exited(exit)) = bench.state(launch.instance).await {
                return exit;
            }
        }
    };
    let exit = timeout(DEADLINE, noticed).await.expect("the crash is notified");
    let told = exit.to_string();
    let said = told.strip_prefix("exited with code 7: ").expect("it is told how it ended");
    // One is from stdout and one from stderr, whose order nobody promises.
    let mut said: Vec<&str> = said.split(" | ").collect();
    said.sort_unstable();
    assert_eq!(said, [format!("listening on {}", addr.port()).as_str(), "told to exit"]);
}

pub(crate) async fn a_stubborn_program_is_killed_after_the_grace(bench: &Bench) {
    let (launch, addr) = bench.serving("stubborn").await;
    let grace = Millis(700);
    let began = Instant::now();
    bench.engine.stop(launch.instance, grace).await.unwrap();
    assert!(began.elapsed() >= grace.to_duration(), "killed after {:?}", began.elapsed());
    assert!(TcpStream::connect(addr).await.is_err(), "it still listens");
    assert_eq!(bench.engine.list().await.unwrap(), []);
}

pub(crate) async fn a_polite_program_ends_within_the_grace(bench: &Bench) {
    let (launch, _) = bench.serving("serve").await;
    // Were SIGTERM not sent or its effect not seen, the stop would last beyond the deadline.
    let grace = Millis(10 * 60 * 1000);
    timeout(DEADLINE, bench.engine.stop(launch.instance, grace)).await.expect("it ends by itself").unwrap();
    assert_eq!(bench.engine.list().await.unwrap(), []);
}

pub(crate) async fn one_that_is_paused_stands_still_and_goes_on(bench: &Bench) {
    let (launch, addr) = bench.serving("serve").await;
    let id = launch.instance;
    for _ in 0..2 {
        bench.engine.pause(id).await.unwrap();
        bench.engine.pause(id).await.unwrap();
        let listed = bench.engine.list().await.unwrap().remove(0);
        assert_eq!((listed.state, listed.paused), (RunState::Running { addr }, true));
        // The kernel takes the connection; nobody answers.
        let mut stream = TcpStream::connect(addr).await.unwrap();
        stream.write_all(b"GET /late HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        let early = timeout(Duration::from_millis(200), stream.read_to_string(&mut answer)).await;
        assert!(early.is_err(), "it has answered {answer}");
        bench.engine.resume(id).await.unwrap();
        bench.engine.resume(id).await.unwrap();
        timeout(DEADLINE, stream.read_to_string(&mut answer)).await.unwrap().unwrap();
        assert!(answer.ends_with("you asked for /late"), "{answer}");
        assert!(!bench.engine.list().await.unwrap().remove(0).paused);
    }
    // One that is to stop hears of it.
    bench.engine.pause(id).await.unwrap();
    let grace = Millis(10 * 60 * 1000);
    timeout(DEADLINE, bench.engine.stop(id, grace)).await.expect("it ends by itself").unwrap();
    bench.engine.pause(id).await.unwrap();
    bench.engine.resume(id).await.unwrap();
    assert_eq!(bench.engine.list().await.unwrap(), []);
}

pub(crate) async fn stopping_the_unknown_is_fine(bench: &Bench) {
    bench.engine.stop(InstanceId(random()), Millis(60_000)).await.unwrap();
    let (launch, _) = bench.serving("serve").await;
    let (one, two) = tokio::join!(
        bench.engine.stop(launch.instance, NO_GRACE),
        bench.engine.stop(launch.instance, NO_GRACE)
    );
    one.unwrap();
    two.unwrap();
    bench.engine.stop(launch.instance, NO_GRACE).await.unwrap();
    assert_eq!(bench.engine.list().await.unwrap(), []);
}

pub(crate) async fn a_program_that_does_not_listen_is_not_ready(bench: &Bench) {
    let launch = bench.launch("sleep");
    let addr = bench.engine.launch(&launch).await.unwrap();
    let deadline = Instant::now() + Duration::from_millis(300);
    wait_ready(addr, None, deadline).await.unwrap_err();
    assert_eq!(bench.state(launch.instance).await, Some(RunState::Running { addr }));
}

pub(crate) async fn readiness_waits_for_its_path(bench: &Bench) {
    let launch = bench.launch("serve");
    let addr = bench.engine.launch(&launch).await.unwrap();
    // The fixture's first two answers are 503.
    wait_ready(addr, Some("/ready"), Instant::now() + DEADLINE).await.unwrap();
    assert!(try_get(addr, "/ready").await.unwrap().starts_with("HTTP/1.1 200"));
}

pub(crate) async fn others_are_not_listed(bench: &Bench) {
    let (launch, addr) = bench.serving("serve").await;
    for (cluster, node) in [(bench.cluster, NodeId(NODE.0 + 1)), (ClusterId(random()), NODE)] {
        let (neighbour, _leftovers) = bench.neighbour(cluster, node).await;
        assert_eq!(neighbour.list().await.unwrap(), []);
        let theirs = Launch { cluster, node, ..bench.launch("sleep") };
        neighbour.launch(&theirs).await.unwrap();
        let listed = neighbour.list().await.unwrap();
        assert_eq!(listed.iter().map(|running| running.instance).collect::<Vec<_>>(), [theirs.instance]);
        let listed = bench.engine.list().await.unwrap();
        assert_eq!(listed.iter().map(|running| running.instance).collect::<Vec<_>>(), [launch.instance]);
        neighbour.stop(theirs.instance, NO_GRACE).await.unwrap();
    }
    assert_eq!(get(addr, "/hello").await, "you asked for /hello");
}

pub(crate) async fn output_is_bounded(bench: &Bench) {
    let launch = bench.launch("talk");
    bench.engine.launch(&launch).await.unwrap();
    let output = until("the last line", async || {
        let output = bench.engine.output(launch.instance).await.unwrap();
        output.ends_with(b"the last line\n").then_some(output)
    });
    let output = output.await;
    assert!(output.len() <= OUTPUT_MAX && output.len() > 1000, "{} bytes", output.len());
}

/// The lines of an instance once each stream has said `last`, in whichever order: Docker reads the two streams
/// apart, so what was written to one may be kept before what was written earlier to the other.
async fn lines(bench: &Bench, launch: &Launch, read: LogRead, last: &str) -> Vec<Line> {
    let ends =
        |lines: &[Line], stream, name| texts(lines, stream).last() == Some(&format!("{last} on {name}"));
    until("the last line of both streams", async || {
        let stream = bench.engine.logs(&launch.function, launch.instance, read).await.unwrap();
        let lines: Vec<Line> = stream.map(Result::unwrap).collect().await;
        let whole = ends(&lines, Stream::Stdout, "stdout") && ends(&lines, Stream::Stderr, "stderr");
        whole.then_some(lines)
    })
    .await
}

fn texts(lines: &[Line], stream: Stream) -> Vec<String> {
    let of_stream = lines.iter().filter(|line| line.stream == stream);
    of_stream.map(|line| String::from_utf8(line.text.clone()).unwrap()).collect()
}

pub(crate) async fn lines_are_kept_beyond_the_end(bench: &Bench) {
    let before = Nanos::now();
    let (launch, addr) = bench.serving("serve").await;
    for text in ["one", "two"] {
        get(addr, &format!("/say/{text}")).await;
    }
    let running = lines(bench, &launch, LogRead::default(), "two").await;
    let listening = format!("listening on {}", addr.port());
    assert_eq!(texts(&running, Stream::Stdout), [&listening, "one on stdout", "two on stdout"]);
    assert_eq!(texts(&running, Stream::Stderr), ["one on stderr", "two on stderr"]);
    assert!(running.iter().all(|line| before < line.at && line.at < Nanos::now()), "{running:?}");
    for stream in [Stream::Stdout, Stream::Stderr] {
        let of_stream = running.iter().filter(|line| line.stream == stream);
        assert!(of_stream.is_sorted_by(|one, two| one.at < two.at), "{running:?}");
    }
    let origin = Origin {
        instance: launch.instance,
        generation: launch.generation,
        function: launch.function.clone(),
        born: launch.born,
    };
    assert_eq!(bench.engine.logged(&launch.function).await.unwrap(), std::slice::from_ref(&origin));

    bench.engine.stop(launch.instance, NO_GRACE).await.unwrap();
    assert_eq!(lines(bench, &launch, LogRead::default(), "two").await, running);
    let after = running.iter().map(|line| line.at).min().unwrap();
    let later: Vec<Line> = running.iter().filter(|line| line.at > after).cloned().collect();
    assert_eq!(lines(bench, &launch, LogRead { after, follow: false }, "two").await, later);
    assert_eq!(bench.engine.logged(&launch.function).await.unwrap(), [origin]);
    let other = FunctionName::new("other").unwrap();
    assert_eq!(bench.engine.logged(&other).await.unwrap(), []);
    let unknown = bench.engine.logs(&launch.function, InstanceId(random()), LogRead::default()).await;
    assert!(matches!(unknown, Err(EngineError::NoSuchInstance { .. })));
}

pub(crate) async fn followers_see_lines_as_they_come_and_the_end(bench: &Bench) {
    let (launch, addr) = bench.serving("serve").await;
    let follow = LogRead { follow: true, ..LogRead::default() };
    let mut follower = bench.engine.logs(&launch.function, launch.instance, follow).await.unwrap();
    let mut next = async || {
        let next = timeout(DEADLINE, follower.next()).await.expect("it comes or ends");
        next.map(|line| String::from_utf8(line.unwrap().text).unwrap())
    };
    assert_eq!(next().await, Some(format!("listening on {}", addr.port())));
    for text in ["one", "two"] {
        get(addr, &format!("/say/{text}")).await;
        let mut both = [next().await.unwrap(), next().await.unwrap()];
        both.sort();
        assert_eq!(both, [format!("{text} on stderr"), format!("{text} on stdout")]);
    }
    bench.engine.stop(launch.instance, NO_GRACE).await.unwrap();
    assert_eq!(next().await, None);
}

pub(crate) async fn output_of_deleted_functions_is_removed(bench: &Bench) {
    let (launch, addr) = bench.serving("serve").await;
    get(addr, "/say/secret").await;
    // What Docker has not read from it when it is killed is lost.
    lines(bench, &launch, LogRead::default(), "secret").await;
    bench.engine.stop(launch.instance, NO_GRACE).await.unwrap();
    let kept = BTreeMap::from([(launch.function.clone(), launch.born)]);
    bench.engine.retain_logs(kept).await;
    lines(bench, &launch, LogRead::default(), "secret").await;
    // One of the same name that was created later.
    let another = BTreeMap::from([(launch.function.clone(), Timestamp(launch.born.0 + 1))]);
    bench.engine.retain_logs(another).await;
    until("the output is gone", async || {
        bench.engine.logged(&launch.function).await.unwrap().is_empty().then_some(())
    })
    .await;
}

pub(crate) async fn the_source_of_the_other_engine_is_refused(bench: &Bench) {
    let other = match bench.engine.kind() {
        EngineKind::Docker => Source::Command(vec!["true".into()]),
        EngineKind::Process => Source::Image("muster/alpha:latest".into()),
    };
    let refused = bench.engine.launch(&bench.launch_of(other, "serve")).await;
    assert!(matches!(refused, Err(EngineError::WrongEngine { .. })), "{refused:?}");
    assert_eq!(bench.engine.list().await.unwrap(), []);
}

/// How the instance ended, once it has.
pub(crate) async fn ended(bench: &Bench, launch: &Launch) -> Exit {
    until("the end of the instance", async || match bench.state(launch.instance).await {
        Some(RunState::Exited(exit)) => Some(exit),
        _ => None,
    })
    .await
}
