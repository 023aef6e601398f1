//! Carries out the planned faults: resolves roles when their time has come, mends, and notes what
//! happened. A node suffers one fault of a [`Layer`] at a time; layers and nodes suffer together as planned.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::evidence::Window;
use super::faults::{self, Fault, Hit, Layer, Reach};
use super::plan::{Plan, Role, Strike};
use super::workload::Stage;
use crate::wait::until;

/// A leader that is not found by then is not waited for: others' faults may have taken the quorum.
const LEADER_WITHIN: Duration = Duration::from_secs(1);

/// Longer than most faults of a short run last.
const FREE_WITHIN: Duration = Duration::from_secs(30);

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
    stage: Stage,
    held: Mutex<BTreeMap<(Layer, u64), String>>,
    felt: Mutex<Felt>,
}

/// Runs all strikes to their end. Returns when every node is mended and ready again.
///
/// # Errors
/// Where a fault could not be done or undone, or a node did not come back.
pub async fn run(stage: Stage, plan: &Plan) -> Result<Felt> {
    let nemesis = Nemesis { stage, held: Mutex::default(), felt: Mutex::default() };
    let nemesis = Arc::new(nemesis);
    let began = Instant::now();
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
        let Stage { cluster, recorder, .. } = &self.stage;
        let fault = faults::by_name(&strike.fault).context("no such fault")?;
        let layer = fault.frame().layer;
        // Often one that suffers already is soon itself again.
        let free = until("a node is free", FREE_WITHIN, || async {
            let leader = tokio::time::timeout(LEADER_WITHIN, cluster.leader()).await;
            let nodes = self.take(strike, fault.as_ref(), leader.ok().and_then(Result::ok));
            ensure!(!nodes.is_empty(), "all who have the role suffer already");
            Ok(nodes)
        });
        let nodes = free.await.unwrap_or_default();
        if nodes.is_empty() {
            return Ok(Came::Missed);
        }
        let span = Duration::from_millis(strike.span_ms);
        let hit = Hit { nodes: nodes.clone(), choice: strike.choice, span, stage: Some(self.stage.clone()) };
        let begin_us = recorder.now_us();
        recorder.note(&format!("{} on {nodes:?} as {:?}", strike.fault, strike.role))?;
        let mut felt = fault.strike(cluster, &hit).await?;
        let reach = fault.reach(&hit, &cluster.numbers());
        tokio::time::sleep(span).await;
        felt.extend(fault.felt(cluster, &hit).await);
        felt.sort_unstable();
        felt.dedup();
        let mended_us = recorder.now_us();
        fault.mend(cluster, &hit).await?;
        recorder.note(&format!("mended: {} on {nodes:?}", strike.fault))?;
        fault.back(cluster, &hit).await?;
        let end_us = recorder.now_us();
        self.held().retain(|(of, node), _| *of != layer || !nodes.contains(node));
        let (fault, role, Reach { nodes, severed }) = (strike.fault.clone(), strike.role, reach);
        self.felt().windows.push(Window {
            fault,
            layer,
            role,
            nodes,
            severed,
            felt,
            begin_us,
            mended_us,
            end_us,
        });
        Ok(Came::Hit)
    }

    /// Claims the nodes that a strike hits; none if those with the role suffer already.
    fn take(&self, strike: &Strike, fault: &dyn Fault, leader: Option<u64>) -> Vec<u64> {
        let layer = fault.frame().layer;
        let mut held = self.held();
        let all = self.stage.cluster.numbers();
        let minority = (all.len() - 1) / 2;
        let most = match fault.frame().takes_majority {
            true => all.len(),
            false => minority.saturating_sub(held.values().filter(|name| **name == strike.fault).count()),
        };
        let mut free: Vec<u64> =
            all.iter().copied().filter(|node| !held.contains_key(&(layer, *node))).collect();
        let from = usize::try_from(strike.choice % all.len() as u64).expect("a small number");
        let nodes: Vec<u64> = match strike.role {
            Role::Leader => free.into_iter().filter(|node| Some(*node) == leader).collect(),
            Role::All => free,
            Role::Follower | Role::Minority => {
                if strike.role == Role::Follower {
                    free.retain(|node| Some(*node) != leader);
                }
                let wanted = if strike.role == Role::Follower { 1 } else { minority };
                free.iter().copied().cycle().skip(from).take(wanted.min(free.len())).collect()
            }
        };
        let nodes: Vec<u64> = nodes.into_iter().take(most).collect();
        held.extend(nodes.iter().map(|node| ((layer, *node), strike.fault.clone())));
        nodes
    }

    fn held(&self) -> std::sync::MutexGuard<'_, BTreeMap<(Layer, u64), String>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn felt(&self) -> std::sync::MutexGuard<'_, Felt> {
        self.felt.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
