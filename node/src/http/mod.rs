//! The admin API: everything under `/v1`, health and metrics. Invocations do not come through here.

mod accounts;
mod cluster;
mod convert;
mod extract;
mod functions;
mod health;
mod instances;
mod problem;
mod usage;

use std::sync::Arc;

use axum::Router;
use axum::routing::{delete, get, post, put};
use muster_consensus::Consensus;
use muster_gateway::Gateway;

use crate::controller::Controller;
use problem::ApiError;

/// What handlers need. A clone is a handle.
#[derive(Clone, Debug)]
pub(crate) struct App {
    pub(crate) consensus: Consensus,
    pub(crate) controller: Controller,
    pub(crate) gateway: Arc<Gateway>,
    pub(crate) store: muster_storage::Store,
}

pub(crate) fn router(app: App) -> Router {
    Router::new()
        .route("/livez", get(health::livez))
        .route("/readyz", get(health::readyz))
        .route("/metrics", get(health::metrics))
        .route("/v1/cluster", get(cluster::cluster))
        .route("/v1/nodes", get(cluster::nodes))
        .route("/v1/functions", get(functions::list))
        .route("/v1/functions/{name}", put(functions::put).get(functions::get).delete(functions::delete))
        .route("/v1/instances", get(instances::list))
        .route("/v1/decisions", get(instances::decisions))
        .route("/v1/accounts", post(accounts::create).get(accounts::list))
        .route("/v1/accounts/{name}", get(accounts::get).delete(accounts::delete))
        .route("/v1/accounts/{name}/keys", post(accounts::create_key).get(accounts::keys))
        .route("/v1/accounts/{name}/keys/{id}", delete(accounts::revoke_key))
        .route("/v1/accounts/{name}/grants/{pattern}", put(accounts::grant).delete(accounts::revoke))
        .route("/v1/usage", get(usage::usage))
        .fallback(|uri: http::Uri| async move { ApiError::NotFound(format!("there is no `{}`", uri.path())) })
        .method_not_allowed_fallback(|method: http::Method| async move { ApiError::MethodNotAllowed(method) })
        .with_state(app)
}
