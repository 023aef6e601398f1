//! Against an engine that says what a table has it say, at the time the table has it say so.

use std::sync::Arc;

use serde_json::json;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

use super::super::exits::Exits;
use super::*;
use crate::instance::RunState;

const ID: &str = "c0ffee";
/// What must not take as long as [`TOLD_WITHIN`] does so once or twice on a machine that stands still, and
/// always where it waits in vain.
const TRIES: u32 = 3;

const KILLED: Exit =
    Exit { code: None, signal: Some(SIGKILL), oom_killed: false, last_output: String::new() };

/// What the engine knows of the only container.
#[derive(Clone, Copy, Debug)]
struct Script {
    code: i64,
    oom_killed: bool,
    /// An event with its signal, and how long after it was asked for.
    event: Option<(&'static str, &'static str, Duration)>,
}

struct FakeDocker {
    docker: Docker,
    _dir: TempDir,
}

impl FakeDocker {
    fn start(script: Script) -> FakeDocker {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("docker.sock");
        let listener = UnixListener::bind(&path).unwrap();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(answer(stream, script));
            }
        });
        FakeDocker { docker: super::super::client(path.to_str()).unwrap(), _dir: dir }
    }
}

/// One request on a connection: the answer ends with it.
async fn answer(mut stream: UnixStream, script: Script) {
    let mut request = Vec::new();
    let mut buffer = [0; 4096];
    while !request.windows(4).any(|end| end == b"\r\n\r\n") {
        match stream.read(&mut buffer).await {
            Ok(count @ 1..) => request.extend(&buffer[..count]),
            _ => return,
        }
    }
    let request = String::from_utf8_lossy(&request).into_owned();
    let target = request.split(' ').nth(1).unwrap_or_default().to_owned();
    let head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\n\r\n";
    stream.write_all(head).await.unwrap();
    if target.starts_with(&format!("/containers/{ID}/json")) {
        let state = json!({ "Status": "exited", "ExitCode": script.code, "OOMKilled": script.oom_killed });
        stream.write_all(json!({ "Id": ID, "State": state }).to_string().as_bytes()).await.unwrap();
    } else if target.starts_with("/events") {
        assert!(target.contains("since=0") && target.contains(ID), "{target}");
        if let Some((action, signal, after)) = script.event {
            sleep(after).await;
            let actor = json!({ "ID": ID, "Attributes": { "signal": signal } });
            let event = json!({ "Type": "container", "Action": action, "Actor": actor });
            let _gone = stream.write_all(format!("{event}\n").as_bytes()).await;
        }
        // The end of the stream would be an answer, too.
        sleep(2 * TOLD_WITHIN).await;
    }
}

#[tokio::test]
async fn what_docker_and_the_kernel_say_of_a_kill() {
    let soon = Duration::from_millis(300);
    let (at_once, never) = (Duration::ZERO, TOLD_WITHIN);
    for (event, has_grown, oom_killed, least, why) in [
        (Some((OOM, "", at_once)), Some(true), true, at_once, "told before it was asked"),
        (Some((OOM, "", at_once)), None, true, at_once, "told, though nobody had watched"),
        (Some((OOM, "", soon)), None, true, soon, "told while it is asked"),
        (None, Some(true), true, never, "told by the kernel alone"),
        (None, None, false, never, "told by nobody"),
        (Some((KILL, "9", at_once)), Some(true), false, at_once, "killed by way of Docker"),
        (Some((KILL, "15", at_once)), Some(true), true, never, "asked to end by way of Docker, no more"),
        (Some((DESTROY, "", soon)), None, false, soon, "removed while it is asked"),
    ] {
        for tries in 1.. {
            let docker = FakeDocker::start(Script { code: 137, oom_killed: false, event });
            let began = Instant::now();
            let exit = explain(&docker.docker, ID, KILLED, has_grown).await;
            let took = began.elapsed();
            let late = least < never && took >= never;
            if late && tries < TRIES {
                continue;
            }
            assert_eq!(exit, Exit { oom_killed, ..KILLED }, "{why}");
            assert!(least <= took && !late, "{why}: {took:?}");
            break;
        }
    }
}

#[test]
fn only_an_unexplained_kill_is_in_doubt() {
    let exit = |code, signal, oom_killed| Exit { code, signal, oom_killed, last_output: String::new() };
    for (exit, has_grown, in_doubt) in [
        (exit(None, Some(9), false), Some(true), true),
        (exit(None, Some(9), false), None, true),
        (exit(None, Some(9), false), Some(false), false),
        (exit(None, Some(9), true), Some(true), false),
        (exit(None, Some(15), false), Some(true), false),
        (exit(Some(1), None, false), Some(true), false),
        (exit(Some(1), None, true), Some(true), false),
    ] {
        assert_eq!(is_in_doubt(&exit, has_grown), in_doubt, "{exit:?} {has_grown:?}");
    }
}

#[test]
fn the_count_is_remembered_for_long_enough_and_no_longer() {
    let start = std::time::Instant::now();
    let at = |s| start + Duration::from_secs(s);
    let mut history = History::default();
    assert_eq!(history.has_grown(at(0), 7), None, "never looked");
    history.note(at(0), 7);
    assert_eq!(history.has_grown(at(29), 7), None, "not for long");
    assert_eq!(history.has_grown(at(30), 7), Some(false));
    assert_eq!(history.has_grown(at(1), 8), Some(true));
    for s in 1..=300 {
        history.note(at(s), if s < 200 { 7 } else { 8 });
        history.note(at(s) + LOOK_PAUSE / 2, 99);
        let lately = (200..230).contains(&s);
        let known = if s >= 200 { 8 } else { 7 };
        let want = if s < 30 { None } else { Some(lately) };
        assert_eq!(history.has_grown(at(s), known), want, "{s}");
        assert!(history.0.len() <= 32, "{}", history.0.len());
    }
}

#[test]
fn the_kernel_counts() {
    assert!(!cfg!(target_os = "linux") || kills().is_some());
}

#[tokio::test]
async fn a_list_does_not_wait_for_a_cause() {
    for tries in 1.. {
        let docker = FakeDocker::start(Script { code: 137, oom_killed: false, event: None });
        let changes = Arc::new(Notify::new());
        let exits = Exits::new(docker.docker.clone(), changes.clone());
        let began = Instant::now();
        let mut states = Vec::new();
        for _ in 0..3 {
            states.push(exits.state_of(ID).await.unwrap());
        }
        let took = began.elapsed();
        if took >= TOLD_WITHIN && tries < TRIES {
            continue;
        }
        assert!(took < TOLD_WITHIN, "{took:?}");
        assert!(states.iter().all(|state| *state == Some(RunState::Ended)), "{states:?}");
        changes.notified().await;
        let state = exits.state_of(ID).await.unwrap();
        assert!(matches!(&state, Some(RunState::Exited(exit)) if exit.signal == Some(SIGKILL)), "{state:?}");
        exits.listed(&[]);
        assert_eq!(exits.state_of(ID).await.unwrap(), Some(RunState::Ended), "it was not forgotten");
        break;
    }
}

#[tokio::test]
async fn what_docker_knows_is_not_asked_again() {
    for (code, oom_killed) in [(137, true), (1, false), (143, false)] {
        let docker = FakeDocker::start(Script { code, oom_killed, event: None });
        let exits = Exits::new(docker.docker.clone(), Arc::default());
        let Some(RunState::Exited(exit)) = exits.state_of(ID).await.unwrap() else { panic!("{code}") };
        assert_eq!(exit, super::super::container::exit(code, oom_killed, String::new()));
    }
}
