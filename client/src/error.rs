//! What can go wrong, and what it says about whether anything happened.

use std::time::Duration;

use http::StatusCode;
use muster_api::{InvocationState, Problem};

/// A failed request.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Muster refused or failed, and said so.
    #[error("{problem}")]
    Problem {
        problem: Box<Problem>,
        /// How long to wait before asking again.
        retry_after: Option<Duration>,
    },
    /// No node could be connected to: nothing was sent.
    #[error("no node can be reached: {}", list(tried))]
    Unreachable { tried: Vec<Tried> },
    /// The connection broke after the request was sent: it may have been carried out.
    #[error("{node} broke off before it answered in full")]
    Broken {
        node: String,
        #[source]
        source: reqwest::Error,
    },
    /// No answer came in time: the request may have been carried out.
    #[error("{node} did not answer in time")]
    Timeout {
        node: String,
        #[source]
        source: Option<reqwest::Error>,
    },
    /// An answer without the JSON that the API promises, often because something other than a node
    /// gave it.
    #[error("{node} answered {}: {what}", status.as_u16())]
    Malformed {
        node: String,
        status: StatusCode,
        what: String,
        #[source]
        source: Option<serde_json::Error>,
    },
    /// The request could not be made from what the caller gave. Nothing was sent.
    #[error("{what} can't be used: {why}")]
    Invalid { what: String, why: String },
    /// [`Client::wait_ready`](crate::Client::wait_ready) gave up.
    #[error("function `{function}` is not ready: {why}")]
    NotReady { function: String, why: String },
}

/// A node that could not be connected to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tried {
    pub url: String,
    pub why: String,
}

impl Error {
    pub fn problem(&self) -> Option<&Problem> {
        match self {
            Error::Problem { problem, .. } => Some(problem),
            _ => None,
        }
    }

    /// The HTTP status, where there was an answer.
    pub fn status(&self) -> Option<u16> {
        match self {
            Error::Problem { problem, .. } => Some(problem.status),
            Error::Malformed { status, .. } => Some(status.as_u16()),
            _ => None,
        }
    }

    /// Whether the function may have run, where the failure was that of an invocation.
    pub fn invocation_state(&self) -> InvocationState {
        match self {
            Error::Unreachable { .. } | Error::Invalid { .. } | Error::NotReady { .. } => {
                InvocationState::NotStarted
            }
            Error::Problem { problem, .. } => problem.invocation_state.unwrap_or(InvocationState::Unknown),
            Error::Broken { .. } | Error::Timeout { .. } | Error::Malformed { .. } => {
                InvocationState::Unknown
            }
        }
    }

    pub(crate) fn invalid(what: impl Into<String>, why: impl Into<String>) -> Self {
        Error::Invalid { what: what.into(), why: why.into() }
    }

    /// An error of a request that was sent, or may have been.
    pub(crate) fn after_sending(node: &str, source: reqwest::Error) -> Self {
        let (node, source) = (node.to_owned(), source.without_url());
        match source.is_timeout() {
            true => Error::Timeout { node, source: Some(source) },
            false => Error::Broken { node, source },
        }
    }
}

fn list(tried: &[Tried]) -> String {
    let each: Vec<String> = tried.iter().map(|t| format!("{} ({})", t.url, t.why)).collect();
    each.join(", ")
}

/// The innermost cause, which is the one that tells: "Connection refused".
pub(crate) fn root_cause(error: &(dyn std::error::Error + 'static)) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}
