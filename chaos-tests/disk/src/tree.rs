//! Directories and inodes, and a journal of the directory changes that are not durable yet.
//!
//! As in a journaling file system, directory changes reach the medium in the order they were made,
//! and an fsync of a directory carries everything up to its own last change. An fsync of a *file*
//! carries no directory entry: many a file system does more, POSIX promises no more.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::time::SystemTime;

use crate::content::Content;

/// The inode of the directory that is mounted.
pub const ROOT: u64 = 1;

#[derive(Debug)]
pub struct Tree {
    inodes: BTreeMap<u64, Inode>,
    /// Never used twice: the kernel may remember a removed one.
    next: u64,
    journal: Vec<Entry>,
}

#[derive(Debug)]
pub struct Inode {
    pub node: Node,
    /// Mode, owner and times are taken for durable at once: nothing here rests on them.
    pub mode: u16,
    pub uid: u32,
    pub gid: u32,
    pub modified: SystemTime,
}

#[derive(Debug)]
pub enum Node {
    File(Content),
    Directory(BTreeMap<OsString, u64>),
}

/// Entries that changed together.
type Entry = Vec<Set>;

#[derive(Debug)]
struct Set {
    directory: u64,
    name: OsString,
    old: Option<u64>,
    new: Option<u64>,
}

impl Inode {
    pub fn new(node: Node, mode: u32, uid: u32, gid: u32) -> Self {
        let mode = u16::try_from(mode & 0o7777).expect("twelve bits");
        Inode { node, mode, uid, gid, modified: SystemTime::now() }
    }
}

impl Tree {
    /// An empty root directory.
    pub fn new() -> Self {
        let root = Inode::new(Node::Directory(BTreeMap::new()), 0o755, 0, 0);
        Tree { inodes: BTreeMap::from([(ROOT, root)]), next: ROOT + 1, journal: Vec::new() }
    }

    pub fn get(&self, inode: u64) -> Option<&Inode> {
        self.inodes.get(&inode)
    }

    pub fn get_mut(&mut self, inode: u64) -> Option<&mut Inode> {
        self.inodes.get_mut(&inode)
    }

    pub fn count(&self) -> usize {
        self.inodes.len()
    }

    /// Contents of all files.
    pub fn files(&self) -> impl Iterator<Item = &Content> {
        self.inodes.values().filter_map(|inode| match &inode.node {
            Node::File(content) => Some(content),
            Node::Directory(_) => None,
        })
    }

    pub fn files_mut(&mut self) -> impl Iterator<Item = &mut Content> {
        self.inodes.values_mut().filter_map(|inode| match &mut inode.node {
            Node::File(content) => Some(content),
            Node::Directory(_) => None,
        })
    }

    pub fn entries(&self, directory: u64) -> Option<&BTreeMap<OsString, u64>> {
        match &self.get(directory)?.node {
            Node::Directory(entries) => Some(entries),
            Node::File(_) => None,
        }
    }

    pub fn find(&self, directory: u64, name: &OsStr) -> Option<u64> {
        self.entries(directory)?.get(name).copied()
    }

    /// Makes an inode and enters it.
    pub fn create(&mut self, directory: u64, name: &OsStr, inode: Inode) -> u64 {
        let number = self.next;
        self.next += 1;
        self.inodes.insert(number, inode);
        self.change(vec![(directory, name, Some(number))]);
        number
    }

    pub fn unlink(&mut self, directory: u64, name: &OsStr) {
        self.change(vec![(directory, name, None)]);
    }

    /// Moves an entry, over another one where there is one.
    pub fn rename(&mut self, from: (u64, &OsStr), to: (u64, &OsStr)) {
        let Some(inode) = self.find(from.0, from.1) else { return };
        self.change(vec![(from.0, from.1, None), (to.0, to.1, Some(inode))]);
    }

    /// An fsync of a directory.
    pub fn sync(&mut self, directory: u64) {
        let touches = |entry: &Entry| entry.iter().any(|set| set.directory == directory);
        if let Some(last) = self.journal.iter().rposition(touches) {
            self.journal.drain(..=last);
        }
    }

