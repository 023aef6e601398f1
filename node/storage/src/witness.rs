//! What was durable at last, kept outside of the database: a file that tells whether the database still has it.
//!
//! sled opens what it can make sense of. Where bytes of its file were changed it drops what was written from there
//! on, in part or to the end, and says nothing: it cannot tell that from a write which was cut short. So the
//! durability thread numbers its rounds, keeps the number in the database, and notes here, after each barrier and
//! without a sync of its own, which round it was and what must be found after it. A process that dies loses
//! nothing of the note; a power cut may bring back an older one. It is never ahead of the database.
//!
//! | found | means |
//! |---|---|
//! | a later round in the database | a crash came between the barrier and the note, or took the note |
//! | the same round | vote, identity, snapshot, end of the log and of the journal must be as noted |
//! | an earlier round in the database | it has lost what was acknowledged |
//!
//! The file has two notes, written in turn, each within one sector.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::codec;
use crate::database::{Changes, Database};
use crate::durability::Change;
use crate::error::StoreError;
use crate::keys::{self, Key, Kind};

/// Format of a note. History: 1, 2026-11: round, marks, ends of log and journal.
pub(crate) const FORMAT: u8 = 1;

/// Format of the record that holds the round. History: 1, 2026-11: the number.
pub(crate) const ROUND_FORMAT: u8 = 1;

const FILE: &str = "witness";
/// The length of the note (1), the note, and a CRC-32 of both: less than any sector.
const NOTE_MAX: usize = 128;
const SECTOR: u64 = 512;
const NOTES: u64 = 2;

/// The records that are written in the foreground alone: after a round they are as it left them.
const MARKS: [Kind; 3] = [Kind::Vote, Kind::Identity, Kind::SnapshotManifest];

/// What must be in the database after a round.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Note {
    pub(crate) round: u64,
    /// CRC-32 over the [`MARKS`].
    pub(crate) marks: u32,
    /// The last log entry: its index, and the CRC-32 of the last part of its record.
    pub(crate) log: Option<(u64, u32)>,
    /// The last usage record, likewise.
    pub(crate) journal: Option<(u64, u32)>,
}

/// The file of an open store.
pub(crate) struct Witness {
    file: File,
    path: PathBuf,
    note: Note,
    touched: Touched,
}

/// What a round changes of what is noted.
#[derive(Clone, Copy, Default)]
struct Touched {
    marks: bool,
    log: bool,
    journal: bool,
}

impl Witness {
    /// Makes the file, durable but for its name, unless it is there.
    pub(crate) fn create(dir: &Path) -> Result<(), StoreError> {
        let path = dir.join(FILE);
        let failed = |source| StoreError::Io { action: "create", path: path.clone(), source };
        let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path);
        let file = file.map_err(failed)?;
        if file.metadata().map_err(failed)?.len() == 0 {
            for place in 0..NOTES {
                file.write_all_at(&encode(&Note::default()), place * SECTOR).map_err(failed)?;
            }
        }
        file.sync_all().map_err(failed)
    }

    /// Opens the file, and checks the database against it.
    pub(crate) fn open(dir: &Path, db: &Database) -> Result<Witness, StoreError> {
        let path = dir.join(FILE);
        let corrupt = |what: String| StoreError::Corrupt { dir: dir.to_owned(), what };
        let file = match OpenOptions::new().read(true).write(true).open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(corrupt("its file `witness` is missing".into()));
            }
            Err(source) => return Err(StoreError::Io { action: "open", path, source }),
        };
        let mut newest: Option<Note> = None;
        for place in 0..NOTES {
            let mut bytes = [0; NOTE_MAX];
            match file.read_exact_at(&mut bytes, place * SECTOR) {
                Ok(()) => newest = newest.into_iter().chain(decode(&bytes)).max_by_key(|note| note.round),
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {}
                Err(source) => return Err(StoreError::Io { action: "read", path, source }),
            }
        }
        let Some(noted) = newest else {
            return Err(corrupt("its file `witness` is damaged".into()));
        };
        let found = Note {
            round: stored_round(db, dir)?,
            marks: marks(db, dir)?,
            log: last(Kind::Log, db, dir)?,
            journal: last(Kind::Journal, db, dir)?,
        };
        if found.round < noted.round {
            let lost = noted.round - found.round;
            return Err(corrupt(format!(
                "its database file `db` has lost the last {lost} of {} rounds of acknowledged writes",
                noted.round
            )));
        }
        if found.round == noted.round && noted.round > 0 {
            compare(&found, &noted, db, dir).map_err(corrupt)?;
        }
        Ok(Witness { file, path, note: found, touched: Touched::default() })
    }

    /// Sees what a round will change.
    pub(crate) fn see(&mut self, change: &Change) {
        let (Change::Put { key, .. } | Change::Remove { from: key, .. }) = change;
        self.touched.marks |= MARKS.iter().any(|kind| key.is(*kind));
        self.touched.log |= key.is(Kind::Log);
        self.touched.journal |= key.is(Kind::Journal);
    }

    /// Puts the number of the next round into its first batch.
    pub(crate) fn number(&mut self, changes: &mut Changes) {
        self.note.round += 1;
        let record = codec::encode(ROUND_FORMAT, &self.note.round).expect("a number can be encoded");
        for change in keys::put(Kind::Round, 0, &record) {
            if let Change::Put { key, value } = change {
                changes.put(key, value);
            }
        }
    }

    /// Notes that the round is durable.
    pub(crate) fn note(&mut self, db: &Database) -> Result<(), StoreError> {
        let dir = self.path.parent().unwrap_or(Path::new("."));
        let touched = std::mem::take(&mut self.touched);
        if touched.marks {
            self.note.marks = marks(db, dir)?;
        }
        if touched.log {
            self.note.log = last(Kind::Log, db, dir)?;
        }
        if touched.journal {
            self.note.journal = last(Kind::Journal, db, dir)?;
        }
        let place = self.note.round % NOTES;
        let written = self.file.write_all_at(&encode(&self.note), place * SECTOR);
        written.map_err(|source| StoreError::Io { action: "write", path: self.path.clone(), source })
    }
}

