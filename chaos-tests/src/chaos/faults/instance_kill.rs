//! `instance-kill`: SIGKILL to instances of a node, again and again: as a crash, or an operator who
//! knows no better.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use async_trait::async_trait;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::{Fault, Frame, Hit, Layer, instances};
use crate::Cluster;
use crate::chaos::dice::Dice;
use crate::cluster::Blow;

/// Instances killed by one strike, on all its nodes: more would only show that a function which never
/// lives long is launched ever more rarely.
const KILLS_MAX: u32 = 6;
const STREAM: u64 = 0;

const FRAME: Frame = Frame::new("instance-kill", Layer::Engine, (100, 5_000));

#[derive(Default)]
pub(super) struct InstanceKill {
    killing: Mutex<Option<Killing>>,
}

struct Killing {
    stop: CancellationToken,
    task: AbortOnDropHandle<Result<()>>,
}

#[async_trait]
impl Fault for InstanceKill {
    fn frame(&self) -> &Frame {
        &FRAME
    }

    async fn strike(&self, cluster: &Cluster, hit: &Hit) -> Result<Vec<u64>> {
        let felt =
            instances::each(cluster, hit, |body| async move { cluster.strike(&body, Blow::Kill).await });
        let felt = felt.await?.into_iter().map(|body| body.node).collect::<BTreeSet<u64>>();
        let stop = CancellationToken::new();
        let (cluster, nodes, token) = (Arc::clone(&hit.stage().cluster), hit.nodes.clone(), stop.clone());
        let dice = Dice::new(hit.choice, STREAM);
        let task = AbortOnDropHandle::new(tokio::spawn(go_on(cluster, nodes, dice, token)));
        *self.killing.lock().unwrap_or_else(PoisonError::into_inner) = Some(Killing { stop, task });
        Ok(felt.into_iter().collect())
    }

    async fn mend(&self, _cluster: &Cluster, _hit: &Hit) -> Result<()> {
        let killing = self.killing.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(Killing { stop, task }) = killing else { return Ok(()) };
        stop.cancel();
        task.await.context("the killing panicked")?
    }
}

async fn go_on(
    cluster: Arc<Cluster>,
    nodes: Vec<u64>,
    mut dice: Dice,
    stop: CancellationToken,
) -> Result<()> {
    for _ in 0..KILLS_MAX {
        let pause = Duration::from_millis(dice.between(100, 1_000));
        if tokio::time::timeout(pause, stop.cancelled()).await.is_ok() {
            return Ok(());
        }
        let mut bodies = cluster.bodies().await?;
        bodies.retain(|body| nodes.contains(&body.node));
        if !bodies.is_empty() {
            // It may be gone by now, which is what was meant.
            let _struck = cluster.strike(dice.pick(&bodies), Blow::Kill).await?;
        }
    }
    Ok(())
}
