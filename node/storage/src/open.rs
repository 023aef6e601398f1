//! Opening the directory: what must hold before sled may open it, and before anything may rest on it.
//!
//! | file | whose | what |
//! |---|---|---|
//! | `lock` | ours | held for as long as the store is open |
//! | `format` | ours | the version of the store's format, written once the first open is durable |
//! | `witness` | ours | what the database must still have |
//! | `restoring` | ours | there while a restore fills the directory |
//! | `db`, `conf`, `snap.*`, `blobs/` | sled's | the database |

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::codec;
use crate::database::Database;
use crate::durability::{Change, SyncPolicy};
use crate::error::StoreError;
use crate::keys::{self, Kind};
use crate::witness::Witness;

/// The version of the key layout and of how records lie under it. A record's own format is its
/// first byte. History:
/// * 1, 2026-11: the first;
/// * 2, 2026-11: records are sealed, rounds are numbered, and there is a file `witness`.
pub(crate) const FORMAT: u32 = 2;
const FORMAT_WITHOUT_WITNESS: u32 = 1;

/// Format of the record that holds [`FORMAT`]. History: 1, 2026-11: the number.
pub(crate) const RECORD_FORMAT: u8 = 1;

/// There for as long as a restore is under way.
const FILLING: &str = "restoring";

const FORMAT_PREFIX: &str = "muster-storage ";

/// How long a database that was just closed in this process may keep sled's file lock: sled only
/// closes the file, on a thread of its own, and a child being forked has a copy of it.
const LOCK_PATIENCE: Duration = Duration::from_secs(5);

/// Read and written at a time as the database file is [written again](write_again).
const REWRITE_BYTES: usize = 1 << 20;

/// What an opened directory consists of.
pub(crate) struct Opened {
    pub(crate) db: Database,
    pub(crate) witness: Witness,
    pub(crate) lock: Lock,
}

/// Keeps the directory to this store.
pub(crate) struct Lock(File);

impl Drop for Lock {
    /// Unlocks, rather than only closing: between fork and exec every child has a copy of the handle,
    /// which would keep the lock.
    fn drop(&mut self) {
        if let Err(error) = self.0.unlock() {
            tracing::warn!(%error, "cannot unlock the store's directory; closing the file will");
        }
    }
}

/// Opens the directory, creating it if need be. Once it returns, the directory's entries and sled's
/// own files are durable.
pub(crate) fn open(dir: &Path, cache_bytes: u64, sync_policy: SyncPolicy) -> Result<Opened, StoreError> {
    if dir.join(FILLING).exists() {
        return Err(StoreError::Incomplete { dir: dir.to_owned() });
    }
    open_marked(dir, cache_bytes, sync_policy)
}

/// Marks an empty directory, creating it if need be, as one that is being filled.
pub(crate) fn mark_as_filling(dir: &Path) -> Result<(), StoreError> {
    create_dir(dir)?;
    for entry in fs::read_dir(dir).map_err(io_error("list", dir))? {
        let name = entry.map_err(io_error("list", dir))?.file_name();
        // A file system of its own has it.
        if name != "lost+found" {
            let found = name.to_string_lossy().into_owned();
            return Err(StoreError::NotEmpty { dir: dir.to_owned(), found });
        }
    }
    let mark = dir.join(FILLING);
    File::create_new(&mark).map_err(io_error("create", &mark))?;
    sync(dir)
}

pub(crate) fn unmark_as_filling(dir: &Path) -> Result<(), StoreError> {
    remove(&dir.join(FILLING))?;
    sync(dir)
}

