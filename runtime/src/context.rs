//! What the cluster says about a request.

use http::HeaderMap;

/// The header with the caller's account. The node sets it and drops what a caller put there.
pub const ACCOUNT_HEADER: &str = "muster-account";
/// The header with the invocation's id.
pub const INVOCATION_ID_HEADER: &str = "muster-invocation-id";

/// Who calls, and under which invocation. Both are absent when a function is run by hand.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Context {
    /// The account whose key authorized the invocation.
    pub account: Option<String>,
    /// The id that the answer, the logs and the usage ledger name too.
    pub invocation_id: Option<String>,
}

impl Context {
    /// Reads the context from a request's headers.
    pub fn from_headers(headers: &HeaderMap) -> Self {
        let text = |name| headers.get(name)?.to_str().ok().map(str::to_owned);
        Context { account: text(ACCOUNT_HEADER), invocation_id: text(INVOCATION_ID_HEADER) }
    }
}
