//! What is asked of each function, from the reports of all nodes.

use std::collections::BTreeMap;

use super::hosts::Hosts;
use super::memory::FunctionMemory;
use super::{Context, Known, Memory};
use crate::functions::KeepAlive;
use crate::ids::{AccountName, FunctionName, NodeId};
use crate::instances::{CAUSE_ACCOUNTS_MAX, Phase};
use crate::observation::InstanceLoad;
use crate::state::ClusterState;
use crate::units::{Millis, Timestamp};
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
pub(super) fn measure(context: &Context<'_>, memory: &mut Memory) {
    for (node, host) in &context.hosts.by_id {
        let Some(heard) = host.heard else { continue };
        for load in &heard.report.instances {
            measure_instance(context, *node, heard.age, load, memory);
        }
    }
}

fn measure_instance(
    context: &Context<'_>,
    node: NodeId,
    age: Millis,
    load: &InstanceLoad,
    memory: &mut Memory,
) {
    let state = context.state;
    let Some(instance) = state.instances.get(load.instance) else { return };
    let Some(function) = state.functions.get(instance.function.as_str()) else { return };
    if instance.node != node || instance.phase != Phase::Ready {
        return;
    }
    let policy = &function.current().spec.scaling;
    let known = FunctionMemory::of(&mut memory.functions, &instance.function, policy.window, context.elapsed);
    let now = Counters::from(load);
    let at = Millis(context.elapsed.0.saturating_sub(age.0));
    let before = memory.counters.get(&load.instance).copied();
    let delta = now.since(before.map(|before| before.counters), policy.window);
    known.window.add(at, delta, instance.concurrency);
    let served = delta.busy_ms > 0 || delta.completed > 0;
    let used_at = (load.in_flight > 0 || served).then_some(at);
    known.last_asked = known.last_asked.max(used_at.unwrap_or_default());
    let used_at = used_at.max(before.and_then(|before| before.used_at));
    memory.counters.insert(load.instance, Known { counters: now, used_at });
    if policy.keep_alive == KeepAlive::Adaptive && delta.ready_ms > 0 {
        // As in the window: an instance is never busier than its slots.
        let busy_ms =
            delta.busy_ms.min(delta.ready_ms.saturating_mul(u64::from(instance.concurrency.max(1))));
        known.lately.add(at, busy_ms, delta.ready_ms);
    }
    // What a new leader hears for the first time may be long ago.
    if policy.keep_alive == KeepAlive::Adaptive && (load.in_flight > 0 || served && before.is_some()) {
        let until = Timestamp(context.now.0.saturating_sub(age.0));
        // It was asked at some time since the report before.
        let from = Timestamp(until.0.saturating_sub(delta.ready_ms));
        known.notes.asked(from, until, state.habits.get(instance.function.as_str()));
    }
}
