//! What is asked of each function, from the reports of all nodes.

use std::collections::BTreeMap;

use super::Memory;

use super::hosts::Hosts;
use super::memory::FunctionMemory;
use crate::ids::{AccountName, FunctionName, NodeId};
use crate::instances::{CAUSE_ACCOUNTS_MAX, Phase};
use crate::observation::InstanceLoad;
use crate::state::ClusterState;
use crate::units::Millis;
use crate::window::Counters;

/// The requests that wait for one function, at all entry nodes together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Queue {
    pub waiting: u32,
    pub oldest_ms: u64,
    pub by_account: BTreeMap<AccountName, u32>,
    pub by_node: BTreeMap<NodeId, u32>,
}

impl Queue {
    /// The accounts with most requests, the most first, then by name.
    pub(super) fn accounts(&self) -> Vec<(AccountName, u32)> {
        let mut accounts: Vec<_> = self.by_account.iter().map(|(name, n)| (name.clone(), *n)).collect();
        accounts.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        accounts.truncate(CAUSE_ACCOUNTS_MAX);
        accounts
    }
}

/// Adds up the queues that nodes reported lately. A queue at a silent node may be gone with it.
pub(super) fn queues(state: &ClusterState, hosts: &Hosts<'_>) -> BTreeMap<FunctionName, Queue> {
    let mut queues: BTreeMap<FunctionName, Queue> = BTreeMap::new();
    for (id, host) in &hosts.by_id {
        for load in host.heard.iter().flat_map(|heard| &heard.report.queues) {
            if load.waiting == 0 || state.functions.get(load.function.as_str()).is_none() {
                continue;
            }
            let queue = queues.entry(load.function.clone()).or_default();
            queue.waiting = queue.waiting.saturating_add(load.waiting);
            queue.oldest_ms = queue.oldest_ms.max(load.oldest_ms);
            let here = queue.by_node.entry(*id).or_default();
            *here = here.saturating_add(load.waiting);
            for (account, count) in &load.accounts {
                let known = queue.by_account.entry(account.clone()).or_default();
                *known = known.saturating_add(*count);
            }
        }
    }
    queues
}

/// Takes the counters of the reports into the windows of their functions. Instances that drain are
/// left out: what they still do will not be asked of the others.
pub(super) fn measure(state: &ClusterState, hosts: &Hosts<'_>, elapsed: Millis, memory: &mut Memory) {
    for (node, host) in &hosts.by_id {
        let Some(heard) = host.heard else { continue };
        let at = Millis(elapsed.0.saturating_sub(heard.age.0));
        for load in &heard.report.instances {
            measure_instance(state, *node, at, load, elapsed, memory);
        }
    }
}

fn measure_instance(
    state: &ClusterState,
    node: NodeId,
    at: Millis,
    load: &InstanceLoad,
    elapsed: Millis,
    memory: &mut Memory,
) {
    let Some(instance) = state.instances.get(load.instance) else { return };
    let Some(function) = state.functions.get(instance.function.as_str()) else { return };
    if instance.node != node || instance.phase != Phase::Ready {
        return;
    }
    let policy = &function.current().spec.scaling;
    let known = FunctionMemory::of(&mut memory.functions, &instance.function, policy.window, elapsed);
    let now = Counters::from(load);
    let before = memory.counters.insert(load.instance, now);
    let delta = now.since(before, policy.window);
    known.window.add(at, delta, instance.concurrency);
    if load.in_flight > 0 || delta.busy_ms > 0 || delta.completed > 0 {
        known.last_asked = known.last_asked.max(at);
    }
}
