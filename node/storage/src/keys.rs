//! The key layout, and how a record is cut into parts.
//!
//! Everything lies in one sled tree, so one batch is atomic across kinds. A key is
//! `kind (1) | id (8, big-endian) | part (4, big-endian)`: a kind is a contiguous range, in order of
//! id. Kinds are part of the on-disk format.
//!
//! **Why parts.** sled 0.34.7 splits a leaf by its number of pairs (above 16), never by size, and
//! writes a leaf above 128 KiB to a blob file that it never syncs. So it is the *leaf* that must stay
//! small: seventeen values of 64 KiB make one of a megabyte. Records of up to [`RECORD_MAX`] are
//! therefore kept as parts of at most [`PART_MAX`], and no leaf can outgrow a segment.
//!
//! **Seals.** A record ends with a CRC-32 over its key and itself. sled has checksums of what it writes, none of
//! what it puts together from that.

use std::path::Path;

use serde::de::DeserializeOwned;
use sled::IVec;

use crate::codec;
use crate::database::{Database, Pairs};
use crate::durability::{Change, Writer};
use crate::error::StoreError;

/// The most bytes in one record: a log entry, a journal record, a snapshot's metadata. Larger ones
/// would make a group of writes too uneven.
pub const RECORD_MAX: usize = 64 << 10;

/// The most bytes in one value given to sled. A leaf holds at most 17 pairs when it splits, and 20
/// after a merge; 24 of these are still below sled's threshold of 131,052 bytes.
pub(crate) const PART_MAX: usize = 5 << 10;

/// What a key is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Kind {
    Format = 0,
    Vote = 1,
    Committed = 2,
    Purged = 3,
    Identity = 4,
    JournalRemoved = 5,
    SnapshotManifest = 6,
    SnapshotPending = 7,
    /// How many rounds the durability thread has made durable.
    Round = 8,
    Log = 16,
    Journal = 17,
    SnapshotChunk = 18,
}

const KEY_BYTES: usize = 13;

/// In the first byte of each part of a record that ends with a seal. Those of store format 1 have none.
const SEALED: u8 = 0x80;
const SEAL_BYTES: usize = 4;

/// One key of the database.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key([u8; KEY_BYTES]);

impl Key {
    pub(crate) fn new(kind: Kind, id: u64, part: u32) -> Key {
        let mut bytes = [0; KEY_BYTES];
        bytes[0] = kind as u8;
        bytes[1..9].copy_from_slice(&id.to_be_bytes());
        bytes[9..].copy_from_slice(&part.to_be_bytes());
        Key(bytes)
    }

    /// The first key of `id`, which is also the end of everything before it.
    pub(crate) fn first(kind: Kind, id: u64) -> Key {
        Key::new(kind, id, 0)
    }

    /// After every key of the kind.
    pub(crate) fn end(kind: Kind) -> Key {
        Key::new(kind, u64::MAX, u32::MAX)
    }

    pub(crate) fn parse(bytes: &[u8]) -> Option<Key> {
        bytes.try_into().ok().map(Key)
    }

    pub(crate) fn id(self) -> u64 {
        u64::from_be_bytes(self.0[1..9].try_into().expect("eight bytes of thirteen"))
    }

    pub(crate) fn is(self, kind: Kind) -> bool {
        self.0[0] == kind as u8
    }

    pub(crate) fn part(self) -> u32 {
        u32::from_be_bytes(self.0[9..].try_into().expect("four bytes of thirteen"))
    }
}

impl AsRef<[u8]> for Key {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl From<Key> for IVec {
    fn from(key: Key) -> IVec {
        IVec::from(&key.0)
    }
}

/// The changes that store a record. Each part begins with the number of parts after it, and [`SEALED`].
pub(crate) fn put(kind: Kind, id: u64, record: &[u8]) -> impl Iterator<Item = Change> {
    assert!(!record.is_empty() && record.len() <= RECORD_MAX, "checked where the record was made");
    let sealed = [record, &seal(kind, id, record)].concat();
    let parts: Vec<Vec<u8>> = sealed.chunks(PART_MAX - 1).map(<[u8]>::to_vec).collect();
    let last = parts.len() - 1;
    parts.into_iter().enumerate().map(move |(part, mut value)| {
        let after = u8::try_from(last - part).expect("RECORD_MAX is below 128 parts");
        value.insert(0, after | SEALED);
        let part = u32::try_from(part).expect("below 128");
        Change::Put { key: Key::new(kind, id, part), value }
    })
}

/// Of a record and where it belongs.
fn seal(kind: Kind, id: u64, record: &[u8]) -> [u8; SEAL_BYTES] {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&Key::first(kind, id).0);
    hasher.update(record);
    hasher.finalize().to_le_bytes()
}

