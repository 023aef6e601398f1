//! The JSON types of Muster's public HTTP API, shared by the node and its clients. Serde only.
//!
//! Times are RFC 3339 in UTC; durations are numbers with the unit in their names. Unknown fields in
//! requests are refused, so a misspelled one is an error instead of a silent default.

mod accounts;
mod cluster;
mod functions;
mod logs;
mod packages;
mod problem;
mod usage;

pub use accounts::*;
pub use cluster::*;
pub use functions::*;
pub use logs::*;
pub use packages::*;
pub use problem::*;
pub use usage::*;

/// Headers on answers, and those a function receives.
pub mod headers {
    pub const INVOCATION_ID: &str = "muster-invocation-id";
    pub const NODE: &str = "muster-node";
    pub const INSTANCE: &str = "muster-instance";
    pub const COLD_START: &str = "muster-cold-start";
    /// The caller's account, sent to the function in place of its credentials.
    pub const ACCOUNT: &str = "muster-account";
    /// On answers under `/v1`: the index of the last log entry that the answering node had applied.
    pub const APPLIED: &str = "muster-applied";
}
