//! How the log and the controller call other nodes: over the gateway's kind of connections.

use std::time::Duration;

use muster_consensus::{CallAnswer, CallError, RPC_BODY_MAX, Transport};
use muster_core::ids::NodeId;
use muster_gateway::Calls;
use muster_tls::PeerTls;

#[derive(Debug)]
pub(crate) struct PeerTransport(Calls);

impl PeerTransport {
    pub(crate) fn new(tls: PeerTls) -> Self {
        PeerTransport(Calls::new(tls, RPC_BODY_MAX))
    }
}

impl Transport for PeerTransport {
    fn call<'a>(
        &'a self,
        target: NodeId,
        address: &'a str,
        path: &'a str,
        body: Vec<u8>,
        limit: Duration,
    ) -> CallAnswer<'a> {
        Box::pin(async move {
            self.0.call(target, address, path, body, limit).await.map_err(|error| match error {
                muster_gateway::CallError::Unreachable(error) => CallError::Unreachable(error),
                muster_gateway::CallError::Broken(error) => CallError::Broken(error),
                muster_gateway::CallError::Refused(status) => CallError::Refused(status),
            })
        })
    }
}
