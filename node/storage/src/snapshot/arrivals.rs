//! What keeps a purge of the log behind the snapshot that covers it.

use std::sync::Arc;

use tokio::sync::watch;

use crate::error::StoreError;

/// Snapshots that came from a peer. A handle, which does not keep the store open.
#[derive(Clone, Debug, Default)]
pub struct Arrivals(Arc<watch::Sender<Known>>);

#[derive(Debug, Default)]
struct Known {
    /// The last log index of each that is not dealt with yet.
    expected: Vec<u64>,
    /// The last log index of the newest that is durable.
    durable: u64,
    failed: bool,
}

impl Arrivals {
    /// Says that a snapshot whose last log index is `index` has arrived and may now be installed. Purges
    /// up to there wait until it [is durable](Self::durable), or is [not needed](Self::declined).
    pub fn arrived(&self, index: u64) {
        self.0.send_modify(|known| known.expected.push(index));
    }

    /// Says that an arrived snapshot will not be installed, or was. Without effect where that is known.
    pub fn declined(&self, index: u64) {
        self.0.send_modify(|known| {
            if let Some(at) = known.expected.iter().position(|expected| *expected == index) {
                known.expected.swap_remove(at);
            }
        });
    }

    /// Says that a snapshot is durable, wherever it came from.
    pub fn durable(&self, index: u64) {
        self.0.send_modify(|known| {
            known.durable = known.durable.max(index);
            known.expected.retain(|expected| *expected > index);
        });
    }

    /// Says that an arrived snapshot could not be made durable: no purge will be either.
    pub fn failed(&self) {
        self.0.send_modify(|known| known.failed = true);
    }

    /// Waits until the log may be purged up to `index`: a snapshot that covers it must be durable
    /// before the purge is. openraft purges as it hands an arrived snapshot on, without waiting for it;
    /// a crash between the two would leave a log without its beginning, on which no state rests.
    ///
    /// # Errors
    /// [`StoreError::Closed`] where the snapshot could not be stored: the purge must never be.
    pub(crate) async fn purgeable(&self, index: u64) -> Result<(), StoreError> {
        let settled =
            |known: &Known| known.failed || known.durable >= index || !known.expected.contains(&index);
        let mut known = self.0.subscribe();
        let settled = known.wait_for(settled).await.map_err(|_| StoreError::Closed)?;
        if settled.failed { Err(StoreError::Closed) } else { Ok(()) }
    }
}
