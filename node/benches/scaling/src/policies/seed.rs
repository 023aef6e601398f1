//! The rule of the demo that Muster began as: every second, one more where busy time over life time is above
//! 0.8, one fewer (the youngest) where it is below 0.7, nothing before 10 s of busy time, and never to zero.
//! Busy time counts when a request ends, over the whole life of the instances there are.

use super::{Ids, Policy, steer};
use crate::machine::Fleet;

#[derive(Debug, Default)]
pub struct Seed {
    ids: Ids,
}

const QUIET_UNTIL_BUSY_MS: u64 = 10_000;

impl Policy for Seed {
    fn name(&self) -> &'static str {
        "the seed's rule"
    }

    fn tick_ms(&self, _waiting: bool) -> u64 {
        1000
    }

    fn reacts(&self, fleet: &Fleet<'_>, function: usize) -> bool {
        fleet.wanted(function) == (0, 0)
    }

    fn decide(&mut self, fleet: &mut Fleet<'_>) {
        // It decides every second; in between it only starts the first instance.
        let on_time = fleet.now.is_multiple_of(1000);
        for function in 0..fleet.demand.len() {
            let (starting, ready) = fleet.wanted(function);
            let running = starting + ready;
            if running == 0 {
                if !fleet.demand[function].waiting.is_empty() {
                    steer(fleet, &mut self.ids, function, 1);
                }
                continue;
            }
            if !on_time {
                continue;
            }
            let live = fleet.demand[function].instances.iter().map(|id| &fleet.instances[id]);
            let (mut busy_ms, mut life_ms) = (0, 0);
            for instance in live.filter(|i| !i.draining) {
                busy_ms += instance.ended_busy_ms;
                life_ms += instance.ready_ms.map_or(0, |at| fleet.now - at);
            }
            if busy_ms < QUIET_UNTIL_BUSY_MS {
                continue;
            }
            if busy_ms * 10 > life_ms * 8 {
                steer(fleet, &mut self.ids, function, running + 1);
            } else if busy_ms * 10 < life_ms * 7 && running > 1 {
                steer(fleet, &mut self.ids, function, running - 1);
            }
        }
    }
}
