//! How a command fails: what is said, and the exit status.

use std::error::Error as _;
use std::fmt::Display;
use std::io::{self, Write};
use std::process::ExitCode;

use muster_client::Error;
use muster_client::api::InvocationState;

use super::output::printable;

const DOUBT: &str = "it may have been done all the same: look before you repeat it";

pub(super) enum Failure {
    /// The user asked for something that makes no sense.
    Usage(String),
    /// It was refused, or it failed.
    Failed(String),
    /// A request failed; `what` was attempted, which `changes` something or only looks.
    Request { what: String, changes: bool, error: Error },
    /// Whoever read the output went away.
    PipeClosed,
}

impl Failure {
    pub(super) fn failed(message: impl Into<String>) -> Self {
        Failure::Failed(message.into())
    }
}

/// Only writing to standard output fails with a bare IO error.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Failure::PipeClosed,
            _ => Failure::Failed(format!("cannot write the output: {error}")),
        }
    }
}

/// Says what a request was for.
pub(super) trait Doing<T> {
    /// Of a request that only looks: "list functions".
    fn doing(self, what: impl Display) -> Result<T, Failure>;

    /// Of one that changes something: "delete function `alpha`".
    fn changing(self, what: impl Display) -> Result<T, Failure>;
}

impl<T> Doing<T> for Result<T, Error> {
    fn doing(self, what: impl Display) -> Result<T, Failure> {
        self.map_err(|error| Failure::Request { what: what.to_string(), changes: false, error })
    }

    fn changing(self, what: impl Display) -> Result<T, Failure> {
        self.map_err(|error| Failure::Request { what: what.to_string(), changes: true, error })
    }
}

/// Reports a failure on standard error and gives the exit status.
pub(super) fn exit(result: Result<(), Failure>, with_key: bool) -> ExitCode {
    let (message, code) = match result {
        Ok(()) | Err(Failure::PipeClosed) => return ExitCode::SUCCESS,
        Err(Failure::Usage(message)) => (message, 2),
        Err(Failure::Failed(message)) => (message, 1),
        Err(Failure::Request { what, changes, error }) => {
            let code = if matches!(error, Error::Invalid { .. }) { 2 } else { 1 };
            let hint = hint(&error, with_key, changes).map(|hint| format!("\n  {hint}")).unwrap_or_default();
            (format!("cannot {what}: {}{hint}", chain(&error)), code)
        }
    };
    // Where not even standard error can be written to, the status has to do.
    let _ = writeln!(io::stderr(), "error: {}", printable(&message));
    ExitCode::from(code)
}

fn chain(error: &Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

/// What to do about it.
fn hint(error: &Error, with_key: bool, changes: bool) -> Option<&'static str> {
    match (error, error.status()) {
        (Error::Unreachable { .. }, _) => {
            Some("is the cluster running there? Set --url or MUSTER_URL to its nodes")
        }
        (_, Some(401)) if !with_key => {
            Some("no key was given: set MUSTER_KEY, or --key-file to a file that holds it")
        }
        (_, Some(401)) => {
            Some("the key is unknown, revoked or expired: get a new one (`muster keys create`)")
        }
        (_, Some(403)) => Some("an administrator can allow it: `muster grant ACCOUNT FUNCTION`"),
        (Error::Broken { .. } | Error::Timeout { .. }, _) if changes => Some(DOUBT),
        (Error::Problem { problem, .. }, Some(503)) if changes && problem.invocation_state.is_none() => {
            Some(DOUBT)
        }
        (Error::Problem { problem, .. }, _) => match problem.invocation_state? {
            // Nor would it again, where the request is at fault.
            InvocationState::NotStarted if problem.status < 500 && problem.status != 429 => None,
            InvocationState::NotStarted => Some("the function did not run: it is safe to invoke it again"),
            InvocationState::Started => Some("the function has run, or is still running"),
            InvocationState::Unknown => Some("the function may have run"),
        },
        _ => None,
    }
}
