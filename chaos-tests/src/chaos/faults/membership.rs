//! `membership`: a node joins, serves for a while and is removed again, whatever else happens. Nobody is to notice:
//! whoever asks the others finds what it has stored and gets what it has called, while quorums grow and shrink.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;
use async_trait::async_trait;

use super::{Fault, Frame, Hit, Layer};
use crate::Cluster;
use crate::wait::until;

/// Others' faults may have taken the quorum: then nothing was tested.
const JOINS_WITHIN: Duration = Duration::from_secs(20);
/// Others' faults are over long before.
const LEAVES_WITHIN: Duration = Duration::from_secs(120);

const FRAME: Frame = Frame::new("membership", Layer::Members, (300, 8_000));

#[derive(Default)]
pub(super) struct Membership {
    guest: Mutex<Option<u64>>,
}

impl Membership {
    fn guest(&self) -> Option<u64> {
        *self.guest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Fault for Membership {
    fn frame(&self) -> &Frame {
        &FRAME
    }

    async fn strike(&self, cluster: &Cluster, hit: &Hit) -> Result<Vec<u64>> {
        let invited = || async {
            if let Some(guest) = self.guest() {
                return Ok(guest);
            }
            let guest = cluster.invite().await?;
            *self.guest.lock().unwrap_or_else(PoisonError::into_inner) = Some(guest);
            Ok(guest)
        };
        let Ok(guest) = until("a guest is invited", JOINS_WITHIN, invited).await else {
            return Ok(Vec::new());
        };
        match cluster.welcome(guest, JOINS_WITHIN).await {
            Ok(()) => Ok(hit.nodes.clone()),
            Err(_not_in_time) => Ok(Vec::new()),
        }
    }

    async fn mend(&self, cluster: &Cluster, _hit: &Hit) -> Result<()> {
        let Some(guest) = self.guest() else { return Ok(()) };
        cluster.dismiss(guest, LEAVES_WITHIN).await
    }
}