    pub fn unsynced(&self) -> usize {
        self.journal.len()
    }

    /// Forgets the newest changes but the first `keep`.
    pub fn revert(&mut self, keep: usize) {
        for entry in self.journal.split_off(keep.min(self.journal.len())).into_iter().rev() {
            for set in entry.into_iter().rev() {
                self.set(set.directory, set.name, set.old);
            }
        }
        self.journal.clear();
    }

    /// Removes the inodes that nobody can reach any more. `open` are reached by a handle.
    pub fn collect(&mut self, open: impl Iterator<Item = u64>) {
        let mut reached: BTreeSet<u64> = BTreeSet::new();
        let mut next: Vec<u64> = open.chain([ROOT]).collect();
        next.extend(self.journal.iter().flatten().flat_map(|set| [set.old, set.new]).flatten());
        while let Some(inode) = next.pop() {
            if reached.insert(inode) {
                next.extend(self.entries(inode).into_iter().flat_map(|entries| entries.values()));
            }
        }
        self.inodes.retain(|number, _| reached.contains(number));
    }

    fn change(&mut self, sets: Vec<(u64, &OsStr, Option<u64>)>) {
        let mut entry = Entry::new();
        for (directory, name, new) in sets {
            let old = self.set(directory, name.to_owned(), new);
            entry.push(Set { directory, name: name.to_owned(), old, new });
        }
        self.journal.push(entry);
    }

    fn set(&mut self, directory: u64, name: OsString, new: Option<u64>) -> Option<u64> {
        let inode = self.inodes.get_mut(&directory)?;
        inode.modified = SystemTime::now();
        let Node::Directory(entries) = &mut inode.node else { return None };
        match new {
            Some(inode) => entries.insert(name, inode),
            None => entries.remove(&name),
        }
    }
}

impl Default for Tree {
    fn default() -> Self {
        Tree::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file() -> Inode {
        Inode::new(Node::File(Content::default()), 0o644, 0, 0)
    }

    fn name(text: &str) -> &OsStr {
        OsStr::new(text)
    }

    #[test]
    fn directory_changes_last_once_their_directory_is_synced() {
        let mut tree = Tree::new();
        let first = tree.create(ROOT, name("first"), file());
        tree.sync(ROOT);
        let second = tree.create(ROOT, name("second"), file());
        tree.rename((ROOT, name("second")), (ROOT, name("first")));
        tree.unlink(ROOT, name("first"));
        assert!(tree.entries(ROOT).is_some_and(BTreeMap::is_empty));
        tree.collect(std::iter::empty());
        assert_eq!(tree.count(), 3, "what may come back is kept");
        tree.revert(0);
        assert_eq!(tree.find(ROOT, name("first")), Some(first));
        assert_eq!(tree.find(ROOT, name("second")), None);
        tree.collect([second].into_iter());
        assert_eq!(tree.count(), 3, "an open file is kept");
        tree.collect(std::iter::empty());
        assert_eq!(tree.count(), 2);
    }

    #[test]
    fn a_prefix_of_the_journal_may_survive() {
        let mut tree = Tree::new();
        let inode = tree.create(ROOT, name("partial"), file());
        tree.rename((ROOT, name("partial")), (ROOT, name("whole")));
        tree.revert(1);
        assert_eq!((tree.find(ROOT, name("partial")), tree.find(ROOT, name("whole"))), (Some(inode), None));
        assert_eq!(tree.unsynced(), 0);
    }

    #[test]
    fn a_synced_directory_carries_what_came_before() {
        let mut tree = Tree::new();
        let inner = Inode::new(Node::Directory(BTreeMap::new()), 0o755, 0, 0);
        let inner = tree.create(ROOT, name("inner"), inner);
        tree.create(inner, name("deep"), file());
        tree.create(ROOT, name("late"), file());
        tree.sync(inner);
        tree.revert(0);
        assert!(tree.find(ROOT, name("inner")).is_some() && tree.find(inner, name("deep")).is_some());
        assert_eq!(tree.find(ROOT, name("late")), None);
    }
}
