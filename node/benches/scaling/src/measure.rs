//! What a replay cost and what its callers felt.

use crate::machine::Instance;
use crate::trace::Trace;

/// A change of the number of instances: when, of which function, by how much.
pub type Step = (u64, usize, i32);

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Measures {
    /// By invocation: how long it waited, and whether for a launch. `None`: not served yet.
    pub served: Vec<Option<(u64, bool)>>,
    left: usize,
    pub launches: u64,
    /// From launch to end, within the trace.
    pub instance_ms: u64,
    pub memory_mb_ms: u64,
    pub steps: Vec<Step>,
    end_ms: u64,
    memory_mb: Vec<u32>,
}

impl Measures {
    pub(crate) fn new(trace: &Trace) -> Self {
        Measures {
            served: vec![None; trace.invocations.len()],
            left: trace.invocations.len(),
            launches: 0,
            instance_ms: 0,
            memory_mb_ms: 0,
            steps: Vec::new(),
            end_ms: trace.end_ms,
            memory_mb: trace.functions.iter().map(|f| f.memory_mb).collect(),
        }
    }

    pub(crate) fn launched(&mut self, now: u64, function: usize) {
        self.launches += 1;
        self.steps.push((now, function, 1));
    }

    pub(crate) fn ended(&mut self, now: u64, instance: &Instance) {
        let span = now.min(self.end_ms).saturating_sub(instance.launched_ms);
        self.instance_ms += span;
        self.memory_mb_ms += span * u64::from(self.memory_mb[instance.function]);
        self.steps.push((now, instance.function, -1));
    }

    pub(crate) fn served(&mut self, invocation: usize, waited_ms: u64, cold: bool) {
        let known = self.served[invocation].replace((waited_ms, cold));
        assert!(known.is_none(), "invocation {invocation} was served twice");
        self.left -= 1;
    }

    pub(crate) fn all_served(&self) -> bool {
        self.left == 0
    }

    pub fn cold_starts(&self) -> u64 {
        self.served.iter().flatten().filter(|(_, cold)| *cold).count() as u64
    }

    /// The wait that so many thousandths of the invocations did not exceed.
    pub fn wait_ms(&self, permille: usize) -> u64 {
        let mut waits: Vec<u64> = self.served.iter().flatten().map(|(waited, _)| *waited).collect();
        waits.sort_unstable();
        let rank = (waits.len() * permille).div_ceil(1000).max(1);
        waits.get(rank - 1).copied().unwrap_or(0)
    }
}
