//! `/readyz` tells of a quorum, not of hopes: a node that has been without one for longer than the
//! bound does not call itself ready. Only nodes that were killed or paused are certainly no part of
//! a quorum, so only they count as missing. A machine that stood still meanwhile may have kept it from
//! noticing.

use std::collections::BTreeSet;

use super::super::disturbance::Spans;
use super::super::evidence::{Evidence, Window};
use super::{Finding, Invariant};

const CERTAIN: [&str; 2] = ["kill", "pause"];

pub(super) struct Readiness;

impl Invariant for Readiness {
    fn name(&self) -> &'static str {
        "readiness"
    }

    fn statement(&self) -> &'static str {
        "a node that has had no quorum for longer than the bound does not say it is ready"
    }

    fn check(&self, run: &Evidence) -> Finding {
        let mut finding = Finding::default();
        let bound_us = run.bounds.readiness_ms * 1_000;
        let certain = run.windows.iter().filter(|window| CERTAIN.contains(&window.fault.as_str()));
        let stalls = Spans::new(run.stalls.iter().copied());
        let mut certain: Vec<&Window> = certain.collect();
        certain.sort_by_key(|window| window.begin_us);
        let longest_us = certain.iter().map(|window| window.mended_us - window.begin_us).max().unwrap_or(0);
        for sample in &run.samples {
            let Some(said) = sample.ready else { continue };
            let Some(begin_us) = said.asked_us.checked_sub(bound_us) else { continue };
            if stalls.touch(begin_us, sample.at_us) {
                continue;
            }
            // Missing from before the bound until after the answer.
            let oldest = certain.partition_point(|w| w.begin_us + longest_us < sample.at_us);
            let missing = certain[oldest..].iter().take_while(|w| w.begin_us < begin_us);
            let missing = missing.filter(|w| sample.at_us < w.mended_us);
            let missing: BTreeSet<u64> = missing.flat_map(|window| window.felt.iter().copied()).collect();
            let left = run.plan.nodes - missing.len() as u64;
            if missing.contains(&sample.node) || 2 * left > run.plan.nodes {
                continue;
            }
            finding.examined += 1;
            if said.ready {
                finding.violate(format!(
                    "node {} said at {} ms that it is ready, though nodes {missing:?} had been gone for {} ms",
                    sample.node,
                    said.asked_us / 1_000,
                    run.bounds.readiness_ms
                ));
            }
        }
        finding.notes.push(format!("a node without a quorum was asked {} times", finding.examined));
        finding
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::evidence::tests::*;
    use super::super::super::evidence::{ReadySaid, Sample};
    use super::*;

    #[test]
    fn ready_without_a_quorum() {
        for (name, windows, at_ms, ready, good) in [
            ("one is gone", vec![window(&[2], 0, 20_000)], 10_000, true, true),
            ("two are gone", vec![window(&[2, 3], 0, 20_000)], 10_000, true, false),
            ("and it says so", vec![window(&[2, 3], 0, 20_000)], 10_000, false, true),
            ("within the bound", vec![window(&[2, 3], 8_000, 20_000)], 10_000, true, true),
            (
                "one after the other",
                vec![window(&[2], 0, 5_000), window(&[3], 4_000, 9_000)],
                8_000,
                true,
                true,
            ),
            ("just mended", vec![window(&[2, 3], 0, 9_999)], 10_000, true, true),
        ] {
            let mut run = evidence();
            run.windows = windows;
            let said = ReadySaid { asked_us: at_ms * 1_000 - 5_000, ready };
            let (at_us, node, leader, term) = (at_ms * 1_000, 1, None, 1);
            run.samples.push(Sample { at_us, node, leader, term, start: 1, digest: None, ready: Some(said) });
            assert_eq!(Readiness.check(&run).holds(), good, "{name}");
            run.stalls = vec![(0, 1_000_000)];
            assert_eq!(Readiness.check(&run).holds(), good, "{name}, long after the machine stood still");
            run.stalls.push((8_000_000, 9_000_000));
            assert!(Readiness.check(&run).holds(), "{name}, and the machine stood still");
        }
    }
}
