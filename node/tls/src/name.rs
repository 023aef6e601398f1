//! How an authority and its nodes are called.

use std::fmt;
use std::str::FromStr;

use data_encoding::BASE32_NOPAD;
use muster_core::ids::NodeId;

use crate::error::Error;

/// Of an authority's fingerprint, what stands in its nodes' names: 80 bits tell clusters apart. That nobody
/// else's certificates are accepted does not rest on it.
const PREFIX_CHARS: usize = 16;

/// BLAKE3 of an authority's public key. Its text is 52 characters of base32, in lower case.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// `key` is the SubjectPublicKeyInfo in DER: unlike the certificate it does not depend on who encoded it.
    pub(crate) fn of(key: &[u8]) -> Self {
        Fingerprint(*blake3::hash(key).as_bytes())
    }

    pub(crate) fn prefix(&self) -> String {
        let mut text = self.to_string();
        text.truncate(PREFIX_CHARS);
        text
    }

    /// What the certificate of a node is for.
    pub(crate) fn node_name(&self, node: NodeId) -> String {
        format!("node-{node}.{}.muster", self.prefix())
    }

    /// The node whose name that is; none if it is no name of this authority's.
    pub(crate) fn node(&self, name: &str) -> Option<NodeId> {
        let number = name.strip_prefix("node-")?.split('.').next()?;
        let node = NodeId(number.parse().ok()?);
        // One spelling each: no sign, no leading zeros.
        (self.node_name(node) == name).then_some(node)
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&BASE32_NOPAD.encode(&self.0).to_ascii_lowercase())
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Fingerprint {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let bytes = BASE32_NOPAD.decode(text.to_ascii_uppercase().as_bytes()).ok();
        let bytes = bytes.and_then(|bytes| bytes.try_into().ok());
        bytes.map(Fingerprint).ok_or_else(|| Error::Fingerprint(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_node_and_authority_and_have_one_spelling() {
        let (one, other) = (Fingerprint::of(b"one"), Fingerprint::of(b"other"));
        assert_eq!(one.node(&one.node_name(NodeId(12))), Some(NodeId(12)));
        assert_eq!(one.node(&other.node_name(NodeId(12))), None);
        let prefix = one.prefix();
        for name in ["", "node-", "node-1", "node-1.muster", "example.com"] {
            assert_eq!(one.node(name), None, "{name}");
        }
        for number in ["01", "+1", "-1", "", "1x", "18446744073709551616"] {
            assert_eq!(one.node(&format!("node-{number}.{prefix}.muster")), None, "{number}");
        }
    }

    #[test]
    fn a_fingerprint_is_read_as_it_is_written() {
        let fingerprint = Fingerprint::of(b"key");
        let text = fingerprint.to_string();
        assert_eq!(text.len(), 52);
        assert_eq!(text.parse::<Fingerprint>().unwrap(), fingerprint);
        for bad in ["", "abc", &text[1..], &format!("{text}aa"), &text.replace(&text[..1], "!")] {
            assert!(bad.parse::<Fingerprint>().is_err(), "{bad}");
        }
    }
}
