//! `oom`: a function takes more memory than its container may have, and the kernel kills it. Child
//! processes have no limit of their own, so only containers can suffer it.

use std::time::SystemTime;

use anyhow::Result;
use async_trait::async_trait;
use tokio::time::{Instant, sleep};

use super::crowd::{FELT_WITHIN, ROUND_PAUSE};
use super::{Fault, Frame, Hit, Layer, Needs, OVER_BY_ITSELF_MS};
use crate::Cluster;
use crate::chaos::catalog::{ACCOUNTS, HUNGRY};
use crate::chaos::clients::WORKER;
use crate::chaos::op::{Mode, Op, Verdict};

const FRAME: Frame = Frame::new("oom", Layer::Engine, OVER_BY_ITSELF_MS).needing(Needs::MemoryLimits);

pub(super) struct Oom;

#[async_trait]
impl Fault for Oom {
    fn frame(&self) -> &Frame {
        &FRAME
    }

    /// Felt by a node whose caller was told that the function broke off, where Docker saw why.
    async fn strike(&self, cluster: &Cluster, hit: &Hit) -> Result<Vec<u64>> {
        let mut felt = Vec::new();
        for node in &hit.nodes {
            let began = Instant::now();
            while began.elapsed() < FELT_WITHIN {
                let since = SystemTime::now();
                let (function, caller) = (HUNGRY.to_owned(), ACCOUNTS[0].to_owned());
                let op = Op::Invoke { function, caller, work_ms: 0, mode: Mode::Exhaust };
                let outcome = hit.stage().act(WORKER, *node, &op, None).await?;
                if outcome.verdict == Verdict::Failed && cluster.ooms(HUNGRY, since).await? > 0 {
                    felt.push(*node);
                    break;
                }
                sleep(ROUND_PAUSE).await;
            }
        }
        Ok(felt)
    }
}
