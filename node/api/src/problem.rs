//! Errors: problem details as in RFC 9457, `application/problem+json`.

use std::fmt;

use serde::{Deserialize, Serialize};

pub const PROBLEM_JSON: &str = "application/problem+json";

/// What went wrong, as RFC 9457 has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Problem {
    /// The HTTP status.
    pub status: u16,
    /// The kind of problem, in a few words; the same for each occurrence.
    pub title: String,
    /// What went wrong this time; names the field, function or account at fault.
    pub detail: String,
    /// Which invocation failed; only in answers to invocations.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub invocation_id: Option<String>,
    /// Whether the function may have run; only in answers to invocations.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub invocation_state: Option<InvocationState>,
}

/// Whether the function of a failed invocation may have run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum InvocationState {
    /// The function did not see the request: it is safe to send it again.
    NotStarted,
    /// It saw the request; how far it got is unknown.
    Started,
    /// It may or may not have seen the request.
    Unknown,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}): {}", self.title, self.status, self.detail)
    }
}
