//! The admin API: everything under `/v1`, health and metrics. Invocations do not come through here.

mod accounts;
mod applied;
mod backup;
mod cluster;
mod convert;
mod extract;
mod functions;
mod health;
mod instances;
mod logs;
mod members;
mod openapi;
mod packages;
mod problem;
mod usage;

use std::ops::Deref;
use std::sync::Arc;

use axum::Router;
use axum::handler::Handler;
use axum::routing::{MethodFilter, MethodRouter, on};
use http::{Method, Uri};
use muster_consensus::Consensus;
use muster_gateway::Gateway;
use tokio_util::sync::CancellationToken;

use crate::controller::Controller;
use crate::logs::Logs;
use crate::packages::Packages;
pub(crate) use convert::time;
use problem::ApiError;

/// What handlers need. A clone is a handle to the same, and each request takes several.
#[derive(Clone, Debug)]
pub(crate) struct App(Arc<Handles>);

impl App {
    pub(crate) fn new(handles: Handles) -> Self {
        App(Arc::new(handles))
    }
}

impl Deref for App {
    type Target = Handles;

    fn deref(&self) -> &Handles {
        &self.0
    }
}

#[derive(Debug)]
pub(crate) struct Handles {
    pub(crate) consensus: Consensus,
    pub(crate) controller: Controller,
    pub(crate) gateway: Arc<Gateway>,
    pub(crate) store: muster_storage::Store,
    /// Of the cluster's certificates, for tokens to name; none where nodes have none.
    pub(crate) authority: Option<muster_tls::Fingerprint>,
    pub(crate) logs: Logs,
    pub(crate) packages: Packages,
    /// Ends answers that would not end by themselves.
    pub(crate) stop: CancellationToken,
}

/// What rests on the replicated state.
const VERSIONED: &str = "/v1/";

pub(crate) fn router(app: App) -> Router {
    let routes = routes().into_iter();
    let show_applied = axum::middleware::map_response_with_state(app.clone(), applied::show);
    routes
        .fold(Router::new(), |router, route| match route.path.starts_with(VERSIONED) {
            true => router.route(route.path, route.service.layer(show_applied.clone())),
            false => router.route(route.path, route.service),
        })
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
        route(M::GET, "/v1/cluster/backup", backup::backup),
        route(M::POST, "/v1/cluster/tokens", members::create_token),
        route(M::DELETE, "/v1/cluster/nodes/{id}", members::remove),
        route(M::POST, "/v1/cluster/transfer", members::transfer),
        route(M::GET, "/v1/nodes", cluster::nodes),
        route(M::PUT, "/v1/nodes/{id}/drain", members::drain),
        route(M::DELETE, "/v1/nodes/{id}/drain", members::undrain),
        route(M::GET, "/v1/functions", functions::list),
        route(M::PUT, "/v1/functions/{name}", functions::put),
        route(M::GET, "/v1/functions/{name}", functions::get),
        route(M::DELETE, "/v1/functions/{name}", functions::delete),
        route(M::GET, "/v1/functions/{name}/logs", logs::read),
        route(M::GET, "/v1/packages", packages::list),
        route(M::PUT, "/v1/packages/{digest}", packages::put),
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
