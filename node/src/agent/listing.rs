//! Asks the engines what runs, each by itself: one that hangs must not delay another's answer.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use muster_core::functions::EngineKind;
use muster_engine::{Engine, Running};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::Engines;

/// An engine bounds each of its calls, and a listing may take several. One that takes this long is
/// given up, so that the engine is asked anew.
pub(super) const LIST_LIMIT: Duration = Duration::from_secs(30);

/// What one engine answered.
#[derive(Debug)]
pub(super) struct Listing {
    /// Listings are numbered in the order in which they were begun.
    pub(super) number: u64,
    pub(super) engine: EngineKind,
    /// `None`: it did not answer, and its last list stands.
    pub(super) running: Option<Vec<Running>>,
}

/// The listings under way, at most one for each engine.
#[derive(Debug)]
pub(super) struct Listings {
    engines: Engines,
    limit: Duration,
    begun: u64,
    /// Engines that are to be asked again as soon as they have answered.
    due: BTreeSet<EngineKind>,
    asked: BTreeSet<EngineKind>,
    under_way: JoinSet<Listing>,
}

impl Listings {
    /// `limit` is how long an engine may take.
    pub(super) fn new(engines: Engines, limit: Duration) -> Self {
        let (due, asked) = (BTreeSet::new(), BTreeSet::new());
        Listings { engines, limit, begun: 0, due, asked, under_way: JoinSet::new() }
    }

    /// The number that the next listing will at least have.
    pub(super) fn next_number(&self) -> u64 {
        self.begun + 1
    }

    /// Asks every engine: now, or when it has answered what it is being asked.
    pub(super) fn ask(&mut self) {
        self.due.extend(self.engines.keys());
        self.begin();
    }

    /// The next answer; for ever pending while nothing is asked.
    pub(super) async fn next(&mut self) -> Listing {
        let Some(listing) = self.under_way.join_next().await else { return std::future::pending().await };
        let listing = listing.expect("listing does not panic");
        self.asked.remove(&listing.engine);
        self.begin();
        listing
    }

    fn begin(&mut self) {
        let free: Vec<EngineKind> = self.due.difference(&self.asked).copied().collect();
        for kind in free {
            self.due.remove(&kind);
            self.asked.insert(kind);
            self.begun += 1;
            self.under_way.spawn(list(self.begun, kind, Arc::clone(&self.engines[&kind]), self.limit));
        }
    }
}

async fn list(number: u64, kind: EngineKind, engine: Arc<dyn Engine>, limit: Duration) -> Listing {
    let running = match timeout(limit, engine.list()).await {
        Ok(Ok(running)) => Some(running),
        Ok(Err(error)) => {
            tracing::warn!(%kind, "the engine does not list its instances: {:#}", anyhow::Error::new(error));
            None
        }
        Err(_elapsed) => {
            tracing::warn!(%kind, "the engine took too long to list its instances");
            None
        }
    };
    Listing { number, engine: kind, running }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use muster_core::ids::InstanceId;
    use muster_core::units::Millis;
    use muster_engine::{EngineError, Launch};
    use tokio::sync::Notify;

    use super::*;

    /// Lists nothing, at once or never.
    #[derive(Debug)]
    struct Stub {
        kind: EngineKind,
        hangs: bool,
    }

    #[async_trait::async_trait]
    impl Engine for Stub {
        fn kind(&self) -> EngineKind {
            self.kind
        }

        async fn launch(&self, _launch: &Launch) -> Result<SocketAddr, EngineError> {
            unreachable!("nothing is launched")
        }

        async fn list(&self) -> Result<Vec<Running>, EngineError> {
            match self.hangs {
                true => std::future::pending().await,
                false => Ok(Vec::new()),
            }
        }

        async fn stop(&self, _instance: InstanceId, _grace: Millis) -> Result<(), EngineError> {
            Ok(())
        }

        async fn pause(&self, _instance: InstanceId) -> Result<(), EngineError> {
            Ok(())
        }

        async fn resume(&self, _instance: InstanceId) -> Result<(), EngineError> {
            Ok(())
        }

        fn changes(&self) -> Arc<Notify> {
            Arc::default()
        }

        async fn has_image(&self, _image: &str) -> Result<bool, EngineError> {
            Ok(true)
        }

        async fn output(&self, _instance: InstanceId) -> Result<Vec<u8>, EngineError> {
            Ok(Vec::new())
        }
    }

    /// A Docker Engine that hangs beside processes that answer.
    fn listings(limit: Duration) -> Listings {
        let stub = |kind, hangs| -> (EngineKind, Arc<dyn Engine>) { (kind, Arc::new(Stub { kind, hangs })) };
        let engines = Engines::from([stub(EngineKind::Docker, true), stub(EngineKind::Process, false)]);
        Listings::new(engines, limit)
    }

    #[tokio::test]
    async fn an_engine_that_hangs_delays_no_other() {
        // Longer than a busy machine takes to ask thrice.
        let mut listings = listings(Duration::from_secs(5));
        for _ in 0..3 {
            listings.ask();
            let listing = listings.next().await;
            assert_eq!(listing.engine, EngineKind::Process);
            assert!(listing.running.is_some());
        }
        let listing = listings.next().await;
        assert_eq!((listing.engine, listing.running), (EngineKind::Docker, None), "it is given up");
    }

    #[tokio::test]
    async fn an_engine_is_asked_again_after_it_has_answered() {
        let mut listings = listings(Duration::from_secs(60));
        listings.ask();
        let later = listings.next_number();
        listings.ask();
        let first = listings.next().await;
        let second = listings.next().await;
        assert_eq!((first.engine, second.engine), (EngineKind::Process, EngineKind::Process));
        assert!(first.number < later && later <= second.number, "{first:?}, {later}, {second:?}");
    }
}
