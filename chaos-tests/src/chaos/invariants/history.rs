//! What was committed never changes: whoever has applied the log up to an index, at any time of the
//! run, has applied the same. Each node tells the index it has come to and a hash over everything until
//! there; two that differ at one index have taken different paths, even if they agree again later.

use std::collections::BTreeMap;
use std::time::Duration;

use super::super::evidence::{Evidence, Sample};
use super::super::watch::SAMPLES_MAX;
use super::{Finding, Invariant};

/// Pairs of looks at one index: a run of 20 s has some dozens.
const PAIRS_MIN: u64 = 10;

pub(super) struct History;

impl Invariant for History {
    fn name(&self) -> &'static str {
        "history"
    }

    fn statement(&self) -> &'static str {
        "whoever has applied the log up to an index has applied the same, and no running node goes back"
    }

    fn check(&self, run: &Evidence) -> Finding {
        let mut finding = Finding::needing(if run.plan.nodes > 1 { PAIRS_MIN } else { 0 });
        let mut at_index: BTreeMap<u64, (&str, &Sample)> = BTreeMap::new();
        let mut last: BTreeMap<u64, (u64, &Sample)> = BTreeMap::new();
        let mut silent = 0_u64;
        // Each node's samples are in the order in which they were taken.
        for sample in run.samples.iter().chain(&run.finals.samples) {
            let Some((index, digest)) = &sample.digest else {
                silent += 1;
                continue;
            };
            let (known, first) = at_index.entry(*index).or_insert((digest, sample));
            finding.examined += u64::from(first.node != sample.node || first.start != sample.start);
            if known != digest {
                finding.violate(format!(
                    "at index {index} {} had {known} and {} had {digest}",
                    show(first),
                    show(sample)
                ));
            }
            if let Some((before, earlier)) = last.insert(sample.node, (*index, sample))
                && earlier.start == sample.start
                && before > *index
            {
                finding.violate(format!(
                    "{} went back from {before}, where it was at {:.3} s, to {index}",
                    show(sample),
                    seconds(earlier)
                ));
            }
        }
        if silent > 0 {
            finding.notes.push(format!("{silent} looks at nodes showed no digest"));
        }
        if run.samples.len() >= SAMPLES_MAX {
            finding.untested.push(format!("history: after the first {SAMPLES_MAX} looks at nodes"));
        }
        finding
    }
}

fn show(sample: &Sample) -> String {
    format!("node {} at {:.3} s", sample.node, seconds(sample))
}

fn seconds(sample: &Sample) -> f64 {
    Duration::from_micros(sample.at_us).as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::super::super::evidence::tests::evidence;
    use super::*;

    #[test]
    fn paths_that_part_are_seen_though_they_meet_again() {
        type Look = (u64, u64, u64, &'static str);
        let cases: [(&str, &[Look], bool); 6] = [
            ("the same", &[(1, 1, 7, "aa"), (2, 1, 7, "aa"), (1, 1, 8, "bb")], true),
            ("parted", &[(1, 1, 7, "aa"), (2, 1, 7, "ab"), (1, 1, 8, "bb"), (2, 1, 8, "bb")], false),
            ("a node against itself", &[(1, 1, 7, "aa"), (1, 2, 7, "ab")], false),
            ("back without a restart", &[(1, 1, 7, "aa"), (1, 1, 6, "99")], false),
            ("back after one", &[(1, 1, 7, "aa"), (1, 2, 6, "99")], true),
            ("each at its own pace", &[(1, 1, 7, "aa"), (2, 1, 6, "99")], true),
        ];
        for (name, looks, good) in cases {
            let mut run = evidence();
            for (at_us, (node, start, index, digest)) in looks.iter().enumerate() {
                let digest = Some((*index, (*digest).to_owned()));
                let (at_us, leader, term) = (at_us as u64, None, 1);
                run.samples.push(Sample {
                    at_us,
                    node: *node,
                    leader,
                    term,
                    start: *start,
                    digest,
                    ready: None,
                });
            }
            let finding = History.check(&run);
            assert_eq!(finding.holds(), good, "{name}");
            assert!(!finding.saw_enough(), "a few looks prove nothing");
        }
    }
}
