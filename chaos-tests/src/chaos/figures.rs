//! What a run amounts to, counted: for the text, the page, and the summary of many runs.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::disturbance::Spans;
use super::evidence::{Evidence, Window};
use super::faults::{self, Layer};
use super::op::Verdict;

/// What was done of one kind of fault.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Faults {
    pub planned: u64,
    /// Planned ones that found a node.
    pub struck: u64,
    /// Nodes it was done to, and those that were seen to suffer it.
    pub nodes: u64,
    pub felt: u64,
    /// For how long nodes suffered it, added up.
    pub ms: u64,
}

/// By fault; those of the plan that never struck too.
pub fn faults(run: &Evidence) -> BTreeMap<String, Faults> {
    let mut all: BTreeMap<String, Faults> = BTreeMap::new();
    for strike in &run.plan.strikes {
        all.entry(strike.fault.clone()).or_default().planned += 1;
    }
    for window in &run.windows {
        let of = all.entry(window.fault.clone()).or_default();
        of.struck += 1;
        of.nodes += window.nodes.len() as u64;
        of.felt += window.felt.len() as u64;
        of.ms += (window.mended_us - window.begin_us) / 1_000 * window.nodes.len() as u64;
    }
    all
}

/// What of a node a fault breaks; `None` for one that is no longer known.
pub fn layer(fault: &str) -> Option<Layer> {
    faults::by_name(fault).map(|fault| fault.frame().layer)
}

/// Operations by kind and by what is known of their end.
pub fn operations(run: &Evidence) -> BTreeMap<&'static str, BTreeMap<Verdict, u64>> {
    let mut counts: BTreeMap<&str, BTreeMap<Verdict, u64>> = BTreeMap::new();
    for entry in &run.entries {
        let verdict = entry.outcome().map_or(Verdict::Unknown, |outcome| outcome.verdict);
        *counts.entry(entry.op.kind()).or_default().entry(verdict).or_default() += 1;
    }
    counts
}

/// One slice of the run.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Slice {
    pub from_s: u64,
    pub done: u64,
    pub other: u64,
    /// Milliseconds that half, and 99 of 100, of the acknowledged operations took at most.
    pub p50_ms: f64,
    pub p99_ms: f64,
}

/// Throughput and latency, by slices of `slice_s` seconds; those in which nothing ended too.
pub fn slices(run: &Evidence, slice_s: u64) -> Vec<Slice> {
    let mut by_slice: BTreeMap<u64, (u64, Vec<u64>)> = BTreeMap::new();
    for entry in &run.entries {
        let Some((end_us, outcome)) = &entry.end else { continue };
        let (other, took) = by_slice.entry(end_us / 1_000_000 / slice_s).or_default();
        match outcome.verdict {
            Verdict::Done => took.push(end_us - entry.begin_us),
            _ => *other += 1,
        }
    }
    let last = by_slice.last_key_value().map_or(0, |(index, _)| index + 1);
    let slice = |index| {
        let (other, mut took) = by_slice.remove(&index).unwrap_or_default();
        took.sort_unstable();
        let ms = |percent| percentile(&took, percent) as f64 / 1_000.0;
        let (p50_ms, p99_ms) = (ms(50), ms(99));
        Slice { from_s: index * slice_s, done: took.len() as u64, other, p50_ms, p99_ms }
    };
    (0..last).map(slice).collect()
}

/// The value that so many of 100 do not exceed, of sorted ones; 0 of none.
pub fn percentile(sorted: &[u64], percent: usize) -> u64 {
    let index = (sorted.len() * percent / 100).min(sorted.len().saturating_sub(1));
    sorted.get(index).copied().unwrap_or(0)
}

/// A time in which a node led, by its own word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reign {
    pub node: u64,
    pub term: u64,
    pub from_us: u64,
}

/// Who led, in the order of time. Who still believes it after somebody has led in a later term does not
/// count.
pub fn reigns(run: &Evidence) -> Vec<Reign> {
    let mut own: Vec<_> = run.samples.iter().filter(|s| s.leader == Some(s.node)).collect();
    own.sort_by_key(|sample| sample.at_us);
    let mut reigns: Vec<Reign> = Vec::new();
    for sample in own {
        if reigns.last().is_none_or(|last| last.term < sample.term) {
            reigns.push(Reign { node: sample.node, term: sample.term, from_us: sample.at_us });
        }
    }
    reigns
}

