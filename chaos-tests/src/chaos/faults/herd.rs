//! `herd`: a hundred and more invocations of a function at zero within some milliseconds. Each is
//! answered or refused, and they launch no more instances than the function may have.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result};
use async_trait::async_trait;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::crowd::{FELT_WITHIN, ROUND_PAUSE};
use super::{Fault, Frame, Hit, Layer, OVER_BY_ITSELF_MS};
use crate::Cluster;
use crate::chaos::catalog::{ACCOUNTS, HERD};
use crate::chaos::clients::WORKER;
use crate::chaos::op::{Mode, Op};

const LEAST: u64 = 100;
const MORE: u64 = 100;
const WORK_MS: u64 = 20;
/// The function goes to zero within about three seconds when nobody asks for it.
const COLD_AFTER: Duration = Duration::from_secs(4);

const FRAME: Frame = Frame::new("herd", Layer::Load, OVER_BY_ITSELF_MS);

pub(super) struct Herd;

#[async_trait]
impl Fault for Herd {
    fn frame(&self) -> &Frame {
        &FRAME
    }

    async fn strike(&self, _cluster: &Cluster, hit: &Hit) -> Result<Vec<u64>> {
        let size = LEAST + hit.choice % MORE;
        let began = Instant::now();
        let mut felt = BTreeSet::new();
        loop {
            let (answered, cold) = round(hit, size).await?;
            felt.extend(answered);
            if cold && felt.len() == hit.nodes.len() || began.elapsed() >= FELT_WITHIN {
                return Ok(if cold { felt.into_iter().collect() } else { Vec::new() });
            }
            sleep(if cold { ROUND_PAUSE } else { COLD_AFTER }).await;
        }
    }
}

/// Answers which nodes have answered, and whether anyone waited for a cold start.
async fn round(hit: &Hit, size: u64) -> Result<(BTreeSet<u64>, bool)> {
    let mut herd = JoinSet::new();
    for (_, node) in (0..size).zip(hit.nodes.iter().copied().cycle()) {
        let stage = hit.stage().clone();
        let (function, caller) = (HERD.to_owned(), ACCOUNTS[1].to_owned());
        let op = Op::Invoke { function, caller, work_ms: WORK_MS, mode: Mode::Answer };
        herd.spawn(async move { anyhow::Ok((node, stage.act(WORKER, node, &op, None).await?)) });
    }
    let (mut answered, mut cold) = (BTreeSet::new(), false);
    while let Some(ended) = herd.join_next().await {
        let (node, outcome) = ended.context("a caller panicked")??;
        if outcome.status.is_some() {
            answered.insert(node);
        }
        cold |= outcome.cold_start;
    }
    Ok((answered, cold))
}
