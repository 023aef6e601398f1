//! Packages: files that functions are made of, known by their digest and kept by the cluster.
//!
//! [`files`] is this node's disk. A host gets what it lacks from the others ([`fetch`]), ahead of need where a
//! function of the state is of it ([`keeper`]), or when a launch waits for it. That the cluster has a package is
//! replicated; who has the file is asked of each.

mod fetch;
mod files;
mod keeper;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use muster_consensus::Consensus;
use muster_core::functions::Source;
use muster_core::ids::{NodeId, PackageDigest};
use muster_gateway::Gateway;
use tokio::sync::Semaphore;

use crate::agent::Engines;
use crate::parts::describe;

pub(crate) use fetch::{COPY_PATH, READ_PATH, ask_max};
pub(crate) use files::{Arrival, Files, Held, Unfit};

/// Packages that are fetched at a time by one node, and as many that it sends to others, twice over.
const FETCHES_MAX: usize = 2;
const READERS_MAX: usize = 8;
/// Uploads through this node at a time.
const UPLOADS_MAX: usize = 4;

/// A clone is a handle to the same.
#[derive(Clone, Debug)]
pub(crate) struct Packages {
    node: NodeId,
    consensus: Consensus,
    gateway: Arc<Gateway>,
    /// None where the parts are given no folder: in a simulation.
    files: Option<Files>,
    /// Set when all engines have answered for the first time.
    engines: Arc<OnceLock<Engines>>,
    /// One at a time may see to a package.
    under_way: Arc<Mutex<BTreeMap<PackageDigest, Arc<tokio::sync::Mutex<()>>>>>,
    fetches: Arc<Semaphore>,
    readers: Arc<Semaphore>,
    pub(crate) uploads: Arc<Semaphore>,
    pub(crate) bytes_max: u64,
    keep_unused: Duration,
}

impl Packages {
    pub(crate) fn new(
        settings: &crate::config::Packages,
        files: Option<Files>,
        consensus: Consensus,
        gateway: Arc<Gateway>,
    ) -> Self {
        Packages {
            node: consensus.node(),
            consensus,
            gateway,
            files,
            engines: Arc::default(),
            under_way: Arc::default(),
            fetches: Arc::new(Semaphore::new(FETCHES_MAX)),
            readers: Arc::new(Semaphore::new(READERS_MAX)),
            uploads: Arc::new(Semaphore::new(UPLOADS_MAX)),
            bytes_max: settings.max_mb.saturating_mul(1 << 20),
            keep_unused: Duration::from_secs(settings.keep_unused_seconds),
        }
    }

    pub(crate) fn serve(&self, engines: Engines) {
        // A node connects to its engines once.
        let _first = self.engines.set(engines);
    }

    pub(crate) fn files(&self) -> Result<&Files, String> {
        self.files.as_ref().ok_or_else(|| "this node keeps no packages".to_owned())
    }

    /// How many are here, and their bytes.
    pub(crate) fn held(&self) -> (u64, u64) {
        let here = self.files.as_ref().and_then(|files| files.list().ok()).unwrap_or_default();
        let known = self.consensus.state();
        let bytes = here.iter().filter_map(|package| known.state.packages.get(*package)).map(|p| p.bytes);
        (here.len() as u64, bytes.sum())
    }

    /// Sees to it that the file of a package is here.
    pub(crate) async fn obtain(&self, package: PackageDigest) -> Result<Held, String> {
        let files = self.files()?;
        let lock = self.lock_of(package);
        let _alone = lock.lock().await;
        // Held first: what is here now stays.
        let held = files.hold(package);
        if files.has(package) {
            return Ok(held);
        }
        let known = self.consensus.with_state(|state| state.packages.get(package).map(|p| p.bytes));
        let bytes = known.ok_or_else(|| format!("the cluster has no package {package}"))?;
        let _place = self.fetches.acquire().await.expect("the semaphore is never closed");
        self.fetch(package, bytes, self.holders(package)).await
    }

    /// Sees to it that a function's package is unpacked or loaded here. Nothing to do for one without.
    pub(crate) async fn provide(&self, source: &Source) -> Result<(), String> {
        let Some(package) = source.package() else { return Ok(()) };
        let engine = self.engines.get().and_then(|engines| engines.get(&source.engine()));
        let engine = engine.ok_or("this host lacks its engine")?;
        if engine.has_package(source).await.map_err(|error| error.reason())? {
            return Ok(());
        }
        let _held = self.obtain(package).await?;
        let lock = self.lock_of(package);
        let _alone = lock.lock().await;
        engine.take_package(source, &self.files()?.path(package)).await.map_err(|error| error.reason())
    }

    fn lock_of(&self, package: PackageDigest) -> Arc<tokio::sync::Mutex<()>> {
        let mut under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        under_way.retain(|_, lock| Arc::strong_count(lock) > 1);
        Arc::clone(under_way.entry(package).or_default())
    }
}

fn text_of(error: &dyn std::error::Error) -> String {
    describe(error)
}
