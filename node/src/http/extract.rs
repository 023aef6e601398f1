//! What handlers take: the caller, names in the path, JSON bodies whose errors name the field, and read
//! consistency. Whatever is wrong with them becomes a problem document.

use std::time::Duration;

use axum::body::Body;
use axum::extract::{FromRequest, FromRequestParts, Query, Request};
use bytes::Bytes;
use http::HeaderMap;
use http::header::AUTHORIZATION;
use http::request::Parts;
use http_body_util::{BodyExt, Limited};
use muster_core::ids::AccountName;
use muster_core::mutant;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::App;
use super::problem::ApiError;

/// The largest body of an admin request. A spec's texts are bounded by 24 KiB.
pub(crate) const BODY_MAX: usize = 256 * 1024;
/// How long a client may take to send it.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

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
        let key = bearer(&parts.headers)?;
        if !app.consensus.holds_lease() && !may_be_stale(parts) {
            // Cut off from the others, this node cannot know whom they have revoked; and a change let
            // in here could be committed once it is back.
            app.consensus.linearize().await?;
        }
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

/// Whether who asks has chosen an answer from what this node knows, or looks at what is wrong with the
/// cluster: such an answer may be as old as what the node knows of its callers.
fn may_be_stale(parts: &Parts) -> bool {
    let local =
        parts.uri.query().is_some_and(|query| query.split('&').any(|pair| pair == "consistency=local"));
    parts.method.is_safe() && (local || parts.uri.path() == "/v1/cluster")
}

/// The credentials of the one `Authorization: Bearer …` header.
fn bearer(headers: &HeaderMap) -> Result<&str, ApiError> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let value = values.next().ok_or(ApiError::NoKey)?;
    if values.next().is_some() {
        return Err(ApiError::BadAuthorization);
    }
    let text = value.to_str().map_err(|_| ApiError::BadAuthorization)?;
    match text.split_once(' ') {
        Some((scheme, key)) if scheme.eq_ignore_ascii_case("bearer") => Ok(key.trim()),
        _ => Err(ApiError::BadAuthorization),
    }
}

fn authenticate(app: &App, key: &str) -> Result<Caller, ApiError> {
    let published = mutant!("admins-kept", kept by ("admin", key) => app.consensus.state());
    let accounts = &published.state.accounts;
    let account = accounts.authenticate(key, muster_consensus::now())?;
    Ok(Caller { account: account.clone(), admin: accounts.is_admin(account) })
}

/// Whose key a request's headers carry, by what this node knows now.
pub(crate) fn caller_of(app: &App, headers: &HeaderMap) -> Result<Caller, ApiError> {
    authenticate(app, bearer(headers)?)
}

/// The names in a path, percent-decoded.
#[derive(Debug)]
pub(crate) struct Path<T>(pub(crate) T);

impl<T: DeserializeOwned + Send> FromRequestParts<App> for Path<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, ApiError> {
        let path = axum::extract::Path::<T>::from_request_parts(parts, app).await;
        path.map(|axum::extract::Path(names)| Path(names)).map_err(|error| {
            ApiError::BadRequest(format!("the path is not as expected: {}", error.body_text()))
        })
    }
}

/// A JSON object as the body. An empty body counts as `{}`.
#[derive(Debug)]
pub(crate) struct JsonBody<T>(pub(crate) T);

impl<T: DeserializeOwned> FromRequest<App> for JsonBody<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request<Body>, _app: &App) -> Result<Self, ApiError> {
        let reading = tokio::time::timeout(BODY_TIMEOUT, read(request.into_body()));
        let bytes = reading.await.map_err(|_elapsed| ApiError::TooSlow { limit: BODY_TIMEOUT })??;
        parse(&bytes).map(JsonBody).map_err(ApiError::BadRequest)
    }
}

async fn read(body: Body) -> Result<Bytes, ApiError> {
    let collected = Limited::new(body, BODY_MAX).collect().await;
    let whole =
        collected.map_err(|error| match error.downcast_ref::<http_body_util::LengthLimitError>() {
            Some(_) => ApiError::TooLarge { max_bytes: BODY_MAX },
            None => ApiError::BadRequest("the body broke off".into()),
        })?;
    Ok(whole.to_bytes())
}

/// The error names the field at fault.
fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    let text = match bytes.trim_ascii() {
        b"" => b"{}",
        text => text,
    };
    // Serde would take an array for a struct, its items for the fields in their order.
    if text.first() != Some(&b'{') {
        return Err("the body must be a JSON object".into());
    }
    let mut json = serde_json::Deserializer::from_slice(text);
    let value = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let field = error.path().to_string();
        match field.as_str() {
            "." => error.inner().to_string(),
            _ => format!("`{field}`: {}", error.inner()),
        }
    });
    let value = value.map_err(|problem| format!("the body is not as expected: {problem}"))?;
    json.end().map_err(|error| format!("the body is not as expected: {error}"))?;
    Ok(value)
}

/// Query parameters; unknown ones are refused by the types that use it.
#[derive(Debug)]
pub(crate) struct Params<T>(pub(crate) T);

impl<T: DeserializeOwned> FromRequestParts<App> for Params<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _app: &App) -> Result<Self, ApiError> {
        let query = Query::<T>::try_from_uri(&parts.uri);
        query.map(|Query(params)| Params(params)).map_err(|error| {
            let said = error.body_text();
            let problem = said.strip_prefix("Failed to deserialize query string: ").unwrap_or(&said);
            ApiError::BadRequest(format!("the query is not as expected: {problem}"))
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
            Consistency::Linearizable if mutant!("local-reads") => Ok(()),
            Consistency::Linearizable => Ok(app.consensus.linearize().await?),
            Consistency::Local => Ok(()),
        }
    }
}

/// The query of a change: none.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Nothing {}

/// The query of a read without parameters of its own.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Read {
    pub(crate) consistency: Consistency,
}

#[cfg(test)]
mod tests {
    use muster_api::FunctionSpec;

    use super::*;

    #[test]
    fn one_bearer_header_is_wanted() {
        for (values, want) in [
            (&["Bearer mk_x"][..], Some("mk_x")),
            (&["bearer  mk_x "], Some("mk_x")),
            (&["Basic abc"], None),
            (&["mk_x"], None),
            (&["Bearer a", "Bearer b"], None),
            (&[], None),
        ] {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(AUTHORIZATION, value.parse().unwrap());
            }
            assert_eq!(bearer(&headers).ok(), want, "{values:?}");
        }
    }

    #[test]
    fn what_is_wrong_with_a_body_is_named() {
        assert!(parse::<FunctionSpec>(b" \n").is_ok(), "an empty body counts as an empty object");
        for (body, named) in [
            (r#"{"scaling":{"max":-1}}"#, "`scaling.max`"),
            (r#"{"scaling":{"mx":1}}"#, "`mx`"),
            (r#"{"command":["a",1]}"#, "`command[1]`"),
            (r#"{"env":{"A":1}}"#, "`env.A`"),
            (r#"{"port":70000}"#, "`port`"),
            (r#"{"payer":"me"}"#, "`payer`"),
            (r#"{"memory":1}"#, "`memory`"),
            (r#"["image"]"#, "JSON object"),
            ("null", "JSON object"),
            ("{", "EOF"),
            ("{} x", "trailing"),
        ] {
            let error = parse::<FunctionSpec>(body.as_bytes()).unwrap_err();
            assert!(error.contains(named), "{body}: {error} does not name {named}");
        }
    }
}
