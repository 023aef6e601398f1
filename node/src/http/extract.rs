//! What handlers take: the caller, JSON bodies whose errors name the field, and read consistency.

use axum::body::Body;
use axum::extract::{FromRequest, FromRequestParts, Query, Request};
use http::header;
use http::request::Parts;
use http_body_util::{BodyExt, Limited};
use muster_core::ids::AccountName;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::App;
use super::problem::ApiError;

/// The largest body of an admin request. A spec's texts are bounded by 24 KiB.
pub(crate) const BODY_MAX: usize = 256 * 1024;

/// Whose key the request carries.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    pub(crate) account: AccountName,
    pub(crate) admin: bool,
}

impl Caller {
    pub(crate) fn must_be_admin(&self) -> Result<(), ApiError> {
        match self.admin {
            true => Ok(()),
            false => Err(ApiError::Forbidden(format!("`{}` is not an admin", self.account))),
        }
    }

    /// Admins see everyone; others see themselves.
    pub(crate) fn must_be(&self, account: &AccountName) -> Result<(), ApiError> {
        if self.admin || self.account == *account {
            return Ok(());
        }
        Err(ApiError::Forbidden(format!("`{}` may not look into the account `{account}`", self.account)))
    }
}

impl FromRequestParts<App> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, ApiError> {
        let header = parts.headers.get(header::AUTHORIZATION).ok_or(ApiError::NoKey)?;
        let text = header.to_str().map_err(|_| ApiError::NoKey)?;
        let key = text.strip_prefix("Bearer ").ok_or(ApiError::NoKey)?.trim();
        match authenticate(app, key) {
            // The key may have been made through another node a moment ago.
            Err(ApiError::BadKey(muster_core::accounts::Unauthenticated::Unknown)) => {
                app.consensus.linearize().await?;
                authenticate(app, key)
            }
            decided => decided,
        }
    }
}

fn authenticate(app: &App, key: &str) -> Result<Caller, ApiError> {
    app.consensus.with_state(|state| {
        let account = state.accounts.authenticate(key, muster_consensus::now())?;
        Ok(Caller { account: account.clone(), admin: state.accounts.is_admin(account) })
    })
}

/// A JSON body. An empty one counts as `{}`.
#[derive(Debug)]
pub(crate) struct JsonBody<T>(pub(crate) T);

impl<T: DeserializeOwned> FromRequest<App> for JsonBody<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request<Body>, _app: &App) -> Result<Self, ApiError> {
        let collected = Limited::new(request.into_body(), BODY_MAX).collect().await;
        let bytes =
            collected.map_err(|error| match error.downcast_ref::<http_body_util::LengthLimitError>() {
                Some(_) => ApiError::TooLarge { max_bytes: BODY_MAX },
                None => ApiError::BadRequest("the body broke off".into()),
            })?;
        let bytes = bytes.to_bytes();
        let text: &[u8] = if bytes.iter().all(u8::is_ascii_whitespace) { b"{}" } else { &bytes };
        serde_json::from_slice(text)
            .map(JsonBody)
            .map_err(|error| ApiError::BadRequest(format!("the body is not as expected: {error}")))
    }
}

/// Query parameters; unknown ones are refused by the types that use it.
#[derive(Debug)]
pub(crate) struct Params<T>(pub(crate) T);

impl<T: DeserializeOwned> FromRequestParts<App> for Params<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _app: &App) -> Result<Self, ApiError> {
        let query = Query::<T>::try_from_uri(&parts.uri);
        query.map(|Query(params)| Params(params)).map_err(|error| {
            ApiError::BadRequest(format!("the query is not as expected: {}", error.body_text()))
        })
    }
}

/// `?consistency=local|linearizable`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Consistency {
    #[default]
    Linearizable,
    Local,
}

impl Consistency {
    /// Makes the local state fit to answer from.
    pub(crate) async fn settle(self, app: &App) -> Result<(), ApiError> {
        match self {
            Consistency::Linearizable => Ok(app.consensus.linearize().await?),
            Consistency::Local => Ok(()),
        }
    }
}

/// The query of a read without parameters of its own.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Read {
    pub(crate) consistency: Consistency,
}
