//! What the kernel asks, answered by a disk.
//!
//! Nothing is cached in the kernel: files are opened for direct IO and names are looked up anew each
//! time. So every write is here before its system call returns, and a power cut leaves nothing behind
//! there. `sync_file_range` finds no page to write, and is no sync. Locks the kernel keeps by itself.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, SystemTime};

use fuser::{
    BackgroundSession, BsdFileFlags, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags,
    Generation, INodeNo, LockOwner, MountOption, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData,
    ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs, ReplyWrite, Request, TimeOrNow,
    WriteFlags,
};

use crate::content::Content;
use crate::disk::{CAPACITY_BYTES, Disk, INODES_MAX};
use crate::tree::{Inode, Node};

/// How long the kernel may keep what it was told.
const TTL: Duration = Duration::ZERO;
const BLOCK_BYTES: u32 = 4096;
const GENERATION: Generation = Generation(0);

/// Mounts a disk over a folder. It serves until what is returned is dropped.
///
/// # Errors
/// Where the kernel or its rights do not allow it.
pub fn serve(disk: Arc<Mutex<Disk>>, mountpoint: &Path) -> io::Result<BackgroundSession> {
    let mut config = Config::default();
    config.mount_options = vec![MountOption::FSName("muster-faultdisk".into()), MountOption::NoAtime];
    fuser::spawn_mount(Fuse(disk), mountpoint, &config)
}

struct Fuse(Arc<Mutex<Disk>>);

impl Fuse {
    fn disk(&self) -> MutexGuard<'_, Disk> {
        lock(&self.0)
    }

    /// Answers at once, or after the delay of a slow disk, from a thread of its own: as many as
    /// threads wait for a sync.
    fn sync(&self, handle: FileHandle, reply: ReplyEmpty) {
        let disk = Arc::clone(&self.0);
        let delay = self.disk().sync_delay();
        let sync = move || {
            thread::sleep(delay.unwrap_or_default());
            let synced = lock(&disk).sync(handle.0);
            empty(synced, reply);
        };
        match delay {
            None => sync(),
            Some(_) => drop(thread::spawn(sync)),
        }
    }
}

fn lock(disk: &Mutex<Disk>) -> MutexGuard<'_, Disk> {
    disk.lock().unwrap_or_else(PoisonError::into_inner)
}

fn error(errno: nix::errno::Errno) -> Errno {
    Errno::from_i32(errno as i32)
}

fn empty(done: Result<(), nix::errno::Errno>, reply: ReplyEmpty) {
    match done {
        Ok(()) => reply.ok(),
        Err(errno) => reply.error(error(errno)),
    }
}

fn entry(made: Result<FileAttr, nix::errno::Errno>, reply: ReplyEntry) {
    match made {
        Ok(attr) => reply.entry(&TTL, &attr, GENERATION),
        Err(errno) => reply.error(error(errno)),
    }
}

fn attr(disk: &Disk, inode: u64) -> Result<FileAttr, nix::errno::Errno> {
    let found = disk.inode(inode)?;
    let (kind, size) = match &found.node {
        Node::File(content) => (FileType::RegularFile, content.len() as u64),
        Node::Directory(_) => (FileType::Directory, u64::from(BLOCK_BYTES)),
    };
    Ok(FileAttr {
        ino: INodeNo(inode),
        size,
        blocks: size.div_ceil(512),
        atime: found.modified,
        mtime: found.modified,
        ctime: found.modified,
        crtime: found.modified,
        kind,
        perm: found.mode,
        nlink: 1,
        uid: found.uid,
        gid: found.gid,
        rdev: 0,
        blksize: BLOCK_BYTES,
        flags: 0,
    })
}

