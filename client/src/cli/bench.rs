//! `muster bench`: load a function and measure it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hdrhistogram::Histogram;
use http::Method;
use muster_client::{Client, Error, Options, Request};
use serde::Serialize;
use tokio::task::JoinSet;

use super::Context;
use super::failure::{Doing, Failure};
use super::output::{Table, note};

/// Latencies are recorded in microseconds up to this; what takes longer counts as this long.
const LATENCY_MAX_US: u64 = 3_600_000_000;
const CONNECTIONS_MAX: u32 = 10_000;
const DEFAULT_SECONDS: Duration = Duration::from_secs(10);
/// How long a connection that found no node waits before it tries again.
const UNREACHABLE_PAUSE: Duration = Duration::from_millis(100);

/// Load a function: each connection sends its next request when it has the answer to the last
#[derive(clap::Args)]
pub(super) struct Arguments {
    #[arg(value_name = "NAME")]
    name: String,
    /// Requests under way at a time; they are spread over the nodes of --url
    #[arg(long, short, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=i64::from(CONNECTIONS_MAX)))]
    connections: u32,
    /// Requests in all
    #[arg(long, short = 'n', value_name = "COUNT", conflicts_with = "seconds", value_parser = clap::value_parser!(u64).range(1..))]
    requests: Option<u64>,
    /// Seconds to go on for [default: 10]
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    seconds: Option<u64>,
    /// What to send; it is POSTed. Without it, requests are GETs
    #[arg(long, short, value_name = "DATA", allow_hyphen_values = true)]
    data: Option<String>,
    /// Path and query below the function
    #[arg(long, short, default_value = "", hide_default_value = true)]
    path: String,
}

/// What a run measured. Latencies are those of answers with a status below 400.
#[derive(Serialize)]
struct Report {
    function: String,
    connections: u32,
    elapsed_ms: u64,
    requests: u64,
    requests_per_second: f64,
    p50_us: u64,
    p90_us: u64,
    p99_us: u64,
    max_us: u64,
    /// Answers by status; what got none is under `none`.
    by_status: BTreeMap<String, u64>,
    cold_starts: u64,
}

/// What one connection, or all of them, measured.
struct Tally {
    latencies: Histogram<u64>,
    by_status: BTreeMap<String, u64>,
    cold_starts: u64,
    /// One error, as an example.
    error: Option<Error>,
}

/// What ends a run: the first of these.
struct Bounds {
    until: Option<Instant>,
    left: Option<AtomicU64>,
    interrupted: AtomicBool,
}

pub(super) async fn run(context: &Context, arguments: Arguments) -> Result<(), Failure> {
    let seconds = arguments.seconds.map(Duration::from_secs);
    let span = seconds.or(arguments.requests.is_none().then_some(DEFAULT_SECONDS));
    let began = Instant::now();
    let bounds = Arc::new(Bounds {
        until: span.map(|span| began + span),
        left: arguments.requests.map(AtomicU64::new),
        interrupted: AtomicBool::new(false),
    });
    let tally = load(context, &arguments, &bounds).await?;
    let elapsed = began.elapsed();
    let succeeded = !tally.latencies.is_empty();
    let report = report(&arguments, &tally, elapsed);
    context.output.show(&report, || text(&report))?;
    match tally.error {
        Some(error) if !succeeded => Err(error).doing(format_args!("load function `{}`", arguments.name)),
        Some(error) => {
            note(&format!("some requests failed, such as: {error}"));
            Ok(())
        }
        None if !succeeded => {
            Err(Failure::failed(format!("no request to function `{}` succeeded", arguments.name)))
        }
        None => Ok(()),
    }
}

/// Runs all connections to the end, or until Ctrl-C, and adds up what they measured.
async fn load(context: &Context, arguments: &Arguments, bounds: &Arc<Bounds>) -> Result<Tally, Failure> {
    let data = arguments.data.clone().map(Bytes::from);
    let mut connections = JoinSet::new();
    for number in 0..arguments.connections {
        let client = client_starting_at(context, number)?;
        let request =
            Template { function: arguments.name.clone(), path: arguments.path.clone(), data: data.clone() };
        let bounds = bounds.clone();
        connections.spawn(async move { connection(&client, &request, &bounds).await });
    }
    let mut total = Tally::new()?;
    let mut interrupt = std::pin::pin!(tokio::signal::ctrl_c());
    loop {
        tokio::select! {
            _ = &mut interrupt, if !bounds.interrupted.load(Ordering::Relaxed) => {
                bounds.interrupted.store(true, Ordering::Relaxed);
            }
            ended = connections.join_next() => match ended {
                Some(Ok(Ok(tally))) => total.add(tally),
                Some(Ok(Err(failure))) => return Err(failure),
                Some(Err(error)) => return Err(Failure::failed(format!("a connection crashed: {error}"))),
                None => return Ok(total),
            },
        }
    }
}

