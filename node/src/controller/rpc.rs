//! Reports on their way to the leader, and its view on the way back.

use std::time::Duration;

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
const FORMAT: u8 = 1;

#[derive(Debug, thiserror::Error)]
pub(crate) enum ReportError {
    #[error("unknown request `{0}`")]
    UnknownPath(String),
    #[error("cannot encode or decode the message")]
    Codec(#[source] CodecError),
    #[error("the leader did not answer")]
    Call(#[source] reqwest::Error),
}

impl Controller {
    /// Answers a peer's request under [`REPORT_PREFIX`].
    pub(crate) fn handle_rpc(&self, method: &str, body: &[u8]) -> Result<Vec<u8>, ReportError> {
        match method {
            "report" => {
                self.take(decode(body)?);
                encode(&())
            }
            "view" => encode(&self.own_view()),
            unknown => Err(ReportError::UnknownPath(unknown.to_owned())),
        }
    }
}

/// Calls whoever leads.
#[derive(Clone)]
pub(super) struct LeaderClient {
    http: reqwest::Client,
    secret: String,
}

impl std::fmt::Debug for LeaderClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LeaderClient")
    }
}

impl LeaderClient {
    pub(super) fn new(secret: String) -> Self {
        let http = reqwest::Client::builder()
            .timeout(LIMIT)
            .tcp_nodelay(true)
            .no_proxy()
            .build()
            .expect("a client without TLS can be built");
        LeaderClient { http, secret }
    }

    pub(super) async fn submit(&self, peer: &str, report: &NodeReport) -> Result<(), ReportError> {
        self.call(peer, "report", report).await
    }

    pub(super) async fn view(&self, peer: &str) -> Result<View, ReportError> {
        self.call(peer, "view", &()).await
    }

    async fn call<Q: Serialize, A: DeserializeOwned>(
        &self,
        peer: &str,
        method: &str,
        request: &Q,
    ) -> Result<A, ReportError> {
        let url = format!("http://{peer}{REPORT_PREFIX}{method}");
        let sent = self.http.post(url).bearer_auth(&self.secret).body(encode(request)?).send().await;
        let answer = sent.and_then(reqwest::Response::error_for_status).map_err(ReportError::Call)?;
        decode(&answer.bytes().await.map_err(ReportError::Call)?)
    }
}

fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, ReportError> {
    codec::encode(FORMAT, message).map_err(ReportError::Codec)
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ReportError> {
    codec::decode(&[FORMAT], MESSAGE_MAX, bytes).map_err(ReportError::Codec)
}
