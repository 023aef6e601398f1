//! Tells with every answer how far this node had come: who reads later, anywhere, must see as much.

use axum::extract::State;
use axum::response::Response;
use http::{HeaderName, HeaderValue};
use muster_api::headers;

use super::App;

/// Adds [`headers::APPLIED`]. What the answer rests on was applied by then, and is never more.
pub(super) async fn show(State(app): State<App>, mut response: Response) -> Response {
    let index = HeaderValue::from(app.consensus.state().applied_index());
    response.headers_mut().insert(HeaderName::from_static(headers::APPLIED), index);
    response
}
