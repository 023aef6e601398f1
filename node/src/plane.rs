//! What the invocation path sees of the control plane.

use std::sync::Arc;

use muster_consensus::Consensus;
use muster_core::ClusterState;
use muster_core::ids::NodeId;
use muster_gateway::ControlPlane;
use tokio::sync::watch;

/// The published state, as the gateway reads it.
#[derive(Clone, Debug)]
pub(crate) struct Plane {
    pub(crate) consensus: Consensus,
}
