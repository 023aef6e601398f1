//! Muster's replicated log over openraft: what a node proposes, reads, snapshots and says to peers.
//!
//! * [`Consensus`] is the handle: `propose`, `linearize`, `state`, `status`.
//! * `proposer` packs commands into one entry at a time and sees it through to its local apply.
//! * `reads` answers many linearizable reads with one round trip to a quorum.
//! * `leases` tells from when on a right that was taken away is gone everywhere.
//! * `membership` changes who votes and who learns; `handover` gives the leadership to another voter;
//!   `standing` tells a node that it was removed.
//! * `machine` applies committed entries to `ClusterState` and publishes immutable snapshots of it.
//! * `versions` tells what each member's software supports, and ends a node that cannot go along; `formats` says
//!   how what is written follows the version in effect.
//! * `archive` puts a state into a backup and takes it out again; `refound` makes another cluster of one,
//!   or of what a survivor has, while no node runs.
//! * `snapshots` keeps the last state in the store, in the encoding of `contents`; `sending` and
//!   `receiving` bring it to a peer that lags too far.
//! * `network` calls peers, `rpc` answers them; both speak bincode behind a format byte. `transport`
//!   carries the calls. `own_copy` lets a leader send what its own disk has not taken in yet.
//!
//! **Invariant.** Nothing here acts on "I think I am leader": a stale leader can only fail to commit.

mod archive;
mod clock;
mod config;
mod consensus;
mod contents;
mod digest;
mod error;
mod formats;
#[cfg(test)]
mod fuzz;
mod handover;
mod identities;
mod leases;
mod machine;
mod membership;
mod messages;
mod moved;
mod network;
mod own_copy;
mod proposer;
mod reads;
mod receiving;
mod refound;
mod rpc;
mod sending;
mod snapshots;
mod standing;
mod transport;
mod types;
mod versions;
mod vital;

pub use archive::{ArchiveError, Archived, read_archive, write_archive};
pub use clock::now;
pub use config::Config;
pub use consensus::{Consensus, MemberStatus, Status};
pub use digest::Digest;
pub use error::{ProposeError, ReadError, RpcError, StartError};
pub use handover::HandOverError;
pub use identities::Identity;
pub use machine::{Machine, Published};
pub use membership::ChangeError;
pub use messages::RPC_BODY_MAX;
pub use refound::{Estate, Founder, RefoundError, restore};
pub use transport::{Answer as CallAnswer, CallError, Transport};
pub use types::{Member, TypeConfig};
pub use versions::{Said, Versions};
pub use vital::Vital;

/// Peer requests under this path are for [`Consensus::handle_rpc`].
pub const RPC_PREFIX: &str = "/peer/raft/";
/// The one of them that is also for nodes that were removed.
pub const STANDING_PATH: &str = "/peer/raft/standing";
