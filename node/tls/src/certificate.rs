//! Reading certificates: whose they are and until when they hold.

use std::time::{Duration, SystemTime};

use muster_core::ids::NodeId;
use rustls::pki_types::CertificateDer;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

use crate::error::Error;
use crate::name::Fingerprint;

/// A node's certificate and its authority's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    leaf: CertificateDer<'static>,
    authority: CertificateDer<'static>,
}

/// What a node's certificate says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Leaf {
    pub(crate) node: NodeId,
    pub(crate) not_before: SystemTime,
    pub(crate) not_after: SystemTime,
}

impl Chain {
    pub(crate) fn new(leaf: CertificateDer<'static>, authority: CertificateDer<'static>) -> Self {
        Chain { leaf, authority }
    }

    /// From DER, the node's certificate first, as [`to_der`](Self::to_der) makes it.
    ///
    /// # Errors
    /// If there are not two. What they say is looked at when [`Credentials`](crate::Credentials) are made of them.
    pub fn from_der(certificates: Vec<Vec<u8>>) -> Result<Self, Error> {
        let two: Result<[Vec<u8>; 2], _> = certificates.try_into();
        let [leaf, authority] = two.map_err(|_| Error::Certificate("a chain is two certificates"))?;
        Ok(Chain { leaf: leaf.into(), authority: authority.into() })
    }

    pub fn to_der(&self) -> Vec<Vec<u8>> {
        [&self.leaf, &self.authority].map(|certificate| certificate.to_vec()).into()
    }

    pub(crate) fn certificates(&self) -> Vec<CertificateDer<'static>> {
        vec![self.leaf.clone(), self.authority.clone()]
    }

    pub fn authority(&self) -> &CertificateDer<'static> {
        &self.authority
    }

    /// What the node's certificate says, once it is certain that the authority signed it.
    pub(crate) fn read(&self) -> Result<(Leaf, Fingerprint), Error> {
        let fingerprint = fingerprint(&self.authority)?;
        let (authority, leaf) = (parse(&self.authority)?, parse(&self.leaf)?);
        let signed = leaf.verify_signature(Some(authority.public_key()));
        signed.map_err(|_| Error::Authority(fingerprint.to_string()))?;
        Ok((read_leaf(&self.leaf, &fingerprint)?, fingerprint))
    }

    /// Whether the certificate is for that key.
    pub(crate) fn is_for(&self, public_key: &[u8]) -> Result<bool, Error> {
        Ok(parse(&self.leaf)?.public_key().raw == public_key)
    }
}

/// The fingerprint of an authority's certificate.
pub(crate) fn fingerprint(authority: &CertificateDer<'_>) -> Result<Fingerprint, Error> {
    Ok(Fingerprint::of(parse(authority)?.public_key().raw))
}

/// What a node's certificate says. Who signed it is not looked at.
pub(crate) fn read_leaf(certificate: &CertificateDer<'_>, authority: &Fingerprint) -> Result<Leaf, Error> {
    let parsed = parse(certificate)?;
    let names = parsed.subject_alternative_name().ok().flatten();
    let mut names = names.iter().flat_map(|names| &names.value.general_names);
    let node = match (names.next(), names.next()) {
        (Some(GeneralName::DNSName(name)), None) => authority.node(name),
        _ => None,
    };
    let node = node.ok_or_else(|| Error::Authority(authority.to_string()))?;
    let validity = parsed.validity();
    Ok(Leaf {
        node,
        not_before: system_time(validity.not_before.timestamp())?,
        not_after: system_time(validity.not_after.timestamp())?,
    })
}

fn parse<'a>(certificate: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, Error> {
    match X509Certificate::from_der(certificate) {
        Ok(([], parsed)) => Ok(parsed),
        Ok(_) => Err(Error::Certificate("something follows it")),
        Err(_) => Err(Error::Certificate("it is not X.509 in DER")),
    }
}

fn system_time(timestamp: i64) -> Result<SystemTime, Error> {
    let since = u64::try_from(timestamp).ok().map(Duration::from_secs);
    let time = since.and_then(|since| SystemTime::UNIX_EPOCH.checked_add(since));
    time.ok_or(Error::Certificate("its dates are out of range"))
}