/// As [`open`], whether it is marked as being filled or not.
pub(crate) fn open_marked(
    dir: &Path,
    cache_bytes: u64,
    sync_policy: SyncPolicy,
) -> Result<Opened, StoreError> {
    let created = create_dir(dir)?;
    let lock = lock(dir)?;
    let format = read_format(dir)?;
    check_database_file(dir, format)?;
    remove_partial_files(dir)?;
    write_again(&dir.join("db"))?;
    let db = open_sled(dir, cache_bytes)?;
    let path = dir.join("db");
    let file = OpenOptions::new().read(true).write(true).open(&path).map_err(io_error("open", &path))?;
    let database = Database::Sled { db: db.clone(), file: Arc::new(file), sync: sync_policy };
    match (format, stored_format(&database, dir)?) {
        (Some(FORMAT), Some(FORMAT)) => {}
        (None, None) if db.is_empty() => store_format(&db, dir)?,
        // A crash came in between.
        (None, Some(FORMAT | FORMAT_WITHOUT_WITNESS)) if db.len() == 1 => store_format(&db, dir)?,
        (Some(FORMAT_WITHOUT_WITNESS), Some(FORMAT | FORMAT_WITHOUT_WITNESS)) => store_format(&db, dir)?,
        // sled starts an empty database when it recognizes nothing in its file.
        (Some(_), None) => return Err(corrupt(dir, "its database is empty, and was not".into())),
        (None, _) => return Err(corrupt(dir, "it holds records, and its `format` file is missing".into())),
        (Some(written), Some(stored)) => {
            return Err(corrupt(dir, format!("its `format` file says {written}, its database {stored}")));
        }
    }
    let witness = Witness::open(dir, &database)?;
    for path in [&path, &dir.join("conf"), &dir.join("blobs"), dir] {
        sync(path)?;
    }
    for child in created {
        if let Some(parent) = child.parent() {
            sync(if parent.as_os_str().is_empty() { Path::new(".") } else { parent })?;
        }
    }
    Ok(Opened { db: database, witness, lock })
}

/// Creates the directory for its owner alone, and returns what was created, the directory first.
fn create_dir(dir: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let missing: Vec<PathBuf> = dir
        .ancestors()
        .take_while(|path| !path.as_os_str().is_empty() && !path.exists())
        .map(Path::to_owned)
        .collect();
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(io_error("create", dir))?;
    Ok(missing)
}

fn lock(dir: &Path) -> Result<Lock, StoreError> {
    let path = dir.join("lock");
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(&path)
        .map_err(io_error("open", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(Lock(file)),
        Err(TryLockError::WouldBlock) => Err(StoreError::InUse { dir: dir.to_owned() }),
        Err(TryLockError::Error(source)) => Err(StoreError::Io { action: "lock", path, source }),
    }
}

/// The store's format; none if it was never opened to the end.
fn read_format(dir: &Path) -> Result<Option<u32>, StoreError> {
    let file = dir.join("format");
    let text = match fs::read(&file) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(StoreError::Io { action: "read", path: file, source }),
    };
    let version = text.strip_prefix(FORMAT_PREFIX).and_then(|rest| rest.trim_end().parse().ok());
    match version {
        Some(found) if found > FORMAT => Err(StoreError::NewerFormat { file, found, supported: FORMAT }),
        Some(found) => Ok(Some(found)),
        None => Err(corrupt(dir, format!("its `format` file reads {text:?}"))),
    }
}

/// The format as the database has it: its first record, stored before any other.
fn stored_format(db: &Database, dir: &Path) -> Result<Option<u32>, StoreError> {
    let record = keys::get(db, dir, Kind::Format, 0)?;
    record.map(|record| keys::decode(dir, "the format", &[RECORD_FORMAT], &record)).transpose()
}

/// Stores the format, first in the database and then beside it. The only write that the durability
/// thread does not make: it does not run yet.
fn store_format(db: &sled::Db, dir: &Path) -> Result<(), StoreError> {
    Witness::create(dir)?;
    let failed = |source| StoreError::Open { dir: dir.to_owned(), source };
    let record = codec::encode(RECORD_FORMAT, &FORMAT)
        .map_err(|source| StoreError::Encode { what: "the format", source })?;
    for change in keys::put(Kind::Format, 0, &record) {
        if let Change::Put { key, value } = change {
            db.insert(key, value).map_err(failed)?;
        }
    }
    db.flush().map_err(failed)?;
    write_format(dir)
}

fn write_format(dir: &Path) -> Result<(), StoreError> {
    let partial = dir.join("format.partial");
    let mut file = File::create(&partial).map_err(io_error("create", &partial))?;
    file.write_all(format!("{FORMAT_PREFIX}{FORMAT}\n").as_bytes()).map_err(io_error("write", &partial))?;
    file.sync_all().map_err(io_error("sync", &partial))?;
    // What the file vouches for must be durable before the file is.
    for path in [&dir.join("db"), &dir.join("conf"), dir] {
        sync(path)?;
    }
    fs::rename(&partial, dir.join("format")).map_err(io_error("rename", &partial))
}

