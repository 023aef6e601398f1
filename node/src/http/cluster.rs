//! The cluster's members and hosts.

use axum::Json;
use axum::extract::State;
use muster_api as api;

use super::App;
use super::convert;
use super::extract::{Caller, Params, Read};
use super::problem::ApiError;

pub(super) async fn cluster(
    State(app): State<App>,
    _caller: Caller,
    Params(read): Params<Read>,
) -> Result<Json<api::Cluster>, ApiError> {
    // A cluster without a quorum is when people look here most: answer at once from what is known here.
    if app.consensus.has_quorum() {
        let _stale_is_better_than_nothing = read.consistency.settle(&app).await;
    }
    let status = app.consensus.status();
    let published = app.consensus.state();
    let leader_view = app.controller.applied_by_node().await;
    let nodes = status.members.iter().map(|(id, member)| {
        let known = published.state.nodes.get(*id);
        api::ClusterNode {
            id: id.0,
            address: known.map_or_else(|| member.member.http.clone(), |node| node.profile.http.clone()),
            role: match (status.leader == Some(*id), member.voter) {
                (true, _) => "leader",
                (false, true) => "voter",
                (false, false) => "learner",
            }
            .to_owned(),
            condition: known.map_or_else(|| "unknown".to_owned(), |node| convert::condition(node.condition)),
            applied: member.matched.or_else(|| leader_view.get(id).copied()),
        }
    });
    Ok(Json(api::Cluster {
        cluster_id: published.state.cluster.map(|id| id.to_string()),
        leader: status.leader.map(|id| id.0),
        term: status.term,
        nodes: nodes.collect(),
    }))
}

pub(super) async fn nodes(
    State(app): State<App>,
    caller: Caller,
    Params(read): Params<Read>,
) -> Result<Json<Vec<api::Node>>, ApiError> {
    caller.must_be_admin()?;
    read.consistency.settle(&app).await?;
    let published = app.consensus.state();
    let state = &published.state;
    let node = |(id, node): (_, &muster_core::nodes::Node)| {
        let instances = state.instances.on_node(id).count();
        let engines = node.profile.engines.iter().map(ToString::to_string).collect();
        api::Node {
            id: id.0,
            address: node.profile.http.clone(),
            peer_address: node.profile.peer.clone(),
            condition: convert::condition(node.condition),
            reason: node.reason.clone(),
            changed_at: convert::time(node.changed_at),
            incarnation: node.incarnation.0,
            engines,
            labels: node.profile.labels.clone(),
            version: node.profile.version.clone(),
            capacity: convert::resources(node.profile.capacity),
            reserved: convert::resources(node.reserved),
            instances: u32::try_from(instances).unwrap_or(u32::MAX),
        }
    };
    Ok(Json(state.nodes.iter().map(node).collect()))
}
