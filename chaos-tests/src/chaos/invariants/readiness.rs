//! `/readyz` tells of a quorum, not of hopes: a node that has been without one for longer than the
//! bound does not call itself ready. Only nodes that were killed or paused, and those beyond a partition, are certainly no
//! part of a quorum, so only they count as missing. A machine that stood still meanwhile may have kept it from
//! noticing.

use std::collections::BTreeSet;

use super::super::disturbance::Spans;
use super::super::evidence::{Evidence, Window};
use super::{Finding, Invariant};

/// After these a node is certainly away from everyone.
const AWAY: [&str; 2] = ["kill", "pause"];
/// After these certainly no word passes between two nodes.
const APART: [&str; 1] = ["partition"];
/// Nodes that come and go may make up a quorum.
const GUESTS: &str = "membership";

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
        let is_one_of = |window: &Window, faults: &[&str]| faults.contains(&window.fault.as_str());
        let certain = run
            .windows
            .iter()
            .filter(|w| is_one_of(w, &AWAY) || is_one_of(w, &APART) || is_one_of(w, &[GUESTS]));
        let stalls = Spans::new(run.stalls.iter().copied());
        let mut certain: Vec<&Window> = certain.collect();
        certain.sort_by_key(|window| window.begin_us);
        let longest_us = certain.iter().map(|window| window.end_us - window.begin_us).max().unwrap_or(0);
        for sample in &run.samples {
            let Some(said) = sample.ready else { continue };
            let Some(begin_us) = said.asked_us.checked_sub(bound_us) else { continue };
            if stalls.touch(begin_us, sample.at_us) {
                continue;
            }
            // From before the bound until after the answer.
            let oldest = certain.partition_point(|w| w.begin_us + longest_us < begin_us);
            let lasting = certain[oldest..].iter().take_while(|w| w.begin_us < sample.at_us);
            let lasting: Vec<&Window> = lasting.copied().filter(|w| begin_us < w.end_us).collect();
            if lasting.iter().any(|window| is_one_of(window, &[GUESTS])) {
                continue;
            }
            let lasting = lasting.iter().filter(|w| w.begin_us < begin_us && sample.at_us < w.mended_us);
            let (apart, away): (Vec<&Window>, Vec<&Window>) =
                lasting.partition(|window| is_one_of(window, &APART));
            let away: BTreeSet<u64> = away.iter().flat_map(|window| window.felt.iter().copied()).collect();
            let apart: BTreeSet<(u64, u64)> = apart.iter().flat_map(|w| w.severed.iter().copied()).collect();
            let left = in_touch_with(sample.node, run.plan.nodes, &away, &apart);
            if away.contains(&sample.node) || 2 * left.len() as u64 > run.plan.nodes {
                continue;
            }
            finding.examined += 1;
            if said.ready {
                finding.violate(format!(
                    "node {} said at {} ms that it is ready, though it had been in touch with {left:?} alone for {} ms",
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

/// The nodes that a word of this one may reach, over others if need be; itself among them.
fn in_touch_with(node: u64, nodes: u64, away: &BTreeSet<u64>, apart: &BTreeSet<(u64, u64)>) -> BTreeSet<u64> {
    let mut reached = BTreeSet::from([node]);
    let mut asking = vec![node];
    while let Some(from) = asking.pop() {
        let linked = |to: &u64| !away.contains(to) && !apart.contains(&(from.min(*to), from.max(*to)));
        let next: Vec<u64> = (1..=nodes).filter(|to| linked(to) && !reached.contains(to)).collect();
        reached.extend(next.iter().copied());
        asking.extend(next);
    }
    reached
}

#[cfg(test)]
mod tests {
    use super::super::super::evidence::tests::*;
    use super::super::super::evidence::{ReadySaid, Sample};
    use super::*;

    fn parted(severed: &[(u64, u64)], begin_ms: u64) -> Window {
        Window { fault: "partition".into(), severed: severed.to_vec(), ..window(&[1], begin_ms, 20_000) }
    }

    fn guest(begin_ms: u64, end_ms: u64) -> Window {
        Window { fault: GUESTS.into(), ..window(&[], begin_ms, end_ms) }
    }

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
            ("cut off from both", vec![parted(&[(1, 2), (1, 3)], 0)], 10_000, true, false),
            ("and it says so", vec![parted(&[(1, 2), (1, 3)], 0)], 10_000, false, true),
            ("the others are cut off from each other", vec![parted(&[(2, 3)], 0)], 10_000, true, true),
            ("cut off from one", vec![parted(&[(1, 2)], 0)], 10_000, true, true),
            ("cut off a moment ago", vec![parted(&[(1, 2), (1, 3)], 8_000)], 10_000, true, true),
            (
                "one is gone, one cut off",
                vec![window(&[2], 0, 20_000), parted(&[(1, 3)], 0)],
                10_000,
                true,
                false,
            ),
            (
                "cut off one way",
                vec![Window { fault: "one-way".into(), ..parted(&[(1, 2), (1, 3)], 0) }],
                10_000,
                true,
                true,
            ),
            ("guests may help", vec![window(&[2, 3], 0, 20_000), guest(4_000, 9_000)], 10_000, true, true),
            ("guests are long gone", vec![window(&[2, 3], 0, 20_000), guest(0, 1_000)], 10_000, true, false),
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
