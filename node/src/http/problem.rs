//! Every error of the admin API becomes an HTTP answer here and nowhere else. Nothing internal leaves.

use axum::Json;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
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
    #[error("`Authorization: Bearer mk_…` is missing")]
    NoKey,
    #[error("{0}")]
    BadKey(#[from] Unauthenticated),
    #[error("{0}")]
    Forbidden(String),
    #[error("{0}")]
    NotFound(String),
    #[error("{0} does not do that here")]
    MethodNotAllowed(http::Method),
    #[error("the body exceeds {max_bytes} bytes")]
    TooLarge { max_bytes: usize },
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

impl ApiError {
    fn status(&self) -> (StatusCode, &'static str) {
        match self {
            ApiError::BadRequest(_) => (StatusCode::BAD_REQUEST, "malformed request"),
            ApiError::NoKey | ApiError::BadKey(_) => (StatusCode::UNAUTHORIZED, "not authenticated"),
            ApiError::Forbidden(_) => (StatusCode::FORBIDDEN, "not allowed"),
            ApiError::NotFound(_) => (StatusCode::NOT_FOUND, "not found"),
            ApiError::MethodNotAllowed(_) => (StatusCode::METHOD_NOT_ALLOWED, "method not allowed"),
            ApiError::TooLarge { .. } => (StatusCode::PAYLOAD_TOO_LARGE, "body too large"),
            ApiError::Rejected(rejection) => match rejection {
                Rejection::NotFound { .. } => (StatusCode::NOT_FOUND, "not found"),
                Rejection::Exists { .. } | Rejection::Conflict(_) | Rejection::Stale(_) => {
                    (StatusCode::CONFLICT, "conflict")
                }
                Rejection::Invalid(_) => (StatusCode::BAD_REQUEST, "malformed request"),
                Rejection::Limit { .. } => (StatusCode::CONFLICT, "limit reached"),
                Rejection::NoCapacity(_) => (StatusCode::SERVICE_UNAVAILABLE, "no capacity"),
            },
            ApiError::Propose(ProposeError::TooLarge { .. }) => {
                (StatusCode::PAYLOAD_TOO_LARGE, "change too large")
            }
            ApiError::Propose(ProposeError::Overloaded) => (StatusCode::TOO_MANY_REQUESTS, "overloaded"),
            ApiError::Propose(_) | ApiError::Read(_) => (StatusCode::SERVICE_UNAVAILABLE, "no quorum"),
        }
    }
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
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}
