//! No node panics, and none ends unless it was made to.

use super::super::evidence::Evidence;
use super::{Finding, Invariant};

pub(super) struct Panics;

impl Invariant for Panics {
    fn name(&self) -> &'static str {
        "panics"
    }

    fn statement(&self) -> &'static str {
        "no node panics, and none ends by itself"
    }

    fn check(&self, run: &Evidence) -> Finding {
        let mut finding = Finding::needing(run.plan.nodes);
        finding.examined = run.plan.nodes;
        for (node, line) in &run.finals.panics {
            finding.violate(format!("node {node}: {line}"));
        }
        for node in &run.finals.ended {
            finding.violate(format!("node {node} ended though nobody killed it"));
        }
        finding
    }

    fn judges_cut_short(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::evidence::tests::evidence;
    use super::*;

    #[test]
    fn panics_and_ends_are_told() {
        let mut run = evidence();
        assert!(Panics.check(&run).holds());
        run.finals.panics.push((2, "thread 'main' panicked at src/x.rs".into()));
        run.finals.ended.push(3);
        assert_eq!(Panics.check(&run).violations.len(), 2);
    }
}
