//! Time, read in one place: the host's wall clock, and the cluster's clock that proposals carry.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use muster_core::units::{Millis, Timestamp};
use tokio::time::Instant;

use crate::machine::Published;

/// The host's clock. It may jump either way, and other hosts' may differ.
pub fn now() -> Timestamp {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX))
}

/// What a leader takes for the time: its host's clock, or the replicated one and what has passed since
/// that was seen, whichever is later.
///
/// The replicated clock never runs backwards, and it must not stand still either. Once a leader whose
/// host was an hour ahead has moved it, a clock that waited for the other hosts to catch up would stop
/// back-off, and bill nothing, for that hour.
#[derive(Clone, Debug)]
pub(crate) struct ClusterClock {
    published: Arc<ArcSwap<Published>>,
    seen: Arc<Mutex<(Timestamp, Instant)>>,
}

impl ClusterClock {
    pub(crate) fn new(published: Arc<ArcSwap<Published>>) -> Self {
        ClusterClock { published, seen: Arc::new(Mutex::new((Timestamp::default(), Instant::now()))) }
    }

    pub(crate) fn now(&self) -> Timestamp {
        let replicated = self.published.load().state.clock;
        // Two values that are written together: consistent whatever panics.
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if replicated > seen.0 {
            *seen = (replicated, Instant::now());
        }
        let passed = u64::try_from(seen.1.elapsed().as_millis()).unwrap_or(u64::MAX);
        now().max(seen.0 + Millis(passed))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use muster_core::ClusterState;

    use super::*;

    #[tokio::test]
    async fn a_replicated_clock_ahead_of_the_host_goes_on() {
        let published = Arc::new(ArcSwap::from_pointee(Published::default()));
        let clock = ClusterClock::new(Arc::clone(&published));
        let host = now();
        assert!(clock.now() >= host, "behind, it is the host's");
        let ahead = now() + Millis::from_secs(3600);
        let mut state = ClusterState::default();
        state.clock = ahead;
        published.store(Arc::new(Published { state: Arc::new(state), ..Published::default() }));
        let first = clock.now();
        assert!(first >= ahead && first < ahead + Millis::from_secs(60));
        let deadline = Instant::now() + Duration::from_secs(10);
        while clock.now() == first {
            assert!(Instant::now() < deadline, "it stands still");
            tokio::task::yield_now().await;
        }
    }
}
