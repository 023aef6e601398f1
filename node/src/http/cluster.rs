//! The cluster's members and hosts.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use muster_api as api;
use muster_core::ids::NodeId;
use muster_core::members::Enrolled;
use muster_core::version::Step;

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
    let state = &published.state;
    let applied = |id: NodeId| {
        let member = status.members.get(&id)?;
        member.matched.or_else(|| leader_view.get(&id).copied())
    };
    let furthest = status.members.keys().filter_map(|id| applied(*id)).max();
    let said = app.consensus.members_support();
    let support = |id: NodeId| said.get(&id).copied().flatten();
    let member = |id: NodeId, address: &str, role: &str| {
        let known = state.nodes.get(id);
        let leaving = state.members.removal(id).is_some() && role != "leader";
        api::ClusterNode {
            id: id.0,
            address: known.map_or_else(|| address.to_owned(), |node| node.profile.http.clone()),
            role: if leaving { "removing" } else { role }.to_owned(),
            condition: known.map_or_else(|| "unknown".to_owned(), |node| convert::condition(node.condition)),
            applied: applied(id),
            lag: furthest.zip(applied(id)).map(|(furthest, applied)| furthest - applied),
            version: known.map(|node| node.profile.version.clone()),
            versions: support(id).map(|support| api::VersionRange {
                oldest: support.range.oldest.0,
                newest: support.range.newest.0,
            }),
        }
    };
    let enrolled: BTreeMap<NodeId, &Enrolled> = state.members.enrolled().collect();
    let members = status.members.iter().filter(|(id, _)| !state.members.is_removed(**id));
    let mut nodes: Vec<api::ClusterNode> = members
        .map(|(id, status_of)| {
            let joining = enrolled.contains_key(id) && state.nodes.get(*id).is_none();
            let role = match (status.leader == Some(*id), status_of.voter) {
                (true, _) => "leader",
                (false, true) => "voter",
                (false, false) if joining => "joining",
                (false, false) => "learner",
            };
            member(*id, &status_of.member.http, role)
        })
        .collect();
    let missing = enrolled.iter().filter(|(id, _)| !status.members.contains_key(*id));
    nodes.extend(missing.map(|(id, enrolled)| member(*id, &enrolled.addresses.http, "joining")));
    nodes.sort_by_key(|node| node.id);
    Ok(Json(api::Cluster {
        cluster_id: published.state.cluster.map(|id| id.to_string()),
        leader: status.leader.map(|id| id.0),
        term: status.term,
        version: state.version.get().0,
        next_version: next_version(app.consensus.next_version()),
        digest: published.digest.map(|digest| api::AppliedDigest {
            index: published.applied_index(),
            digest: digest.to_string(),
        }),
        nodes,
    }))
}

fn next_version(step: Step) -> Option<api::NextVersion> {
    let Step::Held { to, by } = step else { return None };
    let held_back_by =
        by.into_iter().map(|(node, why)| api::HeldBack { node: node.0, reason: why.to_string() });
    Some(api::NextVersion { version: to.0, held_back_by: held_back_by.collect() })
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
