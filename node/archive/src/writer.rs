//! Writing an archive.

use std::io::{self, Write};

use crate::{FORMAT, Kind, MAGIC, Metadata, PAYLOAD_MAX};

/// Content written to it goes into `out` in frames. It is whole only after [`finish`](Writer::finish).
pub struct Writer<W> {
    out: W,
    hash: blake3::Hasher,
    /// The next content frame's payload.
    chunk: Vec<u8>,
    content_bytes: u64,
}

impl<W: Write> Writer<W> {
    /// Begins an archive.
    ///
    /// # Errors
    /// What `out` says, and where the metadata is too long for a frame.
    pub fn new(out: W, metadata: &Metadata) -> io::Result<Self> {
        let hash = blake3::Hasher::new();
        let mut writer = Writer { out, hash, chunk: Vec::with_capacity(PAYLOAD_MAX), content_bytes: 0 };
        writer.emit(&[&MAGIC[..], &[FORMAT]].concat())?;
        let metadata = serde_json::to_vec(metadata)?;
        if metadata.len() > PAYLOAD_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the metadata is too long"));
        }
        writer.frame(Kind::Metadata, &metadata)?;
        Ok(writer)
    }

    /// Writes what is left and the end, and answers how many bytes of content there were. `out` is flushed.
    ///
    /// # Errors
    /// What `out` says.
    pub fn finish(mut self) -> io::Result<u64> {
        self.cut()?;
        let mut end = self.content_bytes.to_le_bytes().to_vec();
        end.extend_from_slice(self.hash.finalize().as_bytes());
        self.frame(Kind::End, &end)?;
        self.out.flush()?;
        Ok(self.content_bytes)
    }

    fn cut(&mut self) -> io::Result<()> {
        if self.chunk.is_empty() {
            return Ok(());
        }
        let chunk = std::mem::take(&mut self.chunk);
        self.frame(Kind::Content, &chunk)?;
        self.chunk = chunk;
        self.chunk.clear();
        Ok(())
    }

    fn frame(&mut self, kind: Kind, payload: &[u8]) -> io::Result<()> {
        let length = u32::try_from(payload.len()).expect("a payload is at most PAYLOAD_MAX");
        let mut frame = vec![kind as u8];
        frame.extend_from_slice(&length.to_le_bytes());
        frame.extend_from_slice(payload);
        frame.extend_from_slice(&crc32fast::hash(&frame).to_le_bytes());
        self.emit(&frame)
    }

    fn emit(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.hash.update(bytes);
        self.out.write_all(bytes)
    }
}

impl<W: Write> Write for Writer<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(PAYLOAD_MAX - self.chunk.len());
        self.chunk.extend_from_slice(&bytes[..taken]);
        self.content_bytes += taken as u64;
        if self.chunk.len() == PAYLOAD_MAX {
            self.cut()?;
        }
        Ok(taken)
    }

    /// Does nothing: frames are as long as they can be.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<W> std::fmt::Debug for Writer<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Writer").field("content_bytes", &self.content_bytes).finish_non_exhaustive()
    }
}
