//! A mounted disk, seen through system calls.

#![expect(clippy::unwrap_used, reason = "a test ends where what it relies on does not hold")]

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command as Process;
use std::time::{Duration, Instant};

use muster_faultdisk::{Command, Mount, Survivors, missing};
use nix::errno::Errno;
use tempfile::TempDir;

const CUT: Command = Command::Cut { survivors: Survivors::None };

/// A disk, and a folder that outlives it; none where none can be mounted.
fn mounted() -> Option<(Mount, TempDir)> {
    if let Some(why) = missing() {
        eprintln!("skipped: {why}");
        return None;
    }
    let dir = TempDir::new().unwrap();
    let program = Path::new(env!("CARGO_BIN_EXE_muster-faultdisk"));
    let mount = Mount::start(program, &dir.path().join("disk")).unwrap();
    Some((mount, dir))
}

fn sync(path: &Path) {
    File::open(path).unwrap().sync_all().unwrap();
}

fn errno<T>(failed: io::Result<T>) -> Option<Errno> {
    failed.err().and_then(|error| error.raw_os_error()).map(Errno::from_raw)
}

/// A file whose entry is durable.
fn file(mount: &Mount, name: &str) -> (File, PathBuf) {
    let path = mount.point().join(name);
    let file = OpenOptions::new().create_new(true).read(true).write(true).open(&path).unwrap();
    sync(mount.point());
    (file, path)
}

#[test]
fn a_cut_loses_what_was_only_written() {
    let Some((mount, _dir)) = mounted() else { return };
    let (kept, kept_path) = file(&mount, "kept");
    kept.write_all_at(b"synced", 0).unwrap();
    kept.sync_data().unwrap();
    kept.write_all_at(b"XX", 2).unwrap();
    let (lost, lost_path) = file(&mount, "lost");
    lost.write_all_at(&[1; 100_000], 0).unwrap();
    drop(lost);
    assert_eq!(fs::read(&lost_path).unwrap().len(), 100_000, "a program sees what it wrote");

    let counters = mount.tell(&CUT).unwrap();
    assert_eq!((counters.dropped_bytes, counters.dropped_entries), (100_002, 0));
    assert_eq!(errno(kept.read_at(&mut [0], 0)), Some(Errno::EIO), "an open file does not outlive the cut");
    assert_eq!(errno(kept.sync_data()), Some(Errno::EIO));
    assert_eq!(fs::read(&kept_path).unwrap(), b"synced");
    assert_eq!(fs::read(&lost_path).unwrap(), b"");
}

#[test]
fn a_cut_at_the_next_write_finds_it_unsynced() {
    let Some((mount, _dir)) = mounted() else { return };
    let (file, path) = file(&mount, "file");
    let armed = mount.tell(&Command::CutAtWrite { survivors: Survivors::None }).unwrap();
    assert_eq!(armed.cuts, 0);
    file.write_all_at(b"too late", 0).unwrap();
    assert_eq!(errno(file.sync_all()), Some(Errno::EIO));
    let counters = mount.tell(&Command::Counters).unwrap();
    assert_eq!((counters.cuts, counters.dropped_bytes), (1, 8));
    assert_eq!(fs::read(&path).unwrap(), b"");
}

#[test]
fn neither_a_close_nor_a_range_sync_is_a_sync() {
    let Some((mount, _dir)) = mounted() else { return };
    let (ranged, path) = file(&mount, "ranged");
    ranged.write_all_at(b"written back at most", 0).unwrap();
    // util-linux and coreutils have no program for it, and it takes `unsafe` to call: Python does.
    let call = format!(
        "import ctypes, os; fd = os.open('{}', os.O_RDWR); \
         raise SystemExit(ctypes.CDLL(None).sync_file_range(fd, ctypes.c_long(0), ctypes.c_long(0), 7))",
        path.display()
    );
    match Process::new("python3").args(["-c", &call]).status() {
        Ok(status) => assert!(status.success(), "sync_file_range failed"),
        Err(error) => eprintln!("skipped in part: no python3: {error}"),
    }
    assert!(ranged.as_raw_fd() > 2);
    drop(ranged);
    assert_eq!(mount.tell(&Command::Counters).unwrap().dirty_bytes, 20);
    mount.tell(&CUT).unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"");
}

#[test]
fn directory_changes_need_a_sync_of_the_directory() {
    let Some((mount, _dir)) = mounted() else { return };
    let at = |name: &str| mount.point().join(name);
    let (whole, _) = file(&mount, "whole");
    whole.write_all_at(b"old", 0).unwrap();
    whole.sync_all().unwrap();
    let write_new = || {
        fs::write(at("partial"), b"new").unwrap();
        sync(&at("partial"));
        fs::rename(at("partial"), at("whole")).unwrap();
        assert_eq!(fs::read(at("whole")).unwrap(), b"new");
    };
    write_new();
    assert_eq!(mount.tell(&CUT).unwrap().dropped_entries, 2);
    assert_eq!(fs::read(at("whole")).unwrap(), b"old");
    assert!(!at("partial").exists());

    write_new();
    sync(mount.point());
    mount.tell(&CUT).unwrap();
    assert_eq!(fs::read(at("whole")).unwrap(), b"new");

    fs::create_dir(at("folder")).unwrap();
    fs::write(at("folder/file"), b"").unwrap();
    assert_eq!(errno(fs::remove_dir(at("folder"))), Some(Errno::ENOTEMPTY));
    fs::remove_file(at("whole")).unwrap();
    mount.tell(&CUT).unwrap();
    assert!(!at("folder").exists() && at("whole").exists());
}

