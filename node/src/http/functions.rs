//! Functions: create, change, read, delete.

use axum::Json;
use axum::extract::State;
use http::StatusCode;
use muster_api as api;
use muster_core::accounts::Action;
use muster_core::functions::{Command, PutOutcome};
use muster_core::ids::{ChangeId, FunctionName};
use muster_core::rejection::{Kind, Rejection};
use muster_core::{ClusterState, Reply};
use serde::Deserialize;

use super::App;
use super::convert;
use super::extract::{Caller, JsonBody, Nothing, Params, Path, Read};
use super::problem::ApiError;
use crate::random;

pub(super) async fn put(
    State(app): State<App>,
    caller: Caller,
    Path(name): Path<String>,
    _: Params<Nothing>,
    JsonBody(spec): JsonBody<api::FunctionSpec>,
) -> Result<(StatusCode, Json<api::Function>), ApiError> {
    let name = FunctionName::new(&name)?;
    let spec = convert::spec_from_api(spec).map_err(Rejection::Invalid)?;
    must_manage(&app, &caller, &name).await?;
    let change = ChangeId(random::id());
    let given = convert::spec_to_api(&spec);
    let command = Command::Put { name: name.clone(), spec, owner: caller.account.clone(), change };
    let reply = app.consensus.propose(muster_core::Command::Functions(command)).await??;
    let (status, version) = match reply {
        Reply::Put { outcome: PutOutcome::Created, version } => (StatusCode::CREATED, version),
        Reply::Put { version, .. } => (StatusCode::OK, version),
        _ => unreachable!("a put function answers with its version"),
    };
    let published = app.consensus.state();
    let function = shown(&published.state, &name).unwrap_or_else(|_gone| {
        // Somebody has deleted it since. It was put all the same, and "not found" would deny that.
        convert::deleted_function(&name, &caller.account, version, published.state.clock, given)
    });
    Ok((status, Json(function)))
}

pub(super) async fn get(
    State(app): State<App>,
    caller: Caller,
    Path(name): Path<String>,
    Params(read): Params<Read>,
) -> Result<Json<api::Function>, ApiError> {
    let name = FunctionName::new(&name)?;
    read.consistency.settle(&app).await?;
    let published = app.consensus.state();
    let function = shown(&published.state, &name)?;
    if !may_see(&published.state, &caller, &name) {
        return Err(forbidden(&caller, &name));
    }
    Ok(Json(redacted(&published.state, &caller, &name, function)))
}

/// Those the caller may invoke or manage.
pub(super) async fn list(
    State(app): State<App>,
    caller: Caller,
    Params(read): Params<Read>,
) -> Result<Json<Vec<api::Function>>, ApiError> {
    read.consistency.settle(&app).await?;
    let published = app.consensus.state();
    let state = &published.state;
    let visible = state.functions.iter().filter(|(name, _)| may_see(state, &caller, name));
    let shown = visible
        .map(|(name, function)| redacted(state, &caller, name, convert::function(state, name, function)));
    Ok(Json(shown.collect()))
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct DeleteParams {
    force: bool,
}

pub(super) async fn delete(
    State(app): State<App>,
    caller: Caller,
    Path(name): Path<String>,
    Params(params): Params<DeleteParams>,
) -> Result<StatusCode, ApiError> {
    let name = FunctionName::new(&name)?;
    if app.consensus.with_state(|state| exists(state, &name)).is_err() {
        // It may have been made through another node a moment ago.
        app.consensus.linearize().await?;
        app.consensus.with_state(|state| exists(state, &name))?;
    }
    must_manage(&app, &caller, &name).await?;
    let command = Command::Delete { name, force: params.force };
    app.consensus.propose(muster_core::Command::Functions(command)).await??;
    Ok(StatusCode::NO_CONTENT)
}

fn exists(state: &ClusterState, name: &FunctionName) -> Result<(), ApiError> {
    match state.functions.get(name.as_str()) {
        Some(_) => Ok(()),
        None => Err(Rejection::NotFound { kind: Kind::Function, name: name.to_string() }.into()),
    }
}

fn shown(state: &ClusterState, name: &FunctionName) -> Result<api::Function, ApiError> {
    exists(state, name)?;
    let function = state.functions.get(name.as_str()).expect("it was just found");
    Ok(convert::function(state, name, function))
}

/// Without the environment, which may hold secrets, for those who may only invoke.
fn redacted(
    state: &ClusterState,
    caller: &Caller,
    name: &FunctionName,
    mut function: api::Function,
) -> api::Function {
    if !state.allows(&caller.account, Action::Manage, name) {
        function.spec.env.clear();
    }
    function
}

pub(super) fn may_see(state: &ClusterState, caller: &Caller, name: &FunctionName) -> bool {
    state.allows(&caller.account, Action::Invoke, name) || state.allows(&caller.account, Action::Manage, name)
}

async fn must_manage(app: &App, caller: &Caller, name: &FunctionName) -> Result<(), ApiError> {
    let allowed = || app.consensus.with_state(|state| state.allows(&caller.account, Action::Manage, name));
    if allowed() {
        return Ok(());
    }
    // The grant may have been made through another node a moment ago.
    app.consensus.linearize().await?;
    if allowed() { Ok(()) } else { Err(forbidden(caller, name)) }
}

pub(super) fn forbidden(caller: &Caller, name: &FunctionName) -> ApiError {
    ApiError::Forbidden(format!("`{}` has no grant for this on the function `{name}`", caller.account))
}
