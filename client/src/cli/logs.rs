//! `muster logs`: what a function's instances write.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use muster_client::api::LogLine;
use muster_client::{LogQuery, Logs};

use super::Context;
use super::failure::{Doing, Failure};
use super::human::parse_time;
use super::output::{Format, note, printable};

/// The stream of remarks, as the API calls it.
const REMARKS: &str = "muster";
/// Before another node is asked to go on, after the one that was followed broke off.
const PAUSE: Duration = Duration::from_millis(500);
/// How far back another node is asked: what one host was slow to tell must not be missed. What was shown
/// already is left out.
const OVERLAP: SignedDuration = SignedDuration::from_secs(10);

/// Print what a function's instances write, on all nodes, by time
#[derive(clap::Args)]
pub(super) struct Arguments {
    /// The function
    #[arg(value_name = "NAME")]
    name: String,
    /// Go on printing what comes
    #[arg(long, short)]
    follow: bool,
    /// Only lines from then on: 2026-11-23T10:00:00Z, a date, or a time back such as 10m
    #[arg(long, value_parser = parse_time, value_name = "TIME")]
    since: Option<String>,
    /// Only this instance's
    #[arg(long, value_name = "ID")]
    instance: Option<String>,
}

pub(super) async fn run(context: &Context, arguments: Arguments) -> Result<(), Failure> {
    let Arguments { name, follow, since, instance } = arguments;
    let doing = format!("read the logs of function `{name}`");
    let mut query = LogQuery { follow, since, instance };
    let mut shown = Shown::default();
    let mut logs = context.client.logs(&name, &query).await.doing(&doing)?;
    loop {
        let broken = match print(context, &mut logs, &mut shown).await? {
            Ok(()) => return Ok(()),
            Err(error) if !follow || shown.latest.is_none() => return Err(error).doing(&doing),
            Err(error) => error,
        };
        note(&format!("{broken}; going on with another node"));
        tokio::time::sleep(PAUSE).await;
        query.since = shown.since().or(query.since);
        logs = context.client.logs(&name, &query).await.doing(&doing)?;
    }
}

/// Prints until the end. The outer error is this command's, the inner the node's.
async fn print(
    context: &Context,
    logs: &mut Logs,
    shown: &mut Shown,
) -> Result<Result<(), muster_client::Error>, Failure> {
    let mut stdout = io::stdout();
    loop {
        let line = match logs.next().await {
            Ok(Some(line)) => line,
            Ok(None) => return Ok(Ok(())),
            Err(error) => return Ok(Err(error)),
        };
        if !shown.is_new(&line) {
            continue;
        }
        match context.output.format() {
            Format::Table if line.stream == REMARKS => {
                let instance = line.instance.map(|id| format!(", {id}")).unwrap_or_default();
                note(&format!("node {}{instance}: {}", line.node, line.text));
                continue;
            }
            Format::Table => {
                let instance = line.instance.unwrap_or_default();
                let text = printable(&line.text.replace('\n', " "));
                writeln!(stdout, "{} {} {instance} {} {text}", line.time, line.node, line.stream)?;
            }
            // One line each, however many may come.
            Format::Json => {
                writeln!(stdout, "{}", serde_json::to_string(&line).map_err(io::Error::from)?)?;
            }
            Format::Yaml => {
                write!(stdout, "---\n{}", serde_norway::to_string(&line).map_err(io::Error::other)?)?;
            }
        }
        stdout.flush()?;
    }
}

/// What was printed, so that nothing is printed twice.
#[derive(Default)]
struct Shown {
    /// By instance, the time of its last line. Times in one form sort as texts.
    last: BTreeMap<String, String>,
    latest: Option<String>,
}

impl Shown {
    fn is_new(&mut self, line: &LogLine) -> bool {
        let Some(instance) = &line.instance else { return true };
        if line.stream == REMARKS {
            return true;
        }
        if self.last.get(instance).is_some_and(|last| line.time <= *last) {
            return false;
        }
        self.last.insert(instance.clone(), line.time.clone());
        self.latest = self.latest.take().max(Some(line.time.clone()));
        true
    }

    /// From where another node is to go on.
    fn since(&self) -> Option<String> {
        let latest: Timestamp = self.latest.as_ref()?.parse().ok()?;
        latest.checked_sub(OVERLAP).ok().map(|since| since.to_string())
    }
}
