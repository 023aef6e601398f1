//! `muster usage`: who used what.

use clap::ValueEnum;
use muster_client::UsageQuery;
use muster_client::api::{Grain, Usage};

use super::Context;
use super::failure::{Doing, Failure};
use super::human::{bytes, duration, memory_time, parse_time};
use super::output::Table;

/// Show usage, by account and function
#[derive(clap::Args)]
pub(super) struct Arguments {
    /// Of this account only
    #[arg(long, value_name = "NAME")]
    account: Option<String>,
    /// Of this function only
    #[arg(long, value_name = "NAME")]
    function: Option<String>,
    /// The period of each line
    #[arg(long, value_enum, default_value_t)]
    by: By,
    /// The first moment: RFC 3339, a date, or a time back such as 24h
    #[arg(long, value_parser = parse_time, value_name = "TIME")]
    from: Option<String>,
    /// The moment after the last, likewise
    #[arg(long, value_parser = parse_time, value_name = "TIME")]
    to: Option<String>,
}

#[derive(Clone, Copy, Default, ValueEnum)]
enum By {
    Hour,
    #[default]
    Day,
    Month,
    Total,
}

pub(super) async fn run(context: &Context, arguments: Arguments) -> Result<(), Failure> {
    let Arguments { account, function, by, from, to } = arguments;
    let grain = match by {
        By::Hour => Grain::Hour,
        By::Day => Grain::Day,
        By::Month => Grain::Month,
        By::Total => Grain::Total,
    };
    let of = match (&account, &function) {
        (None, None) => String::new(),
        (Some(account), None) => format!(" of account `{account}`"),
        (None, Some(function)) => format!(" of function `{function}`"),
        (Some(account), Some(function)) => format!(" of function `{function}` by account `{account}`"),
    };
    let query = UsageQuery { account, function, from, to, by: Some(grain) };
    let usage = context.client.usage(&query).await.doing(format_args!("show usage{of}"))?;
    context.output.list(&usage, &format!("usage{of}"), || table(&usage))
}

fn table(usage: &[Usage]) -> Table {
    let mut table = Table::new(&[
        "ACCOUNT",
        "FUNCTION",
        "FROM",
        ">INVOCATIONS",
        ">FAILURES",
        ">COLD",
        ">BUSY",
        ">MEMORY",
        ">RECEIVED",
        ">SENT",
        ">INSTANCE TIME",
        ">STARTUP",
        ">BURST",
    ]);
    for one in usage {
        table.row([
            one.account.clone(),
            one.function.clone(),
            one.from.as_deref().map(|from| period(from, one.period)).unwrap_or_default(),
            one.invocations.to_string(),
            one.failures.to_string(),
            one.cold_starts.to_string(),
            duration(one.busy_ms),
            memory_time(one.memory_mb_ms),
            bytes(one.request_bytes),
            bytes(one.response_bytes),
            duration(one.instance_ms),
            duration(one.startup_ms),
            duration(one.burst_startup_ms),
        ]);
    }
    table
}

/// The start of a period as far as it tells periods apart: a month, a date, or an hour of one. Where no
/// more is known than a longer period's sum, its own.
fn period(from: &str, of: Grain) -> String {
    let length = match of {
        Grain::Hour => "2026-11-23T10:00".len(),
        Grain::Day | Grain::Total => "2026-11-23".len(),
        Grain::Month => "2026-11".len(),
    };
    from.chars().take(length).map(|c| if c == 'T' { ' ' } else { c }).collect()
}
