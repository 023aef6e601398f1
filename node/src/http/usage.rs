//! Usage: the ledger's rows summed by hour, day, month or in total.

use std::collections::BTreeMap;

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use http::{HeaderValue, header};
use muster_api as api;
use muster_core::ClusterState;
use muster_core::ids::{AccountName, FunctionName};
use muster_core::ledger::{Cut, Grain, Known, Selection, Sums};
use muster_core::units::Timestamp;
use serde::Deserialize;

use super::App;
use super::convert;
use super::extract::{Caller, Consistency, Params};
use super::problem::ApiError;

/// Rows in one answer: some 30 MB of JSON, which is in memory as a whole.
const ROWS_MAX: usize = 100_000;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct UsageParams {
    account: Option<String>,
    function: Option<String>,
    from: Option<String>,
    to: Option<String>,
    by: api::Grain,
    consistency: Consistency,
}

pub(super) async fn usage(
    State(app): State<App>,
    caller: Caller,
    Params(params): Params<UsageParams>,
) -> Result<Response, ApiError> {
    let time = |field, text: &Option<String>| {
        text.as_deref().map(|text| convert::parse_time(field, text)).transpose().map_err(ApiError::BadRequest)
    };
    let asked = params.account.as_deref().map(AccountName::new).transpose()?;
    if let Some(asked) = &asked {
        caller.must_be(asked)?;
    }
    let selection = Selection {
        // Others than admins see themselves, whether they ask or not.
        account: asked.or_else(|| (!caller.admin).then(|| caller.account.clone())),
        function: params.function.as_deref().map(FunctionName::new).transpose()?,
        from: time("from", &params.from)?.unwrap_or(Timestamp(0)),
        to: time("to", &params.to)?.unwrap_or(Timestamp(u64::MAX)),
    };
    params.consistency.settle(&app).await?;
    let published = app.consensus.state();
    let grain = grain(params.by);
    // Up to a million rows are read, and up to the limit encoded: not on a thread that serves others.
    let answering = tokio::task::spawn_blocking(move || {
        let rows = select(&published.state, &selection, grain, ROWS_MAX)?;
        Ok::<_, ApiError>(serde_json::to_vec(&rows).expect("rows of texts and integers are valid JSON"))
    });
    let json = answering.await.expect("reading the ledger does not panic")?;
    let mut response = Response::new(Body::from(json));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}

type Key = (AccountName, FunctionName, Option<Known>);

fn select(
    state: &ClusterState,
    selection: &Selection,
    grain: Grain,
    rows_max: usize,
) -> Result<Vec<api::Usage>, ApiError> {
    if let Some(cut) = selection.cut(&state.rollups) {
        return Err(ApiError::BadRequest(told(&cut)));
    }
    let mut sums: BTreeMap<Key, Sums> = BTreeMap::new();
    selection.read(state, |account, function, known, found| {
        let key = (account.clone(), function.clone(), known.coarsened(grain));
        sums.entry(key).or_default().add(found);
        if sums.len() <= rows_max {
            return Ok(());
        }
        Err(ApiError::BadRequest(format!(
            "the answer has more than {rows_max} rows: ask for one `account` or `function`, for less time \
             by `from` and `to`, or for longer periods by `by`"
        )))
    })?;
    Ok(sums.iter().map(|((account, function, period), sums)| row(account, function, *period, sums)).collect())
}

/// Why a bound cannot be answered.
fn told(cut: &Cut) -> String {
    let bound = if cut.at_start { "from" } else { "to" };
    let (by, begin) = match cut.grain {
        Grain::Month => ("month", "the first of a month, 00:00 UTC"),
        _ => ("day", "00:00 UTC"),
    };
    format!(
        "`{bound}` lies within a {by}: usage before {} is kept by {by}, so it must be {begin}",
        convert::time(cut.known_from)
    )
}

fn grain(by: api::Grain) -> Grain {
    match by {
        api::Grain::Hour => Grain::Hour,
        api::Grain::Day => Grain::Day,
        api::Grain::Month => Grain::Month,
        api::Grain::Total => Grain::Total,
    }
}

fn row(account: &AccountName, function: &FunctionName, period: Option<Known>, sums: &Sums) -> api::Usage {
    let Sums { usage, time } = sums;
    let grain = match period {
        Some(Known::Hour(_)) => api::Grain::Hour,
        Some(Known::Day(_)) => api::Grain::Day,
        Some(Known::Month(_)) => api::Grain::Month,
        None => api::Grain::Total,
    };
    api::Usage {
        account: account.to_string(),
        function: function.to_string(),
        period: grain,
        from: period.map(|period| convert::time(period.start())),
        invocations: usage.invocations,
        failures: usage.failures,
        cold_starts: usage.cold_starts,
        busy_ms: usage.busy_ms,
        memory_mb_ms: usage.memory_mb_ms,
        request_bytes: usage.request_bytes,
        response_bytes: usage.response_bytes,
        instance_ms: time.millis,
        instance_memory_mb_ms: time.memory_mb_ms,
        startup_ms: time.startup_millis,
        burst_startup_ms: time.burst_startup_millis,
    }
}

#[cfg(test)]
mod tests {
    use muster_core::ids::{Incarnation, InstanceId, NodeId};
    use muster_core::ledger::{self, Usage, UsageRow};
    use muster_core::units::{Day, Hour, Month};
    use muster_core::{Command, Entry, ProposalId};

