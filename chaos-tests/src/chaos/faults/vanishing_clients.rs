//! `vanishing-clients`: many clients that reset their connection before the end of their body, after it,
//! or in the middle of the answer. What they asked for may run or not, and is never answered.

use std::time::Duration;

use anyhow::Result;
use async_trait::async_trait;

use super::{Fault, Frame, Hit, Layer, OVER_BY_ITSELF_MS, crowd};
use crate::Cluster;
use crate::chaos::clients::{Manner, Request};
use crate::chaos::dice::Dice;

const FRAME: Frame = Frame::new("vanishing-clients", Layer::Load, OVER_BY_ITSELF_MS);

pub(super) struct VanishingClients;

#[async_trait]
impl Fault for VanishingClients {
    fn frame(&self) -> &Frame {
        &FRAME
    }

    async fn strike(&self, _cluster: &Cluster, hit: &Hit) -> Result<Vec<u64>> {
        crowd::send(hit, choose).await
    }
}

fn choose(dice: &mut Dice) -> Request {
    // Read whole before a slot is taken, or streamed through one.
    let body_bytes = *dice.pick(&[100, 100_000]);
    let work_ms = dice.below(100);
    let part = usize::try_from(dice.below(99)).expect("below 99") + 1;
    let (manner, answer_bytes) = match dice.below(3) {
        0 => (Manner::LeavesInBody { sent_bytes: body_bytes * part / 100 }, 0),
        1 => (Manner::LeavesAfter { wait: Duration::from_millis(dice.below(300)) }, 100_000),
        _ => (Manner::LeavesInAnswer { read_bytes: 10_000 * part }, 1 << 20),
    };
    Request { manner, body_bytes, answer_bytes, work_ms }
}
