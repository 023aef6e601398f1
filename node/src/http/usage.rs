//! Usage: the ledger's rows summed by hour, day or in total.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use muster_api as api;
use muster_core::ids::{AccountName, FunctionName};
use muster_core::ledger::{InstanceTime, Usage};
use muster_core::units::{Hour, Timestamp};
use muster_core::{ClusterState, billing};
use serde::Deserialize;

use super::App;
use super::convert;
use super::extract::{Caller, Consistency, Params};
use super::problem::ApiError;

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

/// What rows to sum.
struct Selection {
    account: Option<AccountName>,
    function: Option<FunctionName>,
    /// Hours that begin in this range.
    from: Timestamp,
    to: Timestamp,
    grain: api::Grain,
}

pub(super) async fn usage(
    State(app): State<App>,
    caller: Caller,
    Params(params): Params<UsageParams>,
) -> Result<Json<Vec<api::Usage>>, ApiError> {
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
        grain: params.by,
    };
    params.consistency.settle(&app).await?;
    let published = app.consensus.state();
    Ok(Json(select(&published.state, &selection)))
}

fn select(state: &ClusterState, selection: &Selection) -> Vec<api::Usage> {
    let mut sums: BTreeMap<(AccountName, FunctionName, Option<Timestamp>), (Usage, InstanceTime)> =
        BTreeMap::new();
    for ((account, function, hour), usage) in state.ledger.usage() {
        if let Some(period) = selection.period(account, function, *hour) {
            sums.entry((account.clone(), function.clone(), period)).or_default().0.add(usage);
        }
    }
    for ((account, function, hour), time) in state.ledger.instance_time() {
        if let Some(period) = selection.period(account, function, *hour) {
            sums.entry((account.clone(), function.clone(), period)).or_default().1.add(time);
        }
    }
    for (_, instance) in state.instances.live() {
        for charge in billing::charges(instance, state.clock) {
            if let Some(period) = selection.period(&charge.account, &instance.function, charge.hour) {
                let key = (charge.account, instance.function.clone(), period);
                sums.entry(key).or_default().1.add(&charge.time);
            }
        }
    }
    sums.into_iter()
        .map(|((account, function, period), sums)| row(&account, &function, period, &sums))
        .collect()
}

impl Selection {
    /// The period a row counts towards; `None` if it is not selected.
    #[expect(clippy::option_option, reason = "not selected, and selected for the total, differ")]
    fn period(
        &self,
        account: &AccountName,
        function: &FunctionName,
        hour: Hour,
    ) -> Option<Option<Timestamp>> {
        let start = hour.start();
        let wanted = self.account.as_ref().is_none_or(|a| a == account)
            && self.function.as_ref().is_none_or(|f| f == function)
            && (self.from..self.to).contains(&start);
        wanted.then_some(match self.grain {
            api::Grain::Hour => Some(start),
            api::Grain::Day => Some(Timestamp(start.0 - start.0 % DAY_MS)),
            api::Grain::Total => None,
        })
    }
}

const DAY_MS: u64 = 24 * 3_600_000;

fn row(
    account: &AccountName,
    function: &FunctionName,
    period: Option<Timestamp>,
    (usage, time): &(Usage, InstanceTime),
) -> api::Usage {
    api::Usage {
        account: account.to_string(),
        function: function.to_string(),
        from: period.map(convert::time),
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
