//! Checking an archive, and reading what is in it.

use std::io::{self, Read};

use crate::{CRC_BYTES, END_BYTES, FORMAT, FRAME_HEAD_BYTES, HEAD_BYTES, Kind, MAGIC, Metadata, PAYLOAD_MAX};

/// Read from a file at a time.
const READ_BYTES: usize = 64 << 10;

/// Why something is not an archive, or not the one that was written. `at` counts bytes from its beginning.
#[derive(Debug, thiserror::Error)]
pub enum Damage {
    #[error("it is not a Muster backup: it does not begin with `MUSTERBK`")]
    NotAnArchive,
    #[error("it has format {found}, and this build reads up to {FORMAT}: use the version that wrote it")]
    NewerFormat { found: u8 },
    #[error("it is cut off after {at} bytes: its end is missing")]
    CutOff { at: u64 },
    #[error("the frame at byte {at} is of no known kind, {found}")]
    UnknownKind { at: u64, found: u8 },
    #[error("the frame at byte {at} claims {bytes} bytes; at most {PAYLOAD_MAX} are accepted")]
    TooLong { at: u64, bytes: u64 },
    #[error("the frame at byte {at} does not match its checksum: it was changed")]
    Checksum { at: u64 },
    #[error("the frame at byte {at} does not belong there")]
    OutOfPlace { at: u64 },
    #[error("its metadata cannot be read")]
    Metadata(#[source] serde_json::Error),
    #[error("its parts are sound, and are not those that were written: the hash over all differs")]
    Hash,
    #[error("it goes on behind its end, at byte {at}")]
    TrailingBytes { at: u64 },
    #[error("it cannot be read")]
    Read(#[source] io::Error),
}

/// Takes an archive piece by piece, as it comes. Holds no more than one frame.
pub struct Decoder {
    /// What has come and is not dealt with yet.
    pending: Vec<u8>,
    /// Where `pending` begins in the archive.
    at: u64,
    hash: blake3::Hasher,
    metadata: Option<Metadata>,
    content_bytes: u64,
    begun: bool,
    ended: bool,
}

impl Default for Decoder {
    fn default() -> Self {
        Decoder {
            pending: Vec::new(),
            at: 0,
            hash: blake3::Hasher::new(),
            metadata: None,
            content_bytes: 0,
            begun: false,
            ended: false,
        }
    }
}

impl Decoder {
    /// Takes the next bytes; the content that has become whole, and was found sound, goes to `content`.
    /// Before [`finish`](Decoder::finish) has said that the archive is whole, it must not be relied on.
    ///
    /// # Errors
    /// As soon as something is wrong.
    pub fn push(&mut self, mut bytes: &[u8], mut content: impl FnMut(&[u8])) -> Result<(), Damage> {
        while !bytes.is_empty() {
            // Never more than the frame under way, whatever is pushed at once.
            let (now, later) = bytes.split_at(bytes.len().min(READ_BYTES));
            bytes = later;
            self.pending.extend_from_slice(now);
            let mut used = 0;
            while let Some(length) = self.next(used)? {
                self.take(used, length, &mut content)?;
                used += length;
            }
            self.pending.drain(..used);
        }
        Ok(())
    }

    /// What the archive says of itself, once that has come.
    pub fn metadata(&self) -> Option<&Metadata> {
        self.metadata.as_ref()
    }

    /// Says that nothing more comes. Answers the metadata and how many bytes the content has.
    ///
    /// # Errors
    /// [`Damage::CutOff`] if the end has not come.
    pub fn finish(self) -> Result<(Metadata, u64), Damage> {
        let at = self.at + self.pending.len() as u64;
        if !self.begun && !self.pending.is_empty() && !MAGIC.starts_with(&self.pending) {
            return Err(Damage::NotAnArchive);
        }
        match self.metadata {
            Some(metadata) if self.ended => Ok((metadata, self.content_bytes)),
            _ => Err(Damage::CutOff { at }),
        }
    }

    /// The length of what comes next, the head or a frame, if all of it is there.
    fn next(&self, used: usize) -> Result<Option<usize>, Damage> {
        let (rest, at) = (&self.pending[used..], self.at);
        if rest.is_empty() {
            return Ok(None);
        }
        if self.ended {
            return Err(Damage::TrailingBytes { at });
        }
        if !self.begun {
            let known = MAGIC.len().min(rest.len());
            if rest[..known] != MAGIC[..known] {
                return Err(Damage::NotAnArchive);
            }
            return Ok((rest.len() >= HEAD_BYTES).then_some(HEAD_BYTES));
        }
        if Kind::from_byte(rest[0]).is_none() {
            return Err(Damage::UnknownKind { at, found: rest[0] });
        }
        let Some(length) = rest.get(1..FRAME_HEAD_BYTES) else { return Ok(None) };
        let bytes = u32::from_le_bytes(length.try_into().expect("four bytes")) as usize;
        if bytes > PAYLOAD_MAX {
            return Err(Damage::TooLong { at, bytes: bytes as u64 });
        }
        let length = FRAME_HEAD_BYTES + bytes + CRC_BYTES;
        Ok((rest.len() >= length).then_some(length))
    }

    fn take(&mut self, used: usize, length: usize, content: &mut impl FnMut(&[u8])) -> Result<(), Damage> {
        let (whole, at) = (&self.pending[used..used + length], self.at);
        self.at += length as u64;
        if !self.begun {
            match whole[MAGIC.len()] {
                FORMAT => self.begun = true,
                found => return Err(Damage::NewerFormat { found }),
            }
            self.hash.update(whole);
            return Ok(());
        }
        let (framed, crc) = whole.split_last_chunk::<CRC_BYTES>().expect("a frame is longer");
        if crc32fast::hash(framed) != u32::from_le_bytes(*crc) {
            return Err(Damage::Checksum { at });
        }
        let payload = &framed[FRAME_HEAD_BYTES..];
        match (Kind::from_byte(framed[0]), &self.metadata) {
            (Some(Kind::Metadata), None) => {
                self.metadata = Some(serde_json::from_slice(payload).map_err(Damage::Metadata)?);
            }
            (Some(Kind::Content), Some(_)) => {
                self.content_bytes += payload.len() as u64;
                content(payload);
            }
            (Some(Kind::End), Some(_)) if payload.len() == END_BYTES => {
                let (bytes, hash) = payload.split_at(8);
                if bytes != self.content_bytes.to_le_bytes() || hash != self.hash.finalize().as_bytes() {
                    return Err(Damage::Hash);
                }
                self.ended = true;
            }
            _ => return Err(Damage::OutOfPlace { at }),
        }
        self.hash.update(whole);
        Ok(())
    }
}

impl std::fmt::Debug for Decoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Decoder").field("at", &self.at).field("ended", &self.ended).finish_non_exhaustive()
    }
}

/// Reads a whole archive; its content goes to `content` in order. As [`Decoder`].
///
/// # Errors
/// What is wrong with it.
pub fn read(mut from: impl Read, mut content: impl FnMut(&[u8])) -> Result<(Metadata, u64), Damage> {
    let mut decoder = Decoder::default();
    let mut buffer = vec![0; READ_BYTES];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return decoder.finish(),
            Ok(bytes) => decoder.push(&buffer[..bytes], &mut content)?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Damage::Read(error)),
        }
    }
}
