//! How records and peer messages are encoded: a format byte, then bincode 2 with its standard
//! configuration.
//!
//! bincode carries no field names: a struct's fields are never reordered or removed, enum variants
//! are only ever appended, and any other change takes a new format byte. The attributes `flatten`,
//! `untagged`, `tag` and `skip*` of serde do not survive it.

use std::io::{self, BufRead, Read, Write};

use bincode::config::{self, Config};
use bincode::de::read::Reader;
use bincode::error::DecodeError;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The most bytes one length field may claim while decoding, so that a forged length cannot make
/// the decoder ask for all memory. No caller's own limit may be above it.
pub const DECODE_MAX: usize = 1 << 30;

/// The most bytes of a value that is decoded [from a stream](decode_from). One length field may claim as
/// much; what is not there is never touched.
pub const STREAM_MAX: u64 = 16 << 30;

/// A value that cannot be encoded, or bytes that are not a valid encoding.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    #[error("cannot encode a {of}")]
    Encode { of: &'static str, source: bincode::error::EncodeError },
    #[error("cannot hand on what is encoded")]
    Sink(#[source] io::Error),
    #[error("cannot read what is to be decoded")]
    Source(#[source] io::Error),
    #[error("an encoded {of} is empty")]
    Empty { of: &'static str },
    #[error("an encoded {of} has {bytes} bytes; at most {limit} are accepted")]
    TooLarge { of: &'static str, bytes: usize, limit: usize },
    #[error(
        "format {found} of {of} is unknown; known are {known:?}. A later one was written by a newer release \
         (docs/OPERATIONS.md, \"Rolling upgrade\")"
    )]
    UnknownFormat { of: &'static str, found: u8, known: Vec<u8> },
    #[error("cannot decode a {of}")]
    Decode { of: &'static str, source: DecodeError },
    #[error("an encoded {of} is followed by {extra} bytes that do not belong to it")]
    TrailingBytes { of: &'static str, extra: usize },
}

/// Encodes a value behind its format byte.
///
/// # Errors
/// Only for a type whose `Serialize` itself fails; derived ones do not.
pub fn encode<T: Serialize>(format: u8, value: &T) -> Result<Vec<u8>, CodecError> {
    let mut bytes = Vec::new();
    encode_to(format, value, &mut bytes)?;
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
    let (value, read) = decode_slice(body).map_err(|source| CodecError::Decode { of, source })?;
    match body.len() - read {
        0 => Ok(value),
        extra => Err(CodecError::TrailingBytes { of, extra }),
    }
}

/// Decodes what a value begins with, and leaves the rest alone.
///
/// # Errors
/// As [`decode`], but `TrailingBytes`.
pub(crate) fn decode_first<T: DeserializeOwned>(formats: &[u8], bytes: &[u8]) -> Result<T, CodecError> {
    let of = name::<T>();
    let (&found, body) = bytes.split_first().ok_or(CodecError::Empty { of })?;
    if !formats.contains(&found) {
        return Err(CodecError::UnknownFormat { of, found, known: formats.to_vec() });
    }
    decode_slice(body).map(|(value, _)| value).map_err(|source| CodecError::Decode { of, source })
}

/// Decodes with a limit that fits what there is: a length field of a short message must not claim what only
/// a long one can hold. A number counts with its full width, up to 16 bytes where one is stored.
fn decode_slice<T: DeserializeOwned>(body: &[u8]) -> Result<(T, usize), DecodeError> {
    const SHORT: usize = 64 << 10;
    const MIDDLING: usize = 8 << 20;
    let standard = config::standard();
    if body.len() <= SHORT {
        bincode::serde::decode_from_slice(body, standard.with_limit::<{ 32 * SHORT }>())
    } else if body.len() <= MIDDLING {
        bincode::serde::decode_from_slice(body, standard.with_limit::<{ 32 * MIDDLING }>())
    } else {
        bincode::serde::decode_from_slice(body, configuration())
    }
}

/// Encodes a value behind its format byte, bit by bit.
///
/// # Errors
/// Those of the writer.
pub fn encode_to<T: Serialize>(format: u8, value: &T, writer: &mut impl Write) -> Result<(), CodecError> {
    let failed = |source| CodecError::Encode { of: name::<T>(), source };
    let io = |inner| failed(bincode::error::EncodeError::Io { inner, index: 0 });
    writer.write_all(&[format]).map_err(io)?;
    bincode::serde::encode_into_std_write(value, writer, configuration()).map_err(failed)?;
    Ok(())
}

/// Reads the format byte of a `T`, which must be one of `formats`.
///
/// # Errors
/// [`CodecError::Empty`], [`CodecError::UnknownFormat`], or those of the reader.
pub fn read_format<T>(formats: &[u8], reader: &mut impl Read) -> Result<u8, CodecError> {
    let of = name::<T>();
    match next_byte::<T>(reader)? {
        Some(found) if formats.contains(&found) => Ok(found),
        Some(found) => Err(CodecError::UnknownFormat { of, found, known: formats.to_vec() }),
        None => Err(CodecError::Empty { of }),
    }
}

/// Decodes a value from what a reader has behind the format byte, which must be no more than that. As
/// much as [`STREAM_MAX`].
///
/// # Errors
/// [`CodecError::Decode`], [`CodecError::TrailingBytes`].
pub fn decode_from<T: DeserializeOwned>(reader: &mut impl BufRead) -> Result<T, CodecError> {
    #[expect(clippy::cast_possible_truncation, reason = "checked below, as this is compiled")]
    const LIMIT: usize = STREAM_MAX as usize;
    const { assert!(LIMIT as u64 == STREAM_MAX, "a snapshot's length must fit a usize") };
    let of = name::<T>();
    let configuration = config::standard().with_limit::<LIMIT>();
    let value = bincode::serde::decode_from_reader(Buffered(reader), configuration)
        .map_err(|source| CodecError::Decode { of, source })?;
    match next_byte::<T>(reader)? {
        None => Ok(value),
        Some(_) => Err(CodecError::TrailingBytes { of, extra: 1 }),
    }
}

/// Numbers are taken out of a reader's buffer, where they are in it as a whole.
struct Buffered<'a, R>(&'a mut R);

impl<R: BufRead> Reader for Buffered<'_, R> {
    fn read(&mut self, bytes: &mut [u8]) -> Result<(), DecodeError> {
        self.0.read_exact(bytes).map_err(|inner| DecodeError::Io { inner, additional: bytes.len() })
    }

    #[inline]
    fn peek_read(&mut self, count: usize) -> Option<&[u8]> {
        // An error comes again when it is read.
        self.0.fill_buf().ok()?.get(..count)
    }

    #[inline]
    fn consume(&mut self, count: usize) {
        self.0.consume(count);
    }
}

fn next_byte<T>(reader: &mut impl Read) -> Result<Option<u8>, CodecError> {
    let mut byte = [0];
    match reader.read_exact(&mut byte) {
        Ok(()) => Ok(Some(byte[0])),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        Err(inner) => {
            Err(CodecError::Decode { of: name::<T>(), source: DecodeError::Io { inner, additional: 1 } })
        }
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
        // Within DECODE_MAX, and far beyond what a short message can hold.
        let forged = [&[1, 252][..], &(1_u32 << 29).to_le_bytes()].concat();
        let error = decode::<String>(&[1], 64, &forged).unwrap_err();
        let limited = matches!(error, CodecError::Decode { source: DecodeError::LimitExceeded, .. });
        assert!(limited, "{error:?}: it asked for the memory first");
    }
}
