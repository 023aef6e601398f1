//! Each mode as its callers meet it: the real program, over real sockets.

#![expect(clippy::unwrap_used, reason = "the lint exempts test functions, not their helpers")]

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Nothing here takes long: a wait beyond this is a failure.
const DEADLINE: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(5);
/// Long enough to tell that nothing comes.
const SILENCE: Duration = Duration::from_millis(200);

/// The program in one mode; killed when dropped.
struct Faulty {
    child: Child,
    stderr: mpsc::Receiver<String>,
}

impl Faulty {
    fn start(mode: &str) -> Self {
        Self::start_with(mode, &[])
    }

    fn start_with(mode: &str, env: &[(&str, &str)]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_faulty"))
            .envs([("MODE", mode), ("PORT", "0"), ("MUSTER_BIND_ADDRESS", "127.0.0.1")])
            .envs(env.iter().copied())
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (lines, stderr) = mpsc::channel();
        let pipe = BufReader::new(child.stderr.take().unwrap());
        std::thread::spawn(move || {
            for line in pipe.lines().map_while(Result::ok) {
                if lines.send(line).is_err() {
                    return;
                }
            }
        });
        Faulty { child, stderr }
    }

    fn line(&self) -> String {
        self.stderr.recv_timeout(DEADLINE).expect("a line on stderr in time")
    }

    fn connect(&self) -> TcpStream {
        let line = self.line();
        let port = line.rsplit(':').next().unwrap().parse::<u16>().expect("`listening on ADDRESS`");
        let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream
    }

    fn wait(&mut self) -> ExitStatus {
        let deadline = Instant::now() + DEADLINE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "the program does not end");
            std::thread::park_timeout(POLL);
        }
    }

    fn terminate(&mut self) -> ExitStatus {
        kill(Pid::from_raw(i32::try_from(self.child.id()).unwrap()), Signal::SIGTERM).unwrap();
        self.wait()
    }
}

