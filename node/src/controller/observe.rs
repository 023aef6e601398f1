//! What the leader has heard, by its monotonic clock.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};

use muster_core::ClusterState;
use muster_core::ids::{InstanceId, NodeId};
use muster_core::observation::{Heard, InstanceLoad, NodeReport, Observed};
use muster_core::units::Millis;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

/// One instance's load, as it is shown to users.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Load {
    pub(crate) in_flight: u32,
    pub(crate) concurrency: u32,
    pub(crate) busy_ms: u64,
    pub(crate) ready_ms: u64,
}

impl Load {
    /// Time spent serving over time since ready, over its whole life, in thousandths.
    pub(crate) fn utilization_permille(&self) -> u32 {
        let slots_ms = self.ready_ms.saturating_mul(u64::from(self.concurrency));
        let permille = self.busy_ms.saturating_mul(1000).checked_div(slots_ms).unwrap_or(0);
        u32::try_from(permille.min(1000)).unwrap_or(1000)
    }
}

/// What the leader alone knows.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct View {
    pub(crate) loads: BTreeMap<InstanceId, Load>,
    pub(crate) applied: BTreeMap<NodeId, u64>,
}

#[derive(Debug)]
pub(crate) struct Observations(Mutex<Reports>);

#[derive(Debug)]
struct Reports {
    since: Instant,
    by_node: BTreeMap<NodeId, (Instant, NodeReport)>,
}

impl Default for Observations {
    fn default() -> Self {
        Observations(Mutex::new(Reports { since: Instant::now(), by_node: BTreeMap::new() }))
    }
}

impl Observations {
    /// A new term of leadership: what was heard in another says nothing about who is there now.
    pub(crate) fn begin(&self) {
        *self.lock() = Reports { since: Instant::now(), by_node: BTreeMap::new() };
    }

    /// Keeps a report, unless it is older than what is known: they may overtake each other.
    pub(crate) fn take(&self, report: NodeReport) {
        let mut reports = self.lock();
        let outdated = reports
            .by_node
            .get(&report.node)
            .is_some_and(|(_, known)| known.incarnation > report.incarnation);
        if !outdated {
            reports.by_node.insert(report.node, (Instant::now(), report));
        }
    }

    pub(crate) fn observed(&self) -> Observed {
        let reports = self.lock();
        let heard = reports
            .by_node
            .iter()
            .map(|(node, (at, report))| (*node, Heard { age: elapsed(*at), report: report.clone() }));
        Observed { elapsed: elapsed(reports.since), nodes: heard.collect() }
    }

    pub(crate) fn loads(&self, state: &ClusterState) -> BTreeMap<InstanceId, Load> {
        let reports = self.lock();
        let all = reports.by_node.values().flat_map(|(_, report)| &report.instances);
        all.filter_map(|load| Some((load.instance, shown(state, load)?))).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Reports> {
        self.0.lock().expect("nothing panics while holding the reports")
    }
}

fn shown(state: &ClusterState, load: &InstanceLoad) -> Option<Load> {
    let instance = state.instances.get(load.instance)?;
    Some(Load {
        in_flight: load.in_flight,
        concurrency: instance.concurrency,
        busy_ms: load.busy_ms,
        ready_ms: load.ready_ms,
    })
}

fn elapsed(since: Instant) -> Millis {
    Millis(u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn utilization_counts_every_slot_and_never_exceeds_one() {
        for (busy_ms, ready_ms, concurrency, permille) in
            [(0, 0, 1, 0), (500, 1000, 1, 500), (500, 1000, 2, 250), (1500, 1000, 1, 1000)]
        {
            let load = Load { in_flight: 0, concurrency, busy_ms, ready_ms };
            assert_eq!(load.utilization_permille(), permille, "{busy_ms} of {ready_ms} × {concurrency}");
        }
    }
}
