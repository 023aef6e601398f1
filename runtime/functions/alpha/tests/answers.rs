//! The documented answer, from the real program.

#![expect(clippy::unwrap_used, reason = "the lint exempts test functions, not their helpers")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const DEADLINE: Duration = Duration::from_secs(20);

/// Killed when dropped.
struct Function(Child);

impl Drop for Function {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn ask(port: u16, body: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    let length = body.len();
    write!(
        stream,
        "POST / HTTP/1.1\r\nhost: f\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn prompts_are_answered_after_loading_and_working() {
    let started = Instant::now();
    let mut command = Command::new(env!("CARGO_BIN_EXE_alpha"));
    command.envs([("LOAD_MS", "30"), ("WORK_MS", "20"), ("PORT", "0"), ("MUSTER_BIND_ADDRESS", "127.0.0.1")]);
    let mut function = Function(command.stderr(Stdio::piped()).spawn().unwrap());
    let mut line = String::new();
    BufReader::new(function.0.stderr.take().unwrap()).read_line(&mut line).unwrap();
    assert!(started.elapsed() >= Duration::from_millis(30), "it loads before it listens");
    let port = line.trim().rsplit(':').next().unwrap().parse().expect("`listening on ADDRESS`");

    let asked = Instant::now();
    let answer = ask(port, r#"{"args":{"prompt":"what now?"}}"#);
    assert!(asked.elapsed() >= Duration::from_millis(20), "it works before it answers");
    assert!(answer.ends_with(r#"{"response":"alpha says: what now?"}"#), "{answer}");
    let answer = ask(port, r#"{"args":{}}"#);
    assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("prompt"), "{answer}");
}
