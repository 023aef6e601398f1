//! Closed-loop writers over keep-alive connections, against Muster or etcd alike.
//!
//! Each connection has one write under way; connections are spread over the targets. Prints one
//! line of JSON. One thread: on a small machine the generator must leave room for what it measures.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use clap::{Parser, ValueEnum};
use hdrhistogram::Histogram;
use http::{Method, Request, header};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// Latencies above a minute are counted as a minute.
const LATENCY_MAX_US: u64 = 60_000_000;
/// Accounts `bench-0` … that the writes are spread over; the driver creates them.
const ACCOUNTS: u64 = 16;
/// Keys per account, so that the state does not grow while it is measured.
const KEYS: u64 = 50;
/// The pause before a broken connection is made again.
const RECONNECT_PAUSE: Duration = Duration::from_millis(10);

#[derive(Debug, Parser)]
struct Arguments {
    #[arg(long)]
    system: System,
    /// `host:port`, comma-separated.
    #[arg(long, value_delimiter = ',', required = true)]
    targets: Vec<SocketAddr>,
    #[arg(long)]
    connections: u32,
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// Load before the measurement begins.
    #[arg(long, default_value_t = 1)]
    warmup_seconds: u64,
    /// A file with the API key.
    #[arg(long)]
    key_file: Option<PathBuf>,
    /// What `cargo bench` passes to every benchmark.
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum System {
    /// `PUT /v1/accounts/{name}/grants/{pattern}`.
    Muster,
    /// A put over etcd's JSON gateway.
    Etcd,
}

/// When to measure.
#[derive(Clone, Copy)]
struct Span {
    from: Instant,
    to: Instant,
}

struct Tally {
    latencies: Histogram<u64>,
    errors: u64,
    error: Option<String>,
}

impl Tally {
    fn new() -> anyhow::Result<Self> {
        Ok(Tally { latencies: Histogram::new_with_bounds(1, LATENCY_MAX_US, 3)?, errors: 0, error: None })
    }

    fn add(&mut self, other: Tally) -> anyhow::Result<()> {
        self.latencies.add(&other.latencies)?;
        self.errors += other.errors;
        self.error = self.error.take().or(other.error);
        Ok(())
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    ensure!(arguments.connections > 0, "`--connections` must be above 0");
    let key = match &arguments.key_file {
        Some(path) => Some(std::fs::read_to_string(path).with_context(|| path.display().to_string())?),
        None if arguments.system == System::Muster => bail!("`--key-file` is needed"),
        None => None,
    };
    let from = Instant::now() + Duration::from_secs(arguments.warmup_seconds);
    let span = Span { from, to: from + Duration::from_secs(arguments.seconds) };
    let mut writers = JoinSet::new();
    for (number, target) in (0..arguments.connections).zip(arguments.targets.iter().cycle()) {
        let writer = Writer {
            system: arguments.system,
            target: *target,
            authorization: key.as_ref().map(|key| format!("Bearer {}", key.trim())),
            number: u64::from(number),
        };
        writers.spawn(writer.run(span));
    }
    let mut total = Tally::new()?;
    while let Some(ended) = writers.join_next().await {
        total.add(ended??)?;
    }
    let latencies = &total.latencies;
    let report = serde_json::json!({
        "writes": latencies.len(),
        "errors": total.errors,
        "error": total.error,
        "per_second": latencies.len() / arguments.seconds.max(1),
        "p50_us": latencies.value_at_quantile(0.5),
        "p99_us": latencies.value_at_quantile(0.99),
        "max_us": latencies.max(),
    });
    println!("{report}");
    Ok(())
}

struct Writer {
    system: System,
    target: SocketAddr,
    authorization: Option<String>,
    number: u64,
}

impl Writer {
    async fn run(self, span: Span) -> anyhow::Result<Tally> {
        let mut tally = Tally::new()?;
        let mut connection = None;
        let mut sequence = 0;
        while Instant::now() < span.to {
            sequence += 1;
            let began = Instant::now();
            let written = self.write(&mut connection, sequence).await;
            let ended = Instant::now();
            let counts = began >= span.from && ended <= span.to;
            match written {
                Ok(()) if counts => {
                    let us = u64::try_from((ended - began).as_micros()).unwrap_or(LATENCY_MAX_US);
                    tally.latencies.saturating_record(us.max(1));
                }
                Ok(()) => {}
                Err(error) => {
                    tally.errors += u64::from(counts);
                    tally.error.get_or_insert(format!("{error:#}"));
                    tokio::time::sleep(RECONNECT_PAUSE).await;
                }
            }
        }
        Ok(tally)
    }

    /// One write on the kept connection, or on a new one; a broken one is not kept.
    async fn write(
        &self,
        connection: &mut Option<SendRequest<Full<Bytes>>>,
        sequence: u64,
    ) -> anyhow::Result<()> {
        let mut open = match connection.take() {
            Some(open) => open,
            None => self.connect().await?,
        };
        open.ready().await?;
        let answer = open.send_request(self.request(sequence)?).await?;
        let status = answer.status();
        let body = answer.into_body().collect().await?.to_bytes();
        *connection = Some(open);
        ensure!(status.is_success(), "{status}: {}", String::from_utf8_lossy(&body));
        Ok(())
    }

    async fn connect(&self) -> anyhow::Result<SendRequest<Full<Bytes>>> {
        let stream = TcpStream::connect(self.target).await?;
        stream.set_nodelay(true)?;
        let (open, driver) = handshake(TokioIo::new(stream)).await?;
        tokio::spawn(async move {
            // A broken connection shows as a failed request.
            let _ended = driver.await;
        });
        Ok(open)
    }

    fn request(&self, sequence: u64) -> anyhow::Result<Request<Full<Bytes>>> {
        let (account, key) = (self.number % ACCOUNTS, (sequence + self.number) % KEYS);
        let (method, path, body) = match self.system {
            System::Muster => (
                Method::PUT,
                format!("/v1/accounts/bench-{account}/grants/function-{key}"),
                r#"{"actions":["invoke"]}"#.to_owned(),
            ),
            System::Etcd => (Method::POST, "/v3/kv/put".to_owned(), etcd_put(account, key)),
        };
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, self.target.to_string())
            .header(header::CONTENT_TYPE, "application/json");
        if let Some(authorization) = &self.authorization {
            request = request.header(header::AUTHORIZATION, authorization);
        }
        Ok(request.body(Full::new(body.into()))?)
    }
}

/// The same key and value, in base64 as the gateway wants them.
fn etcd_put(account: u64, key: u64) -> String {
    let encode = |text: String| data_encoding::BASE64.encode(text.as_bytes());
    let key = encode(format!("/v1/accounts/bench-{account}/grants/function-{key}"));
    let value = encode(r#"{"actions":["invoke"]}"#.to_owned());
    serde_json::json!({ "key": key, "value": value }).to_string()
}
