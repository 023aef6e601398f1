//! The output of a function's instances.

use axum::extract::State;
use axum::response::Response;
use futures_util::StreamExt;
use http::{HeaderMap, HeaderValue, header};
use muster_api as api;
use muster_core::accounts::Action;
use muster_core::ids::FunctionName;
use muster_core::rejection::{Kind, Rejection};
use serde::Deserialize;

use super::App;
use super::convert;
use super::extract::{Caller, Consistency, Params, Path, caller_of};
use super::functions::forbidden;
use super::problem::ApiError;
use crate::logs::{Asked, body_of, line_of};

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct LogParams {
    follow: bool,
    since: Option<String>,
    instance: Option<String>,
    consistency: Consistency,
}

/// One JSON object per line. The status is decided before the first: what goes wrong later is told in a line.
pub(super) async fn read(
    State(app): State<App>,
    caller: Caller,
    Path(name): Path<String>,
    Params(params): Params<LogParams>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let name = FunctionName::new(&name)?;
    let since = params.since.as_deref().map(|text| convert::parse_time("since", text));
    let since = since.transpose().map_err(ApiError::BadRequest)?;
    let instance = params.instance.as_deref().map(str::parse).transpose()?;
    params.consistency.settle(&app).await?;
    let published = app.consensus.state();
    let Some(function) = published.state.functions.get(name.as_str()) else {
        return Err(Rejection::NotFound { kind: Kind::Function, name: name.to_string() }.into());
    };
    if !published.state.allows(&caller.account, Action::Manage, &name) {
        return Err(forbidden(&caller, &name));
    }
    let born = function.created_at;
    let place =
        app.logs.admit().ok_or(ApiError::Overloaded("too many others read output through this node"))?;
    let asked = Asked {
        function: name.clone(),
        born,
        instance,
        after_ns: since.map_or(0, |since| since.0.saturating_mul(1_000_000).saturating_sub(1)),
        follow: params.follow,
    };
    let stop = app.stop.clone();
    let logs = app.logs.clone();
    // Rights that are taken away end the reading, and so does the function's end.
    let may_read = move || {
        let Ok(caller) = caller_of(&app, &headers) else { return false };
        app.consensus.holds_lease()
            && app.consensus.with_state(|state| {
                state.functions.get(name.as_str()).is_some_and(|function| function.created_at == born)
                    && state.allows(&caller.account, Action::Manage, &name)
            })
    };
    let lines = logs.read(asked, may_read, stop).map(move |(node, record)| {
        let _held_until_the_end = &place;
        line_of(&api::LogLine {
            time: convert::time_ns(record.at_ns),
            node: node.0,
            instance: record.instance.map(|instance| instance.to_string()),
            stream: record.stream.name().to_owned(),
            text: record.text,
        })
    });
    let mut response = Response::new(body_of(lines.boxed()));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(api::NDJSON));
    Ok(response)
}