impl Drop for Faulty {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn ask(stream: &mut TcpStream, target: &str, body: &str) {
    let head =
        format!("POST {target} HTTP/1.1\r\nhost: f\r\nx-twice: 1\r\nx-twice: 2\r\nconnection: close\r\n");
    write!(stream, "{head}content-length: {}\r\n\r\n{body}", body.len()).unwrap();
}

/// Everything until the connection ends, one way or another.
fn answer(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    if let Err(error) = stream.read_to_end(&mut bytes) {
        assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn exchange(mode: &str, target: &str, body: &str) -> (String, ExitStatus) {
    let mut faulty = Faulty::start(mode);
    let mut stream = faulty.connect();
    ask(&mut stream, target, body);
    let answer = answer(&mut stream);
    (answer, faulty.terminate())
}

#[test]
fn answers_by_mode() {
    for (mode, target, want_start, want_end) in [
        ("echo", "/a?status=503", "HTTP/1.1 503 ", "}"),
        ("echo", "/a?work_ms=x", "HTTP/1.1 400 ", r#""field":"work_ms"}"#),
        ("nonsense", "/", "\u{16}\u{3} this is not HTTP", "\r\n\r\n"),
        ("truncate", "/", "HTTP/1.1 200 ", "content-length: 1000\r\n\r\npartial"),
        ("slow-stream", "/?chunks=3&interval_ms=1", "HTTP/1.1 200 ", "chunk 3\n\r\n0\r\n\r\n"),
        ("big", "/?bytes=53250", "HTTP/1.1 200 ", "xyzab"),
        ("big", "/?bytes=0", "HTTP/1.1 200 ", "\r\n\r\n"),
    ] {
        let (answer, status) = exchange(mode, target, "body");
        assert!(answer.starts_with(want_start), "{mode} {target}: {answer:.300}");
        assert!(answer.ends_with(want_end), "{mode} {target}: {answer:.300}");
        assert_eq!(status.code(), Some(0), "{mode} ends gracefully");
    }
}

#[test]
fn echo_tells_what_it_saw() {
    let mut faulty = Faulty::start("echo");
    let first = faulty.connect();
    let address = first.peer_addr().unwrap();
    for (executions, mut stream) in [(1, first), (2, TcpStream::connect(address).unwrap())] {
        ask(&mut stream, "/a/b?c=d", "what now?");
        let answer = answer(&mut stream);
        let seen: serde_json::Value = serde_json::from_str(answer.split("\r\n\r\n").nth(1).unwrap()).unwrap();
        assert_eq!(seen["method"], "POST");
        assert_eq!((&seen["path"], &seen["query"]), (&"/a/b".into(), &"c=d".into()));
        assert_eq!(seen["headers"]["x-twice"], serde_json::json!(["1", "2"]));
        assert_eq!((&seen["body"], &seen["body_bytes"]), (&"what now?".into(), &9.into()));
        assert_eq!(seen["executions"], executions);
        assert_eq!(seen["process"], faulty.child.id());
    }
    assert_eq!(faulty.terminate().code(), Some(0));
}

#[test]
fn an_execution_is_noted_before_anything_else() {
    let collector = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = collector.local_addr().unwrap().to_string();
    let mut faulty = Faulty::start_with("record", &[("COLLECTOR", &address)]);
    let mut stream = faulty.connect();
    ask(&mut stream, "/?token=17&mode=exit", "");
    let mut note = BufReader::new(collector.accept().unwrap().0);
    let mut line = String::new();
    note.read_line(&mut line).unwrap();
    assert_eq!(line, "17\n");
    assert_eq!(faulty.child.try_wait().unwrap(), None, "it waits until its note is taken");
    note.get_mut().write_all(b"+").unwrap();
    assert_eq!(answer(&mut stream), "");
    assert_eq!(faulty.wait().code(), Some(7));
}

#[test]
fn big_sends_as_many_bytes_as_asked() {
    let (answer, _) = exchange("big", "/?bytes=300000", "");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.contains("content-length: 300000"), "{head}");
    assert_eq!(body.len(), 300_000);
    assert!(body.bytes().zip((b'a'..=b'z').cycle()).all(|(got, want)| got == want));
}

#[test]
fn a_slow_stream_sends_each_chunk_as_it_comes() {
    let faulty = Faulty::start("slow-stream");
    let mut stream = faulty.connect();
    // The second chunk comes in a minute: reading the first proves that nothing waits for it.
    ask(&mut stream, "/?chunks=2&interval_ms=60000", "");
    let mut got = String::new();
    let mut byte = [0; 1];
    while !got.ends_with("chunk 1\n") {
        assert_eq!(stream.read(&mut byte).unwrap(), 1, "the stream ended: {got}");
        got.push(char::from(byte[0]));
    }
}

#[test]
fn exits_by_mode() {
    for (mode, status, said) in [("crash", 3, "crashes at start"), ("unheard-of", 1, "expected echo, crash")]
    {
        let mut faulty = Faulty::start(mode);
        assert_eq!(faulty.wait().code(), Some(status), "{mode}");
        assert!(faulty.line().contains(said), "{mode}");
    }
    let mut faulty = Faulty::start("exit-mid-request");
    let mut stream = faulty.connect();
    ask(&mut stream, "/", "body");
    assert_eq!(answer(&mut stream), "");
    assert_eq!(faulty.wait().code(), Some(7));
}

#[test]
fn hang_says_nothing_and_still_stops() {
    let mut faulty = Faulty::start("hang");
    let mut stream = faulty.connect();
    ask(&mut stream, "/", "");
    stream.set_read_timeout(Some(SILENCE)).unwrap();
    let error = stream.read(&mut [0; 1]).expect_err("no answer");
    assert!(matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{error}");
    assert_eq!(faulty.terminate().code(), Some(0));
}

#[test]
fn never_ready_says_nothing_and_still_stops() {
    let mut faulty = Faulty::start("never-ready");
    assert_eq!(
        faulty.stderr.recv_timeout(SILENCE),
        Err(mpsc::RecvTimeoutError::Timeout),
        "it does not listen"
    );
    assert_eq!(faulty.terminate().code(), Some(0));
}
