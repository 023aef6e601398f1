//! Who is who between nodes: the cluster's certificate authority, the nodes' certificates, and TLS with them.
//!
//! * [`Authority`] is the cluster's own: whoever has its seed can say who is a node. It follows from the
//!   secret that the founding nodes share, so each of them makes the same one without asking anybody.
//! * [`Credentials`] are one node's certificate and key, kept in its data directory.
//! * [`PeerTls`] makes and accepts connections between nodes, and tells who is at the other end.
//! * [`JoinTls`] connects a node that has no certificate yet: it knows the authority's [`Fingerprint`].
//! * [`PublicTls`] is the other listener's: a certificate from files, read again when they change.
//!
//! Nothing here opens a socket or starts a task. Between nodes it is TLS 1.3, whole handshakes only: a resumed
//! session would skip the look at the certificate, and connections are kept anyway.
//!
//! **Invariant.** No secret is shown: not by `Debug`, not in an error.

mod authority;
mod certificate;
mod credentials;
mod error;
mod joining;
mod name;
mod peers;
mod public;
mod stream;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use rustls::crypto::CryptoProvider;

pub use authority::{Authority, BACKDATED, Validity};
pub use certificate::Chain;
pub use credentials::{Credentials, NodeKey};
pub use error::Error;
pub use joining::JoinTls;
pub use name::Fingerprint;
pub use peers::PeerTls;
pub use public::PublicTls;
pub use stream::Stream;

/// Given to each configuration rather than installed for the process, which belongs to its `main`.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}
