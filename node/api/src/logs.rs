use serde::{Deserialize, Serialize};

/// One line of an instance's output, or a remark about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct LogLine {
    /// When the host read it, to the nanosecond, by the host's clock.
    pub time: String,
    /// The host.
    pub node: u64,
    /// Absent in a remark that is about the whole node.
    pub instance: Option<String>,
    /// `stdout`, `stderr`, or `muster`: then it is a remark of Muster's, such as that a node does not answer.
    pub stream: String,
    /// Without its end. What is not UTF-8 is replaced by U+FFFD.
    pub text: String,
}

/// The media type of logs: one [`LogLine`] per line.
pub const NDJSON: &str = "application/x-ndjson";
