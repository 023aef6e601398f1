//! One invocation over plain HTTP: nothing is repeated behind the test's back.

use anyhow::{Context, Result};
use bytes::Bytes;
use http::Method;
use muster_api::{InvocationState, Problem, headers};
use reqwest::RequestBuilder;

use super::Cluster;

/// What came back.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub invocation_id: Option<String>,
    /// The node it ran on.
    pub node: Option<u64>,
    pub instance: Option<String>,
    pub cold_start: Option<bool>,
    pub retry_after: Option<String>,
    /// The last log index that the node had applied when it answered.
    pub applied: Option<u64>,
    pub body: Bytes,
    /// Where Muster, not the function, answered.
    pub problem: Option<Problem>,
}

impl Answer {
    /// The body as JSON.
    ///
    /// # Errors
    /// With the body, where it is none.
    pub fn json(&self) -> Result<serde_json::Value> {
        serde_json::from_slice(&self.body)
            .with_context(|| format!("{} with {:?}", self.status, String::from_utf8_lossy(&self.body)))
    }

    /// What Muster says of whether the function may have run.
    pub fn state(&self) -> Option<InvocationState> {
        self.problem.as_ref()?.invocation_state
    }
}

impl Cluster {
    /// A request to node `n`, with a key if one is given.
    pub fn request(&self, n: u64, method: Method, path: &str, key: Option<&str>) -> RequestBuilder {
        let request = self.http.request(method, format!("{}{path}", self.url(n)));
        match key {
            Some(key) => request.bearer_auth(key),
            None => request,
        }
    }

    /// Sends `body` to a function through node `n` and reads the whole answer. `function` may go on
    /// with a path and a query.
    ///
    /// # Errors
    /// Where the node could not be reached or the answer broke off.
    pub async fn invoke(
        &self,
        n: u64,
        key: &str,
        function: &str,
        body: impl Into<reqwest::Body> + Send,
    ) -> Result<Answer, reqwest::Error> {
        self.entry(n, key).invoke(function, body).await
    }

    /// A way into node `n` that a load can own.
    pub fn entry(&self, n: u64, key: &str) -> Entry {
        Entry { http: self.http.clone(), url: self.url(n), key: key.to_owned() }
    }
}

/// One node's listener, and a key to call functions there.
#[derive(Clone, Debug)]
pub struct Entry {
    http: reqwest::Client,
    url: String,
    key: String,
}

impl Entry {
    /// As [`Cluster::invoke`].
    ///
    /// # Errors
    /// Where the node could not be reached or the answer broke off.
    pub async fn invoke(
        &self,
        function: &str,
        body: impl Into<reqwest::Body> + Send,
    ) -> Result<Answer, reqwest::Error> {
        let url = format!("{}/function/{function}", self.url);
        send(self.http.post(url).bearer_auth(&self.key).body(body)).await
    }
}

/// Sends a request and reads the whole answer.
///
/// # Errors
/// Where the node could not be reached or the answer broke off.
pub async fn send(request: RequestBuilder) -> Result<Answer, reqwest::Error> {
    let response = request.send().await?;
    let text = |name: &str| Some(response.headers().get(name)?.to_str().ok()?.to_owned());
    let (node, cold_start) = (text(headers::NODE), text(headers::COLD_START));
    let is_problem = text("content-type").is_some_and(|kind| kind == muster_api::PROBLEM_JSON);
    let mut answer = Answer {
        status: response.status().as_u16(),
        invocation_id: text(headers::INVOCATION_ID),
        node: node.and_then(|node| node.parse().ok()),
        instance: text(headers::INSTANCE),
        cold_start: cold_start.and_then(|cold| cold.parse().ok()),
        retry_after: text("retry-after"),
        applied: text(headers::APPLIED).and_then(|index| index.parse().ok()),
        body: Bytes::new(),
        problem: None,
    };
    answer.body = response.bytes().await?;
    if is_problem {
        answer.problem = serde_json::from_slice(&answer.body).ok();
    }
    Ok(answer)
}
