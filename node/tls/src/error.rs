//! What can be wrong with certificates and their files.

use std::io;
use std::path::PathBuf;

use muster_core::ids::NodeId;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot make a certificate")]
    Issue(#[source] rcgen::Error),
    #[error("cannot make a key")]
    Key(#[source] rcgen::Error),
    #[error("the certificate request is not valid")]
    Request(#[source] rcgen::Error),
    #[error("the certificate cannot be read: {0}")]
    Certificate(&'static str),
    #[error("the certificate is not of this authority, {0}")]
    Authority(String),
    #[error("the certificate is node {actual}'s, not node {expected}'s")]
    Node { expected: NodeId, actual: NodeId },
    #[error("certificate and key do not belong together")]
    Mismatch,
    #[error("`{0}` is not an authority's fingerprint: 52 characters of base32")]
    Fingerprint(String),
    #[error("{path}: {what}")]
    Pem { path: PathBuf, what: &'static str },
    #[error("cannot {action} {path}")]
    File { action: &'static str, path: PathBuf, source: io::Error },
    #[error("TLS cannot use them")]
    Tls(#[source] rustls::Error),
}

impl Error {
    pub(crate) fn file(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Error::File { action, path, source }
    }
}
