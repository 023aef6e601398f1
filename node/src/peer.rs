//! What other nodes may ask: the log's messages, load reports, and invocations sent to this host.

use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use muster_consensus::{Consensus, RPC_BODY_MAX, RPC_PREFIX};
use muster_gateway::{Body, Gateway};

use crate::controller::{Controller, REPORT_PREFIX};

/// The peer listener's paths that belong to the gateway.
const GATEWAY_PREFIX: &str = "/peer/gateway/";

/// Serves the listener for other nodes.
#[derive(Clone, Debug)]
pub(crate) struct PeerService {
    pub(crate) consensus: Consensus,
    pub(crate) controller: Controller,
    pub(crate) gateway: Arc<Gateway>,
    pub(crate) secret: Arc<PeerSecret>,
}

/// The secret that nodes show each other, as its hash: comparing hashes takes constant time.
pub(crate) struct PeerSecret(muster_core::accounts::KeyHash);

impl std::fmt::Debug for PeerSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PeerSecret(…)")
    }
}

impl PeerSecret {
    pub(crate) fn new(secret: &str) -> Self {
        PeerSecret(muster_core::accounts::KeyHash::of(secret))
    }

    fn is_shown_by<B>(&self, request: &Request<B>) -> bool {
        let shown = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        shown.and_then(|text| text.strip_prefix("Bearer ")).is_some_and(|secret| self.0.matches(secret))
    }
}

impl PeerService {
    pub(crate) async fn handle(self, request: Request<Incoming>) -> Response<Body> {
        if !self.secret.is_shown_by(&request) {
            tracing::warn!(path = request.uri().path(), "a caller without the peer secret was refused");
            return plain(StatusCode::UNAUTHORIZED, "the peer secret is missing or wrong");
        }
        let path = request.uri().path().to_owned();
        if path.starts_with(GATEWAY_PREFIX) {
            return self.gateway.handle_peer(request).await;
        }
        let body = match Limited::new(request.into_body(), RPC_BODY_MAX).collect().await {
            Ok(collected) => collected.to_bytes(),
            Err(error) => return plain(StatusCode::BAD_REQUEST, &format!("the body broke off: {error}")),
        };
        let answer = if let Some(method) = path.strip_prefix(RPC_PREFIX) {
            self.consensus.handle_rpc(method, &body).await.map_err(|error| describe(&error))
        } else if let Some(method) = path.strip_prefix(REPORT_PREFIX) {
            self.controller.handle_rpc(method, &body).map_err(|error| describe(&error))
        } else {
            return plain(StatusCode::NOT_FOUND, "there is no such peer request");
        };
        match answer {
            Ok(bytes) => Response::new(muster_gateway::full(Bytes::from(bytes))),
            Err(problem) => {
                tracing::warn!(path, problem, "a peer's request was refused");
                plain(StatusCode::BAD_REQUEST, &problem)
            }
        }
    }
}

/// An error with its sources.
fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

fn plain(status: StatusCode, text: &str) -> Response<Body> {
    let mut response = Response::new(muster_gateway::full(Bytes::from(format!("{text}\n"))));
    *response.status_mut() = status;
    response
}
