//! Everything a node keeps: Raft log and vote, snapshots, the usage journal, the node's identity.
//!
//! One [`Store`] per node: one sled database and one durability thread, which owns all writes.
//! What the store acknowledges survives a power cut: the acknowledgement comes after sled's `flush`
//! *and* an `fdatasync` of sled's file, since `flush` alone is not durable on Linux.
//!
//! Where to read on:
//!
//! * [`store`]: [`Store`], its options, its figures;
//! * `open`: what must hold in the directory before sled may open it;
//! * `durability`: the thread: drain the queue, one batch, flush, sync, callbacks;
//! * `database`: what is below: sled, or a disk in memory ([`memory`]) for tests and simulations;
//! * `witness`: what the database must still have when it is opened;
//! * `keys`: the key layout, and how a record is cut into parts small enough for sled;
//! * [`log`]: openraft's log storage; [`snapshot`], [`journal`], [`identity`]: the rest;
//! * [`codec`]: how records and peer messages are encoded.
//!
//! **Damage** is reported as [`StoreError::Corrupt`]. sled has checksums of what it writes, but takes a changed
//! byte for a write that was cut short, and goes on without what came behind it. So records carry seals, log
//! entries the checksum of the one before, and `witness` keeps outside of sled what was durable at last.
//!
//! **What it cannot see.** After a power cut the witness may be that of some seconds before. Damage to what was
//! written in between looks like a write that was cut short, and is dropped as such.
//!
//! **Invariant.** Once a store is open, nothing but the durability thread writes to it, and it never retries a
//! failed write or sync: it aborts the process.

pub mod codec;
mod database;
mod durability;
mod error;
pub mod identity;
pub mod journal;
mod keys;
pub mod log;
pub mod memory;
mod open;
pub mod snapshot;
pub mod store;
#[cfg(test)]
mod tests;
mod witness;

pub use error::StoreError;
pub use identity::Identity;
pub use journal::Journal;
pub use keys::RECORD_MAX;
pub use log::{Durable, LogStore};
pub use memory::Memory;
pub use snapshot::{Arrivals, Draft, Pace, Snapshot, SnapshotReader, SnapshotStore, Transfer, begin_gently};
pub use store::{Options, Stats, Store};
