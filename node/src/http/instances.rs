//! Instances and what the leader decided about them.

use axum::Json;
use axum::extract::State;
use muster_api as api;
use muster_core::accounts::Action;
use muster_core::ids::FunctionName;
use serde::Deserialize;

use super::App;
use super::convert;
use super::extract::{Caller, Consistency, Params};
use super::functions::{forbidden, may_see};
use super::problem::ApiError;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct OfFunction {
    function: Option<String>,
    consistency: Consistency,
    /// Also those that ended lately.
    all: bool,
}

impl OfFunction {
    fn name(&self) -> Result<Option<FunctionName>, ApiError> {
        Ok(self.function.as_deref().map(FunctionName::new).transpose()?)
    }
}

/// Live instances first by function, then by age.
pub(super) async fn list(
    State(app): State<App>,
    caller: Caller,
    Params(params): Params<OfFunction>,
) -> Result<Json<Vec<api::Instance>>, ApiError> {
    let name = params.name()?;
    params.consistency.settle(&app).await?;
    let loads = app.controller.loads().await;
    let published = app.consensus.state();
    let state = &published.state;
    if let Some(name) = name.as_ref().filter(|name| !may_see(state, &caller, name)) {
        return Err(forbidden(&caller, name));
    }
    let mut shown: Vec<_> = state
        .instances
        .iter()
        .filter(|(_, i)| params.all || !i.phase.is_ended())
        .filter(|(_, i)| name.as_ref().is_none_or(|name| i.function == *name))
        .filter(|(_, i)| may_see(state, &caller, &i.function))
        .collect();
    shown.sort_by_key(|(_, i)| (i.function.clone(), i.generation));
    let load = |id| loads.get(id).map(|load| (load.utilization_permille(), load.in_flight));
    Ok(Json(shown.iter().map(|(id, instance)| convert::instance(*id, instance, load(id))).collect()))
}

/// The latest first.
pub(super) async fn decisions(
    State(app): State<App>,
    caller: Caller,
    Params(params): Params<OfFunction>,
) -> Result<Json<Vec<api::Decision>>, ApiError> {
    let name = params.name()?;
    params.consistency.settle(&app).await?;
    let published = app.consensus.state();
    let state = &published.state;
    let may_manage = |name| state.allows(&caller.account, Action::Manage, name);
    if let Some(name) = name.as_ref().filter(|name| !may_manage(name)) {
        return Err(forbidden(&caller, name));
    }
    let decisions = state.instances.decisions().iter().rev();
    let shown = decisions
        .filter(|(_, decision)| name.as_ref().is_none_or(|name| decision.function == *name))
        .filter(|(_, decision)| may_manage(&decision.function))
        .map(|(at, decision)| convert::decision(at, decision));
    Ok(Json(shown.collect()))
}
