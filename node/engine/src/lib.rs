//! Container engines behind one trait: what each node's agent uses to make the instances that run on
//! its host match the replicated assignment.
//!
//! Read in this order: [`Engine`] below (the whole contract), [`instance`] (what goes in and what is
//! seen), [`error`] (what can go wrong, and what may be retried), then the two implementations:
//! [`DockerEngine`] runs images as containers, which outlive the node and are adopted after a restart;
//! [`ProcessEngine`] runs commands as child processes, which die with it. [`readiness`] waits for an
//! instance to serve; [`logs`] is what instances write.
//!
//! **Invariant.** An engine decides nothing: which instance runs, where and for how long arrives as an
//! argument. It keeps no state that [`Engine::list`] could not rebuild from the host, so a lost reply
//! or a restart of the node costs nothing but a repeated call.

mod docker;
pub mod error;
pub mod instance;
pub mod logs;
mod output;
pub mod package;
mod process;
pub mod readiness;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use muster_core::functions::{EngineKind, Source};
use muster_core::ids::{FunctionName, InstanceId, PackageDigest};
use muster_core::units::{Millis, Timestamp};
use tokio::sync::Notify;
use tokio::time::Instant;

pub use docker::{DockerEngine, PREPARED_MAX, docker_answers};
pub use error::{Cause, EngineError};
pub use instance::{Exit, Launch, Progress, RunState, Running};
pub use logs::{LogRead, LogStream, Origin};
pub use process::ProcessEngine;

/// The most output of an instance that [`Engine::output`] returns: enough for a stack trace, little
/// enough to keep in memory for every process on a host.
pub const OUTPUT_MAX: usize = 64 * 1024;

/// Files and connections one instance may hold open.
pub(crate) const OPEN_FILES_MAX: u64 = 4096;

/// Runs instances on this host for one node of one cluster. Every call is idempotent and every call is
/// bounded in time; dropping a call's future leaves nothing that [`Engine::list`] does not show.
#[async_trait::async_trait]
pub trait Engine: Send + Sync + Debug {
    fn kind(&self) -> EngineKind;

    /// Creates and starts an instance, and returns where it will listen. What already exists under the
    /// instance's name is adopted, so a launch whose reply was lost is simply repeated. An instance
    /// that ended before its address was known is [`EngineError::Exited`].
    async fn launch(&self, launch: &Launch) -> Result<SocketAddr, EngineError>;

    /// Waits until what was launched serves; see [`readiness::wait_ready`].
    async fn wait_ready(
        &self,
        addr: SocketAddr,
        path: Option<&str>,
        deadline: Instant,
    ) -> Result<(), readiness::NotReady> {
        readiness::wait_ready(addr, path, deadline).await
    }

    /// Whether what has become ready still answers; see [`readiness::probe`].
    async fn probe(&self, addr: SocketAddr, path: Option<&str>) -> Result<(), readiness::Attempt> {
        readiness::probe(addr, path).await
    }

    /// Everything on this host that belongs to this cluster and node, running or exited.
    async fn list(&self) -> Result<Vec<Running>, EngineError>;

    /// SIGTERM, which one that is paused goes on to hear, then SIGKILL after `grace`, then every trace removed.
    /// Unknown instances are fine.
    async fn stop(&self, instance: InstanceId, grace: Millis) -> Result<(), EngineError>;

    /// Has a running instance stand still: it keeps its memory and gets no CPU time. Where the outcome is
    /// not known, it counts as paused. One that is paused, or not there, is fine.
    async fn pause(&self, instance: InstanceId) -> Result<(), EngineError>;

    /// Has a paused instance go on. One that runs, or is not there, is fine.
    async fn resume(&self, instance: InstanceId) -> Result<(), EngineError>;

    /// Notified when [`Engine::list`] may have something new: a hint, never the only source. Meant for
    /// one waiter, since a notification wakes one and is kept for it while it is busy.
    fn changes(&self) -> Arc<Notify>;

    /// Whether instances of `image` can start here without fetching anything. The process engine needs
    /// no images: always true.
    async fn has_image(&self, image: &str) -> Result<bool, EngineError>;

    /// Fetches an image from its registry; `told` hears how far it is.
    async fn pull(&self, image: &str, _told: &(dyn Fn(Progress) + Send + Sync)) -> Result<(), EngineError> {
        Err(EngineError::NoSuchImage { image: image.to_owned() })
    }

    /// Whether instances of a source that is a package's can start here at once: it is unpacked or loaded.
    async fn has_package(&self, _source: &Source) -> Result<bool, EngineError> {
        Ok(false)
    }

    /// Unpacks or loads the package that `source` names from its file, whose digest was checked.
    async fn take_package(&self, source: &Source, _file: &Path) -> Result<(), EngineError> {
        let package = source.package().map(|package| package.to_string()).unwrap_or_default();
        Err(EngineError::NoSuchPackage { package })
    }

    /// Removes what was made of other packages than these, except where an instance runs of it.
    async fn retain_packages(&self, _packages: &BTreeSet<PackageDigest>) -> Result<(), EngineError> {
        Ok(())
    }

    /// The last output of an instance, stdout and stderr together, at most [`OUTPUT_MAX`] bytes.
    async fn output(&self, instance: InstanceId) -> Result<Vec<u8>, EngineError>;

    /// Whose output of a function this host has: instances that are here, and those that ended lately.
    /// An engine that keeps no output has none.
    async fn logged(&self, _function: &FunctionName) -> Result<Vec<Origin>, EngineError> {
        Ok(Vec::new())
    }

    /// The output of an instance, that has ended or not. Without `follow` it ends soon; with it when the
    /// instance does. [`EngineError::NoSuchInstance`] where nothing is known of it, or not yet.
    async fn logs(
        &self,
        _function: &FunctionName,
        instance: InstanceId,
        _read: LogRead,
    ) -> Result<LogStream, EngineError> {
        Err(EngineError::NoSuchInstance { instance })
    }

    /// Keeps instances from these ports, as `host:port`, which are the nodes' of the cluster, where the engine
    /// can. Later calls replace it.
    async fn close_ports(&self, _names: BTreeSet<String>) {}

    /// Lets go of what this process has prepared and no instance has, for a node that stops. Its instances stay.
    async fn retire(&self) {}

    /// Removes what was ever prepared for instances of this node, which will have none any more.
    async fn clear(&self) -> Result<(), EngineError> {
        Ok(())
    }

    /// Removes the output of ended instances of all functions but these, each with when it was created.
    async fn retain_logs(&self, _functions: BTreeMap<FunctionName, Timestamp>) {}
}
