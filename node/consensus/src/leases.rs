//! Permission leases: from when on a right that was taken away is gone on every node.
//!
//! A node may admit callers while it holds a lease: a read that began at most `lease` ago, that a quorum
//! confirmed, and that it has caught up with. So it knows every right that was taken away before that read began.
//!
//! The leader confirms those reads, and remembers when it did for whom last. Once a revocation is
//! committed, its acknowledgement waits until every node that may hold a lease from before has applied
//! it, or the lease has run out. A new leader does not know what the one before confirmed, and takes
//! every member for a holder until leases from before its time are over.
//!
//! Only spans are compared, each by one node's monotonic clock; [`margin`] allows for clocks that do not
//! run at quite the same rate. (After C. Gray and D. Cheriton, *Leases*, SOSP 1989.)

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use muster_core::ids::NodeId;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

/// A node that may still admit on the strength of what it knew, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Holder {
    pub(crate) node: NodeId,
    pub(crate) left: Duration,
}

/// What clocks may differ by over a lease: a twentieth, far more than any real ones do.
pub(crate) fn margin(lease: Duration) -> Duration {
    lease / 20
}

/// The leases that this node has confirmed as the leader. A clone is a handle to the same.
#[derive(Clone, Debug)]
pub(crate) struct Grants {
    lease: Duration,
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug)]
struct Inner {
    term: u64,
    /// No later than this a leader before may have confirmed a lease.
    since: Instant,
    last: BTreeMap<NodeId, Instant>,
}

impl Grants {
    pub(crate) fn new(lease: Duration) -> Self {
        let inner = Inner { term: 0, since: Instant::now(), last: BTreeMap::new() };
        Grants { lease, inner: Arc::new(Mutex::new(inner)) }
    }

    pub(crate) fn lease(&self) -> Duration {
        self.lease
    }

    /// A quorum has just confirmed this node as the leader in `term` for a read of `node`.
    pub(crate) fn note(&self, term: u64, node: NodeId, now: Instant) {
        let mut inner = self.lock();
        inner.enter(term, now);
        inner.last.insert(node, now);
    }

    /// Which of `members` may hold a lease. Asked of the leader in `term`, just confirmed.
    pub(crate) fn holders(
        &self,
        term: u64,
        members: impl Iterator<Item = NodeId>,
        now: Instant,
    ) -> Vec<Holder> {
        let mut inner = self.lock();
        inner.enter(term, now);
        let holder = |node| {
            let last = inner.last.get(&node).copied().unwrap_or(inner.since).max(inner.since);
            let left = (last + self.lease).saturating_duration_since(now);
            Holder { node, left }
        };
        members.map(holder).filter(|holder| !holder.left.is_zero()).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn enter(&mut self, term: u64, now: Instant) {
        if term != self.term {
            *self = Inner { term, since: now, last: BTreeMap::new() };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_secs(3);

    fn left(grants: &Grants, term: u64, now: Instant) -> Vec<(u64, u128)> {
        let members = (1..=3).map(NodeId);
        grants.holders(term, members, now).iter().map(|h| (h.node.0, h.left.as_millis())).collect()
    }

    #[test]
    fn a_node_that_is_not_heard_of_holds_a_lease_no_longer() {
        let (grants, start) = (Grants::new(LEASE), Instant::now());
        let after = |seconds| start + Duration::from_secs(seconds);
        grants.note(7, NodeId(1), start);
        assert_eq!(left(&grants, 7, start), [(1, 3_000), (2, 3_000), (3, 3_000)], "from the leader before");
        grants.note(7, NodeId(2), after(2));
        assert_eq!(left(&grants, 7, after(2)), [(1, 1_000), (2, 3_000), (3, 1_000)]);
        assert_eq!(left(&grants, 7, after(4)), [(2, 1_000)]);
        assert_eq!(left(&grants, 8, after(4)).len(), 3, "in another term others may have led meanwhile");
    }
}
