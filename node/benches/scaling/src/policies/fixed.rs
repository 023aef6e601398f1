//! The usual rule: an instance for each request that finds no free slot, and each is kept for a fixed
//! time after it last served.

use super::{Ids, Policy};
use crate::machine::Fleet;

#[derive(Debug)]
pub struct Fixed {
    name: String,
    keep_alive_ms: u64,
    ids: Ids,
}

impl Fixed {
    pub fn new(name: &str, keep_alive_ms: u64) -> Self {
        Fixed { name: name.to_owned(), keep_alive_ms, ids: Ids::default() }
    }
}

/// An instance for what waits and is not started for already.
pub(super) fn launch_for_waiting(fleet: &mut Fleet<'_>, ids: &mut Ids, function: usize) {
    let waiting = fleet.demand[function].waiting.len() as u64;
    let slots = u64::from(fleet.trace.functions[function].concurrency);
    for _ in u64::from(fleet.wanted(function).0)..waiting.div_ceil(slots) {
        fleet.launch(ids.next(), function, 1);
    }
}

impl Policy for Fixed {
    fn name(&self) -> &str {
        &self.name
    }

    fn tick_ms(&self, _waiting: bool) -> u64 {
        1000
    }

    fn reacts(&self, _fleet: &Fleet<'_>, _function: usize) -> bool {
        true
    }

    fn decide(&mut self, fleet: &mut Fleet<'_>) {
        for function in 0..fleet.demand.len() {
            launch_for_waiting(fleet, &mut self.ids, function);
        }
        let over = |used_ms: u64| fleet.now >= used_ms + self.keep_alive_ms;
        let idle = fleet
            .instances
            .iter()
            .filter(|(_, i)| i.ready_ms.is_some() && !i.draining && i.in_flight == 0 && over(i.used_ms));
        let idle: Vec<u64> = idle.map(|(id, _)| *id).collect();
        idle.into_iter().for_each(|id| fleet.drain(id));
    }
}
