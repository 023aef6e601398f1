//! `MODE=echo`: the request as the function saw it.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use muster_runtime::http::{HeaderValue, StatusCode, header};
use muster_runtime::{BODY_LIMIT_BYTES, Failure, Request, Response, read_body};
use serde::Serialize;

use crate::{query_number, query_text};

/// The longest `?work_ms=`: an hour.
const WORK_MS_MAX: u64 = 3_600_000;

/// What `echo` answers.
#[derive(Serialize)]
struct Seen {
    method: String,
    path: String,
    query: Option<String>,
    /// Every value of each header, in order; bytes outside UTF-8 are replaced.
    headers: BTreeMap<String, Vec<String>>,
    /// As text; bytes outside UTF-8 are replaced.
    body: String,
    body_bytes: usize,
    /// How often this process has begun to handle a request, this one included.
    executions: u64,
    /// Tells instances apart where `executions` starts over.
    process: u32,
}

type Answer = Pin<Box<dyn Future<Output = Result<Response, Failure>> + Send>>;

/// Answers after `work`, or after `?work_ms=` where the request asks for it, with 200 or with `?status=`.
/// Writes `?print=` to stdout and to stderr.
pub(crate) fn handler(work: Duration) -> impl Fn(Request) -> Answer + Send + Sync {
    let executions = AtomicU64::new(0);
    move |request| {
        let executions = executions.fetch_add(1, Ordering::Relaxed) + 1;
        Box::pin(echo(request, work, executions))
    }
}

async fn echo(request: Request, work: Duration, executions: u64) -> Result<Response, Failure> {
    let default_ms = u64::try_from(work.as_millis())?;
    let work = Duration::from_millis(query_number(&request, "work_ms", default_ms, WORK_MS_MAX)?);
    let status = StatusCode::from_u16(u16::try_from(query_number(&request, "status", 200, 599)?)?)?;
    if let Some(text) = query_text(&request, "print") {
        println!("{text} on stdout");
        eprintln!("{text} on stderr");
    }
    let (head, body) = request.into_parts();
    let body = read_body(body, BODY_LIMIT_BYTES).await?;
    tokio::time::sleep(work).await;

    let mut headers = BTreeMap::<String, Vec<String>>::new();
    for (name, value) in &head.headers {
        let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
        headers.entry(name.to_string()).or_default().push(value);
    }
    let seen = Seen {
        method: head.method.to_string(),
        path: head.uri.path().to_owned(),
        query: head.uri.query().map(str::to_owned),
        headers,
        body: String::from_utf8_lossy(&body).into_owned(),
        body_bytes: body.len(),
        executions,
        process: std::process::id(),
    };
    let mut response = Response::new(serde_json::to_vec(&seen)?.into());
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}
