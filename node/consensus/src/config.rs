//! How the replicated log behaves. The defaults suit a LAN; tests make them smaller.

use std::sync::Arc;

use muster_core::version::{Range, SUPPORTED};
use serde::Deserialize;

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The leader is heard from this often. Also the time limit of one append to a peer.
    pub heartbeat_ms: u64,
    /// Without a leader's sign of life for `election_max_ms` plus a random time between these two,
    /// a node stands for election.
    pub election_min_ms: u64,
    pub election_max_ms: u64,
    /// A snapshot is built after this many entries.
    pub snapshot_after_entries: u64,
    /// Entries kept behind a snapshot, for followers that lag a little.
    pub keep_entries: u64,
    /// How long a proposal is pursued before its outcome is reported as unknown.
    pub propose_timeout_ms: u64,
    /// How long a linearizable read waits for a quorum.
    pub read_timeout_ms: u64,
    /// The last round trip to a quorum may be this old for the node to count as ready.
    pub quorum_fresh_ms: u64,
    /// A node admits callers for this long after a quorum's word. So a revocation is acknowledged at the
    /// latest this much, and a twentieth of it, after it is committed. The same on every node.
    pub permission_lease_ms: u64,
    /// No more nodes than this vote, an odd number; the others learn, and run instances all the same. The
    /// same on every node: the leader's holds.
    pub voters_max: usize,
    /// The cluster version is not raised while any node has this set: so the release of before can still be gone
    /// back to.
    pub hold_version: bool,
    /// What this node supports. Not a setting: tests make a node older than it is.
    #[serde(skip)]
    pub versions: Range,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            heartbeat_ms: 50,
            election_min_ms: 100,
            election_max_ms: 250,
            snapshot_after_entries: 20_000,
            keep_entries: 5_000,
            propose_timeout_ms: 10_000,
            read_timeout_ms: 5_000,
            quorum_fresh_ms: 2_000,
            permission_lease_ms: 3_000,
            voters_max: 5,
            hold_version: false,
            versions: SUPPORTED,
        }
    }
}

impl Config {
    /// Refuses what cannot work; the message names the field.
    pub fn validate(&self) -> Result<(), String> {
        if self.heartbeat_ms == 0 || self.heartbeat_ms >= self.election_min_ms {
            return Err("`raft.heartbeat_ms` must be above 0 and below `raft.election_min_ms`".into());
        }
        if self.election_min_ms >= self.election_max_ms {
            return Err("`raft.election_min_ms` must be below `raft.election_max_ms`".into());
        }
        for (name, value) in [
            ("snapshot_after_entries", self.snapshot_after_entries),
            ("propose_timeout_ms", self.propose_timeout_ms),
            ("read_timeout_ms", self.read_timeout_ms),
            ("quorum_fresh_ms", self.quorum_fresh_ms),
            ("permission_lease_ms", self.permission_lease_ms),
        ] {
            if value == 0 {
                return Err(format!("`raft.{name}` must be above 0"));
            }
        }
        if self.voters_max.is_multiple_of(2) {
            return Err("`raft.voters_max` must be odd: an even number tolerates no more failures".into());
        }
        if self.permission_lease_ms < self.quorum_fresh_ms {
            // A node that counts as ready admits callers.
            return Err("`raft.permission_lease_ms` must not be below `raft.quorum_fresh_ms`".into());
        }
        Ok(())
    }

    pub(crate) fn for_openraft(&self) -> Result<Arc<openraft::Config>, Box<openraft::ConfigError>> {
        let config = openraft::Config {
            cluster_name: "muster".into(),
            heartbeat_interval: self.heartbeat_ms,
            election_timeout_min: self.election_min_ms,
            election_timeout_max: self.election_max_ms,
            // The default of 200 ms is too short for a part on a busy disk, and the last part is answered
            // when the snapshot is installed.
            install_snapshot_timeout: 30_000,
            max_payload_entries: 300,
            // A follower within this many entries is fed from the log, so it must exceed the
            // snapshot policy, or every build would turn laggards into snapshot receivers.
            replication_lag_threshold: self.snapshot_after_entries * 2,
            snapshot_policy: openraft::SnapshotPolicy::LogsSinceLast(self.snapshot_after_entries),
            max_in_snapshot_log_to_keep: self.keep_entries,
            ..openraft::Config::default()
        };
        config.validate().map(Arc::new).map_err(Box::new)
    }
}
