//! A state in a backup. What is in the archive is the data of a snapshot: the digest and the state.

use std::io::{self, Read, Seek, SeekFrom, Write};

use muster_archive::{Counts, Damage, Decoder, Metadata, Writer};
use muster_core::ClusterState;
use muster_core::version::{SUPPORTED, Unsupported};
use muster_storage::codec::CodecError;

use crate::contents::Contents;
use crate::machine::Published;

/// A backup as it was read.
#[derive(Debug)]
pub struct Archived {
    pub metadata: Metadata,
    pub(crate) contents: Contents,
}

#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    #[error("the backup is of another release")]
    Version(#[source] Unsupported),
    #[error("the backup is damaged")]
    Damaged(#[source] Damage),
    #[error("what the backup holds cannot be understood by this version of muster-node")]
    Contents(#[source] CodecError),
    #[error("the backup says of itself what is not so: {0}")]
    Contradiction(String),
}

impl Archived {
    pub fn state(&self) -> &ClusterState {
        &self.contents.state
    }
}

/// How much is in a state.
pub(crate) fn counts(state: &ClusterState) -> Counts {
    Counts {
        functions: state.functions.iter().count() as u64,
        accounts: state.accounts.iter().count() as u64,
        nodes: state.nodes.iter().count() as u64,
        instances: state.instances.live().count() as u64,
        ledger_rows: (state.ledger.usage().len() + state.ledger.instance_time().len()) as u64,
    }
}

/// Writes a state as an archive, encoding as it goes: nothing of it is in memory twice.
///
/// `taken_at` is the state's clock as text, `node` and `version` who writes.
///
/// # Errors
/// What `out` says.
pub fn write_archive(
    published: &Published,
    taken_at: String,
    (node, version): (u64, &str),
    out: impl Write,
) -> io::Result<()> {
    let state = &published.state;
    let cluster = state.cluster.ok_or_else(|| io::Error::other("there is no cluster yet"))?;
    let metadata = Metadata {
        cluster: cluster.to_string(),
        index: published.applied_index(),
        term: published.applied_term(),
        taken_at,
        node,
        version: version.to_owned(),
        counts: counts(state),
    };
    let mut writer = Writer::new(out, &metadata)?;
    // Whoever has the authority's seed can pass for any node, and a restored cluster has its own.
    let mut state = ClusterState::clone(state);
    state.authority = None;
    let contents = Contents { state, digest: published.digest };
    contents.encode(|slice| writer.write_all(&slice)).map_err(io::Error::other)?;
    writer.finish().map(drop)
}

/// Reads a backup, and checks all that can be known to be wrong with it.
///
/// # Errors
/// What is wrong.
pub fn read_archive(mut from: impl Read + Seek) -> Result<Archived, ArchiveError> {
    let unreadable = |error| ArchiveError::Damaged(Damage::Read(error));
    // Once to know that it is whole, and once to decode it, so that no more of it is in memory than the state.
    let began = from.stream_position().map_err(unreadable)?;
    let (metadata, _) = muster_archive::read(&mut from, |_| ()).map_err(ArchiveError::Damaged)?;
    from.seek(SeekFrom::Start(began)).map_err(unreadable)?;
    let contents = Contents::decode(Content::new(from)).map_err(ArchiveError::Contents)?;
    SUPPORTED.check(contents.state.version.get()).map_err(ArchiveError::Version)?;
    let found = contents.state.cluster.map(|id| id.to_string());
    if found.as_ref() != Some(&metadata.cluster) {
        let found = found.unwrap_or_else(|| "none".to_owned());
        let what = format!("it is of cluster {}, its content of {found}", metadata.cluster);
        return Err(ArchiveError::Contradiction(what));
    }
    let found = counts(&contents.state);
    if found != metadata.counts {
        return Err(ArchiveError::Contradiction(format!("{:?} is {found:?}", metadata.counts)));
    }
    Ok(Archived { metadata, contents })
}

/// The content of an archive as a stream.
struct Content<R> {
    from: R,
    decoder: Decoder,
    ready: Vec<u8>,
    taken: usize,
}

impl<R> Content<R> {
    fn new(from: R) -> Self {
        Content { from, decoder: Decoder::default(), ready: Vec::new(), taken: 0 }
    }
}

impl<R: Read> Read for Content<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.taken == self.ready.len() {
            self.ready.clear();
            self.taken = 0;
            let mut piece = [0; 8 << 10];
            let bytes = self.from.read(&mut piece)?;
            if bytes == 0 {
                return Ok(0);
            }
            let ready = &mut self.ready;
            let pushed = self.decoder.push(&piece[..bytes], |content| ready.extend_from_slice(content));
            pushed.map_err(io::Error::other)?;
        }
        let bytes = buffer.len().min(self.ready.len() - self.taken);
        buffer[..bytes].copy_from_slice(&self.ready[self.taken..self.taken + bytes]);
        self.taken += bytes;
        Ok(bytes)
    }
}
