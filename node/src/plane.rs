//! What the invocation path sees of the control plane.

use std::sync::Arc;

use muster_consensus::Consensus;
use muster_core::ClusterState;
use muster_gateway::ControlPlane;
use tokio::sync::watch;

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
}
