//! Whether the process lives, whether it can serve, and its metrics.

use std::fmt::Write;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{StatusCode, header};

use super::App;

/// The process answers. Says nothing about the cluster.
pub(super) async fn livez() -> &'static str {
    "ok\n"
}

/// Ready means a recent round trip to a quorum, not what this node believes about itself.
pub(super) async fn readyz(State(app): State<App>) -> Response {
    match app.consensus.has_quorum() {
        true => "ok\n".into_response(),
        false => (StatusCode::SERVICE_UNAVAILABLE, "no recent round trip to a quorum\n").into_response(),
    }
}

/// Prometheus' text format.
pub(super) async fn metrics(State(app): State<App>) -> Response {
    let mut text = String::new();
    app.gateway.render_metrics(&mut text);
    let raft = app.consensus.log_metrics();
    let state = app.consensus.state();
    let live = state.state.instances.live().count();
    let leading = u8::from(app.consensus.is_leader());
    let quorum = u8::from(app.consensus.has_quorum());
    for (name, kind, help, value) in [
        ("muster_raft_term", "gauge", "The current Raft term.", raft.current_term),
        ("muster_raft_is_leader", "gauge", "1 if this node believes it leads.", u64::from(leading)),
        ("muster_quorum", "gauge", "1 if a quorum confirmed a leader lately.", u64::from(quorum)),
        (
            "muster_raft_last_log_index",
            "counter",
            "The last log entry here.",
            raft.last_log_index.unwrap_or(0),
        ),
        ("muster_raft_applied_index", "counter", "The last entry applied here.", state.applied_index()),
        ("muster_functions", "gauge", "Functions in the cluster.", state.state.functions.len() as u64),
        ("muster_instances_live", "gauge", "Live instances in the cluster.", live as u64),
        (
            "muster_storage_bytes",
            "gauge",
            "Bytes this node's store takes on disk.",
            app.store.stats().disk_bytes,
        ),
    ] {
        write!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}\n")
            .expect("writing to a String cannot fail");
    }
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response()
}
