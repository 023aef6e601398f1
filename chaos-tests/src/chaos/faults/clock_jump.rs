//! `clock-jump`: a node's wall clock is suddenly wrong, forward or back, as when someone sets it or a
//! time server errs; mended, it jumps back.

use anyhow::Result;
use async_trait::async_trait;

use super::{Fault, Frame, Hit, Layer, Needs, ending};
use crate::Cluster;

/// By so much.
const JUMPS_MS: [i64; 10] =
    [100, -100, 1_500, -1_500, 10_000, -10_000, 300_000, -300_000, 7_200_000, -7_200_000];

const FRAME: Frame = Frame::new("clock-jump", Layer::Clock, (200, 10_000)).needing(Needs::Clocks);

pub(super) struct ClockJump;

#[async_trait]
impl Fault for ClockJump {
    fn frame(&self) -> &Frame {
        &FRAME
    }

    async fn strike(&self, cluster: &Cluster, hit: &Hit) -> Result<Vec<u64>> {
        let choice = usize::try_from(hit.choice % JUMPS_MS.len() as u64).expect("an index");
        let mut before = Vec::new();
        for node in &hit.nodes {
            let clock = cluster.clock(*node);
            before.push((*node, clock.told_shifted()?));
            clock.shift_ms(JUMPS_MS[choice])?;
        }
        ending::told(before, |node| cluster.clock(node).told_shifted()).await
    }

    async fn mend(&self, cluster: &Cluster, hit: &Hit) -> Result<()> {
        hit.nodes.iter().try_for_each(|node| cluster.clock(*node).shift_ms(0))
    }
}
