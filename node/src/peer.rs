//! What other nodes may ask: the log's messages, load reports, invocations sent to this host, and what
//! its instances have written.
//!
//! TLS has made certain which node calls, or that it showed no certificate. Here it is decided whether it is heard.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use muster_consensus::RPC_BODY_MAX;
use muster_core::ClusterState;
use muster_core::ids::NodeId;
use muster_gateway::{Body, Caller, Refusals};

use crate::enrollment::{self, ENROLL_PATH};
use crate::logs;
use crate::packages;
use crate::parts::Parts;

/// The peer listener's paths that belong to the gateway.
const GATEWAY_PREFIX: &str = "/peer/gateway/";

/// Serves the listener for other nodes.
#[derive(Clone, Debug)]
pub(crate) struct PeerService {
    pub(crate) parts: Parts,
    /// Of the certificates that joiners are given.
    pub(crate) certificate_lasts: Duration,
    pub(crate) refusals: Refusals,
}

/// Whether a node that has a certificate is still to be heard. Those that were removed are refused here, upon
/// each request, so that open connections do not help them.
fn admitted(state: &ClusterState, node: NodeId) -> bool {
    !state.members.is_removed(node)
}

impl PeerService {
    pub(crate) async fn handle(self, request: Request<Incoming>, caller: Caller) -> Response<Body> {
        let path = request.uri().path().to_owned();
        let refuse = |status, reason: &str| {
            let (remote, node) = (caller.address, caller.node.map(|node| node.0));
            // Nodes may share an address, as those of a local cluster do.
            let of = node.map_or_else(|| reason.to_owned(), |node| format!("{node}: {reason}"));
            if let Some(untold) = self.refusals.tell(remote.ip(), &of) {
                tracing::warn!(%remote, node, path, reason, untold, "a caller was refused at the peer port");
            }
            plain(status, reason)
        };
        if request.method() == Method::POST && path == ENROLL_PATH {
            let body = match Limited::new(request.into_body(), enrollment::MESSAGE_MAX).collect().await {
                Ok(collected) => collected.to_bytes(),
                Err(error) => return plain(StatusCode::BAD_REQUEST, &format!("the body broke off: {error}")),
            };
            return match enrollment::answer(&self.parts, self.certificate_lasts, &body).await {
                Ok(bytes) => Response::new(muster_gateway::full(Bytes::from(bytes))),
                Err(problem) => plain(StatusCode::BAD_REQUEST, &problem),
            };
        }
        let Some(node) = caller.node else {
            return refuse(StatusCode::UNAUTHORIZED, "it showed no node's certificate");
        };
        // What it is told is that it was removed.
        let asks_why = path == muster_consensus::STANDING_PATH;
        if !asks_why && !self.parts.consensus.with_state(|state| admitted(state, node)) {
            return refuse(StatusCode::FORBIDDEN, "the node was removed from the cluster");
        }
        if path.starts_with(GATEWAY_PREFIX) {
            return self.parts.gateway.handle_peer(request).await;
        }
        if path == logs::PEER_PATH {
            return self.logs(request).await;
        }
        if path == packages::READ_PATH || path == packages::COPY_PATH {
            return self.packages(node, path == packages::READ_PATH, request).await;
        }
        let body = match Limited::new(request.into_body(), RPC_BODY_MAX).collect().await {
            Ok(collected) => collected.to_bytes(),
            Err(error) => return plain(StatusCode::BAD_REQUEST, &format!("the body broke off: {error}")),
        };
        let Some(answer) = self.parts.answer_peer(node, &path, &body).await else {
            return plain(StatusCode::NOT_FOUND, "there is no such peer request");
        };
        match answer {
            Ok(bytes) => Response::new(muster_gateway::full(Bytes::from(bytes))),
            Err(problem) => {
                let remote = caller.address;
                if let Some(untold) = self.refusals.tell(remote.ip(), &format!("{node}: {problem}")) {
                    tracing::warn!(%remote, %node, path, problem, untold, "a peer's request was refused");
                }
                plain(StatusCode::BAD_REQUEST, &problem)
            }
        }
    }
}

impl PeerService {
    /// Sends a package, or gets itself a copy of one.
    async fn packages(self, caller: NodeId, reads: bool, request: Request<Incoming>) -> Response<Body> {
        let body = match Limited::new(request.into_body(), packages::ask_max()).collect().await {
            Ok(collected) => collected.to_bytes(),
            Err(error) => return plain(StatusCode::BAD_REQUEST, &format!("the body broke off: {error}")),
        };
        let answered = match reads {
            true => self.parts.packages.answer_read(&body).await,
            false => self.parts.packages.answer_copy(caller, &body).await.map(Some),
        };
        match answered {
            Ok(Some(bytes)) => Response::new(muster_gateway::boxed(bytes)),
            Ok(None) => plain(StatusCode::NOT_FOUND, "the package is not here"),
            Err(problem) => plain(StatusCode::SERVICE_UNAVAILABLE, &problem),
        }
    }

    /// Sends this host's share of a function's output, until the peer goes.
    async fn logs(self, request: Request<Incoming>) -> Response<Body> {
        let body = match Limited::new(request.into_body(), logs::ask_max()).collect().await {
            Ok(collected) => collected.to_bytes(),
            Err(error) => return plain(StatusCode::BAD_REQUEST, &format!("the body broke off: {error}")),
        };
        match self.parts.logs.answer_peer(&body, self.parts.stop.clone()).await {
            Ok(lines) => Response::new(muster_gateway::boxed(lines)),
            Err(problem) => plain(StatusCode::SERVICE_UNAVAILABLE, &problem),
        }
    }
}

fn plain(status: StatusCode, text: &str) -> Response<Body> {
    let mut response = Response::new(muster_gateway::full(Bytes::from(format!("{text}\n"))));
    *response.status_mut() = status;
    response
}
