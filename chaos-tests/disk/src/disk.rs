//! The whole disk: a tree of files with what may go wrong, in the words of system calls.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::time::Duration;

use nix::errno::Errno;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

use crate::content::Content;
use crate::control::{Command, Counters, Survivors};
use crate::tree::{Inode, Node, Tree};

/// A disk that would hold more is full: a test that needs more has gone astray.
pub const CAPACITY_BYTES: usize = 1 << 30;
/// Files and directories, those that are only remembered included.
pub const INODES_MAX: usize = 100_000;
/// Length of a file, holes included. The disk is all in memory.
const FILE_BYTES_MAX: usize = CAPACITY_BYTES;

type Answer<T> = Result<T, Errno>;

#[derive(Debug, Default)]
pub struct Disk {
    tree: Tree,
    handles: BTreeMap<u64, Handle>,
    next_handle: u64,
    full: Option<Full>,
    /// The power is cut after the next write.
    cut_at_write: Option<Survivors>,
    failing_syncs: u32,
    slow: Option<(u64, u64)>,
    counters: Counters,
}

#[derive(Clone, Copy, Debug)]
struct Full {
    overwrites: bool,
}

#[derive(Clone, Copy, Debug)]
struct Handle {
    inode: u64,
    /// How many cuts there had been when it was opened: it does not outlive the next one.
    cuts: u64,
}

impl Disk {
    pub fn obey(&mut self, command: &Command) -> Counters {
        match *command {
            Command::Cut { survivors } => self.cut(survivors),
            Command::CutAtWrite { survivors } => self.cut_at_write = Some(survivors),
            Command::Full { overwrites } => self.full = Some(Full { overwrites }),
            Command::SyncError { syncs } => self.failing_syncs = syncs,
            Command::Slow { sync_ms, jitter_ms } => self.slow = Some((sync_ms, jitter_ms)),
            Command::Heal => {
                (self.full, self.cut_at_write, self.failing_syncs, self.slow) = (None, None, 0, None);
            }
            Command::Counters => {}
        }
        let dirty = self.tree.files().map(Content::dirty_bytes).sum::<usize>();
        Counters { dirty_bytes: dirty as u64, ..self.counters }
    }

    pub fn inode(&self, inode: u64) -> Answer<&Inode> {
        self.tree.get(inode).ok_or(Errno::ESTALE)
    }

    pub fn inode_mut(&mut self, inode: u64) -> Answer<&mut Inode> {
        self.tree.get_mut(inode).ok_or(Errno::ESTALE)
    }

    pub fn find(&self, directory: u64, name: &OsStr) -> Answer<u64> {
        self.inode(directory)?;
        self.tree.find(directory, name).ok_or(Errno::ENOENT)
    }

    pub fn create(&mut self, directory: u64, name: &OsStr, inode: Inode) -> Answer<u64> {
        if self.find(directory, name).is_ok() {
            return Err(Errno::EEXIST);
        }
        if self.full.is_some() || self.tree.count() >= INODES_MAX {
            return Err(self.refuse());
        }
        Ok(self.tree.create(directory, name, inode))
    }

    pub fn unlink(&mut self, directory: u64, name: &OsStr) -> Answer<()> {
        let inode = self.find(directory, name)?;
        if self.tree.entries(inode).is_some() {
            return Err(Errno::EISDIR);
        }
        self.tree.unlink(directory, name);
        Ok(())
    }

    pub fn remove_directory(&mut self, directory: u64, name: &OsStr) -> Answer<()> {
        let inode = self.find(directory, name)?;
        let entries = self.tree.entries(inode).ok_or(Errno::ENOTDIR)?;
        if !entries.is_empty() {
            return Err(Errno::ENOTEMPTY);
        }
        self.tree.unlink(directory, name);
        Ok(())
    }

    pub fn rename(&mut self, from: (u64, &OsStr), to: (u64, &OsStr), replace: bool) -> Answer<()> {
        let moved = self.find(from.0, from.1)?;
        self.inode(to.0)?;
        match self.tree.find(to.0, to.1) {
            Some(there) if there == moved => return Ok(()),
            Some(_) if !replace => return Err(Errno::EEXIST),
            Some(there) if self.tree.entries(there).is_some_and(|entries| !entries.is_empty()) => {
                return Err(Errno::ENOTEMPTY);
            }
            _ => {}
        }
        self.tree.rename(from, to);
        Ok(())
    }

    /// The directory's entries in the order of their names, with whether each is a directory.
    pub fn list(&self, directory: u64) -> Answer<Vec<(OsString, u64, bool)>> {
        let entries = self.tree.entries(directory).ok_or(Errno::ENOTDIR)?;
        let row =
            |(name, inode): (&OsString, &u64)| (name.clone(), *inode, self.tree.entries(*inode).is_some());
        Ok(entries.iter().map(row).collect())
    }

    pub fn open(&mut self, inode: u64) -> Answer<u64> {
        self.inode(inode)?;
        self.next_handle += 1;
        self.handles.insert(self.next_handle, Handle { inode, cuts: self.counters.cuts });
        Ok(self.next_handle)
    }

