//! Every operation ends as it should: an invocation with an answer, or a typed error that says
//! whether the function may have run; nobody waits past the deadline. Only a node that suffers a
//! fault may leave a caller without a word. Times in which the machine itself stood still do not count as
//! waiting.

use super::super::catalog::{ACCOUNTS, NEVER_READY, TIMEOUT_MS};
use super::super::disturbance::{Disturbances, Spans};
use super::super::evidence::Evidence;
use super::super::faults::Layer;
use super::super::history::Entry;
use super::super::op::{Mode, Op, Outcome, Verdict};
use super::{Finding, Invariant};

/// A connection that was opened to a node shortly before it was killed breaks a little later.
const AFTERMATH_US: u64 = 1_000_000;

pub(super) struct Outcomes;

impl Invariant for Outcomes {
    fn name(&self) -> &'static str {
        "outcomes"
    }

    fn statement(&self) -> &'static str {
        "an invocation ends within its deadline, with an answer or a typed error that says whether it ran"
    }

    fn check(&self, run: &Evidence) -> Finding {
        let mut finding = Finding::needing(50);
        let (disturbances, stalls) = (Disturbances::of(run), Spans::new(run.stalls.iter().copied()));
        for entry in &run.entries {
            let Some((end_us, outcome)) = &entry.end else {
                finding.violate(format!("operation {} ({:?}) never ended", entry.id, entry.op));
                continue;
            };
            if outcome.verdict == Verdict::Skipped {
                continue;
            }
            finding.examined += 1;
            let suffers = |node| disturbances.on(node, entry.begin_us, *end_us, AFTERMATH_US);
            // The host of an answer that was cut is not known, and its entry can only cut it too; so
            // it must where the instance was killed.
            let cut = outcome.cut
                && ((1..=run.plan.nodes).any(suffers)
                    || run.faulty(entry.begin_us, *end_us, AFTERMATH_US, |layer| layer == Layer::Engine));
            let disturbed = suffers(entry.node) || cut;
            let waits = stalls.gaps(entry.begin_us, *end_us);
            let waited_us = waits.iter().map(|(from, to)| to - from).sum();
            for problem in problems(run, entry, waited_us, outcome, disturbed) {
                let detail = &outcome.detail;
                finding.violate(format!(
                    "operation {} ({} through node {}) {problem}: {:?} {detail}",
                    entry.id,
                    what(&entry.op),
                    entry.node,
                    outcome.status
                ));
            }
        }
        finding
    }
}

fn what(op: &Op) -> String {
    match op {
        Op::Invoke { function, caller, .. } => format!("invoke {function} as {caller}"),
        other => other.kind().to_owned(),
    }
}

fn problems(
    run: &Evidence,
    entry: &Entry,
    waited_us: u64,
    outcome: &Outcome,
    disturbed: bool,
) -> Vec<&'static str> {
    let mut problems = Vec::new();
    let Op::Invoke { caller, mode, function, .. } = &entry.op else {
        // Whether another admin is still one, `administration` judges.
        let by_root = !matches!(entry.op, Op::Administer { .. });
        if by_root && matches!(outcome.status, Some(401 | 403)) {
            problems.push("was refused, though the caller is root");
        }
        return problems;
    };
    if outcome.status.is_none() {
        // No answer at all, or one that broke off half-way. A function that breaks its answer off
        // takes Muster's with it, since the head has been passed on.
        let truncated = function == super::super::catalog::TRUNCATE && !outcome.hung;
        // Even a client that is too slow must be let go in time.
        let own_doing = outcome.abandoned && !outcome.hung;
        if !disturbed && !truncated && !own_doing {
            problems.push(if outcome.hung { "hung" } else { "broke off" });
        }
        return problems;
    }
    let limit_us = (TIMEOUT_MS + run.bounds.margin_ms) * 1_000;
    if waited_us > limit_us && !disturbed {
        problems.push("outlived its deadline");
    }
    if outcome.verdict == Verdict::Done {
        if outcome.host.is_none() || outcome.invocation_id.is_none() {
            problems.push("does not say where it ran");
        }
        if *mode != Mode::Answer || function == NEVER_READY {
            problems.push("succeeded, which it cannot");
        }
    } else if outcome.state.is_none() || outcome.invocation_id.is_none() {
        problems.push("failed without saying whether it ran");
    }
    let lasting = ACCOUNTS.contains(&caller.as_str());
    if lasting && matches!(outcome.status, Some(400 | 401 | 403 | 404)) {
        problems.push("was refused, though nothing is wrong with it");
    }
    problems
}

