//! Whose certificates are accepted from nodes that speak https.

use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};

use crate::Error;

/// Trusts the authorities in the file, or those of the system. These are read only if a node is `secured`: it takes
/// some milliseconds, and not every system has any.
pub(crate) fn config(ca_file: Option<&Path>, secured: bool) -> Result<ClientConfig, Error> {
    let mut roots = RootCertStore::empty();
    match ca_file {
        Some(file) => {
            for certificate in read(file)? {
                roots.add(certificate).map_err(|error| refused(file, &error))?;
            }
        }
        None if secured => {
            // One that cannot be understood is one authority fewer; without any, no certificate is accepted.
            let _understood = roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
        None => {}
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = config.map_err(|error| Error::invalid("TLS", error.to_string()))?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}

fn read(file: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let text = std::fs::read(file).map_err(|error| refused(file, &error))?;
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let certificates = certificates.map_err(|_| refused(file, &"its certificates cannot be read"))?;
    match certificates.is_empty() {
        true => Err(refused(file, &"it holds no certificate in PEM")),
        false => Ok(certificates),
    }
}

fn refused(file: &Path, why: &dyn std::fmt::Display) -> Error {
    Error::invalid(format!("the authorities' file {}", file.display()), why.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_certificates_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("ca.pem");
        for text in ["", "certificates", "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n"] {
            std::fs::write(&file, text).unwrap();
            let error = config(Some(&file), true).unwrap_err().to_string();
            assert!(error.contains("ca.pem"), "{error}");
        }
        assert!(config(Some(&dir.path().join("none")), false).is_err());
        assert!(config(None, false).is_ok());
    }
}
