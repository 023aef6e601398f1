//! A refused or failed request, as the caller sees it.

use http::{HeaderValue, StatusCode, header};
use serde::Serialize;

use crate::{Body, IntoResponse, Response};

/// An error answer: problem+json (RFC 9457) with a status and a detail.
///
/// Any `std::error::Error` becomes one through `?`: status 500, its text on stderr alone, because what
/// broke inside a function is not its caller's business.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    status: StatusCode,
    detail: String,
    field: Option<String>,
}

impl Failure {
    /// `detail` is shown to the caller.
    pub fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Failure { status, detail: detail.into(), field: None }
    }

    /// 400 for an input that names a field: `detail` says what is wrong with it.
    pub fn invalid(field: impl Into<String>, detail: impl Into<String>) -> Self {
        let field = Some(field.into());
        Failure { status: StatusCode::BAD_REQUEST, detail: detail.into(), field }
    }

    pub fn status(&self) -> StatusCode {
        self.status
    }
}

impl<E: std::error::Error> From<E> for Failure {
    fn from(error: E) -> Self {
        let mut text = error.to_string();
        let mut cause = error.source();
        while let Some(source) = cause {
            text = format!("{text}: {source}");
            cause = source.source();
        }
        eprintln!("the function failed: {text}");
        Failure::new(StatusCode::INTERNAL_SERVER_ERROR, "the function failed; its log says why")
    }
}

/// The wire form of [`Failure`].
#[derive(Serialize)]
struct Problem<'a> {
    status: u16,
    title: &'a str,
    detail: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<&'a str>,
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let problem = Problem {
            status: self.status.as_u16(),
            title: self.status.canonical_reason().unwrap_or("Error"),
            detail: &self.detail,
            field: self.field.as_deref(),
        };
        let text = serde_json::to_vec(&problem).expect("strings and a number always serialize");
        let mut response = Response::new(Body::from(text));
        *response.status_mut() = self.status;
        let kind = HeaderValue::from_static("application/problem+json");
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
        response
    }
}
