//! What is listed as an instance runs exactly once, and nothing else runs or is left of what ran: no
//! ended container, no working folder, no second network.

use std::collections::BTreeSet;

use super::super::evidence::Evidence;
use super::{Finding, Invariant};

const ENDED: [&str; 3] = ["stopped", "failed", "lost"];

pub(super) struct Leaks;

impl Invariant for Leaks {
    fn name(&self) -> &'static str {
        "leaks"
    }

    fn statement(&self) -> &'static str {
        "after healing, each live instance runs exactly once, and nothing else runs or is left"
    }

    fn check(&self, run: &Evidence) -> Finding {
        let mut finding = Finding::needing(1);
        let live = run.finals.instances.iter().filter(|i| !ENDED.contains(&i.phase.as_str()));
        let live: BTreeSet<&str> = live.map(|instance| instance.id.as_str()).collect();
        for (instance, count) in &run.finals.running {
            finding.examined += 1;
            if !live.contains(instance.as_str()) {
                finding.violate(format!("{instance} runs, though no such instance is live"));
            } else if *count != 1 {
                finding.violate(format!("{instance} runs {count} times"));
            }
        }
        for instance in live.iter().filter(|id| !run.finals.running.contains_key(**id)) {
            finding.violate(format!("{instance} is listed as live and does not run"));
        }
        for instance in run.finals.remains.iter().filter(|id| !live.contains(id.as_str())) {
            finding.violate(format!("a container or a folder is left of {instance}"));
        }
        for left in &run.finals.left {
            finding.violate(left.clone());
        }
        if run.finals.networks.len() > 1 {
            finding.violate(format!("the cluster has {} networks on one host", run.finals.networks.len()));
        }
        finding
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::evidence::tests::evidence;
    use super::*;

    fn instance(id: &str, phase: &str) -> muster_api::Instance {
        let row = serde_json::json!({
            "id": id, "function": "f", "version": 1, "node": 1, "generation": 1, "phase": phase,
            "memory_mb": 16, "cause": "minimum", "launched_at": "2026-11-23T00:00:00Z",
        });
        serde_json::from_value(row).unwrap()
    }

    #[test]
    fn listed_and_running_are_the_same() {
        for (listed, running, good) in [
            (vec![("i-1", "ready"), ("i-2", "lost")], vec![("i-1", 1)], true),
            (vec![("i-1", "ready")], vec![], false),
            (vec![("i-1", "ready")], vec![("i-1", 2)], false),
            (vec![("i-1", "ready")], vec![("i-1", 1), ("i-9", 1)], false),
            (vec![("i-1", "lost")], vec![("i-1", 1)], false),
        ] {
            let mut run = evidence();
            run.finals.instances = listed.iter().map(|(id, phase)| instance(id, phase)).collect();
            run.finals.running = running.iter().map(|(id, count)| ((*id).to_owned(), *count)).collect();
            assert_eq!(Leaks.check(&run).holds(), good, "{listed:?} {running:?}");
            run.finals.remains = listed.iter().map(|(id, _)| (*id).to_owned()).collect();
            let ended = listed.iter().any(|(_, phase)| ENDED.contains(phase));
            assert_eq!(Leaks.check(&run).holds(), good && !ended, "folders of {listed:?}");
            run.finals.remains.clear();
            run.finals.left = vec!["a process survives".into()];
            assert!(!Leaks.check(&run).holds(), "a process");
            run.finals.left.clear();
            run.finals.networks = vec!["a".into(), "b".into()];
            assert!(!Leaks.check(&run).holds(), "two networks");
        }
    }
}
