//! How records and peer messages are encoded: a format byte, then bincode 2 with its standard
//! configuration.
//!
//! bincode carries no field names: a struct's fields are never reordered or removed, enum variants
//! are only ever appended, and any other change takes a new format byte. The attributes `flatten`,
//! `untagged`, `tag` and `skip*` of serde do not survive it.

use bincode::config::{self, Config};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The most bytes one length field may claim while decoding, so that a forged length cannot make
/// the decoder ask for all memory. No caller's own limit may be above it.
pub const DECODE_MAX: usize = 1 << 30;

/// A value that cannot be encoded, or bytes that are not a valid encoding.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    #[error("cannot encode a {of}")]
    Encode { of: &'static str, source: bincode::error::EncodeError },
    #[error("an encoded {of} is empty")]
    Empty { of: &'static str },
    #[error("an encoded {of} has {bytes} bytes; at most {limit} are accepted")]
    TooLarge { of: &'static str, bytes: usize, limit: usize },
    #[error("format {found} of {of} is unknown; known are {known:?}")]
    UnknownFormat { of: &'static str, found: u8, known: Vec<u8> },
    #[error("cannot decode a {of}")]
    Decode { of: &'static str, source: bincode::error::DecodeError },
    #[error("an encoded {of} is followed by {extra} bytes that do not belong to it")]
    TrailingBytes { of: &'static str, extra: usize },
}

/// Encodes a value behind its format byte.
///
/// # Errors
/// Only for a type whose `Serialize` itself fails; derived ones do not.
pub fn encode<T: Serialize>(format: u8, value: &T) -> Result<Vec<u8>, CodecError> {
    let mut bytes = vec![format];
    bincode::serde::encode_into_std_write(value, &mut bytes, configuration())
        .map_err(|source| CodecError::Encode { of: name::<T>(), source })?;
    Ok(bytes)
}

/// The length [`encode`] would give, without the encoding.
///
/// # Errors
/// As [`encode`].
pub fn encoded_len<T: Serialize>(value: &T) -> Result<usize, CodecError> {
    let mut size = bincode::enc::write::SizeWriter::default();
    bincode::serde::encode_into_writer(value, &mut size, configuration())
        .map_err(|source| CodecError::Encode { of: name::<T>(), source })?;
    Ok(1 + size.bytes_written)
}

/// Decodes a value, whose format must be one of `formats`, from exactly these bytes: at most
/// `limit` of them, and none left over.
///
/// # Errors
/// Every [`CodecError`] but `Encode`.
pub fn decode<T: DeserializeOwned>(formats: &[u8], limit: usize, bytes: &[u8]) -> Result<T, CodecError> {
    assert!(limit <= DECODE_MAX, "a decoding limit above DECODE_MAX would refuse what it promises to accept");
    let of = name::<T>();
    if bytes.len() > limit {
        return Err(CodecError::TooLarge { of, bytes: bytes.len(), limit });
    }
    let (&found, body) = bytes.split_first().ok_or(CodecError::Empty { of })?;
    if !formats.contains(&found) {
        return Err(CodecError::UnknownFormat { of, found, known: formats.to_vec() });
    }
    let (value, read) = bincode::serde::decode_from_slice(body, configuration())
        .map_err(|source| CodecError::Decode { of, source })?;
    match body.len() - read {
        0 => Ok(value),
        extra => Err(CodecError::TrailingBytes { of, extra }),
    }
}

fn configuration() -> impl Config {
    config::standard().with_limit::<DECODE_MAX>()
}

fn name<T>() -> &'static str {
    std::any::type_name::<T>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_can_be_decoded() {
        let value = (7_u64, "alpha".to_owned(), vec![Some(1_u8), None]);
        let bytes = encode(3, &value).unwrap();
        assert_eq!(bytes.len(), encoded_len(&value).unwrap());
        assert_eq!(decode::<(u64, String, Vec<Option<u8>>)>(&[2, 3], 64, &bytes).unwrap(), value);
    }

    #[test]
    fn bad_bytes_are_refused() {
        let good = encode(1, &"alpha").unwrap();
        let long = [good.as_slice(), &[0]].concat();
        // A string that claims 2^40 bytes, and a list that claims as many.
        let forged = [&[1, 253][..], &(1_u64 << 40).to_le_bytes()].concat();
        for (bytes, limit, want) in [
            (&good[..0], 64, "is empty"),
            (&good[..], 5, "at most 5"),
            (&[&[9], &good[1..]].concat()[..], 64, "format 9"),
            (&good[..3], 64, "cannot decode"),
            (&long[..], 64, "followed by 1 bytes"),
            (&forged[..], 64, "cannot decode"),
        ] {
            let error = decode::<String>(&[1], limit, bytes).unwrap_err().to_string();
            assert!(error.contains(want), "{bytes:?}: {error}");
        }
        assert!(decode::<Vec<u64>>(&[1], 64, &forged).is_err());
    }
}
