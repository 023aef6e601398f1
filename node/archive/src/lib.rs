//! The container of a backup: metadata, then content in chunks, each behind a checksum, then a hash over all.
//!
//! It knows nothing of what it contains, so that whoever has a file can check it, without a cluster and
//! without a node. Written and read as a stream: neither holds more than a chunk in memory.
//!
//! | bytes | what |
//! |---|---|
//! | 8 | `MUSTERBK` |
//! | 1 | the format, [`FORMAT`] |
//! | … | frames: a metadata frame, any number of content frames, an end frame, and nothing behind it |
//!
//! | bytes of a frame | what |
//! |---|---|
//! | 1 | what it is: 1 metadata (JSON), 2 content, 3 the end |
//! | 4 | the length of its payload, little-endian; at most [`PAYLOAD_MAX`] |
//! | … | its payload |
//! | 4 | CRC-32 of all of the frame before it, little-endian |
//!
//! The end's payload is the number of content bytes (8, little-endian) and the BLAKE3 hash (32) of
//! everything before the end frame. What lacks it is not whole.

mod decoder;
mod metadata;
mod writer;

pub use decoder::{Damage, Decoder, read};
pub use metadata::{Counts, Metadata};
pub use writer::Writer;

/// What an archive begins with.
pub const MAGIC: [u8; 8] = *b"MUSTERBK";

/// History: 1, 2026-11: the first.
pub const FORMAT: u8 = 1;

/// The most bytes in one frame's payload: what a reader must hold in memory at a time.
pub const PAYLOAD_MAX: usize = 256 << 10;

const HEAD_BYTES: usize = MAGIC.len() + 1;
/// Kind and length.
const FRAME_HEAD_BYTES: usize = 5;
const CRC_BYTES: usize = 4;
const HASH_BYTES: usize = 32;
const END_BYTES: usize = 8 + HASH_BYTES;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Kind {
    Metadata = 1,
    Content = 2,
    End = 3,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Kind> {
        [Kind::Metadata, Kind::Content, Kind::End].into_iter().find(|kind| *kind as u8 == byte)
    }
}
