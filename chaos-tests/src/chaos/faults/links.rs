//! What the faults of the network have in common: a trouble befalls the packets on some links, and is
//! felt by a node as soon as a packet from or to it was lost or late.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Result, ensure};
use async_trait::async_trait;

use super::{Fault, Frame, Hit, Layer, Needs, Reach, await_readyz};
use crate::Cluster;
use crate::cluster::network::{CLIENTS, Imposed, Link, Trouble};
use crate::wait::until;

/// How much longer than planned a fault may last. Nodes that have little to say to each other still ship usage, forward requests and report.
const FELT_WITHIN: Duration = Duration::from_secs(5);

/// A fault that is a trouble on some links.
#[derive(Clone, Copy)]
pub(super) struct OnLinks {
    pub(super) frame: Frame,
    /// By the plan's choice.
    pub(super) trouble: fn(u64) -> Trouble,
    pub(super) links: fn(&Hit, &[u64]) -> Vec<Link>,
    pub(super) suffering: fn(&Hit, &[u64]) -> Vec<u64>,
    /// Whether who is hit cannot rely on talking to guests either.
    pub(super) parts_from_guests: bool,
}

impl OnLinks {
    /// One that those suffer who are hit.
    pub(super) const fn new(
        name: &'static str,
        span_ms: (u64, u64),
        trouble: fn(u64) -> Trouble,
        links: fn(&Hit, &[u64]) -> Vec<Link>,
    ) -> Self {
        let frame = Frame::new(name, Layer::Network, span_ms).needing(Needs::Network);
        OnLinks { frame, trouble, links, suffering: |hit, _| hit.nodes.clone(), parts_from_guests: true }
    }
}

pub(super) fn fault(of: OnLinks) -> Box<dyn Fault> {
    Box::new(Network { of, imposed: Mutex::default() })
}

/// Ways in both directions between the nodes that are hit and the others; if there are no others,
/// between all of them.
pub(super) fn around(hit: &Hit, all: &[u64]) -> Vec<Link> {
    pairs(hit, all).into_iter().flat_map(|(node, other)| Link::between(node, other)).collect()
}

/// Each node that is hit with each that is not; if all are hit, each with each.
pub(super) fn pairs(hit: &Hit, all: &[u64]) -> Vec<(u64, u64)> {
    let others: Vec<u64> = all.iter().copied().filter(|node| !hit.nodes.contains(node)).collect();
    let with = |node: u64| match others.is_empty() {
        true => all.iter().copied().filter(|other| *other > node).collect(),
        false => others.clone(),
    };
    hit.nodes.iter().flat_map(|node| with(*node).into_iter().map(|other| (*node, other))).collect()
}

struct Network {
    of: OnLinks,
    imposed: Mutex<Option<Imposed>>,
}

impl Network {
    fn keep(&self, imposed: Option<Imposed>) {
        *self.imposed() = imposed;
    }

    /// Those of the nodes from or to which a packet was lost or late.
    fn felt_of(&self, nodes: &[u64]) -> Vec<u64> {
        let touched = self.imposed().as_ref().map(Imposed::touched).unwrap_or_default();
        let felt = |node: &u64| touched.iter().any(|(link, n)| *n > 0 && [link.from, link.to].contains(node));
        nodes.iter().copied().filter(felt).collect()
    }

    fn imposed(&self) -> MutexGuard<'_, Option<Imposed>> {
        self.imposed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Fault for Network {
    fn frame(&self) -> &Frame {
        &self.of.frame
    }

    fn reach(&self, hit: &Hit, all: &[u64]) -> Reach {
        let among_nodes = |link: &Link| ![link.from, link.to].contains(&CLIENTS);
        let links = (self.of.links)(hit, all);
        let pairs = links.iter().filter(|link| among_nodes(link));
        let pairs = pairs.map(|link| (link.from.min(link.to), link.from.max(link.to)));
        let severed: BTreeSet<(u64, u64)> = pairs.collect();
        Reach { nodes: (self.of.suffering)(hit, all), severed: severed.into_iter().collect() }
    }

    async fn strike(&self, cluster: &Cluster, hit: &Hit) -> Result<Vec<u64>> {
        let all = cluster.numbers();
        let mut links = (self.of.links)(hit, &all);
        // Whoever is cut off is cut off from guests, too: else they would be a way around.
        let guests = [&hit.nodes[..], &cluster.guest_stations()].concat();
        if self.of.parts_from_guests {
            links.extend((self.of.links)(hit, &guests));
        }
        let imposed = cluster.network().impose((self.of.trouble)(hit.choice), links, hit.choice);
        self.keep(Some(imposed));
        // The end tells who has felt it: not every packet is lost.
        Ok(Vec::new())
    }

    async fn felt(&self, cluster: &Cluster, hit: &Hit) -> Vec<u64> {
        let suffering = (self.of.suffering)(hit, &cluster.numbers());
        // In vain or not: what is answered tells.
        let _all = until("all have felt it", FELT_WITHIN, || async {
            ensure!(self.felt_of(&suffering) == suffering, "not yet");
            Ok(())
        })
        .await;
        self.felt_of(&suffering)
    }

    async fn mend(&self, _cluster: &Cluster, _hit: &Hit) -> Result<()> {
        self.keep(None);
        Ok(())
    }

    async fn back(&self, cluster: &Cluster, hit: &Hit) -> Result<()> {
        for node in (self.of.suffering)(hit, &cluster.numbers()) {
            await_readyz(cluster, node).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_hit_are_parted_from_the_others_or_from_each_other() {
        let hit = |nodes: &[u64]| Hit { nodes: nodes.to_vec(), choice: 0, span: Duration::ZERO, stage: None };
        for (nodes, all, want) in [
            (vec![2], vec![1, 2, 3], vec![(2, 1), (2, 3)]),
            (vec![1, 4], vec![1, 2, 3, 4], vec![(1, 2), (1, 3), (4, 2), (4, 3)]),
            (vec![1, 2, 3], vec![1, 2, 3], vec![(1, 2), (1, 3), (2, 3)]),
        ] {
            assert_eq!(pairs(&hit(&nodes), &all), want, "{nodes:?} of {all:?}");
        }
    }
}