/// A store that was once opened must still have its database: sled would start an empty one in its
/// place, and this node would vote again in terms it has voted in. One that was not may have a
/// half-written `conf`, which sled would not read.
fn check_database_file(dir: &Path, format: Option<u32>) -> Result<(), StoreError> {
    let bytes = fs::metadata(dir.join("db")).map_or(0, |metadata| metadata.len());
    if bytes > 0 {
        return Ok(());
    }
    if format.is_some() {
        return Err(corrupt(dir, "its database file `db` is missing or empty".into()));
    }
    remove(&dir.join("conf"))
}

/// Writes what the file reads as once more, and syncs it. After a failed sync Linux keeps the pages,
/// calls them clean and never writes them: this process would recover what is on no disk, and a power
/// cut would then take it away from beneath all that was acknowledged since.
fn write_again(path: &Path) -> Result<(), StoreError> {
    let file = match OpenOptions::new().read(true).write(true).open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        opened => opened.map_err(io_error("open", path))?,
    };
    let (mut chunk, mut offset) = (vec![0; REWRITE_BYTES], 0);
    loop {
        let bytes = file.read_at(&mut chunk, offset).map_err(io_error("read", path))?;
        if bytes == 0 {
            break;
        }
        file.write_all_at(&chunk[..bytes], offset).map_err(io_error("write", path))?;
        offset += bytes as u64;
    }
    file.sync_data().map_err(io_error("sync", path))
}

/// Removes what a crash during an earlier open left half-written. sled takes `snap.*.generating` for
/// a finished file and fails on it.
fn remove_partial_files(dir: &Path) -> Result<(), StoreError> {
    for entry in fs::read_dir(dir).map_err(io_error("list", dir))? {
        let path = entry.map_err(io_error("list", dir))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let half_snapshot =
            name.starts_with("snap.") && (name.ends_with(".generating") || name.ends_with(".in___motion"));
        if half_snapshot || name == "format.partial" {
            tracing::warn!(file = %path.display(), "removing a file that a crash left half-written");
            remove(&path)?;
        }
    }
    Ok(())
}

fn remove(path: &Path) -> Result<(), StoreError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_error("remove", path)(error)),
        _ => Ok(()),
    }
}

fn open_sled(dir: &Path, cache_bytes: u64) -> Result<sled::Db, StoreError> {
    let deadline = Instant::now() + LOCK_PATIENCE;
    loop {
        let config = sled::Config::new().path(dir).cache_capacity(cache_bytes).flush_every_ms(None);
        // sled asserts some of what it reads; a failed assertion is corruption too.
        let source = match catch_unwind(AssertUnwindSafe(|| config.open())) {
            Ok(Ok(db)) => return Ok(db),
            Ok(Err(source)) => source,
            Err(_) => return Err(corrupt(dir, "sled failed an assertion while opening it".into())),
        };
        match &source {
            sled::Error::Io(error) if error.to_string().contains("could not acquire lock") => {
                if Instant::now() >= deadline {
                    return Err(StoreError::InUse { dir: dir.to_owned() });
                }
                std::thread::sleep(Duration::from_millis(5));
            }
            sled::Error::Corruption { .. }
            | sled::Error::ReportableBug(_)
            // Its `conf` speaks of what this store never was.
            | sled::Error::Unsupported(_)
            | sled::Error::CollectionNotFound(_) => {
                return Err(corrupt(dir, source.to_string()));
            }
            sled::Error::Io(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                return Err(corrupt(dir, source.to_string()));
            }
            _ => return Err(StoreError::Open { dir: dir.to_owned(), source }),
        }
    }
}

/// Makes a file's contents durable, or a directory's entries.
fn sync(path: &Path) -> Result<(), StoreError> {
    File::open(path).and_then(|file| file.sync_all()).map_err(io_error("sync", path))
}

fn io_error<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> StoreError + 'a {
    move |source| StoreError::Io { action, path: path.to_owned(), source }
}

fn corrupt(dir: &Path, what: String) -> StoreError {
    StoreError::Corrupt { dir: dir.to_owned(), what }
}
