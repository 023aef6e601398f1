//! Where records lie: sled's tree in a directory, or a [`Memory`]. One ordered map of keys to values
//! with atomic batches and a barrier; everything above it is the same code for both.

use std::fmt;
use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use muster_core::mutant;
use sled::{Batch, IVec};

use crate::durability::SyncPolicy;
use crate::error::means_corruption;
use crate::keys::Key;
use crate::memory::{self, Memory};

/// A handle. Clones share the records.
#[derive(Clone)]
pub(crate) enum Database {
    Sled {
        db: sled::Db,
        /// Our own handle on sled's `db` file: the one that is synced.
        file: Arc<File>,
        sync: SyncPolicy,
    },
    Memory(Memory),
}

/// Changes that take effect together.
#[derive(Default)]
pub(crate) struct Changes(Vec<(IVec, Option<IVec>)>);

/// A step of a barrier that failed, and how.
pub(crate) struct Failure {
    pub(crate) step: &'static str,
    pub(crate) cause: String,
}

/// The records of a range, in order of their keys.
pub(crate) enum Pairs {
    Sled(sled::Iter),
    Memory(memory::Pairs),
}

impl Database {
    pub(crate) fn range(&self, from: Key, to: Key) -> Pairs {
        match self {
            Database::Sled { db, .. } => Pairs::Sled(db.range(from..to)),
            Database::Memory(memory) => Pairs::Memory(memory.range(from, to)),
        }
    }

    pub(crate) fn apply(&self, changes: Changes) -> Result<(), Failure> {
        match self {
            Database::Sled { db, .. } => {
                let mut batch = Batch::default();
                for (key, value) in changes.0 {
                    match value {
                        Some(value) => batch.insert(key, value),
                        None => batch.remove(key),
                    }
                }
                db.apply_batch(batch).map_err(failed_in_sled("write to"))
            }
            Database::Memory(memory) => {
                memory.apply(changes.0);
                Ok(())
            }
        }
    }

    /// Returns once everything applied before is durable.
    pub(crate) fn barrier(&self) -> Result<(), Failure> {
        match self {
            Database::Sled { db, file, sync } => {
                // Never `flush_async`: it can deadlock in sled 0.34.7.
                db.flush().map_err(failed_in_sled("flush"))?;
                match sync {
                    SyncPolicy::FlushAndSync if mutant!("flush-without-sync") => Ok(()),
                    SyncPolicy::FlushAndSync => file.sync_data().map_err(failed("sync")),
                    #[cfg(test)]
                    SyncPolicy::FlushOnly => Ok(()),
                    #[cfg(test)]
                    SyncPolicy::Fail => Err(failed("sync")(std::io::Error::other("injected"))),
                }
            }
            Database::Memory(memory) => memory.sync().map_err(failed("sync")),
        }
    }

    /// Size of its files; zero where there are none, or if they cannot be listed: a figure must not
    /// stop a node.
    pub(crate) fn disk_bytes(&self) -> u64 {
        match self {
            Database::Sled { db, .. } => db.size_on_disk().unwrap_or(0),
            Database::Memory(_) => 0,
        }
    }

    #[cfg(test)]
    pub(crate) fn sled(&self) -> &sled::Db {
        match self {
            Database::Sled { db, .. } => db,
            Database::Memory(_) => panic!("this store is in memory"),
        }
    }
}

impl Changes {
    pub(crate) fn put(&mut self, key: Key, value: Vec<u8>) {
        self.0.push((key.into(), Some(value.into())));
    }

    pub(crate) fn remove(&mut self, key: IVec) {
        self.0.push((key, None));
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Iterator for Pairs {
    type Item = sled::Result<(IVec, IVec)>;

    fn next(&mut self) -> Option<Self::Item> {
        match self {
            Pairs::Sled(pairs) => contained(|| pairs.next()),
            Pairs::Memory(pairs) => pairs.next().map(Ok),
        }
    }
}

impl DoubleEndedIterator for Pairs {
    fn next_back(&mut self) -> Option<Self::Item> {
        match self {
            Pairs::Sled(pairs) => contained(|| pairs.next_back()),
            Pairs::Memory(pairs) => pairs.next_back().map(Ok),
        }
    }
}

/// sled asserts some of what it reads; a failed assertion means damage, too.
fn contained<T>(read: impl FnOnce() -> Option<sled::Result<T>>) -> Option<sled::Result<T>> {
    catch_unwind(AssertUnwindSafe(read)).unwrap_or_else(|_panic| {
        let what = "sled failed an assertion while reading it".to_owned();
        Some(Err(sled::Error::ReportableBug(what)))
    })
}

pub(crate) fn failed<E: fmt::Display>(step: &'static str) -> impl FnOnce(E) -> Failure {
    move |cause| Failure { step, cause: cause.to_string() }
}

/// As [`failed`], and says so where the log cannot recover it because the file itself is damaged.
pub(crate) fn failed_in_sled(step: &'static str) -> impl FnOnce(sled::Error) -> Failure {
    move |source| {
        let cause = if means_corruption(&source) {
            format!("{source}: the database file `db` is corrupt and this replica is lost")
        } else {
            source.to_string()
        };
        Failure { step, cause }
    }
}
