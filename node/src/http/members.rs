//! Who joins and who goes, who leads, and which hosts take instances. All of it is the admins'.

use std::collections::BTreeSet;

use axum::Json;
use axum::extract::State;
use http::StatusCode;
use muster_api as api;
use muster_consensus::HandOverError;
use muster_core::accounts::SECRET_BYTES;
use muster_core::ids::{NodeId, TokenId};
use muster_core::members::{Command as Members, TOKEN_LIFETIME_MAX};
use muster_core::nodes::{Command as Nodes, Condition};
use muster_core::units::Millis;
use muster_core::{Command, Reply, membership};
use serde::Deserialize;

use super::App;
use super::convert;
use super::extract::{Caller, JsonBody, Nothing, Params, Path};
use super::problem::ApiError;
use crate::enrollment::Token;
use crate::random;

/// As long as it takes to bring a token to another machine.
const TOKEN_LIFETIME: Millis = Millis::from_secs(600);

/// The only answer with the token in it: only a hash of its secret is kept.
pub(super) async fn create_token(
    State(app): State<App>,
    caller: Caller,
    _: Params<Nothing>,
    JsonBody(body): JsonBody<api::CreateToken>,
) -> Result<(StatusCode, Json<api::CreatedToken>), ApiError> {
    caller.must_be_admin()?;
    let expires_in = body.expires_in_ms.map_or(TOKEN_LIFETIME, Millis);
    if expires_in == Millis::ZERO || expires_in > TOKEN_LIFETIME_MAX {
        let detail = format!("`expires_in_ms` must be between 1 and {}", TOKEN_LIFETIME_MAX.0);
        return Err(ApiError::BadRequest(detail));
    }
    let Some(authority) = app.authority else {
        return Err(ApiError::Unavailable("nodes have no certificates here, so none can join".into()));
    };
    app.consensus.linearize().await?;
    let replaces = body.replaces.map(NodeId);
    if let Some(old) = replaces {
        must_be_known(&app, old)?;
    }
    let token = Token::new(TokenId(random::id()), &random::bytes::<SECRET_BYTES>(), authority);
    let status = app.consensus.status();
    let above = status.members.keys().next_back().copied().unwrap_or_default();
    let command = Members::CreateToken { token: token.id, hash: token.hash(), expires_in, above, replaces };
    let Reply::Reserved { node, expires_at } = propose(&app, Command::Members(command)).await? else {
        return Err(ApiError::Unavailable("the token was made, and its id is not known".into()));
    };
    let addresses = status.members.into_iter().filter(|(id, _)| Some(*id) != replaces);
    let created = api::CreatedToken {
        token: token.reveal(),
        node_id: node.0,
        expires_at: convert::time(expires_at),
        addresses: addresses.map(|(_, member)| member.member.peer).collect(),
    };
    Ok((StatusCode::CREATED, Json(created)))
}

/// The query of a removal.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Removal {
    force: bool,
}

pub(super) async fn remove(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<u64>,
    Params(Removal { force }): Params<Removal>,
) -> Result<StatusCode, ApiError> {
    caller.must_be_admin()?;
    app.consensus.linearize().await?;
    let node = NodeId(id);
    must_be_known(&app, node)?;
    let voters = voters(&app);
    app.consensus
        .with_state(|state| membership::check_removal(state, &voters, node, force))
        .map_err(ApiError::Conflict)?;
    propose(&app, Command::Members(Members::Remove { node, force })).await?;
    Ok(StatusCode::ACCEPTED)
}

pub(super) async fn transfer(
    State(app): State<App>,
    caller: Caller,
    _: Params<Nothing>,
    JsonBody(body): JsonBody<api::Transfer>,
) -> Result<Json<api::Transferred>, ApiError> {
    caller.must_be_admin()?;
    app.consensus.linearize().await?;
    let to = body.to.map(NodeId);
    if let Some(node) = to {
        must_be_known(&app, node)?;
    }
    match app.consensus.transfer(to).await {
        Ok(leader) => Ok(Json(api::Transferred { leader: leader.0 })),
        Err(error @ (HandOverError::NoVoter(_) | HandOverError::NoSuccessor | HandOverError::UnderWay)) => {
            Err(ApiError::Conflict(error.to_string()))
        }
        Err(error) => Err(ApiError::Unavailable(error.to_string())),
    }
}

pub(super) async fn drain(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<u64>,
    _: Params<Nothing>,
) -> Result<StatusCode, ApiError> {
    caller.must_be_admin()?;
    set_condition(&app, NodeId(id), Condition::Draining, &format!("drained by `{}`", caller.account)).await
}

pub(super) async fn undrain(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<u64>,
    _: Params<Nothing>,
) -> Result<StatusCode, ApiError> {
    caller.must_be_admin()?;
    set_condition(&app, NodeId(id), Condition::Ready, &format!("undrained by `{}`", caller.account)).await
}

async fn set_condition(
    app: &App,
    node: NodeId,
    condition: Condition,
    reason: &str,
) -> Result<StatusCode, ApiError> {
    app.consensus.linearize().await?;
    let known = app
        .consensus
        .with_state(|state| state.nodes.get(node).map(|node| (node.incarnation, node.condition)));
    let Some((incarnation, present)) = known else {
        return Err(ApiError::NotFound(format!("there is no node `{node}`")));
    };
    if present == Condition::Down && condition == Condition::Ready {
        let detail = format!("node {node} is down: it takes instances again when it is heard of");
        return Err(ApiError::Conflict(detail));
    }
    let reason = reason.to_owned();
    propose(app, Command::Nodes(Nodes::SetCondition { node, incarnation, condition, reason })).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn must_be_known(app: &App, node: NodeId) -> Result<(), ApiError> {
    let known = app.consensus.with_state(|state| {
        if state.members.is_removed(node) {
            return Err(ApiError::NotFound(format!("node {node} was removed")));
        }
        Ok(state.nodes.get(node).is_some() || state.members.enrolled().any(|(id, _)| id == node))
    })?;
    match known || app.consensus.status().members.contains_key(&node) {
        true => Ok(()),
        false => Err(ApiError::NotFound(format!("there is no node `{node}`"))),
    }
}

fn voters(app: &App) -> BTreeSet<NodeId> {
    let status = app.consensus.status();
    status.members.into_iter().filter(|(_, member)| member.voter).map(|(id, _)| id).collect()
}

async fn propose(app: &App, command: Command) -> Result<Reply, ApiError> {
    Ok(app.consensus.propose(command).await??)
}
