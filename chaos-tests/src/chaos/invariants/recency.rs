//! Linearizable answers are never older than what anyone was told before they were asked for. Every
//! answer carries the log index that its node had applied: an answer that ended shows that everything
//! up to its index was committed, so a linearizable read, or a write, that begins later through any
//! node rests on at least that index.
//!
//! This looks at all operations at once, in one pass: what the search per register cannot decide, or a
//! run of hours, it still judges. It says nothing of values; the search does.

use std::fmt;

use super::super::evidence::Evidence;
use super::super::op::Verdict;
use super::{Finding, Invariant};

pub(super) struct Recency;

impl Invariant for Recency {
    fn name(&self) -> &'static str {
        "recency"
    }

    fn statement(&self) -> &'static str {
        "no linearizable answer rests on less of the log than was known to anyone when it was asked for"
    }

    fn check(&self, run: &Evidence) -> Finding {
        let mut finding = Finding::needing(50);
        let mut known = Vec::new();
        let mut asked = Vec::new();
        for entry in &run.entries {
            let Some((end_us, outcome)) = &entry.end else { continue };
            let Some(index) = outcome.applied else { continue };
            known.push((*end_us, index, Who::Operation(entry.id)));
            if outcome.verdict == Verdict::Done && !entry.op.is_local() {
                asked.push((entry.begin_us, index, entry));
            }
        }
        for sample in &run.samples {
            if let Some((index, _)) = &sample.digest {
                known.push((sample.at_us, *index, Who::Node(sample.node)));
            }
        }
        known.sort_unstable_by_key(|(at, ..)| *at);
        asked.sort_unstable_by_key(|(at, ..)| *at);
        let mut known = known.into_iter().peekable();
        let mut newest = (0, 0, Who::Operation(0));
        for (begin_us, index, entry) in asked {
            while let Some(next) = known.next_if(|(at, ..)| *at < begin_us) {
                if next.1 > newest.1 {
                    newest = next;
                }
            }
            finding.examined += 1;
            if index < newest.1 {
                finding.violate(format!(
                    "operation {} ({} through node {}) began at {begin_us} µs and rests on index {index}, \
                     though {} had shown index {} at {} µs",
                    entry.id,
                    entry.op.kind(),
                    entry.node,
                    newest.2,
                    newest.1,
                    newest.0
                ));
            }
        }
        finding
    }
}

/// Whose answer it was.
#[derive(Clone, Copy)]
enum Who {
    Operation(u64),
    Node(u64),
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Who::Operation(id) => write!(f, "operation {id}"),
            Who::Node(node) => write!(f, "a look at node {node}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::evidence::tests::*;
    use super::super::super::op::{Op, Outcome};
    use super::*;

    fn at(index: u64) -> Outcome {
        Outcome { applied: Some(index), ..done() }
    }

    #[test]
    fn who_asks_later_sees_as_much() {
        let local = || Op::ReadFunction { name: "f".into(), local: true };
        let doubt = |index| Outcome { applied: Some(index), ..unknown() };
        for (name, ops, good) in [
            ("later and newer", vec![(0, 1, put("f", 1), at(7)), (2, 3, read("f"), at(7))], true),
            ("later and older", vec![(0, 1, put("f", 1), at(7)), (2, 3, read("f"), at(6))], false),
            ("at the same time", vec![(0, 3, put("f", 1), at(7)), (2, 4, read("f"), at(6))], true),
            ("a stale local read", vec![(0, 1, put("f", 1), at(7)), (2, 3, local(), at(3))], true),
            ("older than a local read", vec![(0, 1, local(), at(7)), (2, 3, read("f"), at(6))], false),
            ("older than a refusal", vec![(0, 1, put("f", 1), doubt(7)), (2, 3, read("f"), at(6))], false),
            ("a write too", vec![(0, 1, read("f"), at(7)), (2, 3, put("f", 1), at(6))], false),
            ("in doubt", vec![(0, 1, read("f"), at(7)), (2, 3, put("f", 1), doubt(6))], true),
        ] {
            let mut run = evidence();
            for (begin, end, op, outcome) in ops {
                push(&mut run, begin, Some((end, outcome)), op);
            }
            assert_eq!(Recency.check(&run).holds(), good, "{name}");
        }
        assert!(!Recency.check(&evidence()).saw_enough(), "nodes that tell no index prove nothing");
    }
}
