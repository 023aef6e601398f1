//! When faults were on which node, so that a million operations can each ask.

use std::collections::BTreeMap;

use super::evidence::{Evidence, Window};

/// Spans of time, merged and in order.
#[derive(Clone, Debug, Default)]
pub struct Spans(Vec<(u64, u64)>);

impl Spans {
    pub fn new(spans: impl IntoIterator<Item = (u64, u64)>) -> Self {
        let mut all: Vec<(u64, u64)> = spans.into_iter().collect();
        all.sort_unstable();
        let mut merged: Vec<(u64, u64)> = Vec::with_capacity(all.len());
        for (begin, end) in all {
            match merged.last_mut() {
                Some(last) if begin <= last.1 => last.1 = last.1.max(end),
                _ => merged.push((begin, end)),
            }
        }
        Spans(merged)
    }

    /// Whether any of them has a moment in common with this one.
    pub fn touch(&self, from_us: u64, to_us: u64) -> bool {
        let first = self.0.partition_point(|(_, end)| *end < from_us);
        self.0.get(first).is_some_and(|(begin, _)| *begin <= to_us)
    }

    /// The parts of a span that none of them covers.
    pub fn gaps(&self, begin_us: u64, end_us: u64) -> Vec<(u64, u64)> {
        let mut parts = Vec::new();
        let mut from_us = begin_us;
        let first = self.0.partition_point(|(_, end)| *end <= begin_us);
        for (lost_from, lost_to) in self.0[first..].iter().take_while(|(from, _)| *from < end_us) {
            if from_us < *lost_from {
                parts.push((from_us, *lost_from));
            }
            from_us = from_us.max(*lost_to);
        }
        if from_us < end_us {
            parts.push((from_us, end_us));
        }
        parts
    }
}

/// When each node suffered, and when the quorum was missing.
#[derive(Clone, Debug)]
pub struct Disturbances {
    by_node: BTreeMap<u64, Spans>,
    without_quorum: Spans,
}

impl Disturbances {
    pub fn of(run: &Evidence) -> Self {
        let hit = |node| run.of_nodes().filter(move |window| window.nodes.contains(&node));
        let spans = |node| Spans::new(hit(node).map(|window| (window.begin_us, window.end_us)));
        Disturbances {
            by_node: (1..=run.plan.nodes).map(|node| (node, spans(node))).collect(),
            without_quorum: Spans::new(without_quorum(run.of_nodes(), run.plan.nodes)),
        }
    }

    /// Whether a fault was on `node`, or had just been, or the quorum was missing, at some time
    /// between the two; `after_us` widens each fault behind its end.
    pub fn on(&self, node: u64, from_us: u64, to_us: u64, after_us: u64) -> bool {
        let from_us = from_us.saturating_sub(after_us);
        let hit = self.by_node.get(&node).is_some_and(|spans| spans.touch(from_us, to_us));
        hit || self.without_quorum.touch(from_us, to_us)
    }
}

/// The times in which faults left no majority whole: no nodes enough, undisturbed and able to talk to
/// each other.
pub fn without_quorum<'a>(windows: impl Iterator<Item = &'a Window>, nodes: u64) -> Vec<(u64, u64)> {
    let windows: Vec<&Window> = windows.collect();
    let mut edges: Vec<u64> = windows.iter().flat_map(|w| [w.begin_us, w.end_us]).collect();
    edges.sort_unstable();
    edges.dedup();
    let mut coming = windows;
    coming.sort_by_key(|window| std::cmp::Reverse(window.begin_us));
    let mut present: Vec<&Window> = Vec::new();
    let mut lost = Vec::new();
    for pair in edges.windows(2) {
        let (begin, end) = (pair[0], pair[1]);
        while let Some(next) = coming.pop_if(|window| window.begin_us <= begin) {
            present.push(next);
        }
        present.retain(|window| window.end_us > begin);
        if !majority_is_whole(&present, nodes) {
            lost.push((begin, end));
        }
    }
    Spans::new(lost).0
}

/// Whether some majority is spared by all of the windows. Voters are few: all sets of them are tried.
fn majority_is_whole(windows: &[&Window], nodes: u64) -> bool {
    let majorities = (0_u64..1 << nodes).filter(|set| 2 * u64::from(set.count_ones()) > nodes);
    let mut majorities = majorities.map(|set| move |node: u64| set >> (node - 1) & 1 == 1);
    majorities.any(|among| windows.iter().all(|window| window.spares(&among)))
}

#[cfg(test)]
mod tests {
    use super::super::evidence::tests::*;
    use super::*;

    #[test]
    fn spans_are_found_by_any_moment_they_share() {
        let spans = Spans::new([(50, 60), (10, 20), (15, 30)]);
        for (from, to, want) in
            [(0, 9, false), (0, 10, true), (30, 40, true), (31, 49, false), (70, 80, false)]
        {
            assert_eq!(spans.touch(from, to), want, "{from}..{to}");
        }
        assert_eq!(spans.gaps(0, 100), [(0, 10), (30, 50), (60, 100)]);
        assert_eq!(spans.gaps(12, 55), [(30, 50)]);
        assert_eq!(spans.gaps(11, 12), []);
    }

    #[test]
    fn the_quorum_is_missing_while_a_majority_is_held() {
        for (windows, want) in [
            (vec![window(&[1], 0, 10)], vec![]),
            (vec![window(&[1, 2], 0, 10), window(&[2, 3], 10, 20)], vec![(0, 20_000)]),
            (vec![window(&[1], 0, 10), window(&[1], 5, 20), window(&[2], 15, 30)], vec![(15_000, 20_000)]),
        ] {
            assert_eq!(without_quorum(windows.iter(), 3), want, "{windows:?}");
        }
    }
}
