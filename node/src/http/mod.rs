//! The admin API: everything under `/v1`, health and metrics. Invocations do not come through here.

mod accounts;
mod cluster;
mod convert;
mod extract;
mod functions;
mod health;
mod instances;
mod openapi;
mod problem;
mod usage;

use std::sync::Arc;

use axum::Router;
use axum::handler::Handler;
use axum::routing::{MethodFilter, MethodRouter, on};
use http::{Method, Uri};
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
    let routes = routes().into_iter();
    routes
        .fold(Router::new(), |router, route| router.route(route.path, route.service))
        .fallback(|uri: Uri| async move { ApiError::no_such_path(&uri) })
        .method_not_allowed_fallback(|method: Method, uri: Uri| async move {
            ApiError::method_not_allowed(&method, &uri)
        })
        .with_state(app)
}

/// One method of one path. A value, so that a test can hold the OpenAPI document to the routes.
struct Route {
    #[cfg_attr(not(test), expect(dead_code, reason = "the service knows it too; the test cannot ask it"))]
    method: Method,
    path: &'static str,
    service: MethodRouter<App>,
}

fn route<H, T>(method: Method, path: &'static str, handler: H) -> Route
where
    H: Handler<T, App>,
    T: 'static,
{
    let filter = MethodFilter::try_from(method.clone()).expect("the routes use common methods");
    Route { method, path, service: on(filter, handler) }
}

/// Each of them is described in `openapi/operations.rs`.
fn routes() -> Vec<Route> {
    use Method as M;
    vec![
        route(M::GET, "/livez", health::livez),
        route(M::GET, "/readyz", health::readyz),
        route(M::GET, "/metrics", health::metrics),
        route(M::GET, "/openapi.json", openapi::serve),
        route(M::GET, "/v1/cluster", cluster::cluster),
        route(M::GET, "/v1/nodes", cluster::nodes),
        route(M::GET, "/v1/functions", functions::list),
        route(M::PUT, "/v1/functions/{name}", functions::put),
        route(M::GET, "/v1/functions/{name}", functions::get),
        route(M::DELETE, "/v1/functions/{name}", functions::delete),
        route(M::GET, "/v1/instances", instances::list),
        route(M::GET, "/v1/decisions", instances::decisions),
        route(M::POST, "/v1/accounts", accounts::create),
        route(M::GET, "/v1/accounts", accounts::list),
        route(M::GET, "/v1/accounts/{name}", accounts::get),
        route(M::DELETE, "/v1/accounts/{name}", accounts::delete),
        route(M::POST, "/v1/accounts/{name}/keys", accounts::create_key),
        route(M::GET, "/v1/accounts/{name}/keys", accounts::keys),
        route(M::DELETE, "/v1/accounts/{name}/keys/{id}", accounts::revoke_key),
        route(M::PUT, "/v1/accounts/{name}/grants/{pattern}", accounts::grant),
        route(M::DELETE, "/v1/accounts/{name}/grants/{pattern}", accounts::revoke),
        route(M::GET, "/v1/usage", usage::usage),
    ]
}
