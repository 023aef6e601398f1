//! `clock-drift`: all clocks of a node go too fast or too slowly, by what leases are made for; mended, they
//! come back at the same pace.

use anyhow::Result;
use async_trait::async_trait;

use super::{Fault, Frame, Hit, Layer, Needs, ending};
use crate::Cluster;

/// In a million. Two nodes that drift apart differ by 4 %, and a lease has a margin of 5 %. A real
/// oscillator is a hundred times better.
const RATES_PPM: [i64; 6] = [20_000, -20_000, 10_000, -10_000, 2_000, -2_000];
pub(in crate::chaos) const MOST_PPM: i64 = 20_000;

pub(in crate::chaos) const NAME: &str = "clock-drift";
const FRAME: Frame = Frame::new(NAME, Layer::Clock, (1_000, 15_000)).needing(Needs::Clocks);

pub(super) struct ClockDrift;

#[async_trait]
impl Fault for ClockDrift {
    fn frame(&self) -> &Frame {
        &FRAME
    }

    async fn strike(&self, cluster: &Cluster, hit: &Hit) -> Result<Vec<u64>> {
        let mut before = Vec::new();
        for (turn, node) in (0..).zip(&hit.nodes) {
            let clock = cluster.clock(*node);
            before.push((*node, clock.told_drifted()?));
            // Several that are hit drift apart from each other.
            let choice = usize::try_from((hit.choice + turn) % RATES_PPM.len() as u64).expect("an index");
            clock.drift_ppm(RATES_PPM[choice])?;
        }
        ending::told(before, |node| cluster.clock(node).told_drifted()).await
    }

    async fn mend(&self, cluster: &Cluster, hit: &Hit) -> Result<()> {
        hit.nodes.iter().try_for_each(|node| cluster.clock(*node).come_back_ppm(MOST_PPM))
    }
}
