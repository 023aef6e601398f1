//! `instance-hang`: an instance stands still, as in a deadlock: it keeps its connections and answers
//! nothing. Mended if it is still there.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use anyhow::Result;
use async_trait::async_trait;

use super::{Fault, Frame, Hit, Layer, instances};
use crate::Cluster;
use crate::cluster::{Blow, Body};

const FRAME: Frame = Frame::new("instance-hang", Layer::Engine, (200, 10_000));

#[derive(Default)]
pub(super) struct InstanceHang {
    frozen: Mutex<Vec<Body>>,
}

#[async_trait]
impl Fault for InstanceHang {
    fn frame(&self) -> &Frame {
        &FRAME
    }

    async fn strike(&self, cluster: &Cluster, hit: &Hit) -> Result<Vec<u64>> {
        let frozen = instances::each(cluster, hit, |body| async move {
            Ok(cluster.strike(&body, Blow::Freeze).await? && cluster.is_frozen(&body).await?)
        });
        let frozen = frozen.await?;
        let felt: BTreeSet<u64> = frozen.iter().map(|body| body.node).collect();
        *self.frozen.lock().unwrap_or_else(PoisonError::into_inner) = frozen;
        Ok(felt.into_iter().collect())
    }

    async fn mend(&self, cluster: &Cluster, _hit: &Hit) -> Result<()> {
        let frozen = std::mem::take(&mut *self.frozen.lock().unwrap_or_else(PoisonError::into_inner));
        for body in frozen {
            // The cluster may have had enough of it.
            let _there = cluster.strike(&body, Blow::Thaw).await?;
        }
        Ok(())
    }
}
