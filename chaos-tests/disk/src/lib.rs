//! A file system for tests whose power can be cut: what was written and not synced is then gone.
//!
//! A killed process loses nothing that it has written, since the kernel still has it. Only a disk that
//! forgets can tell whether a program syncs what it acknowledges. This one is a FUSE file system that
//! keeps each file twice, as programs see it and as the medium has it; a sync carries the one over to
//! the other. On command it forgets ([`Command::Cut`]), is full, fails syncs, or is slow with them.
//!
//! * [`content`]: one file, seen and durable;
//! * [`tree`]: directories, their journal, and the inodes;
//! * [`disk`]: the whole, with the faults and the counters;
//! * `fuse`: what the kernel asks, answered by a disk;
//! * [`control`]: the commands, one JSON line each, and what is answered;
//! * [`mount`]: for tests: a disk in a process of its own.
//!
//! All of it is in memory and bounded. Nothing is left when the process ends, and it ends with
//! whoever has started it.
//!
//! **Invariant.** Durable is only what `fsync` or `fdatasync` was asked for and answered with success:
//! neither `sync_file_range` nor closing a file, nor the passing of time. One exception keeps memory
//! bounded, and a kernel has it too: a file with very much unsynced is written back.

pub mod content;
pub mod control;
pub mod disk;
mod fuse;
pub mod mount;
pub mod tree;

pub use control::{Command, Counters, Survivors};
pub use fuse::serve;
pub use mount::{Mount, missing};