fn stored_round(db: &Database, dir: &Path) -> Result<u64, StoreError> {
    match keys::get(db, dir, Kind::Round, 0)? {
        Some(record) => keys::decode(dir, "the number of the last round", &[ROUND_FORMAT], &record),
        None => Ok(0),
    }
}

fn marks(db: &Database, dir: &Path) -> Result<u32, StoreError> {
    let mut marks = crc32fast::Hasher::new();
    for kind in MARKS {
        for pair in db.range(Key::first(kind, 0), Key::end(kind)) {
            let (key, value) = pair.map_err(|source| StoreError::read(dir, "a mark", source))?;
            marks.update(&key);
            marks.update(&value);
        }
    }
    Ok(marks.finalize())
}

fn last(kind: Kind, db: &Database, dir: &Path) -> Result<Option<(u64, u32)>, StoreError> {
    let pair = db.range(Key::first(kind, 0), Key::end(kind)).next_back().transpose();
    let pair = pair.map_err(|source| StoreError::read(dir, "the last record", source))?;
    Ok(pair.and_then(|(key, value)| Some((Key::parse(&key)?.id(), crc32fast::hash(&value)))))
}

/// Finds what has changed since the note, but for what may: records are removed bit by bit, without a round
/// of their own, once a mark says that they are not needed.
fn compare(found: &Note, noted: &Note, db: &Database, dir: &Path) -> Result<(), String> {
    if found.marks != noted.marks {
        return Err(
            "the vote, the identity or the snapshot in its database file `db` is not the last one".into()
        );
    }
    for (kind, mark, found, noted) in [
        (Kind::Log, Kind::Purged, found.log, noted.log),
        (Kind::Journal, Kind::JournalRemoved, found.journal, noted.journal),
    ] {
        let removed = found.is_none() && matches!(keys::get(db, dir, mark, 0), Ok(Some(_)));
        if found != noted && !removed {
            let at = noted.map_or_else(|| "nothing".to_owned(), |(id, _)| id.to_string());
            return Err(format!(
                "the end of the {kind:?} in its database file `db` is not the last one, {at}"
            ));
        }
    }
    Ok(())
}

fn encode(note: &Note) -> [u8; NOTE_MAX] {
    let encoded = codec::encode(FORMAT, note).expect("numbers can be encoded");
    let mut bytes = [0; NOTE_MAX];
    bytes[0] = u8::try_from(encoded.len()).expect("a few numbers are short");
    bytes[1..=encoded.len()].copy_from_slice(&encoded);
    let end = 1 + encoded.len();
    let crc = crc32fast::hash(&bytes[..end]);
    bytes[end..end + 4].copy_from_slice(&crc.to_le_bytes());
    bytes
}

pub(crate) fn decode(bytes: &[u8; NOTE_MAX]) -> Option<Note> {
    let end = 1 + usize::from(bytes[0]);
    let crc: [u8; 4] = bytes.get(end..end + 4)?.try_into().ok()?;
    if crc32fast::hash(&bytes[..end]) != u32::from_le_bytes(crc) {
        return None;
    }
    codec::decode(&[FORMAT], NOTE_MAX, &bytes[1..end]).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_of_any_size_survive_and_changed_ones_do_not() {
        let most = Some((u64::MAX, u32::MAX));
        for note in [Note::default(), Note { round: u64::MAX, marks: u32::MAX, log: most, journal: most }] {
            let good = encode(&note);
            assert_eq!(decode(&good), Some(note));
            for bit in 0..(1 + usize::from(good[0]) + 4) * 8 {
                let mut bad = good;
                bad[bit / 8] ^= 1 << (bit % 8);
                assert_eq!(decode(&bad), None, "bit {bit}");
            }
        }
    }
}
