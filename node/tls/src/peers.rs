//! Connections between nodes.

use std::io;
use std::sync::Arc;

use arc_swap::ArcSwap;
use muster_core::ids::NodeId;
use rustls::client::{ResolvesClientCert, Resumption};
use rustls::pki_types::ServerName;
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore, ServerConfig, SignatureScheme};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

use crate::certificate::read_leaf;
use crate::credentials::Credentials;
use crate::error::Error;
use crate::name::Fingerprint;

/// Makes and accepts connections between the nodes of one cluster. A clone is a handle to the same.
///
/// **Invariant.** What [`connect`](Self::connect) returns leads to the node that was meant, and the node that
/// [`accept`](Self::accept) names is the one at the other end: each has a certificate of the cluster's
/// authority, and its key.
#[derive(Clone, Debug)]
pub struct PeerTls(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    node: NodeId,
    authority: Fingerprint,
    held: Arc<Held>,
    connector: Arc<ClientConfig>,
    acceptor: Arc<ServerConfig>,
}

/// What this node shows now; read by both configurations at each handshake.
#[derive(Debug)]
struct Held(ArcSwap<(Credentials, Arc<CertifiedKey>)>);

impl PeerTls {
    /// Trusts the authority of these credentials, and no other.
    ///
    /// # Errors
    /// If TLS cannot use them.
    pub fn new(credentials: Credentials) -> Result<Self, Error> {
        let mut roots = RootCertStore::empty();
        roots.add(credentials.chain().authority().clone()).map_err(Error::Tls)?;
        let roots = Arc::new(roots);
        let (node, authority) = (credentials.node(), credentials.authority());
        let held = Arc::new(Held(ArcSwap::from_pointee(shown(credentials)?)));

        let mut connector = ClientConfig::builder_with_provider(crate::provider())
            .with_protocol_versions(&[&TLS13])
            .map_err(Error::Tls)?
            .with_root_certificates(Arc::clone(&roots))
            .with_client_cert_resolver(Arc::clone(&held) as _);
        connector.resumption = Resumption::disabled();
        // It would tell listeners who is meant.
        connector.enable_sni = false;

        // Who comes without a certificate may do one thing: ask for one. The listener sees to that.
        let clients = WebPkiClientVerifier::builder_with_provider(roots, crate::provider())
            .allow_unauthenticated()
            .build()
            .map_err(|error| Error::Tls(rustls::Error::General(error.to_string())))?;
        let mut acceptor = ServerConfig::builder_with_provider(crate::provider())
            .with_protocol_versions(&[&TLS13])
            .map_err(Error::Tls)?
            .with_client_cert_verifier(clients)
            .with_cert_resolver(Arc::clone(&held) as _);
        acceptor.session_storage = Arc::new(NoServerSessionStorage {});
        acceptor.send_tls13_tickets = 0;

        let (connector, acceptor) = (Arc::new(connector), Arc::new(acceptor));
        Ok(PeerTls(Arc::new(Inner { node, authority, held, connector, acceptor })))
    }

    /// This node, by its certificate.
    pub fn node(&self) -> NodeId {
        self.0.node
    }

    pub fn authority(&self) -> Fingerprint {
        self.0.authority
    }

    /// What new connections show.
    pub fn credentials(&self) -> Credentials {
        self.0.held.0.load().0.clone()
    }

    /// Shows others from the next connection on. Open ones stay as they are.
    ///
    /// # Errors
    /// If they are another node's or another authority's.
    pub fn replace(&self, credentials: Credentials) -> Result<(), Error> {
        if credentials.node() != self.0.node {
            return Err(Error::Node { expected: self.0.node, actual: credentials.node() });
        }
        if credentials.authority() != self.0.authority {
            return Err(Error::Authority(self.0.authority.to_string()));
        }
        self.0.held.0.store(Arc::new(shown(credentials)?));
        Ok(())
    }

    /// Makes `stream` a connection to `node`.
    ///
    /// That it returns does not mean that the other end has accepted *this* node's certificate: in TLS 1.3 the client
    /// is done first, and hears of a refusal when it reads.
    ///
    /// # Errors
    /// If the other end is not that node, or broke off.
    pub async fn connect<S>(&self, node: NodeId, stream: S) -> io::Result<client::TlsStream<S>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let name = ServerName::try_from(self.0.authority.node_name(node)).map_err(io::Error::other)?;
        TlsConnector::from(Arc::clone(&self.0.connector)).connect(name, stream).await
    }

    /// Makes `stream` a connection from another node, which it names; from nobody known if the other end shows no
    /// certificate.
    ///
    /// # Errors
    /// If it shows one that is not good, or broke off.
    pub async fn accept<S>(&self, stream: S) -> io::Result<(server::TlsStream<S>, Option<NodeId>)>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let stream = TlsAcceptor::from(Arc::clone(&self.0.acceptor)).accept(stream).await?;
        let shown = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
        let leaf = shown.map(|shown| read_leaf(shown, &self.0.authority)).transpose();
        let leaf = leaf.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        Ok((stream, leaf.map(|leaf| leaf.node)))
    }
}

fn shown(credentials: Credentials) -> Result<(Credentials, Arc<CertifiedKey>), Error> {
    let certified = Arc::new(credentials.certified()?);
    Ok((credentials, certified))
}

impl ResolvesClientCert for Held {
    fn resolve(&self, _authorities: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.load().1))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

impl ResolvesServerCert for Held {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.load().1))
    }
}
