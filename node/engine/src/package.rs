//! What a package is to an engine: a tar, plain or gzip, that some stranger has made. It is read as such.

use std::fs::{self, File};
use std::io::{self, BufReader, Read, Seek};
use std::path::{Component, Path};

use flate2::read::GzDecoder;
use tar::{Archive, EntryType};

/// The most entries of a folder: each costs an inode on every host.
pub const ENTRIES_MAX: usize = 100_000;
/// The most bytes of a package when it is unpacked: a gzip of a gigabyte may hold a terabyte of zeros.
pub const UNPACKED_BYTES_MAX: u64 = 8 << 30;

const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];

/// What is wrong with a package, or with the disk it is unpacked to.
#[derive(Debug, thiserror::Error)]
pub enum PackageError {
    #[error("it cannot be read or written")]
    Io(#[from] io::Error),
    #[error("`{path}` {problem}")]
    Refused { path: String, problem: &'static str },
    #[error("it has more than {max} {what}")]
    TooMuch { max: u64, what: &'static str },
    #[error("{0}")]
    Malformed(String),
}

/// The tar's bytes, whether it is compressed or not. It ends with an error beyond the most that a package may be.
pub(crate) fn open(path: &Path, bytes_max: u64) -> io::Result<Box<dyn Read + Send>> {
    let mut file = File::open(path)?;
    let mut magic = Vec::new();
    Read::by_ref(&mut file).take(GZIP_MAGIC.len() as u64).read_to_end(&mut magic)?;
    file.rewind()?;
    let file = BufReader::new(file);
    let plain: Box<dyn Read + Send> =
        if magic == GZIP_MAGIC { Box::new(GzDecoder::new(file)) } else { Box::new(file) };
    Ok(Box::new(Bounded { inner: plain, left: bytes_max }))
}

/// Fails, rather than ends, where there is too much: half a file must not pass for a whole one.
struct Bounded<R> {
    inner: R,
    left: u64,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(into)?;
        self.left = self
            .left
            .checked_sub(count as u64)
            .ok_or_else(|| io::Error::other("it is larger than a package may be when it is unpacked"))?;
        Ok(count)
    }
}

/// Unpacks the folder that the package at `from` is to the empty folder `to`. What is refused leaves a part of
/// it there, and nothing anywhere else.
pub fn unpack(from: &Path, to: &Path) -> Result<(), PackageError> {
    unpack_within(from, to, ENTRIES_MAX, UNPACKED_BYTES_MAX)
}

fn unpack_within(from: &Path, to: &Path, entries_max: usize, bytes_max: u64) -> Result<(), PackageError> {
    let mut archive = Archive::new(open(from, bytes_max)?);
    archive.set_preserve_mtime(false);
    archive.set_overwrite(false);
    let (mut links, mut bytes) = (Vec::new(), 0u64);
    for (count, entry) in archive.entries()?.enumerate() {
        if count >= entries_max {
            return Err(PackageError::TooMuch { max: entries_max as u64, what: "entries" });
        }
        let mut entry = entry?;
        bytes = bytes.saturating_add(entry.size());
        if bytes > bytes_max {
            return Err(PackageError::TooMuch { max: bytes_max, what: "bytes" });
        }
        let kind = entry.header().entry_type();
        if matches!(kind, EntryType::XGlobalHeader) {
            continue;
        }
        let path = entry.path()?.into_owned();
        let refuse = |problem| Err(PackageError::Refused { path: path.display().to_string(), problem });
        if !path.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir)) {
            return refuse("is not a path within the package");
        }
        match kind {
            EntryType::Regular | EntryType::Continuous | EntryType::Directory => {}
            EntryType::Symlink => links.push(path.clone()),
            EntryType::Link => {
                let target = entry.link_name()?.unwrap_or_default();
                if !target.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir)) {
                    return refuse("is a link out of the package");
                }
            }
            _ => return refuse("is neither a file nor a folder nor a link"),
        }
        // The library looks, once more and on the disk, that the parent is within the folder.
        if !entry.unpack_in(to)? {
            return refuse("is not a path within the package");
        }
    }
    // Only now is there what they lead to, through other links perhaps.
    let root = fs::canonicalize(to)?;
    for path in links {
        let led = fs::canonicalize(to.join(&path));
        if !led.is_ok_and(|led| led.starts_with(&root)) {
            let problem = "is a link to nowhere or out of the package";
            return Err(PackageError::Refused { path: path.display().to_string(), problem });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;
    use tar::{Builder, Header};

    use super::*;

    /// One entry of a tar; its name is written as it is, whatever the library thinks of it.
    fn add(tar: &mut Builder<Vec<u8>>, name: &str, kind: EntryType, link: &str, content: &[u8]) {
        let mut header = Header::new_gnu();
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_entry_type(kind);
        header.set_mode(0o6755);
        header.set_size(content.len() as u64);
        header.set_cksum();
        tar.append(&header, content).unwrap();
    }

    type Row<'a> = (&'a str, EntryType, &'a str, &'a [u8]);

    fn unpacked(
        rows: &[Row<'_>],
        gzip: bool,
        entries: usize,
        bytes: u64,
    ) -> (tempfile::TempDir, Result<(), String>) {
        let mut tar = Builder::new(Vec::new());
        for (name, kind, link, content) in rows {
            add(&mut tar, name, *kind, link, content);
        }
        let mut packed = tar.into_inner().unwrap();
        if gzip {
            let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
            encoder.write_all(&packed).unwrap();
            packed = encoder.finish().unwrap();
        }
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("package"), packed).unwrap();
        fs::create_dir(dir.path().join("to")).unwrap();
        let result = unpack_within(&dir.path().join("package"), &dir.path().join("to"), entries, bytes);
        let result = result.map_err(|error| match std::error::Error::source(&error) {
            Some(source) => format!("{error}: {source}"),
            None => error.to_string(),
        });
        (dir, result)
    }

    #[test]
    fn a_folder_comes_out_as_it_went_in() {
        use EntryType as E;
        let rows: &[Row<'_>] = &[
            ("bin/", E::Directory, "", b""),
            ("bin/serve", E::Regular, "", b"program"),
            ("lib/x", E::Regular, "", b"x"),
            ("bin/x", E::Symlink, "../lib/x", b""),
            ("early", E::Symlink, "late", b""),
            ("late", E::Link, "lib/x", b""),
        ];
        for gzip in [false, true] {
            let (dir, result) = unpacked(rows, gzip, 10, 1 << 20);
            assert_eq!(result, Ok(()));
            let read = |name: &str| fs::read_to_string(dir.path().join("to").join(name)).unwrap();
            assert_eq!([read("bin/serve"), read("bin/x"), read("early")], ["program", "x", "x"]);
            use std::os::unix::fs::PermissionsExt;
            let mode = fs::metadata(dir.path().join("to/bin/serve")).unwrap().permissions().mode();
            assert_eq!(mode & 0o7111, 0o111, "it may be run, and as nobody else");
        }
    }

    #[test]
    fn hostile_packages_are_refused_and_touch_nothing_outside() {
        use EntryType as E;
        let rows: &[(&str, &[Row<'_>])] = &[
            ("`/etc/x`", &[("/etc/x", E::Regular, "", b"x")]),
            ("`../out`", &[("../out", E::Regular, "", b"x")]),
            ("`a/../../out`", &[("a/../../out", E::Regular, "", b"x")]),
            ("`l`", &[("l", E::Symlink, "/etc/passwd", b"")]),
            ("`l`", &[("l", E::Symlink, "../package", b"")]),
            ("`l`", &[("l", E::Symlink, "nowhere", b"")]),
            ("read or written", &[("l", E::Symlink, "..", b""), ("l/out", E::Regular, "", b"x")]),
            ("`h`", &[("h", E::Link, "../package", b"")]),
            ("`h`", &[("h", E::Link, "/etc/passwd", b"")]),
            ("read or written", &[("l", E::Symlink, "../package", b""), ("h", E::Link, "l", b"")]),
            ("`a/b/m`", &[("a/b/l", E::Symlink, "../..", b""), ("a/b/m", E::Symlink, "l/../package", b"")]),
            ("`d`", &[("d", E::Char, "", b"")]),
            ("`d`", &[("d", E::Block, "", b"")]),
            ("`f`", &[("f", E::Fifo, "", b"")]),
            (
                "2 entries",
                &[("a", E::Regular, "", b""), ("b", E::Regular, "", b""), ("c", E::Regular, "", b"")],
            ),
            ("32768 bytes", &[("zeros", E::Regular, "", &[0; 1 << 16])]),
        ];
        for (named, rows) in rows {
            let (dir, result) = unpacked(rows, true, 2, 1 << 15);
            let refused = result.unwrap_err();
            assert!(refused.contains(named), "{named}: {refused}");
            let mut left: Vec<_> =
                fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
            left.sort();
            assert_eq!(left, ["package", "to"], "{named}");
        }
    }

    #[test]
    fn what_is_no_archive_or_half_of_one_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("to")).unwrap();
        let package = dir.path().join("package");
        let mut tar = Builder::new(Vec::new());
        add(&mut tar, "a", EntryType::Regular, "", &[7; 4096]);
        let whole = tar.into_inner().unwrap();
        for content in
            [&b"no archive at all, but long enough to be looked at"[..], &whole[..2000], b"\x1f\x8b"]
        {
            fs::write(&package, content).unwrap();
            unpack(&package, &dir.path().join("to")).unwrap_err();
        }
    }
}
