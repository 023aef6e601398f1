//! Connections of a node that has no certificate yet. All it knows of the cluster is the authority's fingerprint,
//! which came to it with its token.

use std::io;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::version::TLS13;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{TlsConnector, client};

use crate::certificate::{fingerprint, read_leaf};
use crate::error::Error;
use crate::name::Fingerprint;

/// Connects to any node of the cluster with this authority, without showing a certificate.
#[derive(Clone, Debug)]
pub struct JoinTls(Arc<ClientConfig>);

impl JoinTls {
    /// # Errors
    /// If TLS cannot be set up.
    pub fn new(authority: Fingerprint) -> Result<Self, Error> {
        let verifier = Arc::new(AnyNode { authority, provider: crate::provider() });
        let config = ClientConfig::builder_with_provider(crate::provider())
            .with_protocol_versions(&[&TLS13])
            .map_err(Error::Tls)?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_no_client_auth();
        Ok(JoinTls(Arc::new(config)))
    }

    /// # Errors
    /// If the other end is no node of the cluster, or broke off.
    pub async fn connect<S>(&self, stream: S) -> io::Result<client::TlsStream<S>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        // Whose certificate it is, is not asked; but the library wants a name.
        let name = ServerName::try_from("any.muster").map_err(io::Error::other)?;
        TlsConnector::from(Arc::clone(&self.0)).connect(name, stream).await
    }
}

/// Accepts the certificate of any node, if the authority that comes with it is the right one.
#[derive(Debug)]
struct AnyNode {
    authority: Fingerprint,
    provider: Arc<CryptoProvider>,
}

impl AnyNode {
    fn verifier(&self, chain: &[CertificateDer<'_>]) -> Result<Arc<WebPkiServerVerifier>, rustls::Error> {
        let known = |shown: &&CertificateDer<'_>| fingerprint(shown).is_ok_and(|f| f == self.authority);
        let authority = chain.iter().find(known).ok_or(CertificateError::UnknownIssuer)?;
        let mut roots = RootCertStore::empty();
        roots.add(authority.clone().into_owned())?;
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&self.provider))
            .build()
            .map_err(|error| rustls::Error::General(error.to_string()))
    }
}

impl ServerCertVerifier for AnyNode {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let verifier = self.verifier(intermediates)?;
        let leaf = read_leaf(end_entity, &self.authority);
        let leaf = leaf.map_err(|_| CertificateError::ApplicationVerificationFailure)?;
        let name = ServerName::try_from(self.authority.node_name(leaf.node));
        let name = name.map_err(|_| CertificateError::BadEncoding)?;
        verifier.verify_server_cert(end_entity, intermediates, &name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("nodes speak TLS 1.3 only".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