    use super::*;

    /// 2026-11-01.
    const NOVEMBER: Day = Day(20_758);

    /// One invocation an hour, of one function by one account, from September to November; hours are kept
    /// from the 20th, days from November on.
    fn state() -> ClusterState {
        let (account, function) = (AccountName::new("a").unwrap(), FunctionName::new("f").unwrap());
        let row = |hour| UsageRow {
            account: account.clone(),
            function: function.clone(),
            instance: InstanceId(1),
            hour: Hour(hour),
            usage: Usage { invocations: 1, ..Usage::default() },
        };
        let (first, last) = (Day(NOVEMBER.0 - 61).first_hour().0, Day(NOVEMBER.0 + 30).first_hour().0);
        let mut commands: Vec<ledger::Command> = (first..last)
            .map(|hour| ledger::Command::RecordUsage {
                node: NodeId(1),
                incarnation: Incarnation(1),
                batch: u64::from(hour),
                rows: vec![row(hour)],
            })
            .collect();
        let (hours_from, days_from) = (Day(NOVEMBER.0 + 19), NOVEMBER.month());
        commands.push(ledger::Command::Keep { hours_from, days_from });
        // One month and some days have followed the marks; what has not is known no better.
        let days = (0..50).map(|day| (account.clone(), function.clone(), Day(NOVEMBER.0 - 61 + day)));
        commands.push(ledger::Command::RollUp { days: days.collect(), months: Vec::new() });
        let months = vec![(account.clone(), function.clone(), Month(days_from.0 - 2))];
        commands.push(ledger::Command::RollUp { days: Vec::new(), months });
        let mut state = ClusterState::default();
        let proposal = ProposalId { node: NodeId(1), incarnation: Incarnation(1), sequence: 1 };
        let commands = commands.into_iter().map(Command::Ledger).collect();
        state.apply(&Entry { at: Timestamp(0), proposal, commands });
        state
    }

    fn rows(from: &str, to: &str, grain: Grain) -> Result<Vec<(String, api::Grain, u64)>, String> {
        let time = |text: &str| convert::parse_time("time", text).unwrap();
        let selection = Selection { account: None, function: None, from: time(from), to: time(to) };
        let found = select(&state(), &selection, grain, 1_000).map_err(|error| error.to_string())?;
        Ok(found.into_iter().map(|row| (row.from.unwrap_or_default(), row.period, row.invocations)).collect())
    }

    #[test]
    fn each_period_is_told_as_closely_as_it_is_known() {
        use api::Grain as G;
        let total = rows("2026-01-01", "2027-01-01", Grain::Total).unwrap();
        assert_eq!(total, [(String::new(), G::Total, 91 * 24)]);
        let months = rows("2026-01-01", "2027-01-01", Grain::Month).unwrap();
        let sums: Vec<u64> = months.iter().map(|(_, _, sum)| *sum / 24).collect();
        assert_eq!(sums, [30, 31, 30], "{months:?}");
        let days = rows("2026-01-01", "2027-01-01", Grain::Day).unwrap();
        assert_eq!(days.iter().filter(|(_, grain, _)| *grain == G::Month).count(), 2);
        assert_eq!(days.iter().filter(|(_, grain, sum)| *grain == G::Day && *sum == 24).count(), 30);
        let hours = rows("2026-01-01", "2027-01-01", Grain::Hour).unwrap();
        for (grain, count) in [(G::Month, 2), (G::Day, 19), (G::Hour, 11 * 24)] {
            assert_eq!(hours.iter().filter(|(_, found, _)| *found == grain).count(), count, "{grain:?}");
        }
        assert_eq!(hours.iter().map(|(_, _, sum)| sum).sum::<u64>(), 91 * 24);
        assert!(hours[0].0.starts_with("2026-09-01T00:00"), "{:?}", hours[0]);
        // Across the mark, with bounds at whole days.
        let across = rows("2026-11-19", "2026-11-20T02:00:00Z", Grain::Hour).unwrap();
        let across: Vec<(G, u64)> = across.into_iter().map(|(_, grain, sum)| (grain, sum)).collect();
        assert_eq!(across, [(G::Day, 24), (G::Hour, 1), (G::Hour, 1)]);
    }

    #[test]
    fn what_nobody_knows_any_more_is_refused_and_says_why() {
        for (from, to, named) in [
            ("2026-11-19T12:00:00Z", "2026-12-01", "`from` lies within a day: usage before 2026-11-20"),
            ("2026-11-01", "2026-11-02T00:00:01Z", "`to` lies within a day"),
            ("2026-10-02", "2026-12-01", "`from` lies within a month: usage before 2026-11-01"),
            ("2026-09-01", "2026-09-30", "`to` lies within a month"),
        ] {
            let error = rows(from, to, Grain::Total).unwrap_err();
            assert!(error.contains(named), "{from} {to}: {error}");
        }
        let selection =
            Selection { account: None, function: None, from: Timestamp(0), to: Timestamp(u64::MAX) };
        let error = select(&state(), &selection, Grain::Hour, 100).unwrap_err().to_string();
        assert!(error.contains("more than 100 rows"), "{error}");
    }
}
