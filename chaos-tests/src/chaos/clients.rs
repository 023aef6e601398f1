//! Clients that no library would be: they send and read at a crawl, or go away at a bad moment. Each
//! is one operation of the history, written down before its first byte is sent.

use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use muster_api::headers;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Instant, sleep, timeout};

use super::catalog::{ACCOUNTS, CROWD, TIMEOUT_MS};
use super::op::{Mode, Op, Outcome, Verdict};
use super::perform::invoked;
use super::recorder::TOKEN;
use super::workload::Stage;
use crate::cluster::Answer;

/// The worker these operations are noted under: far above those of the plan.
pub const WORKER: u64 = 1_000;
/// Little, so that an answer that is not read stays with its sender.
const RECEIVE_BUFFER_BYTES: u32 = 4 * 1024;
const READ_BYTES: usize = 16 * 1024;
/// The most of an answer that is kept.
const ANSWER_MAX_BYTES: usize = 4 << 20;
/// A client that has been slow for so long makes haste: its answer is due within the deadline.
const SLOW_FOR: Duration = Duration::from_secs(5);

/// How a client misbehaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// Sends its head and then its body in pieces, so far apart.
    SendsSlowly { piece_bytes: usize, pause: Duration },
    /// Reads the answer in pieces, so far apart.
    ReadsSlowly { pause: Duration },
    /// Reads nothing until the deadline has passed.
    Stalls,
    /// Resets the connection when it has sent this much of its body.
    LeavesInBody { sent_bytes: usize },
    /// Resets it so long after it has sent everything.
    LeavesAfter { wait: Duration },
    /// Resets it when it has read this much of the answer.
    LeavesInAnswer { read_bytes: usize },
}

/// One client's request.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    pub manner: Manner,
    pub body_bytes: usize,
    pub answer_bytes: u64,
    pub work_ms: u64,
}

/// What came of a client, for who asks whether the node has noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Something of an answer arrived.
    pub answered: bool,
}

/// Carries out one request through `node`.
///
/// # Errors
/// Where it cannot be written down.
pub async fn call(stage: &Stage, node: u64, request: &Request) -> Result<Ended> {
    let caller = ACCOUNTS[0];
    let (function, work_ms) = (CROWD.to_owned(), request.work_ms);
    let op = Op::Invoke { function, caller: caller.to_owned(), work_ms, mode: Mode::Answer };
    let id = stage.recorder.begin(WORKER, node, &op)?;
    let key = stage.keys.key(caller).context("a lasting account has a key")?;
    let address = stage.cluster.address(node);
    let (work, bytes, length) = (request.work_ms, request.answer_bytes, request.body_bytes);
    let head = format!(
        "POST /function/{CROWD}/run?{TOKEN}={id}&work_ms={work}&bytes={bytes} HTTP/1.1\r\nhost: {address}\r\n\
         authorization: Bearer {key}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n"
    );
    let limit = Duration::from_millis(TIMEOUT_MS + stage.bounds.margin_ms);
    let mut got = Vec::new();
    let outcome = match connect(address).await {
        Err(_) => Outcome::new(Verdict::Refused).detail("could not connect"),
        Ok(stream) => match timeout(limit, converse(stream, head, request, &mut got)).await {
            Ok(Ok(Some(answer))) => invoked(&answer),
            Ok(Ok(None)) => unknown("it went away", &got),
            Ok(Err(error)) => unknown(&error.to_string(), &got),
            Err(_elapsed) => Outcome { hung: true, ..unknown("it was kept", &got) },
        },
    };
    stage.recorder.end(id, outcome)?;
    Ok(Ended { answered: !got.is_empty() })
}

fn unknown(why: &str, got: &[u8]) -> Outcome {
    let cut = !got.is_empty();
    Outcome { abandoned: true, cut, ..Outcome::new(Verdict::Unknown).detail(why) }
}

