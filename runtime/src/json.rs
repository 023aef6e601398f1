//! Typed JSON in and out.

use std::future::Future;

use http::{HeaderValue, Method, StatusCode, header};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::{Context, Failure, IntoResponse, Request, Response, read_body};

/// One request through a typed handler. `POST /` alone is served: a caller who meant something else
/// learns it from a 404 or 405, not from a wrong answer.
pub(crate) async fn respond<In, Out, F>(
    request: Request,
    body_limit_bytes: usize,
    handler: impl FnOnce(In, Context) -> F,
) -> Response
where
    In: DeserializeOwned,
    Out: Serialize,
    F: Future<Output = Result<Out, Failure>>,
{
    if request.uri().path() != "/" {
        let detail = format!("this function answers `/` alone, not `{}`", request.uri().path());
        return Failure::new(StatusCode::NOT_FOUND, detail).into_response();
    }
    if request.method() != Method::POST {
        let detail = format!("this function takes POST, not {}", request.method());
        let mut response = Failure::new(StatusCode::METHOD_NOT_ALLOWED, detail).into_response();
        response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("POST"));
        return response;
    }
    match run(request, body_limit_bytes, handler).await {
        Ok(response) => response,
        Err(failure) => failure.into_response(),
    }
}

async fn run<In, Out, F>(
    request: Request,
    body_limit_bytes: usize,
    handler: impl FnOnce(In, Context) -> F,
) -> Result<Response, Failure>
where
    In: DeserializeOwned,
    Out: Serialize,
    F: Future<Output = Result<Out, Failure>>,
{
    let context = Context::from_headers(request.headers());
    let bytes = read_body(request.into_body(), body_limit_bytes).await?;
    let output = handler(parse(&bytes)?, context).await?;
    let mut response = Response::new(serde_json::to_vec(&output)?.into());
    let kind = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    Ok(response)
}

fn parse<In: DeserializeOwned>(bytes: &[u8]) -> Result<In, Failure> {
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let input = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        // A syntax error has a position but no field; `.` is the whole input.
        let field = error.path().to_string();
        let problem = error.into_inner();
        let detail = format!("`{field}`: {problem}");
        match field.as_str() {
            "." => {
                Failure::new(StatusCode::BAD_REQUEST, format!("the body is not the JSON expected: {problem}"))
            }
            _ => Failure::invalid(field, detail),
        }
    })?;
    json.end().map_err(|e| Failure::new(StatusCode::BAD_REQUEST, format!("text after the JSON: {e}")))?;
    Ok(input)
}