    pub fn release(&mut self, handle: u64) {
        self.handles.remove(&handle);
        self.tree.collect(self.handles.values().map(|handle| handle.inode));
    }

    pub fn read(&mut self, handle: u64, offset: u64, most: u32) -> Answer<&[u8]> {
        let inode = self.opened(handle)?;
        let from = usize::try_from(offset).unwrap_or(usize::MAX);
        Ok(self.file(inode)?.read(from, most as usize))
    }

    pub fn write(&mut self, handle: u64, offset: u64, data: &[u8]) -> Answer<()> {
        let inode = self.opened(handle)?;
        let offset = usize::try_from(offset).map_err(|_| Errno::EFBIG)?;
        let end = offset.checked_add(data.len()).filter(|end| *end <= FILE_BYTES_MAX).ok_or(Errno::EFBIG)?;
        let grows = self.file(inode)?.would_grow(end);
        let full = self.full.is_some_and(|full| grows || full.overwrites);
        if full || (grows && self.used_bytes() + data.len() > CAPACITY_BYTES) {
            return Err(self.refuse());
        }
        self.counters.writes += 1;
        self.counters.written_bytes += data.len() as u64;
        self.file(inode)?.write(offset, data);
        if let Some(survivors) = self.cut_at_write.take() {
            self.cut(survivors);
        }
        Ok(())
    }

    /// By a handle where there is one, since a file may be resized by its name alone.
    pub fn resize(&mut self, inode: u64, handle: Option<u64>, len: u64) -> Answer<()> {
        if let Some(handle) = handle {
            self.opened(handle)?;
        }
        let len = usize::try_from(len).ok().filter(|len| *len <= FILE_BYTES_MAX).ok_or(Errno::EFBIG)?;
        self.file(inode)?.resize(len);
        Ok(())
    }

    /// How long the next sync takes. The caller waits, without holding up others.
    pub fn sync_delay(&mut self) -> Option<Duration> {
        let (sync_ms, jitter_ms) = self.slow?;
        self.counters.slowed_syncs += 1;
        // Only evenly spread, not secret: the count will do.
        let jitter_ms = if jitter_ms == 0 { 0 } else { self.counters.slowed_syncs * 7_919 % (jitter_ms + 1) };
        Some(Duration::from_millis(sync_ms + jitter_ms))
    }

    /// An fsync or fdatasync: what a file needs to be read back is the same.
    pub fn sync(&mut self, handle: u64) -> Answer<()> {
        let inode = self.opened(handle)?;
        let failed = self.failing_syncs > 0;
        self.failing_syncs = self.failing_syncs.saturating_sub(1);
        self.counters.failed_syncs += u64::from(failed);
        let full = self.full.is_some();
        match &mut self.inode_mut(inode)?.node {
            // A journal that cannot be written is tried again by nobody: what it held stays unsynced.
            Node::Directory(_) if failed => return Err(Errno::EIO),
            Node::Directory(_) => {
                self.tree.sync(inode);
                self.tree.collect(self.handles.values().map(|handle| handle.inode));
            }
            Node::File(content) if failed => {
                content.lose();
                return Err(Errno::EIO);
            }
            Node::File(content) if full && content.has_grown() => {
                content.lose();
                return Err(self.refuse());
            }
            Node::File(content) => content.sync(),
        }
        self.counters.syncs += 1;
        Ok(())
    }

    pub fn used_bytes(&self) -> usize {
        self.tree.files().map(Content::len).sum()
    }

    pub fn is_full(&self) -> bool {
        self.full.is_some()
    }

    fn cut(&mut self, survivors: Survivors) {
        self.cut_at_write = None;
        let mut dice = match survivors {
            Survivors::None => None,
            Survivors::Some { seed } => Some(ChaCha8Rng::seed_from_u64(seed)),
        };
        let unsynced = self.tree.unsynced();
        let keep = dice.as_mut().map_or(0, |dice| dice.next_u32() as usize % (unsynced + 1));
        self.tree.revert(keep);
        for content in self.tree.files_mut() {
            let loss = content.cut(dice.as_mut());
            self.counters.dropped_bytes += loss.dropped_bytes;
            self.counters.survived_bytes += loss.survived_bytes;
            self.counters.torn_writes += loss.torn;
        }
        self.counters.dropped_entries += (unsynced - keep) as u64;
        self.counters.cuts += 1;
        self.tree.collect(std::iter::empty());
    }

    /// What a handle stands for, unless the power was cut since.
    fn opened(&mut self, handle: u64) -> Answer<u64> {
        let found = self.handles.get(&handle).copied().ok_or(Errno::EBADF)?;
        if found.cuts != self.counters.cuts {
            self.counters.stale_requests += 1;
            return Err(Errno::EIO);
        }
        Ok(found.inode)
    }

    fn file(&mut self, inode: u64) -> Answer<&mut Content> {
        match &mut self.inode_mut(inode)?.node {
            Node::File(content) => Ok(content),
            Node::Directory(_) => Err(Errno::EISDIR),
        }
    }

    fn refuse(&mut self) -> Errno {
        self.counters.refused_full += 1;
        Errno::ENOSPC
    }
}
