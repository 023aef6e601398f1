//! Reports on their way to the leader, and its view on the way back.

use std::sync::Arc;
use std::time::Duration;

use muster_consensus::{CallError, Consensus, Transport};
use muster_core::ids::NodeId;
use muster_core::observation::NodeReport;
use muster_storage::codec::{self, CodecError};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Controller, View};

pub(crate) const REPORT_PREFIX: &str = "/peer/controller/";
/// A report is worth nothing once the next one is due.
const LIMIT: Duration = Duration::from_millis(500);
/// The largest report: tens of thousands of instances on one host.
const MESSAGE_MAX: usize = 8 * 1024 * 1024;
/// The formats that are read. Which one is written, the cluster version says.
const KNOWN: [u8; 1] = [1];

#[derive(Debug, thiserror::Error)]
pub(crate) enum ReportError {
    #[error("unknown request `{0}`")]
    UnknownPath(String),
    #[error("node {caller} reported for node {claimed}")]
    Mismatch { caller: NodeId, claimed: NodeId },
    #[error("cannot encode or decode the message")]
    Codec(#[source] CodecError),
    #[error("the leader did not answer")]
    Call(#[source] CallError),
}

impl Controller {
    /// Answers a request under [`REPORT_PREFIX`] of the peer that is `caller` for certain.
    pub(crate) fn handle_rpc(
        &self,
        caller: NodeId,
        method: &str,
        body: &[u8],
    ) -> Result<Vec<u8>, ReportError> {
        // Answered in the format of the request, which its sender knows for certain.
        let format = body.first().copied().unwrap_or(KNOWN[0]);
        match method {
            "report" => {
                let report: NodeReport = decode(body)?;
                if report.node != caller {
                    return Err(ReportError::Mismatch { caller, claimed: report.node });
                }
                self.take(report);
                encode(format, &())
            }
            "view" => {
                let () = decode(body)?;
                encode(format, &self.own_view())
            }
            unknown => Err(ReportError::UnknownPath(unknown.to_owned())),
        }
    }
}

/// Calls whoever leads.
#[derive(Debug)]
pub(super) struct LeaderClient {
    transport: Arc<dyn Transport>,
    consensus: Consensus,
}

impl LeaderClient {
    pub(super) fn new(transport: Arc<dyn Transport>, consensus: Consensus) -> Self {
        LeaderClient { transport, consensus }
    }

    pub(super) async fn submit(
        &self,
        leader: NodeId,
        peer: &str,
        report: &NodeReport,
    ) -> Result<(), ReportError> {
        self.call(leader, peer, "report", report).await
    }

    pub(super) async fn view(&self, leader: NodeId, peer: &str) -> Result<View, ReportError> {
        self.call(leader, peer, "view", &()).await
    }

    async fn call<Q: Serialize, A: DeserializeOwned>(
        &self,
        leader: NodeId,
        peer: &str,
        method: &str,
        request: &Q,
    ) -> Result<A, ReportError> {
        let path = format!("{REPORT_PREFIX}{method}");
        let body = encode(self.consensus.report_format(), request)?;
        let answer = self.transport.call(leader, peer, &path, body, LIMIT).await;
        decode(&answer.map_err(ReportError::Call)?)
    }
}

fn encode<T: Serialize>(format: u8, message: &T) -> Result<Vec<u8>, ReportError> {
    codec::encode(format, message).map_err(ReportError::Codec)
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ReportError> {
    codec::decode(&KNOWN, MESSAGE_MAX, bytes).map_err(ReportError::Codec)
}
