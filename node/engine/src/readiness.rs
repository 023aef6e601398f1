//! Waiting until an instance serves. Without a readiness path a TCP connect is enough, and nothing is
//! sent: a probe that reached the function would be a request nobody made.

use std::net::SocketAddr;
use std::time::Duration;

use http_body_util::Empty;
use hyper::{Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout, timeout_at};

/// The instance did not become ready in time; the source is what the last attempt met.
#[derive(Debug, thiserror::Error)]
#[error("{addr} was not ready after {} ms", waited.as_millis())]
pub struct NotReady {
    pub addr: SocketAddr,
    pub waited: Duration,
    pub source: Attempt,
}

/// Why one attempt was not enough.
#[derive(Debug, thiserror::Error)]
pub enum Attempt {
    #[error("no connection")]
    Connect(#[source] std::io::Error),
    #[error("no answer to GET {path}")]
    Request { path: String, source: hyper::Error },
    #[error("GET {path} answered {status}")]
    Status { path: String, status: StatusCode },
    #[error("the readiness path `{path}` is not valid")]
    Path { path: String },
    #[error("no answer within 5 s")]
    Hung,
}

/// The first pauses: most of a cold start is spent elsewhere, and a millisecond of it is still seen.
const PAUSE_MIN: Duration = Duration::from_millis(1);
/// Then a pause is this part of the time so far, so that looking too late costs a few hundredths at most.
const PAUSE_SHARE: u32 = 32;
/// The longest pause: what a slow starter pays at most for being looked at rarely.
const PAUSE_MAX: Duration = Duration::from_millis(50);
/// The longest a single attempt may take, so that one lost packet does not use up the deadline.
const ATTEMPT_MAX: Duration = Duration::from_secs(5);

/// Tries until `addr` accepts a connection and, where there is a `path`, answers a GET of it with 2xx.
/// Dropping the future stops it: it spawns nothing.
pub async fn wait_ready(addr: SocketAddr, path: Option<&str>, deadline: Instant) -> Result<(), NotReady> {
    let began = Instant::now();
    let mut last = Attempt::Hung;
    loop {
        match timeout_at(deadline, timeout(ATTEMPT_MAX, attempt(addr, path))).await {
            Ok(Ok(Ok(()))) => return Ok(()),
            Ok(Ok(Err(failed))) => last = failed,
            Ok(Err(_)) => last = Attempt::Hung,
            Err(_) => return Err(NotReady { addr, waited: began.elapsed(), source: last }),
        }
        let pause = (began.elapsed() / PAUSE_SHARE).clamp(PAUSE_MIN, PAUSE_MAX);
        if Instant::now() + pause >= deadline {
            return Err(NotReady { addr, waited: began.elapsed(), source: last });
        }
        sleep(pause).await;
    }
}

/// Whether something still answers at `addr`: any status will do where there is a `path`, for it says that somebody
/// is at work. Asked once.
pub async fn probe(addr: SocketAddr, path: Option<&str>) -> Result<(), Attempt> {
    match timeout(ATTEMPT_MAX, attempt(addr, path)).await {
        Ok(Ok(()) | Err(Attempt::Status { .. })) => Ok(()),
        Ok(Err(failed)) => Err(failed),
        Err(_) => Err(Attempt::Hung),
    }
}

async fn attempt(addr: SocketAddr, path: Option<&str>) -> Result<(), Attempt> {
    let stream = TcpStream::connect(addr).await.map_err(Attempt::Connect)?;
    let Some(path) = path else { return Ok(()) };
    let status = get(stream, addr, path).await?;
    if status.is_success() { Ok(()) } else { Err(Attempt::Status { path: path.into(), status }) }
}

/// One GET on a connection of its own, polled together with it.
async fn get(stream: TcpStream, addr: SocketAddr, path: &str) -> Result<StatusCode, Attempt> {
    let failed = |source| Attempt::Request { path: path.into(), source };
    let request = Request::get(path)
        .header(header::HOST, addr.to_string())
        .header(header::USER_AGENT, "muster-readiness")
        .header(header::CONNECTION, "close")
        .body(Empty::<bytes::Bytes>::new())
        .map_err(|_| Attempt::Path { path: path.into() })?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(failed)?;
    let answer = sender.send_request(request);
    tokio::pin!(answer, connection);
    tokio::select! {
        biased;
        answer = &mut answer => Ok(answer.map_err(failed)?.status()),
        // The connection may end in the same moment as the answer arrives: the answer counts.
        ended = &mut connection => match ended {
            Ok(()) => Ok(answer.await.map_err(failed)?.status()),
            Err(source) => Err(failed(source)),
        },
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpSocket};

    use super::*;

    fn soon(ms: u64) -> Instant {
        Instant::now() + Duration::from_millis(ms)
    }

    /// An address where nobody listens yet, and nobody but the socket can.
    fn bound() -> (SocketAddr, TcpSocket) {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        (socket.local_addr().unwrap(), socket)
    }

    /// Serves one canned answer per connection, the last one for ever. Notes the bytes each one sent.
    async fn server(answers: &'static [&'static str]) -> (SocketAddr, Arc<Mutex<Vec<usize>>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let received = Arc::new(Mutex::new(Vec::new()));
        let counts = received.clone();
        tokio::spawn(async move {
            for round in 0.. {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = [0; 1024];
                let count = stream.read(&mut request).await.unwrap_or(0);
                counts.lock().unwrap().push(count);
                let answer = answers[std::cmp::min(round, answers.len() - 1)];
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        (addr, received)
    }

    const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
    const NO_CONTENT: &str = "HTTP/1.1 204 No Content\r\n\r\n";
    const BUSY: &str = "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n";

    #[tokio::test]
    async fn a_path_must_answer_2xx() {
        for (answers, ready) in [
            (&[OK][..], true),
            (&[NO_CONTENT][..], true),
            (&[BUSY, "", "nonsense\r\n\r\n", OK][..], true),
            (&[BUSY][..], false),
            (&["nonsense\r\n\r\n"][..], false),
        ] {
            let (addr, _) = server(answers).await;
            let limit = if ready { 10_000 } else { 200 };
            let result = wait_ready(addr, Some("/ready"), soon(limit)).await;
            assert_eq!(result.is_ok(), ready, "{answers:?}: {result:?}");
        }
    }

    #[tokio::test]
    async fn without_a_path_nothing_is_sent() {
        let (addr, received) = server(&[OK]).await;
        wait_ready(addr, None, soon(10_000)).await.unwrap();
        // A second connection is served only after the first was read to its end.
        wait_ready(addr, Some("/ready"), soon(10_000)).await.unwrap();
        let received = received.lock().unwrap();
        assert_eq!(received[0], 0);
        assert!(received[1] > 0);
    }

    #[tokio::test]
    async fn a_late_listener_is_found() {
        let (addr, socket) = bound();
        let waiting = tokio::spawn(wait_ready(addr, None, soon(10_000)));
        tokio::task::yield_now().await;
        let _listener = socket.listen(1).unwrap();
        waiting.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn the_deadline_holds_and_the_last_failure_is_named() {
        let (addr, _kept) = bound();
        let error = wait_ready(addr, None, soon(30)).await.unwrap_err();
        assert!(matches!(error.source, Attempt::Connect(_)), "{error:?}");
        assert!(error.waited < Duration::from_secs(5), "{error}");
    }
}
