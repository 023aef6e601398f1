//! What the invocation path sees of the control plane.

use std::sync::Arc;
use std::time::Duration;

use muster_consensus::Consensus;
use muster_core::ClusterState;
use muster_gateway::{BoxFuture, ControlPlane};
use tokio::sync::watch;

/// How long a refusal may wait for news.
const REFRESH_LIMIT: Duration = Duration::from_millis(500);

/// The published state, as the gateway reads it.
#[derive(Debug)]
pub(crate) struct Plane {
    pub(crate) consensus: Consensus,
}

impl ControlPlane for Plane {
    fn state(&self) -> Arc<ClusterState> {
        Arc::clone(&self.consensus.state().state)
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.consensus.changes()
    }

    fn has_quorum(&self) -> bool {
        self.consensus.has_quorum()
    }

    fn may_admit(&self) -> bool {
        self.consensus.holds_lease()
    }

    fn refresh(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            // Without a quorum the refusal stands on what is known.
            let _settled = tokio::time::timeout(REFRESH_LIMIT, self.consensus.linearize()).await;
        })
    }
}
