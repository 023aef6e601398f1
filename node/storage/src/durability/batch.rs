//! The batch that a round writes.

use super::Change;
use crate::database::{Changes, Database, Failure, failed_in_sled};
use crate::keys::Key;

/// The batch being put together.
pub(super) struct Pending<'a> {
    db: &'a Database,
    batch: Changes,
}

impl<'a> Pending<'a> {
    pub(super) fn new(db: &'a Database) -> Self {
        Pending { db, batch: Changes::default() }
    }

    /// What is put together so far.
    pub(super) fn changes(&mut self) -> &mut Changes {
        &mut self.batch
    }

    /// Adds one write. Its changes stay in one batch, so they take effect together.
    pub(super) fn add(&mut self, changes: Vec<Change>) -> Result<(), Failure> {
        // A removal looks at the database, so what comes before it must be there.
        if changes.iter().any(|change| matches!(change, Change::Remove { .. })) {
            self.apply()?;
        }
        for change in changes {
            match change {
                Change::Put { key, value } => self.put(key, value),
                Change::Remove { from, to } => {
                    self.remove(from, to, usize::MAX)?;
                }
            }
        }
        Ok(())
    }

    pub(super) fn put(&mut self, key: Key, value: Vec<u8>) {
        self.batch.put(key, value);
    }

    /// Adds the removal of at most `limit` keys of `from..to`; true if these were all.
    pub(super) fn remove(&mut self, from: Key, to: Key, limit: usize) -> Result<bool, Failure> {
        for (count, pair) in self.db.range(from, to).enumerate() {
            if count == limit {
                return Ok(false);
            }
            let (key, _) = pair.map_err(failed_in_sled("read"))?;
            self.batch.remove(key);
        }
        Ok(true)
    }

    pub(super) fn apply(&mut self) -> Result<(), Failure> {
        if self.batch.is_empty() {
            return Ok(());
        }
        self.db.apply(std::mem::take(&mut self.batch))
    }
}
