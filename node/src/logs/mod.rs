//! The output of a function's instances, through any node.
//!
//! A host answers for what it has ([`host`]), as [`record`]s; the node that was asked asks every host at
//! once ([`cluster`]) and merges their answers by time ([`merge`]). Nothing of it is replicated.

mod cluster;
mod host;
mod merge;
mod record;

use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use futures_util::stream::{BoxStream, StreamExt};
use muster_consensus::Consensus;
use muster_core::ids::NodeId;
use muster_gateway::Gateway;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use crate::agent::Engines;
use record::{Ask, Record};

pub(crate) use cluster::Asked;
pub(crate) use record::line_of;

/// Where a peer asks for this host's share. Its number is that of the format.
pub(crate) const PEER_PATH: &str = "/peer/logs/1";
/// The largest question between nodes: it names each instance that is known already.
const ASK_MAX: usize = 1024 * 1024;
/// Readers at a time that have asked this node, and as many questions of other nodes again. Each may hold
/// a file or a connection to the engine for each instance.
const READERS_MAX: usize = 64;
const PEER_READERS_MAX: usize = 4 * READERS_MAX;
/// What a host that has nothing to tell is given to say so.
const OPEN_PATIENCE: Duration = Duration::from_secs(5);
/// Records that are sent together where there are several.
const TOGETHER: usize = 64;

/// A clone is a handle to the same.
#[derive(Clone, Debug)]
pub(crate) struct Logs {
    node: NodeId,
    consensus: Consensus,
    gateway: Arc<Gateway>,
    /// Set when all engines have answered for the first time.
    engines: Arc<OnceLock<Arc<Engines>>>,
    readers: Arc<Semaphore>,
    peer_readers: Arc<Semaphore>,
    open: Arc<AtomicUsize>,
}

impl Logs {
    pub(crate) fn new(node: NodeId, consensus: Consensus, gateway: Arc<Gateway>) -> Self {
        Logs {
            node,
            consensus,
            gateway,
            engines: Arc::default(),
            readers: Arc::new(Semaphore::new(READERS_MAX)),
            peer_readers: Arc::new(Semaphore::new(PEER_READERS_MAX)),
            open: Arc::default(),
        }
    }

    /// The engines have answered: from now on there is output.
    pub(crate) fn serve(&self, engines: Engines) {
        // A node connects to its engines once.
        let _first = self.engines.set(Arc::new(engines));
    }

    /// Readers that have asked this node and are still there.
    pub(crate) fn readers(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// A place among the readers; `None` if all are taken.
    pub(crate) fn admit(&self) -> Option<Reader> {
        let permit = Arc::clone(&self.readers).try_acquire_owned().ok()?;
        self.open.fetch_add(1, Ordering::Relaxed);
        Some(Reader { _permit: permit, open: Arc::clone(&self.open) })
    }

    /// Answers a peer: this host's share. `stop` ends it.
    pub(crate) async fn answer_peer(&self, body: &[u8], stop: CancellationToken) -> Result<Body, String> {
        let ask: Ask = serde_json::from_slice(body).map_err(|error| format!("not a question: {error}"))?;
        let permit = Arc::clone(&self.peer_readers).try_acquire_owned();
        let permit = permit.map_err(|_| "too many others read output here".to_owned())?;
        let records = self.share(ask).await?.take_until(stop.cancelled_owned());
        let lines = records.map(move |record| {
            let _held_until_the_end = &permit;
            record.encode()
        });
        Ok(body_of(lines.boxed()))
    }

    /// What this host has: what is written already, or what comes from now on.
    async fn share(&self, ask: Ask) -> Result<BoxStream<'static, Record>, String> {
        let engines = self.engines.get().ok_or("its container engine has not answered yet")?;
        Ok(match ask.follow {
            false => host::past(engines, &ask).await,
            true => host::follow(Arc::clone(engines), self.consensus.clone(), self.node, ask),
        })
    }
}

/// Holds a reader's place.
#[derive(Debug)]
pub(crate) struct Reader {
    _permit: OwnedSemaphorePermit,
    open: Arc<AtomicUsize>,
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Lines as they come, those that are there already together.
pub(crate) fn body_of(lines: BoxStream<'static, Bytes>) -> Body {
    Body::from_stream(
        lines.ready_chunks(TOGETHER).map(|lines| Ok::<_, Infallible>(Bytes::from(lines.concat()))),
    )
}

/// The largest question a peer may ask.
pub(crate) const fn ask_max() -> usize {
    ASK_MAX
}