/// A client that begins at a node of its own, and reports a busy node instead of waiting for it.
fn client_starting_at(context: &Context, number: u32) -> Result<Client, Failure> {
    let mut urls = context.urls.clone();
    let first = usize::try_from(number).unwrap_or_default() % urls.len();
    urls.rotate_left(first);
    let options = Options { patient: false, ..context.options.clone() };
    Client::with_options(&urls, context.key.clone(), options).map_err(|e| Failure::failed(e.to_string()))
}

struct Template {
    function: String,
    path: String,
    data: Option<Bytes>,
}

impl Template {
    fn request(&self) -> Request {
        let method = if self.data.is_some() { Method::POST } else { Method::GET };
        Request::new(method, self.data.clone().unwrap_or_default().into()).path(&self.path)
    }
}

async fn connection(client: &Client, template: &Template, bounds: &Bounds) -> Result<Tally, Failure> {
    let mut tally = Tally::new()?;
    while bounds.admit() {
        let began = Instant::now();
        match exchange(client, template).await {
            Ok((status, cold_start)) => {
                tally.count(status.to_string());
                tally.cold_starts += u64::from(cold_start);
                if status < 400 {
                    let us = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
                    tally.latencies.saturating_record(us);
                }
            }
            Err(error) => {
                tally.count(error.status().map_or("none".to_owned(), |status| status.to_string()));
                let unreachable = matches!(error, Error::Unreachable { .. });
                tally.error.get_or_insert(error);
                if unreachable {
                    tokio::time::sleep(UNREACHABLE_PAUSE).await;
                }
            }
        }
    }
    Ok(tally)
}

/// One request and its whole answer.
async fn exchange(client: &Client, template: &Template) -> Result<(u16, bool), Error> {
    let mut answer = client.invoke(&template.function, template.request()).await?;
    while answer.body.chunk().await?.is_some() {}
    Ok((answer.status.as_u16(), answer.cold_start))
}

impl Bounds {
    /// Whether one more request may be sent.
    fn admit(&self) -> bool {
        !self.interrupted.load(Ordering::Relaxed)
            && self.until.is_none_or(|until| Instant::now() < until)
            && self.left.as_ref().is_none_or(|left| {
                left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
            })
    }
}

impl Tally {
    fn new() -> Result<Self, Failure> {
        // Three digits: 0.1 % is finer than any run repeats.
        let latencies = Histogram::new_with_bounds(1, LATENCY_MAX_US, 3)
            .map_err(|e| Failure::failed(format!("cannot record latencies: {e}")))?;
        Ok(Tally { latencies, by_status: BTreeMap::new(), cold_starts: 0, error: None })
    }

    fn count(&mut self, status: String) {
        *self.by_status.entry(status).or_default() += 1;
    }

    fn add(&mut self, other: Tally) {
        // Both were made with the same bounds, so nothing is out of range.
        let _ = self.latencies.add(&other.latencies);
        for (status, count) in other.by_status {
            *self.by_status.entry(status).or_default() += count;
        }
        self.cold_starts += other.cold_starts;
        self.error = self.error.take().or(other.error);
    }
}

fn report(arguments: &Arguments, tally: &Tally, elapsed: Duration) -> Report {
    let requests: u64 = tally.by_status.values().sum();
    // Two decimals; the sum of a run's requests is far below what a float holds exactly.
    let rate = Duration::from_secs(requests).as_secs_f64() / elapsed.as_secs_f64().max(0.001);
    let quantile = |q| tally.latencies.value_at_quantile(q);
    Report {
        function: arguments.name.clone(),
        connections: arguments.connections,
        elapsed_ms: u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX),
        requests,
        requests_per_second: (rate * 100.0).round() / 100.0,
        p50_us: quantile(0.5),
        p90_us: quantile(0.9),
        p99_us: quantile(0.99),
        max_us: tally.latencies.max(),
        by_status: tally.by_status.clone(),
        cold_starts: tally.cold_starts,
    }
}

fn text(report: &Report) -> String {
    let by_status = report.by_status.iter().map(|(status, count)| format!("{count} × {status}"));
    let latency = |us: u64| format!("{}.{:03} ms", us / 1000, us % 1000);
    Table::of_fields(&[
        (
            "Requests",
            format!(
                "{} in {}.{} s",
                report.requests,
                report.elapsed_ms / 1000,
                report.elapsed_ms % 1000 / 100
            ),
        ),
        ("Requests/s", report.requests_per_second.to_string()),
        ("p50", latency(report.p50_us)),
        ("p90", latency(report.p90_us)),
        ("p99", latency(report.p99_us)),
        ("max", latency(report.max_us)),
        ("By status", by_status.collect::<Vec<_>>().join(", ")),
        ("Cold starts", report.cold_starts.to_string()),
    ])
}
