//! The packages on this node's disk, one file each. What has a package's name is whole and has its digest;
//! everything else is removed at start.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use muster_core::ids::PackageDigest;
use sha2::{Digest, Sha256};

use crate::random;

const WHOLE: &str = ".package";
const PARTIAL: &str = ".partial";

/// A clone is a handle to the same.
#[derive(Clone, Debug)]
pub(crate) struct Files(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    dir: PathBuf,
    /// Packages that must stay, whatever the cluster knows of them: they are being stored or read.
    held: Mutex<BTreeMap<PackageDigest, usize>>,
}

impl Files {
    /// Opens the folder, makes it if need be, and removes what a crash has left.
    pub(crate) fn open(dir: PathBuf) -> io::Result<Self> {
        fs::create_dir_all(&dir)?;
        for entry in fs::read_dir(&dir)? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().ends_with(PARTIAL) {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(Files(Arc::new(Inner { dir, held: Mutex::default() })))
    }

    pub(crate) fn path(&self, package: PackageDigest) -> PathBuf {
        self.0.dir.join(format!("{}{WHOLE}", package.hex()))
    }

    pub(crate) fn has(&self, package: PackageDigest) -> bool {
        self.path(package).is_file()
    }

    /// The packages that are here.
    pub(crate) fn list(&self) -> io::Result<Vec<PackageDigest>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.0.dir)? {
            let name = entry?.file_name();
            let digits = name.to_str().and_then(|name| name.strip_suffix(WHOLE));
            found.extend(digits.and_then(PackageDigest::from_hex));
        }
        Ok(found)
    }

    /// Keeps a package from being removed while the value lives.
    pub(crate) fn hold(&self, package: PackageDigest) -> Held {
        *self.held().entry(package).or_default() += 1;
        Held { files: self.clone(), package }
    }

    /// Whether it is gone; it stays while someone holds it.
    pub(crate) fn remove(&self, package: PackageDigest) -> io::Result<bool> {
        let held = self.held();
        if held.contains_key(&package) {
            return Ok(false);
        }
        match fs::remove_file(self.path(package)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(true),
        }
    }

    /// Begins a file that is to be `package`.
    pub(crate) fn begin(&self, package: PackageDigest) -> io::Result<Arrival> {
        let path = self.0.dir.join(format!("{}.{:016x}{PARTIAL}", package.hex(), random::id()));
        let file = File::create_new(&path)?;
        let held = self.hold(package);
        Ok(Arrival { files: self.clone(), package, path, file, hash: Sha256::new(), bytes: 0, held })
    }

    fn held(&self) -> MutexGuard<'_, BTreeMap<PackageDigest, usize>> {
        self.0.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug)]
pub(crate) struct Held {
    files: Files,
    package: PackageDigest,
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut held = self.files.held();
        if let Some(count) = held.get_mut(&self.package) {
            *count -= 1;
            if *count == 0 {
                held.remove(&self.package);
            }
        }
    }
}

/// What came is another file than was announced.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unfit {
    #[error("the file's digest is `{found}`, not `{wanted}`")]
    Digest { wanted: PackageDigest, found: PackageDigest },
    #[error("the package cannot be written")]
    Io(#[from] io::Error),
}

/// A package on its way. Dropped before its end, it leaves nothing.
#[derive(Debug)]
pub(crate) struct Arrival {
    files: Files,
    package: PackageDigest,
    path: PathBuf,
    file: File,
    hash: Sha256,
    bytes: u64,
    held: Held,
}

impl Arrival {
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        self.hash.update(bytes);
        self.bytes += bytes.len() as u64;
        Ok(())
    }

    /// Checks the digest, syncs, and gives the file its name.
    pub(crate) fn finish(self) -> Result<Held, Unfit> {
        let found = PackageDigest(self.hash.clone().finalize().into());
        if found != self.package {
            return Err(Unfit::Digest { wanted: self.package, found });
        }
        self.file.sync_all()?;
        fs::rename(&self.path, self.files.path(self.package))?;
        sync_folder(&self.files.0.dir)?;
        Ok(self.files.hold(self.package))
    }
}

impl Drop for Arrival {
    fn drop(&mut self) {
        // After a success there is nothing of this name.
        let _gone = fs::remove_file(&self.path);
        let _ = &self.held;
    }
}

fn sync_folder(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest_of(bytes: &[u8]) -> PackageDigest {
        PackageDigest(Sha256::digest(bytes).into())
    }

    #[test]
    fn a_package_is_there_once_it_is_whole_and_not_before() {
        let dir = tempfile::tempdir().unwrap();
        let files = Files::open(dir.path().into()).unwrap();
        let package = digest_of(b"hello");
        let mut arrival = files.begin(package).unwrap();
        arrival.write(b"hel").unwrap();
        assert!(!files.has(package) && files.list().unwrap().is_empty());
        arrival.write(b"lo").unwrap();
        assert_eq!(arrival.bytes(), 5);
        let held = arrival.finish().unwrap();
        assert_eq!(files.list().unwrap(), [package]);
        assert_eq!(fs::read(files.path(package)).unwrap(), b"hello");
        assert!(!files.remove(package).unwrap(), "it is held");
        drop(held);
        assert!(files.remove(package).unwrap() && !files.has(package));
        assert!(files.remove(package).unwrap(), "again");
    }

    #[test]
    fn what_is_another_file_or_half_of_one_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let files = Files::open(dir.path().into()).unwrap();
        let package = digest_of(b"hello");
        for content in [&b"hell"[..], b"hello!", b""] {
            let mut arrival = files.begin(package).unwrap();
            arrival.write(content).unwrap();
            let refused = arrival.finish().unwrap_err().to_string();
            let found = digest_of(content);
            assert!(
                refused.contains(&package.to_string()) && refused.contains(&found.to_string()),
                "{refused}"
            );
        }
        drop(files.begin(package).unwrap());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_a_crash_has_left_is_removed_at_start() {
        let dir = tempfile::tempdir().unwrap();
        let files = Files::open(dir.path().into()).unwrap();
        let package = digest_of(b"hello");
        let mut arrival = files.begin(package).unwrap();
        arrival.write(b"hello").unwrap();
        drop(arrival.finish().unwrap());
        let mut cut_off = files.begin(digest_of(b"other")).unwrap();
        cut_off.write(b"oth").unwrap();
        // As a crash does: nothing is cleaned up.
        std::mem::forget(cut_off);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
        let files = Files::open(dir.path().into()).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        assert_eq!(files.list().unwrap(), [package]);
    }
}
