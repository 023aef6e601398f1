//! After the last fault is mended, every node reads, writes and invokes within the bound.

use super::super::evidence::Evidence;
use super::{Finding, Invariant};

pub(super) struct Liveness;

impl Invariant for Liveness {
    fn name(&self) -> &'static str {
        "liveness"
    }

    fn statement(&self) -> &'static str {
        "once everything is mended, a write and an invocation through each node succeed"
    }

    fn check(&self, run: &Evidence) -> Finding {
        let mut finding = Finding::needing(2 * run.plan.nodes);
        let mut slowest = 0;
        for tried in &run.liveness {
            finding.examined += 1;
            match tried.after_ms {
                Some(after_ms) if after_ms <= run.bounds.liveness_ms => slowest = slowest.max(after_ms),
                Some(after_ms) => {
                    finding.violate(format!("{} through node {} took {after_ms} ms", tried.what, tried.node));
                }
                None => finding.violate(format!(
                    "{} through node {} never succeeded: {}",
                    tried.what, tried.node, tried.detail
                )),
            }
        }
        finding.notes.push(format!("the slowest took {slowest} ms"));
        finding
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::evidence::tests::evidence;
    use super::super::super::evidence::{self};
    use super::*;

    #[test]
    fn what_never_succeeds_is_told() {
        let mut run = evidence();
        assert!(!Liveness.check(&run).saw_enough());
        let tried =
            |after_ms| evidence::Liveness { node: 1, what: "write".into(), after_ms, detail: String::new() };
        run.liveness = (0..6).map(|_| tried(Some(20))).collect();
        let good = Liveness.check(&run);
        assert!(good.holds() && good.saw_enough());
        run.liveness.extend([tried(None), tried(Some(run.bounds.liveness_ms + 1))]);
        assert_eq!(Liveness.check(&run).violations.len(), 2);
    }
}
