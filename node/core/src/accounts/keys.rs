//! API keys: `mk_<id>_<secret>`. The id finds the key, the secret proves it; only its hash is kept.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::ids::KeyId;
use crate::units::Timestamp;

/// Bytes of randomness in a key's secret. At 256 bits a fast hash is as good as a slow one.
pub const SECRET_BYTES: usize = 32;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Key {
    pub hash: KeyHash,
    pub created_at: Timestamp,
    pub expires_at: Option<Timestamp>,
}

/// The BLAKE3 hash of a secret's text.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyHash([u8; 32]);

impl KeyHash {
    pub fn of(secret: &str) -> Self {
        KeyHash(blake3::hash(secret.as_bytes()).into())
    }

    /// Compares in constant time: `blake3::Hash` is defined to.
    pub fn matches(&self, secret: &str) -> bool {
        blake3::hash(secret.as_bytes()) == blake3::Hash::from_bytes(self.0)
    }
}

impl fmt::Debug for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyHash(…)")
    }
}

/// The text of a key, from its parts. `secret` is random.
pub fn format_key(id: KeyId, secret: &[u8; SECRET_BYTES]) -> String {
    use fmt::Write;
    let mut text = format!("mk_{id}_");
    for byte in secret {
        write!(text, "{byte:02x}").expect("writing to a String cannot fail");
    }
    text
}

/// The id and the secret's text; `None` if the text does not have a key's shape.
pub fn parse_key(text: &str) -> Option<(KeyId, &str)> {
    let (id, secret) = text.strip_prefix("mk_")?.split_once('_')?;
    let shaped = secret.len() == 2 * SECRET_BYTES && secret.bytes().all(|b| b.is_ascii_hexdigit());
    if shaped { Some((id.parse().ok()?, secret)) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_found_by_its_id_and_proved_by_its_secret() {
        let text = format_key(KeyId(7), &[0xab; SECRET_BYTES]);
        let (id, secret) = parse_key(&text).unwrap();
        assert_eq!(id, KeyId(7));
        assert!(KeyHash::of(secret).matches(secret));
        assert!(!KeyHash::of(secret).matches(&secret.replace('a', "b")));
    }

    #[test]
    fn what_does_not_look_like_a_key_is_refused() {
        let good = format_key(KeyId(7), &[1; SECRET_BYTES]);
        for bad in ["", "mk_", "mk__", "x", &good[1..], &good[..good.len() - 1], &format!("{good}0")] {
            assert_eq!(parse_key(bad), None, "{bad:?}");
        }
    }
}
