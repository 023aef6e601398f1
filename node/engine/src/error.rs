//! What can go wrong with an engine, and whether the same launch may be tried again.

use std::error::Error;

use muster_core::functions::EngineKind;
use muster_core::ids::{InstanceId, PackageDigest};

use crate::instance::Exit;
use crate::package::PackageError;

#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// Nothing was heard from the engine; the operation may or may not have happened.
    #[error("the container engine does not answer: {operation}")]
    Unavailable { operation: &'static str, source: Cause },
    /// The engine accepted the operation and did not finish it in time; it may still happen.
    #[error("took longer than its deadline: {operation}")]
    Deadline { operation: &'static str },
    /// The engine said no.
    #[error("refused: {operation}")]
    Refused { operation: &'static str, source: Cause },
    /// The engine did it, and the result is not what was asked for.
    #[error("{operation}: {problem}")]
    Unexpected { operation: &'static str, problem: String },
    /// More than this host's engine is willing to hold.
    #[error("the limit of {max} {what} on this host is reached")]
    Limit { what: &'static str, max: usize },
    #[error("the image `{image}` is not on this host")]
    NoSuchImage { image: String },
    #[error("the package `{package}` is not unpacked or loaded on this host")]
    NoSuchPackage { package: String },
    #[error("the package {package} is of no use")]
    BadPackage { package: PackageDigest, source: PackageError },
    #[error("the package {package} has no image `{image}`")]
    NotInPackage { package: PackageDigest, image: String },
    #[error("the image `{image}` is built for {image_platform} and this host runs {host_platform}")]
    WrongPlatform { image: String, image_platform: String, host_platform: String },
    #[error("the program `{program}` is not on this host or cannot be run")]
    NoSuchProgram { program: String, source: Cause },
    /// An image was given to the process engine, or a command to the Docker engine.
    #[error("the {engine} engine cannot run this function's source")]
    WrongEngine { engine: EngineKind },
    /// The deterministic name of the instance belongs to something that is not this instance.
    #[error("the name {name} is taken by something else")]
    NameTaken { name: String },
    #[error("no instance {instance} on this host")]
    NoSuchInstance { instance: InstanceId },
    /// The instance ended before its address was known, or had ended when it was launched again.
    #[error("the instance {exit}")]
    Exited { exit: Exit },
}

/// The error underneath, as the library or the system gave it.
#[derive(Debug, thiserror::Error)]
pub enum Cause {
    #[error(transparent)]
    Docker(#[from] Box<bollard::errors::Error>),
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

impl EngineError {
    /// Whether launching the same instance again may succeed without anyone changing anything.
    /// Repeating is always safe; this says whether it is of use.
    pub fn may_retry(&self) -> bool {
        match self {
            EngineError::Unavailable { .. }
            | EngineError::Deadline { .. }
            | EngineError::Unexpected { .. }
            | EngineError::Limit { .. } => true,
            EngineError::Refused { source, .. } => source.is_passing(),
            // The disk may be full just now.
            EngineError::BadPackage { source: PackageError::Io(_), .. } => true,
            EngineError::NoSuchImage { .. }
            | EngineError::NoSuchPackage { .. }
            | EngineError::BadPackage { .. }
            | EngineError::NotInPackage { .. }
            | EngineError::WrongPlatform { .. }
            | EngineError::NoSuchProgram { .. }
            | EngineError::WrongEngine { .. }
            | EngineError::NameTaken { .. }
            | EngineError::NoSuchInstance { .. }
            | EngineError::Exited { .. } => false,
        }
    }

    /// The error and what caused it in one line, for a log or a replicated failure reason.
    pub fn reason(&self) -> String {
        let mut text = self.to_string();
        let mut next = self.source();
        while let Some(cause) = next {
            text.push_str(": ");
            text.push_str(&cause.to_string());
            next = cause.source();
        }
        text
    }

    /// What `error` means to someone who asked for `operation`.
    pub(crate) fn docker(operation: &'static str, error: bollard::errors::Error) -> Self {
        use bollard::errors::Error as Docker;
        match error {
            Docker::RequestTimeoutError => EngineError::Deadline { operation },
            Docker::SocketNotFoundError(_)
            | Docker::IOError { .. }
            | Docker::HyperResponseError { .. }
            | Docker::HyperLegacyError { .. } => {
                EngineError::Unavailable { operation, source: Box::new(error).into() }
            }
            _ => EngineError::Refused { operation, source: Box::new(error).into() },
        }
    }
}

impl Cause {
    /// Docker blames itself (5xx), or the system is short of something just now.
    fn is_passing(&self) -> bool {
        match self {
            Cause::Docker(error) => status(error).is_none_or(|code| code >= 500),
            Cause::Io(error) => {
                use std::io::ErrorKind as Kind;
                matches!(error.kind(), Kind::WouldBlock | Kind::OutOfMemory | Kind::Interrupted)
            }
        }
    }
}

/// The HTTP status Docker answered with, if it answered.
pub(crate) fn status(error: &bollard::errors::Error) -> Option<u16> {
    match error {
        bollard::errors::Error::DockerResponseServerError { status_code, .. } => Some(*status_code),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(status_code: u16) -> bollard::errors::Error {
        bollard::errors::Error::DockerResponseServerError { status_code, message: "why".into() }
    }

    #[test]
    fn what_may_be_retried() {
        let gone = bollard::errors::Error::SocketNotFoundError("/nowhere".into());
        for (error, again) in [
            (EngineError::docker("create", answered(400)), false),
            (EngineError::docker("create", answered(409)), false),
            (EngineError::docker("create", answered(500)), true),
            (EngineError::docker("create", gone), true),
            (EngineError::docker("create", bollard::errors::Error::RequestTimeoutError), true),
            (EngineError::NoSuchImage { image: "a".into() }, false),
            (EngineError::Exited { exit: Exit::default() }, false),
        ] {
            assert_eq!(error.may_retry(), again, "{error:?}");
        }
    }

    #[test]
    fn the_reason_names_the_cause_once() {
        let error = EngineError::docker("create the container", answered(500));
        assert_eq!(error.to_string(), "refused: create the container");
        let reason = "refused: create the container: Docker responded with status code 500: why";
        assert_eq!(error.reason(), reason);
    }
}
