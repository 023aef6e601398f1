//! Muster's replicated log over openraft: what a node proposes, reads, snapshots and says to peers.
//!
//! * [`Consensus`] is the handle: `propose`, `linearize`, `state`, `status`.
//! * `proposer` packs commands into one entry at a time and sees it through to its local apply.
//! * `reads` answers many linearizable reads with one round trip to a quorum.
//! * `machine` applies committed entries to `ClusterState` and publishes immutable snapshots of it.
//! * `network` calls peers, `rpc` answers them; both speak bincode behind a format byte.
//!
//! **Invariant.** Nothing here acts on "I think I am leader": a stale leader can only fail to commit.

mod clock;
mod config;
mod consensus;
mod error;
mod machine;
mod messages;
mod network;
mod proposer;
mod reads;
mod rpc;
mod snapshots;
mod types;

pub use clock::now;
pub use config::Config;
pub use consensus::{Consensus, MemberStatus, Status};
pub use error::{ProposeError, ReadError, RpcError, StartError};
pub use machine::{Machine, Published};
pub use messages::RPC_BODY_MAX;
pub use types::{Member, TypeConfig};

/// Peer requests under this path are for [`Consensus::handle_rpc`].
pub const RPC_PREFIX: &str = "/peer/raft/";
