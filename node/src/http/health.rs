//! Whether the process lives, whether it can serve, and its metrics.

use std::fmt::Write;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{StatusCode, header};
use muster_core::mutant;

use super::App;

/// The process answers. Says nothing about the cluster.
pub(super) async fn livez() -> &'static str {
    "ok\n"
}

/// Ready means a recent round trip to a quorum, not what this node believes about itself.
pub(super) async fn readyz(State(app): State<App>) -> Response {
    match app.consensus.has_quorum() || mutant!("readyz-without-quorum") {
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
    let (packages_here, package_bytes_here) = app.packages.held();
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
        (
            "muster_raft_snapshot_index",
            "counter",
            "The last entry in the snapshot here.",
            raft.snapshot.map_or(0, |last| last.index),
        ),
        (
            "muster_raft_purged_index",
            "counter",
            "The last entry that the log here has no more.",
            raft.purged.map_or(0, |last| last.index),
        ),
        (
            "muster_cluster_version",
            "gauge",
            "The cluster version in effect, as applied here.",
            u64::from(state.state.version.get().0),
        ),
        (
            "muster_cluster_version_newest",
            "gauge",
            "The newest cluster version that this node supports.",
            u64::from(app.consensus.supported().newest.0),
        ),
        ("muster_functions", "gauge", "Functions in the cluster.", state.state.functions.len() as u64),
        (
            "muster_log_readers",
            "gauge",
            "Readers of instances' output that have asked this node.",
            app.logs.readers() as u64,
        ),
        ("muster_packages", "gauge", "Packages that the cluster keeps.", state.state.packages.len() as u64),
        ("muster_packages_here", "gauge", "Packages on this node's disk.", packages_here),
        ("muster_packages_here_bytes", "gauge", "Bytes of packages on this node's disk.", package_bytes_here),
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
