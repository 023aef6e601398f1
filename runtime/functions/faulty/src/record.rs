//! `MODE=record`: notes each execution with a collector before it does anything else, and then does
//! what the request asks for. A container has no file that would outlive it; a note that the
//! collector has acknowledged survives whatever happens to the container.

use std::pin::Pin;
use std::time::Duration;

use anyhow::Context;
use muster_runtime::{BODY_LIMIT_BYTES, Failure, Request, read_body};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::{MID_REQUEST_STATUS, query_number, query_text};

/// The collector's `host:port`.
const COLLECTOR_VARIABLE: &str = "COLLECTOR";
const WORK_MS_MAX: u64 = 3_600_000;
const BYTES_MAX: u64 = 16 * 1024 * 1024;
/// The pieces in which memory is taken until none is left.
const PIECE_BYTES: usize = 1024 * 1024;

type Answer = Pin<Box<dyn Future<Output = Result<String, Failure>> + Send>>;

/// `?token=` is what is noted; `?work_ms=`, `?bytes=` and `?mode=exit|hang|exhaust` what follows.
pub(crate) fn handler() -> anyhow::Result<impl Fn(Request) -> Answer + Send + Sync> {
    let collector = std::env::var(COLLECTOR_VARIABLE).context("MODE=record needs COLLECTOR")?;
    Ok(move |request| -> Answer { Box::pin(answer(collector.clone(), request)) })
}

async fn answer(collector: String, request: Request) -> Result<String, Failure> {
    let token = query_text(&request, "token").unwrap_or_default().to_owned();
    let mode = query_text(&request, "mode").map(str::to_owned);
    let work_ms = query_number(&request, "work_ms", 0, WORK_MS_MAX)?;
    let bytes = usize::try_from(query_number(&request, "bytes", 0, BYTES_MAX)?)?;
    note(&collector, &token).await?;
    read_body(request.into_body(), BODY_LIMIT_BYTES).await?;
    match mode.as_deref() {
        Some("exit") => std::process::exit(MID_REQUEST_STATUS),
        Some("hang") => std::future::pending().await,
        Some("exhaust") => exhaust(),
        _ => {}
    }
    tokio::time::sleep(Duration::from_millis(work_ms)).await;
    let mut answer = token;
    let padding = bytes.saturating_sub(answer.len());
    answer.extend(std::iter::repeat_n(' ', padding));
    Ok(answer)
}

async fn note(collector: &str, token: &str) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(collector).await?;
    stream.write_all(format!("{token}\n").as_bytes()).await?;
    // One byte says that the note was taken.
    stream.read_u8().await.map(drop)
}

/// Takes memory, and writes to it so that it is really there, until the kernel ends the process.
fn exhaust() -> ! {
    let mut taken = Vec::new();
    loop {
        taken.push(vec![1_u8; PIECE_BYTES]);
        std::hint::black_box(&taken);
    }
}
