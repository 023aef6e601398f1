//! Every error of the admin API becomes an HTTP answer here and nowhere else. Nothing internal leaves.

use std::time::Duration;

use axum::Json;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, Method, StatusCode, Uri, header};
use muster_api::{PROBLEM_JSON, Problem};
use muster_consensus::{ProposeError, ReadError};
use muster_core::Rejection;
use muster_core::accounts::Unauthenticated;
use muster_core::ids::InvalidId;

/// Why a request was not done.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApiError {
    #[error("{0}")]
    BadRequest(String),
    #[error("an API key is needed: `Authorization: Bearer mk_…`")]
    NoKey,
    #[error("the `Authorization` header is malformed: expected `Bearer mk_…`, once")]
    BadAuthorization,
    #[error("{0}")]
    BadKey(#[from] Unauthenticated),
    #[error("{0}")]
    Forbidden(String),
    #[error("{0}")]
    NotFound(String),
    /// The cluster is not in a state for it.
    #[error("{0}")]
    Conflict(String),
    #[error("{0}")]
    Unavailable(String),
    #[error("{0}")]
    MethodNotAllowed(String),
    #[error("the body exceeds {max_bytes} bytes")]
    TooLarge { max_bytes: usize },
    #[error("the body was not there after {} s", limit.as_secs())]
    TooSlow { limit: Duration },
    #[error("{max} {what} are being written by this node already")]
    TooMany { what: &'static str, max: usize },
    #[error("{0}")]
    Overloaded(&'static str),
    #[error("{0}")]
    Rejected(#[from] Rejection),
    #[error("{0}")]
    Propose(#[from] ProposeError),
    #[error("{0}")]
    Read(#[from] ReadError),
}

impl From<InvalidId> for ApiError {
    fn from(invalid: InvalidId) -> Self {
        ApiError::BadRequest(invalid.to_string())
    }
}

/// The most of a path that an answer repeats.
const SHOWN_PATH_MAX: usize = 200;

impl ApiError {
    pub(crate) fn no_such_path(uri: &Uri) -> Self {
        ApiError::NotFound(format!("there is no `{}`", shown(uri)))
    }

    /// The answer's `Allow` says what the path does take.
    pub(crate) fn method_not_allowed(method: &Method, uri: &Uri) -> Self {
        ApiError::MethodNotAllowed(format!("`{}` does not take {method}", shown(uri)))
    }

    fn status(&self) -> (StatusCode, &'static str) {
        match self {
            ApiError::BadRequest(_) => (StatusCode::BAD_REQUEST, "Malformed request"),
            ApiError::NoKey | ApiError::BadAuthorization | ApiError::BadKey(_) => {
                (StatusCode::UNAUTHORIZED, "Not authenticated")
            }
            ApiError::Forbidden(_) => (StatusCode::FORBIDDEN, "Not permitted"),
            ApiError::Conflict(_) => (StatusCode::CONFLICT, "Conflict"),
            ApiError::Unavailable(_) => (StatusCode::SERVICE_UNAVAILABLE, "Not now"),
            ApiError::NotFound(_) => (StatusCode::NOT_FOUND, "Not found"),
            ApiError::MethodNotAllowed(_) => (StatusCode::METHOD_NOT_ALLOWED, "Method not allowed"),
            ApiError::TooLarge { .. } => (StatusCode::PAYLOAD_TOO_LARGE, "Request body too large"),
            ApiError::TooSlow { .. } => (StatusCode::REQUEST_TIMEOUT, "Request body too slow"),
            ApiError::TooMany { .. } => (StatusCode::TOO_MANY_REQUESTS, "Overloaded"),
            ApiError::Rejected(rejection) => match rejection {
                Rejection::NotFound { .. } => (StatusCode::NOT_FOUND, "Not found"),
                Rejection::Exists { .. } | Rejection::Conflict(_) | Rejection::Stale(_) => {
                    (StatusCode::CONFLICT, "Conflict")
                }
                Rejection::Invalid(_) => (StatusCode::BAD_REQUEST, "Malformed request"),
                Rejection::Limit { .. } => (StatusCode::CONFLICT, "Limit reached"),
                Rejection::NoCapacity(_) => (StatusCode::SERVICE_UNAVAILABLE, "No capacity"),
            },
            ApiError::Propose(ProposeError::TooLarge { .. }) => {
                (StatusCode::PAYLOAD_TOO_LARGE, "Change too large")
            }
            // Not for a moment: some node must be upgraded first.
            ApiError::Propose(ProposeError::TooNew { .. }) => (StatusCode::CONFLICT, "Upgrade not finished"),
            ApiError::Propose(ProposeError::Overloaded) | ApiError::Overloaded(_) => {
                (StatusCode::TOO_MANY_REQUESTS, "Overloaded")
            }
            ApiError::Propose(_) | ApiError::Read(_) => (StatusCode::SERVICE_UNAVAILABLE, "No quorum"),
        }
    }
}

fn shown(uri: &Uri) -> String {
    uri.path().chars().take(SHOWN_PATH_MAX).collect()
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let (status, title) = self.status();
        let problem = Problem {
            status: status.as_u16(),
            title: title.to_owned(),
            detail: self.to_string(),
            invocation_id: None,
            invocation_state: None,
        };
        let mut response = (status, Json(problem)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
        if matches!(status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS) {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"muster\""));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use muster_core::ids::NodeId;
    use muster_core::version::{Obstacle, Version};

    use super::*;

    #[test]
    fn what_an_older_member_cannot_read_is_a_conflict_that_names_it() {
        let by = BTreeMap::from([(NodeId(2), Obstacle::Silent), (NodeId(3), Obstacle::Holds)]);
        let error = ProposeError::TooNew { since: Version(3), in_effect: Version(2), by };
        let error = ApiError::from(error);
        assert_eq!(error.status(), (StatusCode::CONFLICT, "Upgrade not finished"));
        assert_eq!(
            error.to_string(),
            "the cluster is still at version 2, and this needs version 3; held back by: node 2 does not say what \
             it supports, node 3 has `raft.hold_version` set"
        );
        assert!(error.into_response().headers().get(header::RETRY_AFTER).is_none(), "it takes an operator");
    }
}
