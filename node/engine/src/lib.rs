//! Container engines behind one trait: what each node's agent uses to make the instances that run on
//! its host match the replicated assignment.
//!
//! Read in this order: [`Engine`] below (the whole contract), [`instance`] (what goes in and what is
//! seen), [`error`] (what can go wrong, and what may be retried), then the two implementations:
//! [`DockerEngine`] runs images as containers, which outlive the node and are adopted after a restart;
//! [`ProcessEngine`] runs commands as child processes, which die with it. [`readiness`] waits for an
//! instance to serve.
//!
//! **Invariant.** An engine decides nothing: which instance runs, where and for how long arrives as an
//! argument. It keeps no state that [`Engine::list`] could not rebuild from the host, so a lost reply
//! or a restart of the node costs nothing but a repeated call.

mod docker;
pub mod error;
pub mod instance;
mod output;
mod process;
pub mod readiness;

use std::fmt::Debug;
use std::net::SocketAddr;
use std::sync::Arc;

use muster_core::functions::EngineKind;
use muster_core::ids::InstanceId;
use muster_core::units::Millis;
use tokio::sync::Notify;

pub use docker::{DockerEngine, docker_answers};
pub use error::{Cause, EngineError};
pub use instance::{Exit, Launch, RunState, Running};
pub use process::ProcessEngine;

/// The most output of an instance that [`Engine::output`] returns: enough for a stack trace, little
/// enough to keep in memory for every process on a host.
pub const OUTPUT_MAX: usize = 64 * 1024;

/// Runs instances on this host for one node of one cluster. Every call is idempotent and every call is
/// bounded in time; dropping a call's future leaves nothing that [`Engine::list`] does not show.
#[async_trait::async_trait]
pub trait Engine: Send + Sync + Debug {
    fn kind(&self) -> EngineKind;

    /// Creates and starts an instance, and returns where it will listen. What already exists under the
    /// instance's name is adopted, so a launch whose reply was lost is simply repeated. An instance
    /// that ended before its address was known is [`EngineError::Exited`].
    async fn launch(&self, launch: &Launch) -> Result<SocketAddr, EngineError>;

    /// Everything on this host that belongs to this cluster and node, running or exited.
    async fn list(&self) -> Result<Vec<Running>, EngineError>;

    /// SIGTERM, then SIGKILL after `grace`, then every trace removed. Unknown instances are fine.
    async fn stop(&self, instance: InstanceId, grace: Millis) -> Result<(), EngineError>;

    /// Notified when [`Engine::list`] may have something new: a hint, never the only source. Meant for
    /// one waiter, since a notification wakes one and is kept for it while it is busy.
    fn changes(&self) -> Arc<Notify>;

    /// Whether instances of `image` can start here without fetching anything. The process engine needs
    /// no images: always true.
    async fn has_image(&self, image: &str) -> Result<bool, EngineError>;

    /// The last output of an instance, stdout and stderr together, at most [`OUTPUT_MAX`] bytes.
    async fn output(&self, instance: InstanceId) -> Result<Vec<u8>, EngineError>;
}
