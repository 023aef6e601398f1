//! The hybrid histogram policy of Shahrad et al., "Serverless in the Wild", ATC'20: idle times in bins of one
//! minute up to four hours; let go at once, launched again at the 5th percentile less 10 %, kept until the
//! 99th plus 10 %. Where the bins are not representative (their counts vary too little) or most idle times
//! are beyond them, kept for the whole range. (Its forecast by ARIMA for the latter is left out.)

use super::fixed::launch_for_waiting;
use super::{Ids, Policy};
use crate::machine::Fleet;
use crate::trace::Trace;

const BIN_MS: u64 = 60_000;
const BINS: usize = 240;
const RANGE_MS: u64 = BIN_MS * BINS as u64;
/// The least coefficient of variation of the bins' counts.
const REPRESENTATIVE: f64 = 2.0;

#[derive(Debug)]
struct Learned {
    bins: Vec<u64>,
    beyond: u64,
    /// When it was last asked for; `None` while something is asked.
    idle_since_ms: Option<u64>,
    /// The idle times at which an instance should be there.
    warm_ms: (u64, u64),
}

impl Learned {
    #[expect(clippy::cast_precision_loss, reason = "small numbers")]
    fn learn(&mut self, idle_ms: u64) {
        match self.bins.get_mut(usize::try_from(idle_ms / BIN_MS).unwrap_or(BINS)) {
            Some(bin) => *bin += 1,
            None => self.beyond += 1,
        }
        let total: u64 = self.bins.iter().sum();
        let mean = total as f64 / BINS as f64;
        let variance = self.bins.iter().map(|n| (*n as f64 - mean).powi(2)).sum::<f64>() / BINS as f64;
        let representative = total > self.beyond && variance.sqrt() >= REPRESENTATIVE * mean;
        self.warm_ms = match representative {
            true => (
                self.percentile(total, 5) * BIN_MS * 9 / 10,
                (self.percentile(total, 99) + 1) * BIN_MS * 11 / 10,
            ),
            false => (0, RANGE_MS),
        };
    }

    fn percentile(&self, total: u64, percent: u64) -> u64 {
        let mut seen = 0;
        let found = self.bins.iter().position(|count| {
            seen += count;
            seen * 100 >= total * percent
        });
        found.unwrap_or(BINS) as u64
    }
}

#[derive(Debug)]
pub struct Wild {
    ids: Ids,
    functions: Vec<Learned>,
}

impl Wild {
    pub fn new(trace: &Trace) -> Self {
        let new = || Learned { bins: vec![0; BINS], beyond: 0, idle_since_ms: None, warm_ms: (0, RANGE_MS) };
        Wild { ids: Ids::default(), functions: trace.functions.iter().map(|_| new()).collect() }
    }
}

impl Policy for Wild {
    fn name(&self) -> &'static str {
        "histogram of ATC'20"
    }

    fn tick_ms(&self, _waiting: bool) -> u64 {
        1000
    }

    fn reacts(&self, _fleet: &Fleet<'_>, _function: usize) -> bool {
        true
    }

    fn decide(&mut self, fleet: &mut Fleet<'_>) {
        let now = fleet.now;
        for (function, learned) in self.functions.iter_mut().enumerate() {
            launch_for_waiting(fleet, &mut self.ids, function);
            let instances = || fleet.demand[function].instances.iter().map(|id| (*id, &fleet.instances[id]));
            let asked = fleet.demand[function].load() > 0;
            // A use may lie between two looks: the instance tells.
            let used_ms = instances().filter(|(_, i)| i.completed > 0).map(|(_, i)| i.used_ms).max();
            let since = learned.idle_since_ms;
            if let Some(since) = since.filter(|since| asked || used_ms.is_some_and(|used| used > *since)) {
                learned.learn(if asked { now - since } else { used_ms.unwrap_or(now).saturating_sub(since) });
                learned.idle_since_ms = None;
            }
            if asked {
                continue;
            }
            learned.idle_since_ms = learned.idle_since_ms.max(used_ms);
            let Some(since) = learned.idle_since_ms else { continue };
            let idle_ms = now - since;
            let (from, to) = learned.warm_ms;
            let live: Vec<u64> =
                instances().filter(|(_, i)| i.ready_ms.is_some() && !i.draining).map(|(id, _)| id).collect();
            let (starting, _) = fleet.wanted(function);
            match (from..to).contains(&idle_ms) {
                false => live.into_iter().for_each(|id| fleet.drain(id)),
                true if from > 0 && live.is_empty() && starting == 0 => {
                    fleet.launch(self.ids.next(), function, 1);
                }
                true => {}
            }
        }
    }
}
