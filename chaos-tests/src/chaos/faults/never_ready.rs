//! `never-ready`: a function whose instances run and never listen is asked for. Its callers get a typed
//! error in time, and it is launched ever more rarely.

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use async_trait::async_trait;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::crowd::{FELT_WITHIN, ROUND_PAUSE};
use super::{Fault, Frame, Hit, Layer, OVER_BY_ITSELF_MS};
use crate::Cluster;
use crate::chaos::catalog::{ACCOUNTS, NEVER_READY};
use crate::chaos::clients::WORKER;
use crate::chaos::op::{Mode, Op};

const CALLERS_PER_NODE: u64 = 4;

const FRAME: Frame = Frame::new("never-ready", Layer::Load, OVER_BY_ITSELF_MS);

pub(super) struct NeverReady;

#[async_trait]
impl Fault for NeverReady {
    fn frame(&self) -> &Frame {
        &FRAME
    }

    async fn strike(&self, _cluster: &Cluster, hit: &Hit) -> Result<Vec<u64>> {
        let began = Instant::now();
        let mut felt = BTreeSet::new();
        loop {
            let mut callers = JoinSet::new();
            for node in hit.nodes.iter().copied().flat_map(|node| (0..CALLERS_PER_NODE).map(move |_| node)) {
                let stage = hit.stage().clone();
                let (function, caller) = (NEVER_READY.to_owned(), ACCOUNTS[0].to_owned());
                let op = Op::Invoke { function, caller, work_ms: 0, mode: Mode::Answer };
                callers.spawn(async move { anyhow::Ok((node, stage.act(WORKER, node, &op, None).await?)) });
            }
            while let Some(ended) = callers.join_next().await {
                let (node, outcome) = ended.context("a caller panicked")??;
                if outcome.status.is_some() {
                    felt.insert(node);
                }
            }
            if felt.len() == hit.nodes.len() || began.elapsed() >= FELT_WITHIN {
                return Ok(felt.into_iter().collect());
            }
            sleep(ROUND_PAUSE).await;
        }
    }
}
