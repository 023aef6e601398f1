//! Whole messages to other nodes and back, for the parts of the node that are not the gateway.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::header::{HOST, HeaderValue};
use http::{Method, Request, Uri};
use http_body_util::{BodyExt, Limited};
use muster_core::ids::NodeId;
use muster_tls::PeerTls;
use tokio::time::timeout;

use crate::connections::{Connections, Options, Server};
use crate::peers::IDLE_TIMEOUT;
use crate::request_body::RequestBody;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// For a connection: TCP, TLS and a greeting.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
const HEAD_MAX_BYTES: usize = 16 * 1024;

/// Why a call brought no answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The node saw nothing of it.
    #[error("cannot connect to the node")]
    Unreachable(#[source] BoxError),
    /// The node may have seen it.
    #[error("the node did not answer")]
    Broken(#[source] BoxError),
    #[error("the node refused the call with status {0}")]
    Refused(u16),
}

/// Calls other nodes.
pub struct Calls {
    tls: PeerTls,
    answer_max_bytes: usize,
    nodes: Mutex<HashMap<NodeId, Arc<Connections>>>,
}

impl std::fmt::Debug for Calls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Calls").field("tls", &self.tls).finish_non_exhaustive()
    }
}

impl Calls {
    pub fn new(tls: PeerTls, answer_max_bytes: usize) -> Self {
        Calls { tls, answer_max_bytes, nodes: Mutex::default() }
    }

    /// Posts `body` to a path of `node`, whose peer listener is at `address`, and returns the answer's body. Takes
    /// no longer than `limit`.
    ///
    /// # Errors
    /// Says whether the node may have seen the call.
    pub async fn call(
        &self,
        node: NodeId,
        address: &str,
        path: &str,
        body: Vec<u8>,
        limit: Duration,
    ) -> Result<Bytes, CallError> {
        let sent = AtomicBool::new(false);
        match timeout(limit, self.attempt(node, address, path, body, &sent)).await {
            Ok(outcome) => outcome,
            Err(late) if sent.load(Relaxed) => Err(CallError::Broken(late.into())),
            Err(late) => Err(CallError::Unreachable(late.into())),
        }
    }

    async fn attempt(
        &self,
        node: NodeId,
        address: &str,
        path: &str,
        body: Vec<u8>,
        sent: &AtomicBool,
    ) -> Result<Bytes, CallError> {
        let unsendable = |error: http::Error| CallError::Unreachable(error.into());
        let mut request = Request::new(RequestBody::Whole(body.into()));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = path.parse::<Uri>().map_err(|error| unsendable(error.into()))?;
        let host = HeaderValue::try_from(address).map_err(|error| unsendable(error.into()))?;
        request.headers_mut().insert(HOST, host);
        let connections = self.connections(node, address);
        let outcome = connections.send(request, |is_sent| sent.store(is_sent, Relaxed)).await;
        let (response, lease) = outcome.map_err(|error| match error.is_unsent() {
            true => CallError::Unreachable(error.into()),
            false => CallError::Broken(error.into()),
        })?;
        let status = response.status();
        let answer = Limited::new(response.into_body(), self.answer_max_bytes).collect().await;
        let answer = answer.map_err(CallError::Broken)?.to_bytes();
        lease.give_back();
        if status.is_success() { Ok(answer) } else { Err(CallError::Refused(status.as_u16())) }
    }

    fn connections(&self, node: NodeId, address: &str) -> Arc<Connections> {
        let mut nodes = self.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = nodes.get(&node).filter(|known| known.address() == address) {
            return Arc::clone(known);
        }
        let options = Options {
            connect_timeout: CONNECT_TIMEOUT,
            idle_timeout: IDLE_TIMEOUT,
            head_max_bytes: HEAD_MAX_BYTES,
        };
        let server = Server::Node(self.tls.clone(), node);
        let connections = Connections::new(address.to_owned(), server, options);
        nodes.insert(node, Arc::clone(&connections));
        connections
    }
}
