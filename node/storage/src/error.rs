//! How storage fails. A failed *write* has no place here: it ends the process.

use std::io;
use std::path::{Path, PathBuf};

use muster_core::ids::NodeId;
use openraft::{AnyError, StorageError, StorageIOError};

use crate::codec::CodecError;

/// The store cannot be opened, cannot be read, or refuses what it is asked to keep.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("cannot {action} {}", path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },
    #[error("{} is already in use: another process, or another store in this one, has it open", dir.display())]
    InUse { dir: PathBuf },
    #[error(
        "{} says that this store has format {found}, and this build reads up to {supported}: \
         start the newer build, or give the node an empty directory and a fresh id", file.display()
    )]
    NewerFormat { file: PathBuf, found: u32, supported: u32 },
    #[error(
        "the store in {} is corrupt ({what}): this replica is lost. It must not serve or vote. Move the \
         directory away, and have the cluster take another node in its place (`muster cluster replace`)",
        dir.display()
    )]
    Corrupt { dir: PathBuf, what: String },
    #[error("{} is not empty: it holds `{found}`", dir.display())]
    NotEmpty { dir: PathBuf, found: String },
    #[error(
        "{} was being restored from a backup, and that did not come to its end: empty the directory and restore \
         again", dir.display()
    )]
    Incomplete { dir: PathBuf },
    #[error("cannot open the database in {}", dir.display())]
    Open { dir: PathBuf, source: sled::Error },
    #[error("cannot read {what}")]
    Read { what: &'static str, source: sled::Error },
    #[error("{what} of {bytes} bytes is above the limit of {limit}")]
    TooLarge { what: &'static str, bytes: usize, limit: usize },
    #[error("cannot encode {what}")]
    Encode { what: &'static str, source: CodecError },
    #[error("{} belongs to node {owner}, not to node {claimed}", dir.display())]
    OtherNode { dir: PathBuf, owner: NodeId, claimed: NodeId },
    #[error("the usage journal is full: {records} records, {bytes} bytes are waiting to be removed")]
    JournalFull { records: usize, bytes: usize },
    #[error(
        "the snapshot {id} arrived damaged: {bytes} bytes are here and {sent_bytes} were sent, or their hash differs"
    )]
    Mismatch { id: String, bytes: u64, sent_bytes: u64 },
    #[error("the rest of a snapshot that was read as it arrived has not come")]
    Abandoned,
    #[error("the store is closed")]
    Closed,
}

impl StoreError {
    /// A failed read. What sled finds corrupt only then is no less corrupt.
    pub(crate) fn read(dir: &Path, what: &'static str, source: sled::Error) -> StoreError {
        if means_corruption(&source) {
            StoreError::Corrupt { dir: dir.to_owned(), what: format!("{what}: {source}") }
        } else {
            StoreError::Read { what, source }
        }
    }

    /// The error as openraft wants it, from a write to the log.
    pub(crate) fn writing_logs<N: openraft::NodeId>(self) -> StorageError<N> {
        StorageIOError::write_logs(AnyError::new(&self)).into()
    }

    /// The error as openraft wants it, from a read of the log.
    pub(crate) fn reading_logs<N: openraft::NodeId>(self) -> StorageError<N> {
        StorageIOError::read_logs(AnyError::new(&self)).into()
    }

    /// The error as openraft wants it, from a write of the vote.
    pub(crate) fn writing_vote<N: openraft::NodeId>(self) -> StorageError<N> {
        StorageIOError::write_vote(AnyError::new(&self)).into()
    }
}

/// Whether sled says that its file is not what it wrote. A file that was cut off it finds too short only
/// once it reads what lay behind the cut.
pub(crate) fn means_corruption(error: &sled::Error) -> bool {
    match error {
        sled::Error::Corruption { .. } | sled::Error::ReportableBug(_) => true,
        sled::Error::Io(error) => error.kind() == io::ErrorKind::UnexpectedEof,
        _ => false,
    }
}
