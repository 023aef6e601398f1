//! The leader's next commands: what it has heard, compared with what is replicated.
//!
//! Run it a few times a second, and at once when a queue is reported. A plan does not know what is
//! under way: run the next one only after the commands of the last have been answered and applied.
//! Whatever it proposes, the state has the last word, so a deposed leader can do no harm.

mod census;
mod demand;
mod function;
mod hosts;
mod levels;
mod memory;
mod notes;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use crate::ids::{FunctionName, InstanceId, NodeId};
use crate::observation::Observed;
use crate::state::{ClusterState, Command};
use crate::units::{Millis, Timestamp};
use crate::window::Counters;

/// Commands in one plan: they should fit a few log entries and be answered before the next plan.
pub const COMMANDS_MAX: usize = 256;
/// Commands for one function in one plan, so that a burst of one leaves room for the others.
pub const COMMANDS_PER_FUNCTION_MAX: usize = 32;
/// Memory of a function that nobody asks for is dropped after this.
const FORGET_AFTER: Millis = Millis::from_secs(600);
/// ... or after this, if it tells how many instances are worth keeping.
const FORGET_LEVELS_AFTER: Millis = crate::habits::IDLE_MAX;

/// When a silent node counts as down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Silence of a node that has been heard, in its present incarnation, by this leader.
    pub down_after: Millis,
    /// Silence of one that has not, where all may just have been restarted. Longer, so that the
    /// containers that outlived them are adopted, not replaced.
    pub returning_after: Millis,
    /// A report older than this says nothing about now: no launches there, no queues from there.
    pub fresh_within: Millis,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            down_after: Millis::from_secs(2),
            returning_after: Millis::from_secs(5),
            fresh_within: Millis::from_secs(1),
        }
    }
}

/// What a leader remembers between plans. Soft: a new leader begins with a new one.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    limits: Limits,
    last_plan: Option<Millis>,
    nodes: BTreeMap<NodeId, hosts::NodeMemory>,
    functions: BTreeMap<FunctionName, memory::FunctionMemory>,
    /// What was last heard of each live instance.
    counters: BTreeMap<InstanceId, Known>,
    forecasts: notes::Forecasts,
    /// When habits were last written down.
    saved_at: Option<Millis>,
    /// Where the last plan was cut short; the next begins there.
    resume_at: Option<FunctionName>,
    /// The last plan had no room left.
    full: bool,
}

impl Memory {
    pub fn new(limits: Limits) -> Self {
        Memory { limits, ..Memory::default() }
    }

    /// Whether the last plan may have left out what is due: once it is applied, the next is due at once.
    pub fn is_full(&self) -> bool {
        self.full
    }

    /// The utilization of a function over its window, in thousandths, as the last plan saw it.
    pub fn utilization_permille(&self, function: &str) -> Option<u32> {
        let at = self.last_plan?;
        self.functions.get(function).map(|f| f.window.utilization_permille(at))
    }
}

/// The last counters of an instance, and when it was last in use.
#[derive(Clone, Copy, Debug, Default)]
struct Known {
    counters: Counters,
    used_at: Option<Millis>,
}

/// What the functions of one plan share.
struct Context<'a> {
    state: &'a ClusterState,
    /// The leader's monotonic clock.
    elapsed: Millis,
    /// The replicated clock, as the commands will be applied.
    now: Timestamp,
    hosts: hosts::Hosts<'a>,
    ids: &'a mut dyn FnMut() -> u64,
}

/// The commands due now. `now` is the leader's wall clock; `ids` gives fresh random numbers.
pub fn plan(
    state: &ClusterState,
    observed: &Observed,
    memory: &mut Memory,
    now: Timestamp,
    ids: &mut dyn FnMut() -> u64,
) -> Vec<Command> {
    let elapsed = observed.elapsed;
    let now = now.max(state.clock);
    let (hosts, mut commands) = hosts::judge(state, observed, memory, now);
    memory.last_plan = Some(elapsed);
    let asked = demand::queues(state, &hosts);
    let mut context = Context { state, elapsed, now, hosts, ids };
    demand::measure(&context, memory);
    commands.extend(notes::save(state, memory, elapsed, now));
    let expected = memory.forecasts.expected(state, elapsed, now);
    let mut names = active(state, &asked, &expected);
    // Who has waited longest comes first; where a plan was cut short, the next one goes on.
    let resume_at = memory.resume_at.take();
    names.sort_by_key(|name| {
        let waited = asked.get(name).map_or(0, |queue| queue.oldest_ms);
        (Reverse(waited), resume_at.as_ref().is_some_and(|first| name < first))
    });
    memory.counters.retain(|id, _| state.instances.get(*id).is_some_and(|i| !i.phase.is_ended()));
    let active: BTreeSet<&FunctionName> = names.iter().collect();
    memory.functions.retain(|name, f| {
        let limit = if f.levels.is_empty() { FORGET_AFTER } else { FORGET_LEVELS_AFTER };
        active.contains(name) || elapsed.0 - f.last_active.0 <= limit.0
    });
    memory.full = false;
    for name in &names {
        let room = COMMANDS_MAX.saturating_sub(commands.len()).min(COMMANDS_PER_FUNCTION_MAX);
        if room < function::COMMANDS_MIN {
            memory.resume_at = Some(name.clone());
            memory.full = true;
            break;
        }
        let queue = asked.get(name).cloned().unwrap_or_default();
        let planned = function::plan(&mut context, name, &queue, memory, room);
        memory.full |= planned.len() + function::COMMANDS_MIN > room;
        commands.extend(planned);
    }
    commands
}

/// The functions with live instances, waiting requests, a minimum or a call that is expected, in order
/// of their names.
fn active(
    state: &ClusterState,
    asked: &BTreeMap<FunctionName, demand::Queue>,
    expected: &[&FunctionName],
) -> Vec<FunctionName> {
    let minimum = state.functions.iter().filter(|(_, f)| f.current().spec.scaling.min > 0);
    let mut names: BTreeSet<&FunctionName> = minimum.map(|(name, _)| name).collect();
    names.extend(state.instances.functions().filter(|name| state.functions.get(name.as_str()).is_some()));
    names.extend(asked.keys());
    names.extend(expected);
    names.into_iter().cloned().collect()
}

#[cfg(test)]
mod tests;
