//! One node's certificate and key, and the file they are kept in.

use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use muster_core::ids::NodeId;
use rcgen::{CertificateParams, KeyPair, PKCS_ED25519, PublicKeyData};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateSigningRequestDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::CertifiedKey;

use crate::certificate::{Chain, Leaf};
use crate::error::Error;
use crate::name::Fingerprint;
use crate::{Authority, Validity};

/// Key and certificates in one file, so that a crash never leaves those of two renewals.
const FILE: &str = "node.pem";

/// A node's private key. A clone is a handle to the same.
#[derive(Clone)]
pub struct NodeKey(Arc<KeyPair>);

impl NodeKey {
    /// # Errors
    /// If the system provides no randomness.
    pub fn generate() -> Result<Self, Error> {
        KeyPair::generate_for(&PKCS_ED25519).map(|pair| NodeKey(Arc::new(pair))).map_err(Error::Key)
    }

    /// A request for a certificate of this key (PKCS #10), which proves that whoever sends it has the key.
    ///
    /// # Errors
    /// If it cannot be signed.
    pub fn request(&self) -> Result<CertificateSigningRequestDer<'static>, Error> {
        let request = CertificateParams::default().serialize_request(&*self.0).map_err(Error::Key)?;
        Ok(request.into())
    }
}

impl fmt::Debug for NodeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NodeKey(…)")
    }
}

/// What a node proves with who it is. A clone is cheap.
#[derive(Clone, Debug)]
pub struct Credentials {
    chain: Chain,
    key: NodeKey,
    leaf: Leaf,
    authority: Fingerprint,
}

impl Credentials {
    /// # Errors
    /// If the chain is not one, or for another key.
    pub fn new(chain: Chain, key: NodeKey) -> Result<Self, Error> {
        let (leaf, authority) = chain.read()?;
        match chain.is_for(&key.0.subject_public_key_info())? {
            true => Ok(Credentials { chain, key, leaf, authority }),
            false => Err(Error::Mismatch),
        }
    }

    /// A fresh key with a certificate for it.
    ///
    /// # Errors
    /// If the system provides no randomness, or the dates are out of range.
    pub fn issue(authority: &Authority, node: NodeId, validity: Validity) -> Result<Self, Error> {
        let key = NodeKey::generate()?;
        let chain = authority.issue(node, &key.request()?, validity)?;
        Credentials::new(chain, key)
    }

    pub fn node(&self) -> NodeId {
        self.leaf.node
    }

    pub fn chain(&self) -> &Chain {
        &self.chain
    }

    pub fn authority(&self) -> Fingerprint {
        self.authority
    }

    pub fn expires_at(&self) -> SystemTime {
        self.leaf.not_after
    }

    /// Whether it is time for new ones, where certificates last so long: a third of that is left. Also where they
    /// are not valid yet: they were issued by a clock that was ahead, or this one is behind.
    pub fn are_due(&self, now: SystemTime, lasts: Duration) -> bool {
        let left = self.leaf.not_after.duration_since(now).unwrap_or_default();
        now < self.leaf.not_before || left <= lasts / 3
    }

    /// Writes them to a file in `dir`, which is made if need be, with nobody but its owner let in. They are
    /// durable when it returns.
    ///
    /// # Errors
    /// When the file system fails. What was there before is then still there.
    pub fn save(&self, dir: &Path) -> Result<(), Error> {
        if !dir.exists() {
            let made = DirBuilder::new().recursive(true).mode(0o700).create(dir);
            made.map_err(Error::file("create", dir))?;
            let parent = dir.parent().filter(|parent| !parent.as_os_str().is_empty());
            sync_dir(parent.unwrap_or(Path::new(".")))?;
        }
        // Written beside it and renamed, so that there is never half a file.
        let (path, partial) = (dir.join(FILE), dir.join(format!("{FILE}.partial")));
        let text = self.to_pem();
        let write = || -> io::Result<()> {
            let mut file =
                OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&partial)?;
            // One that a crash left may have been made otherwise.
            file.set_permissions(Permissions::from_mode(0o600))?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            fs::rename(&partial, &path)
        };
        write().map_err(Error::file("write", &path))?;
        sync_dir(dir)
    }

    /// What was saved in `dir`; none if nothing was.
    ///
    /// # Errors
    /// If the file cannot be read, or holds something else.
    pub fn load(dir: &Path) -> Result<Option<Self>, Error> {
        let path = dir.join(FILE);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::file("read", path)(error)),
        };
        let bad = |what| Error::Pem { path: path.clone(), what };
        let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
        let certificates = certificates.map_err(|_| bad("its certificates cannot be read"))?;
        let chain = Chain::from_der(certificates.iter().map(|certificate| certificate.to_vec()).collect())?;
        let key = PrivatePkcs8KeyDer::from_pem_slice(&text).map_err(|_| bad("it holds no PKCS #8 key"))?;
        let key = KeyPair::from_pkcs8_der_and_sign_algo(&key, &PKCS_ED25519).map_err(Error::Key)?;
        Credentials::new(chain, NodeKey(Arc::new(key))).map(Some)
    }

    fn to_pem(&self) -> String {
        let mut text = self.key.0.serialize_pem();
        for certificate in self.chain.certificates() {
            let base64 = data_encoding::BASE64.encode(&certificate);
            text.push_str("-----BEGIN CERTIFICATE-----\n");
            for line in base64.as_bytes().chunks(64) {
                text.push_str(&String::from_utf8_lossy(line));
                text.push('\n');
            }
            text.push_str("-----END CERTIFICATE-----\n");
        }
        text
    }

    pub(crate) fn certified(&self) -> Result<CertifiedKey, Error> {
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.key.0.serialize_der()));
        CertifiedKey::from_der(self.chain.certificates(), key, &crate::provider()).map_err(Error::Tls)
    }
}

fn sync_dir(dir: &Path) -> Result<(), Error> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(Error::file("sync", dir))
}
