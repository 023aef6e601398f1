//! Carries out the planned faults: resolves roles when their time has come, mends, and notes what
//! happened. A node suffers one fault at a time; different nodes suffer together as planned.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::task::JoinSet;

use super::evidence::Window;
use super::faults;
use super::history::Recorder;
use super::plan::{Plan, Role, Strike};
use crate::Cluster;

/// A leader that is not found by then is not waited for: others' faults may have taken the quorum.
const LEADER_WITHIN: Duration = Duration::from_secs(1);

/// What came of the plan.
#[derive(Debug, Default)]
pub struct Felt {
    pub windows: Vec<Window>,
    pub missed: Vec<String>,
}

#[derive(Clone, Copy)]
enum Came {
    Hit,
    Missed,
}

struct Nemesis {
    cluster: Arc<Cluster>,
    recorder: Arc<Recorder>,
    held: Mutex<BTreeSet<u64>>,
    felt: Mutex<Felt>,
}

/// Runs all strikes to their end. Returns when every node is mended and ready again.
///
/// # Errors
/// Where a fault could not be done or undone, or a node did not come back.
pub async fn run(cluster: Arc<Cluster>, recorder: Arc<Recorder>, plan: &Plan) -> Result<Felt> {
    let nemesis = Nemesis { cluster, recorder, held: Mutex::default(), felt: Mutex::default() };
    let nemesis = Arc::new(nemesis);
    let began = tokio::time::Instant::now();
    let mut strikes = JoinSet::new();
    for strike in plan.strikes.clone() {
        let nemesis = Arc::clone(&nemesis);
        strikes.spawn(async move {
            tokio::time::sleep_until(began + Duration::from_millis(strike.at_ms)).await;
            let came = nemesis.strike(&strike).await;
            came.with_context(|| format!("the fault {} at {} ms", strike.fault, strike.at_ms))
                .map(|came| (came, strike))
        });
    }
    while let Some(strike) = strikes.join_next().await {
        if let (Came::Missed, strike) = strike.context("a strike panicked")?? {
            let text = format!(
                "{} on {:?} at {} ms: no node was free for it",
                strike.fault, strike.role, strike.at_ms
            );
            nemesis.felt().missed.push(text);
        }
    }
    let mut felt = std::mem::take(&mut *nemesis.felt());
    felt.windows.sort_by_key(|window| window.begin_us);
    Ok(felt)
}

impl Nemesis {
    async fn strike(&self, strike: &Strike) -> Result<Came> {
        let fault = faults::by_name(&strike.fault).context("no such fault")?;
        let leader = tokio::time::timeout(LEADER_WITHIN, self.cluster.leader()).await;
        let leader = leader.ok().and_then(Result::ok);
        let nodes = self.take(strike, leader);
        if nodes.is_empty() {
            return Ok(Came::Missed);
        }
        let begin_us = self.recorder.now_us();
        self.recorder.note(&format!("{} on {nodes:?} as {:?}", strike.fault, strike.role))?;
        let mut felt = Vec::new();
        for node in &nodes {
            if fault.strike(&self.cluster, *node).await? {
                felt.push(*node);
            }
        }
        tokio::time::sleep(Duration::from_millis(strike.span_ms)).await;
        let mended_us = self.recorder.now_us();
        for node in &nodes {
            fault.mend(&self.cluster, *node).await?;
        }
        self.recorder.note(&format!("mended: {} on {nodes:?}", strike.fault))?;
        for node in &nodes {
            fault.back(&self.cluster, *node).await?;
        }
        let end_us = self.recorder.now_us();
        self.held().retain(|node| !nodes.contains(node));
        let (fault, role) = (strike.fault.clone(), strike.role);
        self.felt().windows.push(Window { fault, role, nodes, felt, begin_us, mended_us, end_us });
        Ok(Came::Hit)
    }

    /// Claims the nodes that a strike hits; none if those with the role suffer already.
    fn take(&self, strike: &Strike, leader: Option<u64>) -> Vec<u64> {
        let mut held = self.held();
        let all = self.cluster.numbers();
        let mut free: Vec<u64> = all.iter().copied().filter(|node| !held.contains(node)).collect();
        let from = usize::try_from(strike.choice % all.len() as u64).expect("a small number");
        let nodes: Vec<u64> = match strike.role {
            Role::Leader => free.into_iter().filter(|node| Some(*node) == leader).collect(),
            Role::All => free,
            Role::Follower | Role::Minority => {
                if strike.role == Role::Follower {
                    free.retain(|node| Some(*node) != leader);
                }
                let wanted = if strike.role == Role::Follower { 1 } else { (all.len() - 1) / 2 };
                let most = wanted.min(free.len());
                free.iter().copied().cycle().skip(from).take(most).collect()
            }
        };
        held.extend(&nodes);
        nodes
    }

    fn held(&self) -> std::sync::MutexGuard<'_, BTreeSet<u64>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn felt(&self) -> std::sync::MutexGuard<'_, Felt> {
        self.felt.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