impl Filesystem for Fuse {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let disk = self.disk();
        let found = disk.find(parent.0, name).and_then(|inode| attr(&disk, inode));
        entry(found, reply);
    }

    fn getattr(&self, _: &Request, inode: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match attr(&self.disk(), inode.0) {
            Ok(attr) => reply.attr(&TTL, &attr),
            Err(errno) => reply.error(error(errno)),
        }
    }

    fn setattr(
        &self,
        _: &Request,
        inode: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        _: Option<TimeOrNow>,
        modified: Option<TimeOrNow>,
        _: Option<SystemTime>,
        handle: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let mut disk = self.disk();
        let set = |disk: &mut Disk| {
            if let Some(size) = size {
                disk.resize(inode.0, handle.map(|handle| handle.0), size)?;
            }
            let found = disk.inode_mut(inode.0)?;
            if let Some(mode) = mode {
                found.mode = u16::try_from(mode & 0o7777).expect("twelve bits");
            }
            found.uid = uid.unwrap_or(found.uid);
            found.gid = gid.unwrap_or(found.gid);
            found.modified = match modified {
                Some(TimeOrNow::SpecificTime(time)) => time,
                Some(TimeOrNow::Now) => SystemTime::now(),
                None if size.is_some() => SystemTime::now(),
                None => found.modified,
            };
            attr(disk, inode.0)
        };
        match set(&mut disk) {
            Ok(attr) => reply.attr(&TTL, &attr),
            Err(errno) => reply.error(error(errno)),
        }
    }

    fn mkdir(&self, by: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, reply: ReplyEntry) {
        let mut disk = self.disk();
        let inode = Inode::new(Node::Directory(BTreeMap::new()), mode & !umask, by.uid(), by.gid());
        let made = disk.create(parent.0, name, inode);
        entry(made.and_then(|inode| attr(&disk, inode)), reply);
    }

    fn create(
        &self,
        by: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        _: i32,
        reply: ReplyCreate,
    ) {
        let mut disk = self.disk();
        let inode = Inode::new(Node::File(Content::default()), mode & !umask, by.uid(), by.gid());
        let made = disk.create(parent.0, name, inode);
        match made.and_then(|inode| Ok((attr(&disk, inode)?, disk.open(inode)?))) {
            Ok((attr, handle)) => {
                reply.created(&TTL, &attr, GENERATION, FileHandle(handle), FopenFlags::FOPEN_DIRECT_IO);
            }
            Err(errno) => reply.error(error(errno)),
        }
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        empty(self.disk().unlink(parent.0, name), reply);
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        empty(self.disk().remove_directory(parent.0, name), reply);
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        if !(flags - RenameFlags::RENAME_NOREPLACE).is_empty() {
            return reply.error(Errno::EINVAL);
        }
        let replace = flags.is_empty();
        empty(self.disk().rename((parent.0, name), (new_parent.0, new_name), replace), reply);
    }

    fn open(&self, _: &Request, inode: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        match self.disk().open(inode.0) {
            Ok(handle) => reply.opened(FileHandle(handle), FopenFlags::FOPEN_DIRECT_IO),
            Err(errno) => reply.error(error(errno)),
        }
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match self.disk().read(handle.0, offset, size) {
            Ok(data) => reply.data(data),
            Err(errno) => reply.error(error(errno)),
        }
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        match self.disk().write(handle.0, offset, data) {
            Ok(()) => reply.written(u32::try_from(data.len()).expect("a request is at most some MiB")),
            Err(errno) => reply.error(error(errno)),
        }
    }

    /// A close: no sync.
    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn release(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        self.disk().release(handle.0);
        reply.ok();
    }

    fn fsync(&self, _: &Request, _: INodeNo, handle: FileHandle, _: bool, reply: ReplyEmpty) {
        self.sync(handle, reply);
    }

    fn opendir(&self, _: &Request, inode: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        match self.disk().open(inode.0) {
            Ok(handle) => reply.opened(FileHandle(handle), FopenFlags::empty()),
            Err(errno) => reply.error(error(errno)),
        }
    }

    fn readdir(&self, _: &Request, inode: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let rows = match self.disk().list(inode.0) {
            Ok(rows) => rows,
            Err(errno) => return reply.error(error(errno)),
        };
        let rows = (1..).zip(rows).skip(usize::try_from(offset).unwrap_or(usize::MAX));
        for (next, (name, inode, directory)) in rows {
            let kind = if directory { FileType::Directory } else { FileType::RegularFile };
            if reply.add(INodeNo(inode), next, kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn releasedir(&self, _: &Request, _: INodeNo, handle: FileHandle, _: OpenFlags, reply: ReplyEmpty) {
        self.disk().release(handle.0);
        reply.ok();
    }

    fn fsyncdir(&self, _: &Request, _: INodeNo, handle: FileHandle, _: bool, reply: ReplyEmpty) {
        self.sync(handle, reply);
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        let disk = self.disk();
        let blocks = |bytes: usize| bytes as u64 / u64::from(BLOCK_BYTES);
        let free = if disk.is_full() { 0 } else { blocks(CAPACITY_BYTES.saturating_sub(disk.used_bytes())) };
        let files = INODES_MAX as u64;
        reply.statfs(blocks(CAPACITY_BYTES), free, free, files, files, BLOCK_BYTES, 255, BLOCK_BYTES);
    }
}
