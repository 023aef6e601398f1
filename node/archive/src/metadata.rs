//! What a backup says of itself, so that it can be told apart without a node.

use serde::{Deserialize, Serialize};

/// Kept as JSON: fields may be added, and a reader passes over those it does not know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Metadata {
    /// The cluster that it is of.
    pub cluster: String,
    /// The last log entry that is in it.
    pub index: u64,
    /// The term of that entry.
    pub term: u64,
    /// The cluster's time when it was taken, RFC 3339. Instance time is charged up to then.
    pub taken_at: String,
    /// The node that wrote it.
    pub node: u64,
    /// The version of `muster-node` that wrote it.
    pub version: String,
    pub counts: Counts,
}

/// How much is in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    pub functions: u64,
    pub accounts: u64,
    pub nodes: u64,
    /// Live ones.
    pub instances: u64,
    /// Rows of usage and of instance time.
    pub ledger_rows: u64,
}
