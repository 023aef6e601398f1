//! Turns: how many clusters run at a time on this machine, whichever processes start them.

use std::fs::File;
use std::time::Duration;

use anyhow::{Context, Result};

use super::programs;

/// Clusters at a time. Each is several processes that sync to disk; more of them on a small machine
/// would measure the machine.
pub const CLUSTERS_MAX: usize = 2;

/// Between two attempts to get a turn.
const POLL: Duration = Duration::from_millis(50);

/// A turn to run a cluster; whoever drops it lets another go on. The kernel drops it for a process
/// that dies.
#[derive(Debug)]
pub struct Turn {
    slot: usize,
    _lock: File,
}

impl Turn {
    /// Waits for as long as it takes: others' tests have deadlines of their own.
    ///
    /// # Errors
    /// Where the locks cannot be made.
    pub async fn take() -> Result<Self> {
        let dir = programs::shared_dir()?;
        loop {
            for slot in 0..CLUSTERS_MAX {
                let path = dir.join(format!("cluster-{slot}.lock"));
                let open = File::options().create(true).truncate(false).write(true).open(&path);
                let lock = open.with_context(|| format!("cannot open {}", path.display()))?;
                match lock.try_lock() {
                    Ok(()) => return Ok(Turn { slot, _lock: lock }),
                    Err(std::fs::TryLockError::WouldBlock) => {}
                    Err(std::fs::TryLockError::Error(error)) => {
                        return Err(error).with_context(|| format!("cannot lock {}", path.display()));
                    }
                }
            }
            tokio::time::sleep(POLL).await;
        }
    }
    /// Which of the [`CLUSTERS_MAX`] turns it is, from 0: tells those of the same time apart.
    pub fn slot(&self) -> usize {
        self.slot
    }
}
