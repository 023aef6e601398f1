//! The cluster's certificate authority.
//!
//! Everything about it follows from 32 bytes: its key is the seed itself, and its certificate has fixed content and
//! a deterministic signature. So nodes that have the same seed trust each other's certificates, and none
//! of them has to be asked for it.

use std::fmt;
use std::time::{Duration, SystemTime};

use muster_core::ids::NodeId;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ED25519, PublicKeyData, SanType,
    SerialNumber, date_time_ymd,
};
use rustls::pki_types::{CertificateDer, CertificateSigningRequestDer, PrivatePkcs8KeyDer};
use time::OffsetDateTime;

use crate::certificate::Chain;
use crate::error::Error;
use crate::name::Fingerprint;

/// Certificates hold from so long before they are issued: the clocks of two hosts differ, by hours where one was
/// set wrong, and a certificate from the future is as bad as none. Nothing rests on the beginning of its
/// validity, since a key does not exist before it is made.
pub const BACKDATED: Duration = Duration::from_secs(24 * 3600);

/// What makes a key of the shared secret that is good for nothing else. Changing it changes every cluster's
/// authority.
const SECRET_CONTEXT: &str = "Muster 2026-11-25 seed of the cluster's certificate authority";

/// Before an Ed25519 key in PKCS #8 (RFC 8410).
const PKCS8_PREFIX: [u8; 16] =
    [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];

/// For how long a certificate is good, from [`BACKDATED`] before `now` on.
#[derive(Clone, Copy, Debug)]
pub struct Validity {
    pub now: SystemTime,
    pub lasts: Duration,
}

/// Issues the certificates of a cluster's nodes.
pub struct Authority {
    seed: [u8; 32],
    key: KeyPair,
    params: CertificateParams,
    certificate: CertificateDer<'static>,
    fingerprint: Fingerprint,
}

impl Authority {
    /// The authority of the cluster whose founding nodes share this secret. It must be random, of 128 bits or more:
    /// whoever connects to a node sees the authority's public key, and can try guesses against it.
    ///
    /// # Errors
    /// If the system provides no randomness.
    pub fn from_secret(secret: &str) -> Result<Self, Error> {
        Self::from_seed(blake3::derive_key(SECRET_CONTEXT, secret.as_bytes()))
    }

    /// # Errors
    /// If the system provides no randomness.
    pub fn from_seed(seed: [u8; 32]) -> Result<Self, Error> {
        let key = [PKCS8_PREFIX.as_slice(), &seed].concat();
        let key = PrivatePkcs8KeyDer::from(key);
        let key = KeyPair::from_pkcs8_der_and_sign_algo(&key, &PKCS_ED25519).map_err(Error::Key)?;
        let fingerprint = Fingerprint::of(&key.subject_public_key_info());
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, format!("Muster {}", fingerprint.prefix()));
        params.serial_number = Some(SerialNumber::from(1_u64));
        // RFC 5280 writes "without end" so. Its life is the cluster's.
        (params.not_before, params.not_after) = (date_time_ymd(2000, 1, 1), date_time_ymd(9999, 12, 31));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let certificate = params.self_signed(&key).map_err(Error::Issue)?.into();
        Ok(Authority { seed, key, params, certificate, fingerprint })
    }

    /// What [`from_seed`](Self::from_seed) makes it of again. Secret.
    pub fn seed(&self) -> [u8; 32] {
        self.seed
    }

    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// A certificate for `node`, for the key that signed the request. Nothing else in the request counts.
    ///
    /// # Errors
    /// If the request is not one, or not signed by its key.
    pub fn issue(
        &self,
        node: NodeId,
        request: &CertificateSigningRequestDer<'_>,
        validity: Validity,
    ) -> Result<Chain, Error> {
        let request = CertificateSigningRequestParams::from_der(request).map_err(Error::Request)?;
        let name = self.fingerprint.node_name(node);
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name.clone());
        params.subject_alt_names = vec![SanType::DnsName(name.try_into().map_err(Error::Issue)?)];
        params.not_before = date(validity.now.checked_sub(BACKDATED))?;
        params.not_after = date(validity.now.checked_add(validity.lasts))?;
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        let issuer = Issuer::from_params(&self.params, &self.key);
        let leaf = params.signed_by(&request.public_key, &issuer).map_err(Error::Issue)?;
        Ok(Chain::new(leaf.into(), self.certificate.clone()))
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Authority({})", self.fingerprint)
    }
}

/// X.509 has whole seconds, and years of four digits.
fn date(time: Option<SystemTime>) -> Result<OffsetDateTime, Error> {
    let seconds = time.and_then(|time| time.duration_since(SystemTime::UNIX_EPOCH).ok());
    let seconds = seconds.and_then(|since| i64::try_from(since.as_secs()).ok());
    let date = seconds.and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok());
    date.filter(|date| date.year() < 9999).ok_or(Error::Certificate("its dates are out of range"))
}
