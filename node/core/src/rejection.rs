//! Why a command was refused. A refusal is an answer, not a failure: every replica reaches the same one.

use serde::{Deserialize, Serialize};

use crate::functions::InvalidSpec;

/// A kind of thing that a command may fail to find or find already there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    Function,
    Account,
    Key,
    Grant,
    Node,
    Instance,
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Kind::Function => "function",
            Kind::Account => "account",
            Kind::Key => "key",
            Kind::Grant => "grant",
            Kind::Node => "node",
            Kind::Instance => "instance",
        })
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Rejection {
    #[error("there is no {kind} `{name}`")]
    NotFound { kind: Kind, name: String },
    #[error("the {kind} `{name}` already exists")]
    Exists { kind: Kind, name: String },
    #[error("{0}")]
    Invalid(InvalidSpec),
    /// It contradicts what is there now, in a way the caller may resolve.
    #[error("{0}")]
    Conflict(String),
    /// A limit would be exceeded.
    #[error("at most {max} {what}")]
    Limit { what: String, max: u64 },
    /// The sender acted on a state that has moved on (an old generation or incarnation).
    #[error("out of date: {0}")]
    Stale(String),
    /// No room for it where it was to be placed.
    #[error("no capacity: {0}")]
    NoCapacity(String),
}

impl Rejection {
    pub(crate) fn missing(kind: Kind, name: impl std::fmt::Display) -> Self {
        Rejection::NotFound { kind, name: name.to_string() }
    }

    pub(crate) fn exists(kind: Kind, name: impl std::fmt::Display) -> Self {
        Rejection::Exists { kind, name: name.to_string() }
    }
}