/// How long nobody's write was acknowledged while a fault lasted that hit the leader, and a majority was
/// spared all the while, by other faults too.
#[derive(Clone, Debug)]
pub struct Failover<'a> {
    pub window: &'a Window,
    pub gap_us: u64,
}

pub fn failovers(run: &Evidence) -> Vec<Failover<'_>> {
    let (writes, reigns) = (writes(run), reigns(run));
    let led = |window: &Window| {
        let before = reigns.partition_point(|reign| reign.from_us <= window.begin_us);
        before.checked_sub(1).is_some_and(|last| window.nodes.contains(&reigns[last].node))
    };
    let lost = Spans::new(run.without_quorum());
    let few = |window: &Window| !lost.touch(window.begin_us, window.end_us);
    let hit = run.windows.iter().filter(|window| few(window) && led(window));
    hit.map(|window| Failover { window, gap_us: longest_gap(&writes, window.begin_us, window.end_us) })
        .collect()
}

/// When writes were acknowledged, in the order of time.
pub fn writes(run: &Evidence) -> Vec<u64> {
    let done = |verdict| verdict == Verdict::Done;
    let written =
        run.entries.iter().filter(|e| e.op.is_write() && e.outcome().is_some_and(|o| done(o.verdict)));
    let mut writes: Vec<u64> = written.filter_map(|entry| entry.end_us()).collect();
    writes.sort_unstable();
    writes
}

/// The longest time between two writes next to each other, of those that touch the span.
pub fn longest_gap(writes: &[u64], begin_us: u64, end_us: u64) -> u64 {
    let first = writes.partition_point(|at| *at < begin_us).saturating_sub(1);
    let last = writes.partition_point(|at| *at <= end_us).min(writes.len().saturating_sub(1));
    let touching = writes.get(first..=last).unwrap_or_default();
    touching.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::super::evidence::Sample;
    use super::super::evidence::tests::*;
    use super::*;

    #[test]
    fn gaps_are_those_that_touch_the_span() {
        let writes = [10, 20, 50, 60, 200];
        for (begin, end, want) in
            [(21, 22, 30), (0, 15, 10), (52, 55, 10), (0, 500, 140), (61, 61, 140), (300, 400, 0)]
        {
            assert_eq!(longest_gap(&writes, begin, end), want, "{begin}..{end}");
        }
        assert_eq!(longest_gap(&[], 0, 5), 0);
    }

    #[test]
    fn a_failover_is_a_fault_that_hit_the_leader() {
        let mut run = evidence();
        for (at_us, node, term) in [(0, 1, 1), (500, 1, 1), (9_000, 2, 2)] {
            let leader = Some(node);
            run.samples.push(Sample { at_us, node, leader, term, start: 1, ready: None, digest: None });
        }
        for at in [1, 2, 7, 8, 20] {
            push(&mut run, at, Some((at, done())), put("f", at));
        }
        run.windows = vec![window(&[1], 2, 6), window(&[1], 10, 12), window(&[1, 2], 14, 15)];
        let found: Vec<u64> = failovers(&run).iter().map(|failover| failover.gap_us).collect();
        assert_eq!(found, [5_000], "the first alone hit the leader and left a majority");
        assert_eq!(reigns(&run).len(), 2);
    }

    #[test]
    fn slices_have_no_holes() {
        let mut run = evidence();
        for (begin, end) in [(0, 10), (100, 120), (2_000, 2_500)] {
            push(&mut run, begin, Some((end, done())), put("f", end));
        }
        push(&mut run, 0, Some((50, unknown())), put("f", 9));
        let slices = slices(&run, 1);
        let counts: Vec<(u64, u64)> = slices.iter().map(|slice| (slice.done, slice.other)).collect();
        assert_eq!(counts, [(2, 1), (0, 0), (1, 0)]);
        assert!((slices[0].p99_ms - 20.0).abs() < 1e-9);
    }
}
