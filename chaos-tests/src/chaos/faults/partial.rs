//! `partial`: the first node that is hit and one other cannot talk, while both talk to everyone else. A
//! majority that does without one of them is whole.

use super::Hit;
use super::links::OnLinks;
use crate::cluster::network::{Link, Trouble};

pub(super) const PARTIAL: OnLinks = OnLinks {
    suffering,
    parts_from_guests: false,
    ..OnLinks::new("partial", (300, 8_000), |_| Trouble::Cut, links)
};

fn links(hit: &Hit, all: &[u64]) -> Vec<Link> {
    pair(hit, all).into_iter().flat_map(|[node, other]| Link::between(node, other)).collect()
}

fn suffering(hit: &Hit, all: &[u64]) -> Vec<u64> {
    let mut both: Vec<u64> = pair(hit, all).into_iter().flatten().collect();
    both.sort_unstable();
    both
}

/// Those that cannot talk; `None` in a cluster of one.
fn pair(hit: &Hit, all: &[u64]) -> Option<[u64; 2]> {
    let node = *hit.nodes.first()?;
    let others: Vec<u64> = all.iter().copied().filter(|other| *other != node).collect();
    let chosen = (hit.choice >> 8).checked_rem(others.len() as u64)?;
    let other = others.get(usize::try_from(chosen).expect("a small number"))?;
    Some([node, *other])
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn one_other_is_lost_and_both_suffer() {
        for (nodes, choice, all, want, suffering) in [
            (vec![1], 0, vec![1, 2, 3], Some([1, 2]), vec![1, 2]),
            (vec![1], 1 << 8, vec![1, 2, 3], Some([1, 3]), vec![1, 3]),
            (vec![3], 1 << 8, vec![1, 2, 3], Some([3, 2]), vec![2, 3]),
            (vec![1, 2, 3], 0, vec![1, 2, 3], Some([1, 2]), vec![1, 2]),
            (vec![1], 5, vec![1], None, vec![]),
        ] {
            let hit = Hit { nodes, choice, span: Duration::ZERO, stage: None };
            assert_eq!(pair(&hit, &all), want);
            assert_eq!(super::suffering(&hit, &all), suffering);
        }
    }
}
