//! What the gateway needs from the rest of the node.

use std::sync::Arc;

use muster_core::ClusterState;
use muster_core::functions::UsageDurability;
use muster_core::ids::{InstanceId, NodeId};
use muster_core::ledger::UsageRow;
use tokio::sync::watch;

pub use futures_util::future::BoxFuture;

/// The replicated state as this node knows it, and whether it can be relied on.
pub trait ControlPlane: Send + Sync + 'static {
    /// An immutable snapshot. Called several times per request, so it must be cheap.
    fn state(&self) -> Arc<ClusterState>;

    /// Changes after each apply.
    fn changes(&self) -> watch::Receiver<u64>;

    /// Whether a round trip to a quorum succeeded lately.
    fn has_quorum(&self) -> bool;

    /// Resolves once the state holds everything that was acknowledged before the call, or soon if
    /// that can't be had. Asked before a caller is refused.
    fn refresh(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }

    /// Whether this node holds a permission lease. Without one it admits nobody: it could not know
    /// that a caller was revoked.
    fn may_admit(&self) -> bool {
        true
    }

    /// `host:port` of a node's peer listener.
    fn peer_address(&self, node: NodeId) -> Option<String> {
        self.state().nodes.get(node).map(|node| node.profile.peer.clone())
    }
}

/// Pauses instances of this host, and has them go on. Both are harmless to repeat.
pub trait Pausing: Send + Sync + 'static {
    /// Why not, where it cannot be done, or not known whether it was.
    fn pause(&self, instance: InstanceId) -> BoxFuture<'_, Result<(), String>>;

    /// Why not, where it cannot be done. An instance that is not paused goes on as it is.
    fn resume(&self, instance: InstanceId) -> BoxFuture<'_, Result<(), String>>;
}

/// Keeps usage.
pub trait Meter: Send + Sync + 'static {
    /// Takes the record of one finished invocation, on its host. Where a future is returned the end
    /// of the answer waits for it, and the answer is cut if it fails: what a client has seen
    /// complete is then in the ledger.
    fn record(
        &self,
        row: UsageRow,
        durability: UsageDurability,
    ) -> Option<BoxFuture<'static, Result<(), MeterError>>>;
}

/// A usage record is not as durable as the function asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MeterError {
    #[error("the usage record could not be made durable")]
    NotDurable,
    #[error("the node is stopping")]
    Stopping,
}
