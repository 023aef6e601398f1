//! Example function `faulty`: misbehaves as the environment variable `MODE` says, to see what Muster makes of
//! it.
//!
//! | `MODE` | behaviour |
//! |---|---|
//! | `echo` (default) | answers its request as JSON, with a count of executions; see [`echo`] |
//! | `crash` | exits with status 3 at start, with a message on stderr |
//! | `never-ready` | runs and never listens |
//! | `exit-mid-request` | reads the request, then exits with status 7 |
//! | `nonsense` | answers bytes that are not HTTP |
//! | `hang` | never answers |
//! | `slow-stream` | `?chunks=10&interval_ms=100`: a line at a time |
//! | `big` | `?bytes=1048576`: so many bytes, with a content length |
//! | `truncate` | declares 1000 bytes, sends 7 and closes |
//! | `record` | notes each execution with `COLLECTOR`; see [`record`] |
//!
//! `LOAD_MS` (default 0) delays listening. `WORK_MS` (default 0) delays each answer of `echo`.

mod echo;
mod raw;
mod record;
mod streams;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::bail;
use muster_runtime::{BODY_LIMIT_BYTES, Failure, Request, Server, duration_ms, initialize, read_body};

const CRASH_STATUS: u8 = 3;
const MID_REQUEST_STATUS: i32 = 7;
/// A hanging request never finishes, so waiting for it at shutdown is in vain.
const HANG_GRACE: Duration = Duration::from_millis(500);

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<ExitCode> {
    let mode = std::env::var("MODE").unwrap_or_else(|_| "echo".to_owned());
    initialize(tokio::time::sleep(duration_ms("LOAD_MS", 0)?)).await?;
    let server = Server::from_env()?;
    match mode.as_str() {
        "crash" => {
            eprintln!("faulty crashes at start, as MODE=crash asks");
            return Ok(ExitCode::from(CRASH_STATUS));
        }
        "never-ready" => initialize(std::future::pending()).await?,
        "exit-mid-request" => server.serve(exit_mid_request).await?,
        "hang" => server.grace(HANG_GRACE).serve(|_| std::future::pending::<&str>()).await?,
        "echo" => server.serve(echo::handler(duration_ms("WORK_MS", 0)?)).await?,
        "slow-stream" => server.serve(streams::slow).await?,
        "big" => server.serve(streams::big).await?,
        "nonsense" => raw::serve(server.address(), raw::NONSENSE).await?,
        "truncate" => raw::serve(server.address(), raw::TRUNCATED).await?,
        "record" => server.grace(HANG_GRACE).serve(record::handler()?).await?,
        other => bail!(
            "MODE is `{other}`; expected echo, crash, never-ready, exit-mid-request, nonsense, hang, \
             slow-stream, big, truncate or record"
        ),
    }
    Ok(ExitCode::SUCCESS)
}

async fn exit_mid_request(request: Request) -> Result<&'static str, Failure> {
    read_body(request.into_body(), BODY_LIMIT_BYTES).await?;
    eprintln!("faulty exits in the middle of a request, as MODE=exit-mid-request asks");
    std::process::exit(MID_REQUEST_STATUS);
}

/// A text from a query such as `a=1&b=2`, as it stands there.
fn query_text<'r>(request: &'r Request, name: &str) -> Option<&'r str> {
    let mut pairs = request.uri().query().unwrap_or("").split('&').filter_map(|pair| pair.split_once('='));
    pairs.find(|(key, _)| *key == name).map(|(_, text)| text)
}

/// A whole number from a query such as `a=1&b=2`, at most `max`.
fn query_number(request: &Request, name: &str, default: u64, max: u64) -> Result<u64, Failure> {
    let Some(text) = query_text(request, name) else { return Ok(default) };
    match text.parse() {
        Ok(number) if number <= max => Ok(number),
        _ => Err(Failure::invalid(
            name,
            format!("`{name}`: expected a whole number up to {max}, not `{text}`"),
        )),
    }
}
