//! `client-cut`: clients cannot reach the nodes that are hit, while nodes reach each other.

use super::Hit;
use super::links::OnLinks;
use crate::cluster::network::{CLIENTS, Link, Trouble};

pub(super) const CLIENT_CUT: OnLinks =
    OnLinks { parts_from_guests: false, ..OnLinks::new("client-cut", (300, 6_000), |_| Trouble::Cut, links) };

fn links(hit: &Hit, _all: &[u64]) -> Vec<Link> {
    hit.nodes.iter().flat_map(|node| Link::between(*node, CLIENTS)).collect()
}