#[test]
fn survivors_follow_from_a_seed() {
    let Some((mount, _dir)) = mounted() else { return };
    let cut = |name: &str, seed: u64| {
        let (file, path) = file(&mount, name);
        file.write_all_at(&[1; 8_192], 0).unwrap();
        file.sync_data().unwrap();
        for part in 0..8 {
            file.write_all_at(&[2; 1_024], part * 1_024).unwrap();
        }
        mount.tell(&Command::Cut { survivors: Survivors::Some { seed } }).unwrap();
        let bytes = fs::read(&path).unwrap();
        fs::remove_file(&path).unwrap();
        sync(mount.point());
        bytes
    };
    let first = cut("a", 3);
    assert!(first.contains(&1) && first.contains(&2), "some survives, some does not");
    assert!(first.chunks(512).all(|sector| sector.iter().all(|byte| *byte == sector[0])));
    assert_eq!(first, cut("b", 3));
    assert_ne!(first, cut("c", 4));
}

#[test]
fn a_full_disk_refuses_what_grows_until_it_is_healed() {
    let Some((mount, _dir)) = mounted() else { return };
    let (early, path) = file(&mount, "early");
    early.write_all_at(b"0123456789", 0).unwrap();
    early.sync_all().unwrap();
    let (late, _) = file(&mount, "late");
    late.write_all_at(b"not yet on disk", 0).unwrap();

    mount.tell(&Command::Full { overwrites: false }).unwrap();
    assert_eq!(errno(early.write_at(b"more", 10)), Some(Errno::ENOSPC));
    assert_eq!(errno(File::create(mount.point().join("new"))), Some(Errno::ENOSPC));
    early.write_all_at(b"over", 0).unwrap();
    early.sync_all().unwrap();
    assert_eq!(errno(late.sync_all()), Some(Errno::ENOSPC), "room is only taken when it is written back");

    mount.tell(&Command::Full { overwrites: true }).unwrap();
    assert_eq!(errno(early.write_at(b"OVER", 0)), Some(Errno::ENOSPC));

    let counters = mount.tell(&Command::Heal).unwrap();
    assert_eq!(counters.refused_full, 4);
    early.write_all_at(b"more", 10).unwrap();
    early.sync_all().unwrap();
    mount.tell(&CUT).unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"over456789more");
}

#[test]
fn a_failed_sync_loses_its_data_and_the_next_one_succeeds_without_it() {
    let Some((mount, _dir)) = mounted() else { return };
    let (file, path) = file(&mount, "file");
    file.write_all_at(b"gone", 0).unwrap();
    mount.tell(&Command::SyncError { syncs: 1 }).unwrap();
    assert_eq!(errno(file.sync_data()), Some(Errno::EIO));
    let mut seen = String::new();
    File::open(&path).unwrap().read_to_string(&mut seen).unwrap();
    assert_eq!(seen, "gone", "it is still in the page cache");
    file.sync_data().unwrap();
    let counters = mount.tell(&CUT).unwrap();
    assert_eq!((counters.failed_syncs, counters.dropped_bytes), (1, 0));
    assert_eq!(fs::read(&path).unwrap(), b"", "who retries believes what is not so");
}

#[test]
fn slow_syncs_hold_up_nothing_else() {
    let Some((mount, _dir)) = mounted() else { return };
    let (file, _) = file(&mount, "file");
    let (other, _) = self::file(&mount, "other");
    file.write_all_at(b"x", 0).unwrap();
    mount.tell(&Command::Slow { sync_ms: 3_000, jitter_ms: 0 }).unwrap();
    let began = Instant::now();
    std::thread::scope(|scope| {
        let syncing = scope.spawn(|| file.sync_data().unwrap());
        while mount.tell(&Command::Counters).unwrap().slowed_syncs == 0 {
            std::thread::yield_now();
        }
        other.write_all_at(b"meanwhile", 0).unwrap();
        assert!(!syncing.is_finished(), "the write was as fast as ever");
    });
    assert!(began.elapsed() >= Duration::from_millis(3_000));
    assert_eq!(mount.tell(&Command::Heal).unwrap().slowed_syncs, 1);
    file.sync_data().unwrap();
}

#[test]
fn nothing_is_mounted_once_it_is_dropped_though_a_file_is_open() {
    let Some((mount, dir)) = mounted() else { return };
    let (_open, _) = file(&mount, "file");
    let point = mount.point().to_owned();
    drop(mount);
    assert!(fs::read_dir(&point).unwrap().next().is_none(), "the folder beneath is empty");
    let mounts = fs::read_to_string("/proc/mounts").unwrap();
    assert!(!mounts.contains(dir.path().to_str().unwrap()));
}
