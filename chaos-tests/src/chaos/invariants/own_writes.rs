//! A write is answered after it is applied on the node that was asked: whoever then reads there,
//! even with `?consistency=local`, sees it or something later. Linearizable reads hide what this
//! judges, since they wait.
//!
//! A node that restarts reads its log anew and promises nothing about local reads meanwhile.

use std::collections::BTreeMap;

use super::super::disturbance::Disturbances;
use super::super::evidence::Evidence;
use super::super::history::Entry;
use super::super::op::{LATE_US, Verdict};
use super::{Finding, Invariant};

pub(super) struct OwnWrites;

impl Invariant for OwnWrites {
    fn name(&self) -> &'static str {
        "own writes"
    }

    fn statement(&self) -> &'static str {
        "a local read shows what the same node has acknowledged before, or something later"
    }

    fn check(&self, run: &Evidence) -> Finding {
        let mut finding = Finding::needing(10);
        let disturbances = Disturbances::of(run);
        let mut writes: BTreeMap<String, Vec<&Entry>> = BTreeMap::new();
        for entry in run.entries.iter().filter(|entry| entry.op.is_write()) {
            if let Some(register) = entry.op.register() {
                writes.entry(register).or_default().push(entry);
            }
        }
        for read in run.entries.iter().filter(|entry| entry.op.is_local() && verdict(entry) == Verdict::Done)
        {
            let register = read.op.register().unwrap_or_default();
            let writes = writes.get(&register).map_or(&[][..], Vec::as_slice);
            let Some(own) = last_own(writes, read) else { continue };
            let end_us = read.end_us().unwrap_or(read.begin_us);
            if disturbances.on(read.node, own.begin_us, end_us, 0) {
                continue;
            }
            finding.examined += 1;
            let seen = read.outcome().and_then(|outcome| outcome.value);
            // Older ones can have no effect any more.
            let oldest_us = own.begin_us.saturating_sub(LATE_US);
            let recent = &writes[writes.partition_point(|write| write.begin_us < oldest_us)..];
            if !recent.iter().any(|write| write.op.leaves() == seen && may_follow(write, own)) {
                finding.violate(format!(
                    "operation {} reads {seen:?} of {register} at node {}, which had acknowledged operation {} \
                     {} µs before",
                    read.id,
                    read.node,
                    own.id,
                    read.begin_us - own.end_us().unwrap_or(read.begin_us)
                ));
            }
        }
        finding
    }
}

/// The newest write that the read's node had acknowledged before the read began.
fn last_own<'a>(writes: &[&'a Entry], read: &Entry) -> Option<&'a Entry> {
    // They are in the order in which they began.
    let earlier = &writes[..writes.partition_point(|write| write.begin_us < read.begin_us)];
    let mut own = earlier.iter().rev().copied().filter(|write| {
        write.node == read.node
            && verdict(write) == Verdict::Done
            && write.end_us().is_some_and(|end| end < read.begin_us)
    });
    own.next()
}

/// Whether `write` may have taken effect with or after `own`.
fn may_follow(write: &Entry, own: &Entry) -> bool {
    match verdict(write) {
        Verdict::Done => write.end_us().is_none_or(|end| end >= own.begin_us),
        Verdict::Unknown => true,
        Verdict::Refused | Verdict::Failed | Verdict::Skipped => false,
    }
}

fn verdict(entry: &Entry) -> Verdict {
    entry.outcome().map_or(Verdict::Unknown, |outcome| outcome.verdict)
}

#[cfg(test)]
mod tests {
    use super::super::super::evidence::tests::*;
    use super::super::super::op::{Op, Outcome};
    use super::*;

    #[test]
    fn what_a_local_read_may_see() {
        let saw = |value| done().value(value);
        let two = [(0, 1, put("f", 1), done()), (2, 3, put("f", 2), done())];
        let racing = [(0, 5, put("f", 1), done()), (2, 3, put("f", 2), done())];
        let unknown_first = [(0, 1, put("f", 1), unknown()), (2, 3, put("f", 2), done())];
        for (name, writes, node, value, faulty, good) in [
            ("its own write", &two[..], 1, Some(2), false, true),
            ("the one before", &two, 1, Some(1), false, false),
            ("nothing", &two, 1, None, false, false),
            ("at another node", &two, 2, Some(1), false, true),
            ("one that overlapped", &racing, 1, Some(1), false, true),
            ("one that came late", &unknown_first, 1, Some(1), false, true),
            ("after a restart", &two, 1, Some(1), true, true),
        ] {
            let mut run = evidence();
            for (begin, end, op, outcome) in writes {
                push(&mut run, *begin, Some((*end, outcome.clone())), op.clone());
            }
            if faulty {
                run.windows.push(window(&[1], 4, 8));
            }
            let read = Op::ReadFunction { name: "f".into(), local: true };
            let outcome: Outcome = saw(value);
            let id = push(&mut run, 10, Some((11, outcome)), read);
            run.entries[usize::try_from(id).unwrap()].node = node;
            assert_eq!(OwnWrites.check(&run).holds(), good, "{name}");
        }
    }
}
