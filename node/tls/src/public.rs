//! TLS of the public listener: an operator's certificate, from files that may change at any time.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{TlsAcceptor, server};

use crate::error::Error;

/// Accepts connections of clients, by TLS 1.3 or 1.2. A clone is a handle to the same.
#[derive(Clone, Debug)]
pub struct PublicTls(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    certificate_file: PathBuf,
    key_file: PathBuf,
    shown: Arc<Shown>,
    /// The state of the files that were read last.
    seen: Mutex<Seen>,
    acceptor: Arc<ServerConfig>,
}

#[derive(Debug)]
struct Shown(ArcSwap<CertifiedKey>);

/// What changes when a file is written or replaced.
type Seen = [Option<(u64, u64, i64, i64)>; 2];

impl PublicTls {
    /// Reads certificate (with those between it and its authority) and key, both PEM.
    ///
    /// # Errors
    /// If they cannot be read or do not belong together.
    pub fn load(certificate_file: &Path, key_file: &Path) -> Result<Self, Error> {
        let seen = look(certificate_file, key_file);
        let shown = Arc::new(Shown(ArcSwap::from_pointee(read(certificate_file, key_file)?)));
        let mut acceptor = ServerConfig::builder_with_provider(crate::provider())
            .with_safe_default_protocol_versions()
            .map_err(Error::Tls)?
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(&shown) as _);
        acceptor.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(PublicTls(Arc::new(Inner {
            certificate_file: certificate_file.to_owned(),
            key_file: key_file.to_owned(),
            shown,
            seen: Mutex::new(seen),
            acceptor: Arc::new(acceptor),
        })))
    }

    /// Reads the files again if they have changed since; answers whether new ones are in use. If it fails, the old
    /// ones stay in use, and it is not tried again before the files change once more.
    ///
    /// # Errors
    /// As for [`load`](Self::load); also while one of the two was replaced and the other was not yet.
    pub fn reload(&self) -> Result<bool, Error> {
        let Inner { certificate_file, key_file, shown, seen, .. } = &*self.0;
        let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
        let now = look(certificate_file, key_file);
        if *seen == now {
            return Ok(false);
        }
        *seen = now;
        shown.0.store(Arc::new(read(certificate_file, key_file)?));
        Ok(true)
    }

    /// # Errors
    /// If the client does not go through with it.
    pub async fn accept<S>(&self, stream: S) -> io::Result<server::TlsStream<S>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        TlsAcceptor::from(Arc::clone(&self.0.acceptor)).accept(stream).await
    }
}

fn look(certificate_file: &Path, key_file: &Path) -> Seen {
    [certificate_file, key_file].map(|path| {
        let found = fs::metadata(path).ok()?;
        Some((found.ino(), found.size(), found.mtime(), found.mtime_nsec()))
    })
}

fn read(certificate_file: &Path, key_file: &Path) -> Result<CertifiedKey, Error> {
    let text = fs::read(certificate_file).map_err(Error::file("read", certificate_file))?;
    let chain: Result<Vec<CertificateDer<'static>>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let bad = |path: &Path, what| Error::Pem { path: path.to_owned(), what };
    let chain = chain.map_err(|_| bad(certificate_file, "its certificates cannot be read"))?;
    if chain.is_empty() {
        return Err(bad(certificate_file, "it holds no certificate in PEM"));
    }
    let text = fs::read(key_file).map_err(Error::file("read", key_file))?;
    let key = PrivateKeyDer::from_pem_slice(&text);
    let key = key.map_err(|_| bad(key_file, "it holds no private key in PEM"))?;
    CertifiedKey::from_der(chain, key, &crate::provider()).map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => Error::Mismatch,
        other => Error::Tls(other),
    })
}

impl ResolvesServerCert for Shown {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load_full())
    }
}
