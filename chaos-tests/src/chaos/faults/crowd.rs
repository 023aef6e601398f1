//! What the faults of clients have in common: many at a time through each node, again until every
//! node has answered one of them.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::Hit;
use crate::chaos::clients::{Request, call};
use crate::chaos::dice::Dice;

/// A node that is down or paused as the clients come answers others that come later.
pub(super) const FELT_WITHIN: Duration = Duration::from_secs(45);
pub(super) const ROUND_PAUSE: Duration = Duration::from_millis(500);
/// Connections at a time, over all nodes: far below the limits on open files.
const CLIENTS: u64 = 48;
/// The choices of one strike, apart from those of the plan.
const STREAM: u64 = 0;

/// Sends clients with what `choose` draws. Answers the nodes that have answered.
pub(super) async fn send(hit: &Hit, choose: fn(&mut Dice) -> Request) -> Result<Vec<u64>> {
    let mut dice = Dice::new(hit.choice, STREAM);
    let began = Instant::now();
    let mut felt = BTreeSet::new();
    loop {
        let mut clients = JoinSet::new();
        for (_, node) in (0..CLIENTS).zip(hit.nodes.iter().copied().cycle()) {
            let (stage, request) = (hit.stage().clone(), choose(&mut dice));
            clients.spawn(async move { anyhow::Ok((node, call(&stage, node, &request).await?)) });
        }
        while let Some(ended) = clients.join_next().await {
            let (node, ended) = ended.context("a client panicked")??;
            if ended.answered {
                felt.insert(node);
            }
        }
        if felt.len() == hit.nodes.len() || began.elapsed() >= FELT_WITHIN {
            return Ok(felt.into_iter().collect());
        }
        sleep(ROUND_PAUSE).await;
    }
}
