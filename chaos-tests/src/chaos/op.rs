//! One operation of the workload, and how it ended.

use muster_api::InvocationState;
use serde::{Deserialize, Serialize};

/// An operation whose outcome is unknown takes effect within this, or never: no node pursues a proposal
/// for more than seconds, no pause or broken link lasts longer than some ten of them, and no connection
/// keeps a request for longer than that. Without such a bound each unknown write of a run of hours would
/// excuse all that comes after it.
pub const LATE_US: u64 = 600_000_000;

/// What is asked of a node. Names say what an operation is about, so that a line of the history can
/// be read without the plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum Op {
    /// Creates or changes a function that is never invoked, so that its `REV` is a register.
    PutFunction {
        name: String,
        rev: u64,
    },
    DeleteFunction {
        name: String,
    },
    ReadFunction {
        name: String,
        local: bool,
    },
    CreateAccount {
        name: String,
    },
    DeleteAccount {
        name: String,
    },
    ReadAccount {
        name: String,
        local: bool,
    },
    /// Replaces the actions of an account's one grant: bit 0 invoke, bit 1 manage.
    Grant {
        account: String,
        actions: u64,
    },
    RevokeGrant {
        account: String,
    },
    ReadGrant {
        account: String,
        local: bool,
    },
    /// `label` stands for the key's id, which only the answer tells.
    CreateKey {
        account: String,
        label: String,
    },
    RevokeKey {
        account: String,
        label: String,
    },
    /// Makes an account an admin; its name was never used before.
    Appoint {
        account: String,
    },
    /// Deletes an admin's account, and all its keys with it.
    Dismiss {
        account: String,
    },
    /// With a key of an admin of this kind and with nothing else: a change of a function that is never
    /// invoked, or a read that only admins may do.
    Administer {
        caller: String,
        name: String,
        rev: Option<u64>,
    },
    /// Gives a function that is invoked a new version, so that its instances are replaced under load.
    Deploy {
        function: String,
        spec: serde_json::Value,
    },
    /// `caller` is an account with a lasting key, or the label of a key.
    Invoke {
        function: String,
        caller: String,
        work_ms: u64,
        mode: Mode,
    },
    ReadUsage {
        account: String,
    },
}

/// What the function is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    Answer,
    /// Ends its process in the middle of the request.
    Exit,
    /// Never answers.
    Hang,
    /// Takes memory until it is killed. Only for a function whose memory is limited.
    Exhaust,
}

/// What is known of an operation's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It was carried out and acknowledged.
    Done,
    /// It was refused, or could not be sent: it changed nothing.
    Refused,
    /// An invocation that failed with a typed error after it may have started.
    Failed,
    /// It may or may not have been carried out.
    Unknown,
    /// It was not sent: what it needs never came to be.
    Skipped,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    pub verdict: Verdict,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// What a read saw; absent where there was nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<u64>,
    /// The id of a created key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_id: Option<String>,
    /// The last log index that the node had applied when it answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub applied: Option<u64>,
    /// Of an invocation: what Muster said of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<InvocationState>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub invocation_id: Option<String>,
    /// The node it ran on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<u64>,
    #[serde(default, skip_serializing_if = "is_false")]
    pub cold_start: bool,
    /// The client gave up waiting: neither an answer nor an error came.
    #[serde(default, skip_serializing_if = "is_false")]
    pub hung: bool,
    /// The answer had begun to arrive before it broke off: its status could no longer change.
    #[serde(default, skip_serializing_if = "is_false")]
    pub cut: bool,
    /// The client broke it off, or was too slow for it: nobody owes it an answer.
    #[serde(default, skip_serializing_if = "is_false")]
    pub abandoned: bool,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
fn is_false(flag: &bool) -> bool {
    !flag
}

impl Outcome {
    pub fn new(verdict: Verdict) -> Self {
        Outcome {
            verdict,
            status: None,
            value: None,
            key_id: None,
            applied: None,
            state: None,
            invocation_id: None,
            host: None,
            cold_start: false,
            hung: false,
            cut: false,
            abandoned: false,
            detail: String::new(),
        }
    }

    #[must_use]
    pub fn status(self, status: u16) -> Self {
        Outcome { status: Some(status), ..self }
    }

    #[must_use]
    pub fn value(self, value: Option<u64>) -> Self {
        Outcome { value, ..self }
    }

    #[must_use]
    pub fn detail(self, detail: impl Into<String>) -> Self {
        Outcome { detail: detail.into(), ..self }
    }
}

impl Op {
    /// The register it reads or writes, if it is about one.
    pub fn register(&self) -> Option<String> {
        match self {
            Op::PutFunction { name, .. } | Op::DeleteFunction { name } | Op::ReadFunction { name, .. } => {
                Some(format!("function:{name}"))
            }
            Op::CreateAccount { name } | Op::DeleteAccount { name } | Op::ReadAccount { name, .. } => {
                Some(format!("account:{name}"))
            }
            Op::Grant { account, .. } | Op::RevokeGrant { account } | Op::ReadGrant { account, .. } => {
                Some(format!("grant:{account}"))
            }
            _ => None,
        }
    }

    /// What a write leaves in its register; `None` where it empties it, or is no write.
    pub fn leaves(&self) -> Option<u64> {
        match self {
            Op::PutFunction { rev, .. } => Some(*rev),
            Op::CreateAccount { .. } => Some(1),
            Op::Grant { actions, .. } => Some(*actions),
            _ => None,
        }
    }

    /// Whether it changes replicated state by a proposal of its own.
    pub fn is_write(&self) -> bool {
        matches!(
            self,
            Op::PutFunction { .. }
                | Op::DeleteFunction { .. }
                | Op::CreateAccount { .. }
                | Op::DeleteAccount { .. }
                | Op::Grant { .. }
                | Op::RevokeGrant { .. }
                | Op::CreateKey { .. }
                | Op::RevokeKey { .. }
                | Op::Appoint { .. }
                | Op::Dismiss { .. }
                | Op::Administer { rev: Some(_), .. }
                | Op::Deploy { .. }
        )
    }

    /// A read that may be stale.
    pub fn is_local(&self) -> bool {
        matches!(
            self,
            Op::ReadFunction { local: true, .. }
                | Op::ReadAccount { local: true, .. }
                | Op::ReadGrant { local: true, .. }
        )
    }

    /// Its kind, for counts.
    pub fn kind(&self) -> &'static str {
        match self {
            Op::PutFunction { .. } => "put function",
            Op::DeleteFunction { .. } => "delete function",
            Op::ReadFunction { .. } => "read function",
            Op::CreateAccount { .. } => "create account",
            Op::DeleteAccount { .. } => "delete account",
            Op::ReadAccount { .. } => "read account",
            Op::Grant { .. } => "grant",
            Op::RevokeGrant { .. } => "revoke grant",
            Op::ReadGrant { .. } => "read grant",
            Op::CreateKey { .. } => "create key",
            Op::RevokeKey { .. } => "revoke key",
            Op::Appoint { .. } => "appoint admin",
            Op::Dismiss { .. } => "dismiss admin",
            Op::Administer { .. } => "administer",
            Op::Deploy { .. } => "deploy",
            Op::Invoke { .. } => "invoke",
            Op::ReadUsage { .. } => "read usage",
        }
    }
}