#[cfg(test)]
mod tests {
    use muster_api::InvocationState::{NotStarted, Started};

    use super::super::super::evidence::tests::*;
    use super::*;

    fn answered() -> Outcome {
        Outcome { host: Some(1), invocation_id: Some("x".into()), ..done() }
    }

    fn failed(status: u16, state: Option<muster_api::InvocationState>) -> Outcome {
        let verdict = if state == Some(NotStarted) { Verdict::Refused } else { Verdict::Failed };
        Outcome { state, invocation_id: Some("x".into()), ..Outcome::new(verdict).status(status) }
    }

    #[test]
    fn ends_by_kind() {
        let ok = || invoke("interval", "user-a");
        let truncate = || invoke("truncate", "user-a");
        let hang =
            Op::Invoke { function: "fragile".into(), caller: "user-a".into(), work_ms: 0, mode: Mode::Hang };
        let root = || put("f", 1);
        let hung = Outcome { hung: true, ..unknown() };
        let cut = Outcome { cut: true, ..unknown() };
        for (name, op, took_ms, outcome, faulty, good) in [
            ("answered", ok(), 5, answered(), false, true),
            ("nowhere", ok(), 5, done(), false, false),
            ("late", ok(), 12_000, answered(), false, false),
            ("late for a reason", ok(), 12_000, answered(), true, true),
            ("a typed error", ok(), 5, failed(502, Some(Started)), false, true),
            ("an error that says too little", ok(), 5, failed(502, None), false, false),
            ("broke off", ok(), 5, unknown(), false, false),
            ("broke off as its node was killed", ok(), 5, unknown(), true, true),
            ("cut off by its host's end", ok(), 5, cut.clone(), true, true),
            ("cut off by nobody", ok(), 5, cut, false, false),
            ("given up by its client", ok(), 5, Outcome { abandoned: true, ..unknown() }, false, true),
            ("a slow client, kept", ok(), 11_000, Outcome { abandoned: true, ..hung.clone() }, false, false),
            ("a start that cannot be", invoke("never-ready", "user-a"), 5, answered(), false, false),
            ("truncated by the function", truncate(), 5, unknown(), false, true),
            ("hung", ok(), 11_000, hung.clone(), false, false),
            ("truncated and hung", truncate(), 11_000, hung, false, false),
            ("answered what cannot answer", hang, 5, answered(), false, false),
            ("a good caller refused", ok(), 5, failed(403, Some(NotStarted)), false, false),
            (
                "a stranger refused",
                invoke("interval", "guest-0"),
                5,
                failed(403, Some(NotStarted)),
                false,
                true,
            ),
            ("root refused", root(), 5, Outcome::new(Verdict::Refused).status(403), false, false),
            ("root in doubt", root(), 5, unknown(), false, true),
        ] {
            let mut run = evidence();
            if faulty {
                run.windows.push(window(&[1], 0, 100));
            }
            push(&mut run, 100, Some((100 + took_ms, outcome)), op);
            assert_eq!(Outcomes.check(&run).holds(), good, "{name}");
        }
        for (stalled_ms, good) in [(500, false), (3_000, true)] {
            let mut run = evidence();
            run.stalls = vec![(1_000_000, 1_000_000 + stalled_ms * 1_000)];
            push(&mut run, 100, Some((12_100, answered())), ok());
            assert_eq!(
                Outcomes.check(&run).holds(),
                good,
                "late, and the machine stood still: {stalled_ms} ms"
            );
        }
        let mut run = evidence();
        push(&mut run, 100, None, ok());
        assert!(!Outcomes.check(&run).holds(), "never ended");
    }
}
