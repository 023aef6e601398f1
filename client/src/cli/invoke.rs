//! `muster invoke`: invoke a function and print its answer as it is.

use std::io::{self, Write};

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use http::{HeaderMap, Method};
use muster_client::{Body, Invocation, Request};
use tokio::io::AsyncReadExt;

use super::Context;
use super::failure::{Doing, Failure};
use super::output::note;

/// What is read of standard input before it is sent as a stream: less than this can be sent to
/// another node if the first can't be reached, and has a length.
const READ_AHEAD: usize = 1024 * 1024;
const CHUNK: usize = 64 * 1024;
/// The largest file that is read into memory.
const FILE_MAX: u64 = 256 * 1024 * 1024;

/// Invoke a function: its answer's body goes to standard output as it is
#[derive(clap::Args)]
pub(super) struct Arguments {
    #[arg(value_name = "NAME")]
    name: String,
    /// What to send: DATA itself, @FILE for a file's content, - for standard input
    #[arg(long, short, value_name = "DATA", allow_hyphen_values = true)]
    data: Option<String>,
    /// Path and query below the function, such as /items?page=2
    #[arg(long, short, default_value = "", hide_default_value = true)]
    path: String,
    /// HTTP method [default: POST with data, else GET]
    #[arg(long, short = 'X', value_name = "METHOD")]
    request: Option<Method>,
    /// A header to send, such as 'Content-Type: text/plain'; may be repeated
    #[arg(long, short = 'H', value_name = "NAME: VALUE", value_parser = parse_header)]
    header: Vec<(HeaderName, HeaderValue)>,
    /// Say on standard error which instance answered
    #[arg(long, short = 'i', visible_short_alias = 'v')]
    verbose: bool,
}

pub(super) async fn run(context: &Context, arguments: Arguments) -> Result<(), Failure> {
    let Arguments { name, data, path, request: method, header, verbose } = arguments;
    let method = method.unwrap_or(if data.is_some() { Method::POST } else { Method::GET });
    let mut headers: HeaderMap = header.into_iter().collect();
    let body = match data.as_deref() {
        None => Body::empty(),
        Some("-") => standard_input(&mut headers).await?,
        Some(data) => match data.strip_prefix('@') {
            Some(file) => known(read_file(file)?, &mut headers),
            None => known(data.to_owned(), &mut headers),
        },
    };
    let doing = format!("invoke function `{name}`");
    let request = Request { headers, ..Request::new(method, body).path(path) };
    let mut answer = context.client.invoke(&name, request).await.changing(&doing)?;
    if verbose {
        note(&provenance(&answer));
    }
    let mut stdout = io::stdout().lock();
    while let Some(chunk) = answer.body.chunk().await.changing(&doing)? {
        stdout.write_all(&chunk)?;
        // Whatever the function sends is shown when it is sent.
        stdout.flush()?;
    }
    match answer.status.as_u16() {
        ..400 => Ok(()),
        status => Err(Failure::failed(format!("function `{name}` answered {status}"))),
    }
}

fn provenance(answer: &Invocation) -> String {
    let or = |value: &Option<String>| value.clone().unwrap_or_else(|| "unknown".to_owned());
    let start = if answer.cold_start { "cold start" } else { "warm" };
    format!(
        "status {}, invocation {}, node {}, instance {}, {start}",
        answer.status.as_u16(),
        or(&answer.invocation_id),
        or(&answer.node),
        or(&answer.instance)
    )
}

/// A body in memory. JSON is called so, unless the caller calls it something.
fn known(data: impl Into<Bytes>, headers: &mut HeaderMap) -> Body {
    let data = data.into();
    let is_json = data.len() <= READ_AHEAD && serde_json::from_slice::<serde::de::IgnoredAny>(&data).is_ok();
    if is_json && !headers.contains_key(CONTENT_TYPE) {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    }
    Body::from(data)
}

fn read_file(file: &str) -> Result<Vec<u8>, Failure> {
    let cannot = |why: &dyn std::fmt::Display| Failure::Usage(format!("cannot read {file}: {why}"));
    if std::fs::metadata(file).map_err(|e| cannot(&e))?.len() > FILE_MAX {
        return Err(cannot(&"it is larger than 256 MiB; stream it with `-d - <FILE`"));
    }
    std::fs::read(file).map_err(|e| cannot(&e))
}

async fn standard_input(headers: &mut HeaderMap) -> Result<Body, Failure> {
    let mut stdin = tokio::io::stdin();
    let mut ahead = Vec::new();
    let read = (&mut stdin).take(READ_AHEAD as u64).read_to_end(&mut ahead).await;
    read.map_err(|e| Failure::failed(format!("cannot read standard input: {e}")))?;
    if ahead.len() < READ_AHEAD {
        return Ok(known(ahead, headers));
    }
    let rest = stream::unfold(stdin, |mut stdin| async move {
        let mut chunk = vec![0; CHUNK];
        match stdin.read(&mut chunk).await {
            Ok(0) => None,
            Ok(count) => {
                chunk.truncate(count);
                Some((Ok(Bytes::from(chunk)), stdin))
            }
            Err(error) => Some((Err(error), stdin)),
        }
    });
    Ok(Body::stream(stream::iter([Ok(Bytes::from(ahead))]).chain(rest)))
}

fn parse_header(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let (name, value) = text.split_once(':').ok_or("expected `Name: value`")?;
    let name = name.trim().parse().map_err(|_| "not a header name")?;
    let value = HeaderValue::from_str(value.trim()).map_err(|_| "not a header value")?;
    Ok((name, value))
}