async fn connect(address: &str) -> Result<TcpStream> {
    let socket = TcpSocket::new_v4().context("no socket")?;
    socket.set_recv_buffer_size(RECEIVE_BUFFER_BYTES).context("no small buffer")?;
    let stream = socket.connect(address.parse().context("not an address")?).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Answers what the node said, or `None` where the client went away before it had said it.
async fn converse(
    mut stream: TcpStream,
    head: String,
    request: &Request,
    got: &mut Vec<u8>,
) -> Result<Option<Answer>> {
    let body = vec![b'x'; request.body_bytes];
    let hurry_at = Instant::now() + SLOW_FOR;
    match request.manner {
        Manner::SendsSlowly { piece_bytes, pause } => {
            let all = [head.as_bytes(), &body].concat();
            for piece in all.chunks(piece_bytes.max(1)) {
                // A node that has answered already may have closed its side.
                if stream.write_all(piece).await.is_err() {
                    break;
                }
                if Instant::now() < hurry_at {
                    sleep(pause).await;
                }
            }
        }
        Manner::LeavesInBody { sent_bytes } => {
            stream.write_all(head.as_bytes()).await?;
            stream.write_all(&body[..sent_bytes.min(body.len())]).await?;
            return leave(&stream);
        }
        _ => {
            stream.write_all(head.as_bytes()).await?;
            stream.write_all(&body).await?;
        }
    }
    match request.manner {
        Manner::LeavesAfter { wait } => {
            sleep(wait).await;
            return leave(&stream);
        }
        Manner::Stalls => sleep(Duration::from_millis(TIMEOUT_MS + 500)).await,
        _ => {}
    }
    let mut buffer = vec![0; READ_BYTES];
    loop {
        let read = stream.read(&mut buffer).await?;
        got.extend_from_slice(&buffer[..read]);
        anyhow::ensure!(got.len() <= ANSWER_MAX_BYTES, "an answer of more than {ANSWER_MAX_BYTES} bytes");
        if let Some(answer) = answer(got)? {
            return Ok(Some(answer));
        }
        anyhow::ensure!(read > 0, "the answer broke off after {} bytes", got.len());
        match request.manner {
            Manner::LeavesInAnswer { read_bytes } if got.len() >= read_bytes => return leave(&stream),
            Manner::ReadsSlowly { pause } if Instant::now() < hurry_at => sleep(pause).await,
            _ => {}
        }
    }
}

fn leave(stream: &TcpStream) -> Result<Option<Answer>> {
    // The kernel sends a reset in place of an end when it is dropped.
    stream.set_zero_linger()?;
    Ok(None)
}

/// An answer, once it is whole. Functions and nodes answer these requests with a known length, or in
/// chunks, which end with an empty one.
fn answer(got: &[u8]) -> Result<Option<Answer>> {
    let Some(end) = got.windows(4).position(|bytes| bytes == b"\r\n\r\n") else { return Ok(None) };
    let head = std::str::from_utf8(&got[..end]).context("a head that is not text")?;
    let body = &got[end + 4..];
    let field = |name: &str| {
        let mut fields = head.lines().skip(1).filter_map(|line| line.split_once(':'));
        fields.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim().to_owned())
    };
    let whole = match field("content-length") {
        Some(length) => body.len() >= length.parse::<usize>().context("not a length")?,
        None => body.ends_with(b"0\r\n\r\n"),
    };
    if !whole {
        return Ok(None);
    }
    let status = head.split(' ').nth(1).context("no status")?.parse().context("not a status")?;
    let is_problem = field("content-type").is_some_and(|kind| kind == muster_api::PROBLEM_JSON);
    Ok(Some(Answer {
        status,
        invocation_id: field(headers::INVOCATION_ID),
        node: field(headers::NODE).and_then(|node| node.parse().ok()),
        instance: field(headers::INSTANCE),
        cold_start: field(headers::COLD_START).and_then(|cold| cold.parse().ok()),
        retry_after: field("retry-after"),
        applied: field(headers::APPLIED).and_then(|index| index.parse().ok()),
        body: Bytes::copy_from_slice(body),
        problem: if is_problem { serde_json::from_slice(body).ok() } else { None },
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_one_when_it_is_whole() {
        let text =
            "HTTP/1.1 200 OK\r\nMuster-Node: 2\r\nContent-Length: 3\r\nmuster-cold-start: true\r\n\r\nabc";
        for cut in 0..text.len() {
            assert!(answer(&text.as_bytes()[..cut]).unwrap().is_none(), "{cut}");
        }
        let whole = answer(text.as_bytes()).unwrap().unwrap();
        assert_eq!((whole.status, whole.node, whole.cold_start), (200, Some(2), Some(true)));
        assert_eq!(&whole.body[..], b"abc");
        let body =
            r#"{"status":408,"title":"t","detail":"d","invocation_id":"i","invocation_state":"not_started"}"#;
        let head = "HTTP/1.1 408 X\r\ncontent-type: application/problem+json\r\ncontent-length:";
        let problem = format!("{head} {}\r\n\r\n{body}", body.len());
        let told = answer(problem.as_bytes()).unwrap().unwrap();
        assert_eq!(invoked(&told).verdict, Verdict::Refused);
        assert!(answer(b"HTTP/1.1 x\r\n\r\n0\r\n\r\n").is_err());
    }

    #[tokio::test]
    async fn who_leaves_resets_the_connection() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = connect(&listener.local_addr().unwrap().to_string()).await.unwrap();
        let (mut server, _) = listener.accept().await.unwrap();
        let manner = Manner::LeavesInBody { sent_bytes: 2 };
        let request = Request { manner, body_bytes: 9, answer_bytes: 0, work_ms: 0 };
        let left = converse(client, "head".into(), &request, &mut Vec::new()).await.unwrap();
        assert!(left.is_none());
        let mut got = Vec::new();
        let error = server.read_to_end(&mut got).await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    }
}
