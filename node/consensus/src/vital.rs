//! Tasks without which a node is of no use.
//!
//! A task that panics ends alone, and whoever waits for what it did waits in vain. Half a node is worse than
//! none: it would keep its place in the quorum, its instances and its callers, and serve none of them. So who
//! runs the node ends it then, and it starts again as a whole.

use tokio_util::sync::CancellationToken;

/// Tells when one of the tasks that are run with it panics. A clone tells of the same.
#[derive(Clone, Debug, Default)]
pub struct Vital(CancellationToken);

impl Vital {
    /// Runs a part, and tells if it panics, or is dropped before its end.
    pub async fn watch<T>(self, part: impl Future<Output = T>) -> T {
        let armed = self.0.drop_guard();
        let came = part.await;
        armed.disarm();
        came
    }

    /// Spawns a task that is watched.
    pub fn spawn(&self, part: impl Future<Output = ()> + Send + 'static) {
        tokio::spawn(self.clone().watch(part));
    }

    /// Resolves once one of the tasks has panicked.
    pub async fn panicked(&self) {
        self.0.cancelled().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_part_that_panics_is_told_and_one_that_ends_is_not() {
        let vital = Vital::default();
        vital.clone().watch(async {}).await;
        assert!(!vital.0.is_cancelled());
        vital.spawn(async { panic!("as intended") });
        vital.panicked().await;
    }
}
