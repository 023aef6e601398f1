//! What a handler may give back.

use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};

use crate::{Body, Response};

/// Anything that is an answer.
pub trait IntoResponse {
    fn into_response(self) -> Response;
}

impl IntoResponse for Response {
    fn into_response(self) -> Response {
        self
    }
}

/// Bytes without a content type.
impl IntoResponse for Bytes {
    fn into_response(self) -> Response {
        Response::new(self.into())
    }
}

/// Bytes without a content type.
impl IntoResponse for Vec<u8> {
    fn into_response(self) -> Response {
        Response::new(self.into())
    }
}

/// Plain text in UTF-8.
impl IntoResponse for &'static str {
    fn into_response(self) -> Response {
        text(self.into())
    }
}

/// Plain text in UTF-8.
impl IntoResponse for String {
    fn into_response(self) -> Response {
        text(self.into())
    }
}

/// A status without a body.
impl IntoResponse for StatusCode {
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = self;
        response
    }
}

impl<T: IntoResponse, E: IntoResponse> IntoResponse for Result<T, E> {
    fn into_response(self) -> Response {
        match self {
            Ok(answer) => answer.into_response(),
            Err(failure) => failure.into_response(),
        }
    }
}

fn text(body: Body) -> Response {
    let mut response = Response::new(body);
    let kind = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}
