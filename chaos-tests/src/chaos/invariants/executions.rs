//! An invocation of a function that is not idempotent runs at most once; one that was answered has
//! run; one that "did not start" has not.

use super::super::catalog::{CRASH, IDEMPOTENT, NONSENSE, TRUNCATE};
use super::super::evidence::Evidence;
use super::super::op::{Op, Verdict};
use super::{Finding, Invariant};

pub(super) struct Executions;

impl Invariant for Executions {
    fn name(&self) -> &'static str {
        "executions"
    }

    fn statement(&self) -> &'static str {
        "what is not idempotent runs at most once, what was answered has run, what did not start has not"
    }

    fn check(&self, run: &Evidence) -> Finding {
        let mut finding = Finding::default();
        let Some(executions) = &run.finals.executions else {
            finding.untested.push("executions: there are no notes of them".into());
            return finding;
        };
        finding.least = 50;
        for entry in &run.entries {
            let (Op::Invoke { function, .. }, Some(outcome)) = (&entry.op, entry.outcome()) else { continue };
            // These note nothing.
            if [CRASH, NONSENSE, TRUNCATE].contains(&function.as_str()) {
                continue;
            }
            finding.examined += 1;
            let times = executions.get(&entry.id).copied().unwrap_or(0);
            let wrong = match outcome.verdict {
                _ if times > 1 && function != IDEMPOTENT => "not idempotent",
                Verdict::Done if times == 0 => "answered",
                Verdict::Refused | Verdict::Skipped if times > 0 => "said not to have started",
                _ => continue,
            };
            finding.violate(format!(
                "invocation {} of {function} ran {times} times, though it was {wrong} ({:?} {:?} {})",
                entry.id, outcome.status, outcome.state, outcome.detail
            ));
        }
        finding
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::super::evidence::tests::*;
    use super::super::super::op::Outcome;
    use super::*;

    #[test]
    fn runs_by_outcome() {
        let refused = || Outcome::new(Verdict::Refused).status(503);
        for (function, outcome, times, good) in [
            ("interval", done(), 1, true),
            ("interval", done(), 0, false),
            ("interval", done(), 2, false),
            ("interval", unknown(), 0, true),
            ("interval", unknown(), 1, true),
            ("interval", unknown(), 2, false),
            ("interval", refused(), 1, false),
            ("idempotent", done(), 2, true),
            ("idempotent", done(), 0, false),
            ("idempotent", refused(), 1, false),
            ("truncate", done(), 0, true),
        ] {
            let mut run = evidence();
            let id = push(&mut run, 0, Some((1, outcome.clone())), invoke(function, "user-a"));
            run.finals.executions = Some(BTreeMap::from([(id, times)]));
            assert_eq!(Executions.check(&run).holds(), good, "{function} {outcome:?} {times}");
        }
        assert!(!Executions.check(&evidence()).untested.is_empty(), "what was not tested is told");
    }
}
