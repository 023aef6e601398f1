//! `slow-clients`: many clients that send heads and bodies in small pieces, or read long answers at a
//! crawl. They may hold what they must, and no longer than the deadline.

use std::time::Duration;

use anyhow::Result;
use async_trait::async_trait;

use super::{Fault, Frame, Hit, Layer, OVER_BY_ITSELF_MS, crowd};
use crate::Cluster;
use crate::chaos::clients::{Manner, Request};
use crate::chaos::dice::Dice;

const FRAME: Frame = Frame::new("slow-clients", Layer::Load, OVER_BY_ITSELF_MS);

pub(super) struct SlowClients;

#[async_trait]
impl Fault for SlowClients {
    fn frame(&self) -> &Frame {
        &FRAME
    }

    async fn strike(&self, _cluster: &Cluster, hit: &Hit) -> Result<Vec<u64>> {
        crowd::send(hit, choose).await
    }
}

/// Heads and short bodies byte by byte; bodies too long to be read whole beforehand, which hold a slot;
/// answers that do not fit into anyone's buffers.
fn choose(dice: &mut Dice) -> Request {
    let pause = Duration::from_millis(dice.between(2, 6));
    let (manner, body_bytes, answer_bytes) = match dice.below(4) {
        0 => (Manner::SendsSlowly { piece_bytes: 1, pause }, 100, 0),
        1 => (Manner::SendsSlowly { piece_bytes: 512, pause: pause * 5 }, 100_000, 0),
        2 => (Manner::ReadsSlowly { pause: pause * 10 }, 10, 1 << 20),
        _ => (Manner::Stalls, 10, 1 << 20),
    };
    Request { manner, body_bytes, answer_bytes, work_ms: 0 }
}
