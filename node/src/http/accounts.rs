//! Accounts, keys and grants. All but a look at oneself is the admins'.

use std::collections::BTreeSet;

use axum::Json;
use axum::extract::State;
use http::StatusCode;
use muster_api as api;
use muster_core::Reply;
use muster_core::accounts::{self, Account, Action, Command, KeyHash, Pattern, SECRET_BYTES};
use muster_core::ids::{AccountName, KeyId};
use muster_core::rejection::{Kind, Rejection};
use muster_core::units::Millis;

use super::App;
use super::convert;
use super::extract::{Caller, JsonBody, Nothing, Params, Path, Read};
use super::problem::ApiError;
use crate::random;

/// The longest a key that expires may live; longer ones are better made without an end.
const KEY_LIFETIME_MAX: Millis = Millis::from_secs(10 * 366 * 24 * 3600);

pub(super) async fn create(
    State(app): State<App>,
    caller: Caller,
    _: Params<Nothing>,
    JsonBody(body): JsonBody<api::CreateAccount>,
) -> Result<(StatusCode, Json<api::Account>), ApiError> {
    caller.must_be_admin()?;
    let name = AccountName::new(&body.name)?;
    let role = match body.role {
        api::Role::User => accounts::Role::User,
        api::Role::Admin => accounts::Role::Admin,
    };
    propose(&app, Command::Create { name: name.clone(), role }).await?;
    let account = read(&app, &name, convert::account).unwrap_or_else(|_gone| {
        // Somebody has deleted it since. It was created all the same, and "not found" would deny that.
        let created_at = app.consensus.with_state(|state| state.clock);
        let bare = Account { role, created_at, keys: Default::default(), grants: Default::default() };
        convert::account(name.as_str(), &bare)
    });
    Ok((StatusCode::CREATED, Json(account)))
}

pub(super) async fn list(
    State(app): State<App>,
    caller: Caller,
    Params(params): Params<Read>,
) -> Result<Json<Vec<api::Account>>, ApiError> {
    params.consistency.settle(&app).await?;
    let published = app.consensus.state();
    let all = published.state.accounts.iter();
    let visible = all.filter(|(name, _)| caller.must_be(name).is_ok());
    Ok(Json(visible.map(|(name, account)| convert::account(name.as_str(), account)).collect()))
}

pub(super) async fn get(
    State(app): State<App>,
    caller: Caller,
    Path(name): Path<String>,
    Params(params): Params<Read>,
) -> Result<Json<api::Account>, ApiError> {
    let name = AccountName::new(&name)?;
    caller.must_be(&name)?;
    params.consistency.settle(&app).await?;
    Ok(Json(read(&app, &name, convert::account)?))
}

pub(super) async fn delete(
    State(app): State<App>,
    caller: Caller,
    Path(name): Path<String>,
    _: Params<Nothing>,
) -> Result<StatusCode, ApiError> {
    caller.must_be_admin()?;
    propose(&app, Command::Delete { name: AccountName::new(&name)? }).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The only answer with the key in it: only its hash is kept.
pub(super) async fn create_key(
    State(app): State<App>,
    caller: Caller,
    Path(name): Path<String>,
    _: Params<Nothing>,
    JsonBody(body): JsonBody<api::CreateKey>,
) -> Result<(StatusCode, Json<api::CreatedKey>), ApiError> {
    caller.must_be_admin()?;
    let account = AccountName::new(&name)?;
    let expires_at = match body.expires_in_ms.map(Millis) {
        Some(span) if span == Millis::ZERO || span > KEY_LIFETIME_MAX => {
            let detail = format!("`expires_in_ms` must be between 1 and {}", KEY_LIFETIME_MAX.0);
            return Err(ApiError::BadRequest(detail));
        }
        span => span.map(|span| muster_consensus::now() + span),
    };
    let (id, secret) = (KeyId(random::id()), random::bytes::<SECRET_BYTES>());
    let key = accounts::format_key(id, &secret);
    let (_, secret) = accounts::parse_key(&key).expect("a formatted key parses");
    let command = Command::CreateKey { account, id, hash: KeyHash::of(secret), expires_at };
    propose(&app, command).await?;
    let created = api::CreatedKey { id: id.to_string(), key, expires_at: expires_at.map(convert::time) };
    Ok((StatusCode::CREATED, Json(created)))
}

pub(super) async fn keys(
    State(app): State<App>,
    caller: Caller,
    Path(name): Path<String>,
    Params(params): Params<Read>,
) -> Result<Json<Vec<api::Key>>, ApiError> {
    let name = AccountName::new(&name)?;
    caller.must_be(&name)?;
    params.consistency.settle(&app).await?;
    Ok(Json(read(&app, &name, |name, account| convert::account(name, account).keys)?))
}

pub(super) async fn revoke_key(
    State(app): State<App>,
    caller: Caller,
    Path((name, id)): Path<(String, String)>,
    _: Params<Nothing>,
) -> Result<StatusCode, ApiError> {
    let account = AccountName::new(&name)?;
    // Anyone may give up a key of their own.
    caller.must_be(&account)?;
    propose(&app, Command::RevokeKey { account, id: id.parse::<KeyId>()? }).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn grant(
    State(app): State<App>,
    caller: Caller,
    Path((name, pattern)): Path<(String, String)>,
    _: Params<Nothing>,
    JsonBody(body): JsonBody<api::PutGrant>,
) -> Result<Json<api::Grant>, ApiError> {
    caller.must_be_admin()?;
    let (account, pattern) = (AccountName::new(&name)?, Pattern::new(&pattern)?);
    if body.actions.is_empty() {
        return Err(ApiError::BadRequest("`actions` must not be empty; DELETE takes a grant away".into()));
    }
    let actions: BTreeSet<Action> = body.actions.iter().map(action).collect();
    let granted = convert::grant(&pattern, &actions);
    propose(&app, Command::Grant { account, pattern, actions }).await?;
    Ok(Json(granted))
}

pub(super) async fn revoke(
    State(app): State<App>,
    caller: Caller,
    Path((name, pattern)): Path<(String, String)>,
    _: Params<Nothing>,
) -> Result<StatusCode, ApiError> {
    caller.must_be_admin()?;
    let (account, pattern) = (AccountName::new(&name)?, Pattern::new(&pattern)?);
    propose(&app, Command::Revoke { account, pattern }).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn action(action: &api::Action) -> Action {
    match action {
        api::Action::Invoke => Action::Invoke,
        api::Action::Manage => Action::Manage,
    }
}

async fn propose(app: &App, command: Command) -> Result<(), ApiError> {
    let reply = app.consensus.propose(muster_core::Command::Accounts(command)).await??;
    if reply == Reply::Revoked {
        // Who reads the acknowledgement relies on it, whichever node is asked next.
        app.consensus.settle_permissions().await;
    }
    Ok(())
}

fn read<T>(app: &App, name: &AccountName, show: impl FnOnce(&str, &Account) -> T) -> Result<T, ApiError> {
    app.consensus.with_state(|state| match state.accounts.get(name.as_str()) {
        Some(account) => Ok(show(name.as_str(), account)),
        None => Err(Rejection::NotFound { kind: Kind::Account, name: name.to_string() }.into()),
    })
}