/// The record under `id`, if there is one.
pub(crate) fn get(db: &Database, dir: &Path, kind: Kind, id: u64) -> Result<Option<Vec<u8>>, StoreError> {
    let mut records = scan(db, dir, kind, id, id.saturating_add(1));
    records.next().transpose().map(|found| found.map(|(_, record)| record))
}

/// The records with ids in `from..to`, in order.
pub(crate) fn scan<'a>(db: &Database, dir: &'a Path, kind: Kind, from: u64, to: u64) -> Records<'a> {
    Records { pairs: db.range(Key::first(kind, from), Key::first(kind, to)), dir, kind }
}

/// Whole records, put together from their parts.
pub(crate) struct Records<'a> {
    pairs: Pairs,
    dir: &'a Path,
    kind: Kind,
}

impl Iterator for Records<'_> {
    type Item = Result<(u64, Vec<u8>), StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match self.next_part()? {
                Ok((key, value)) if key.part() == 0 => return Some(self.assemble(key.id(), &value)),
                // Left behind by a longer record under the same id.
                Ok(_) => {}
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

impl Records<'_> {
    fn next_part(&mut self) -> Option<Result<(Key, IVec), StoreError>> {
        let pair = self.pairs.next()?.map_err(|source| StoreError::read(self.dir, "a record", source));
        Some(pair.and_then(|(key, value)| match Key::parse(&key) {
            Some(key) => Ok((key, value)),
            None => Err(self.corrupt(format!("a key of {} bytes", key.len()))),
        }))
    }

    fn assemble(&mut self, id: u64, first: &[u8]) -> Result<(u64, Vec<u8>), StoreError> {
        let incomplete = format!("record {id} of kind {:?} is incomplete", self.kind);
        let Some((&first, head)) = first.split_first() else { return Err(self.corrupt(incomplete)) };
        let (sealed, after) = (first & SEALED, first & !SEALED);
        let mut record = head.to_vec();
        for left in (0..after).rev() {
            let expected = Key::new(self.kind, id, u32::from(after - left));
            match self.next_part().transpose()? {
                Some((key, value)) if key == expected && value.first() == Some(&(left | sealed)) => {
                    record.extend_from_slice(&value[1..]);
                }
                _ => return Err(self.corrupt(incomplete)),
            }
        }
        if sealed != 0 {
            let Some(length) = record.len().checked_sub(SEAL_BYTES) else {
                return Err(self.corrupt(incomplete));
            };
            let found = record.split_off(length);
            if found != seal(self.kind, id, &record) {
                let what = format!("record {id} of kind {:?} has a wrong checksum", self.kind);
                return Err(self.corrupt(what));
            }
        }
        Ok((id, record))
    }

    fn corrupt(&self, what: String) -> StoreError {
        StoreError::Corrupt { dir: self.dir.to_owned(), what }
    }
}

/// The greatest id of a kind.
pub(crate) fn last_id(db: &Database, dir: &Path, kind: Kind) -> Result<Option<u64>, StoreError> {
    let last = db.range(Key::first(kind, 0), Key::end(kind)).next_back();
    let last = last.transpose().map_err(|source| StoreError::read(dir, "the last record", source))?;
    Ok(last.and_then(|(key, _)| Key::parse(&key)).map(Key::id))
}

/// Stores the only record of a kind with the next round; see [`Writer::put_lazily`].
pub(crate) fn put_lazily(writer: &Writer, kind: Kind, record: &[u8], after: u64) -> Result<(), StoreError> {
    let mut changes = put(kind, 0, record);
    match (changes.next(), changes.next()) {
        (Some(Change::Put { key, value }), None) => writer.put_lazily(key, value, after),
        _ => unreachable!("a lazy record is a few integers, so it has one part"),
    }
}

/// Decodes a stored record. One that does not decode means that the replica is lost.
pub(crate) fn decode<T: DeserializeOwned>(
    dir: &Path,
    what: &str,
    formats: &[u8],
    record: &[u8],
) -> Result<T, StoreError> {
    codec::decode(formats, RECORD_MAX, record).map_err(|error| {
        let cause = std::error::Error::source(&error).map(|source| format!(": {source}")).unwrap_or_default();
        StoreError::Corrupt { dir: dir.to_owned(), what: format!("{what}: {error}{cause}") }
    })
}
