//! `one-way`: what the nodes that are hit send to the others is lost, and what the others send
//! arrives; or the other way about, by choice. A connection ends both ways of it, yet each side's last
//! words may have arrived.

use super::Hit;
use super::links::{OnLinks, pairs};
use crate::cluster::network::{Link, Trouble};

pub(super) const ONE_WAY: OnLinks = OnLinks::new("one-way", (300, 8_000), |_| Trouble::Cut, links);

fn links(hit: &Hit, all: &[u64]) -> Vec<Link> {
    let outwards = (hit.choice >> 8).is_multiple_of(2);
    let link = |(node, other)| match outwards {
        true => Link { from: node, to: other },
        false => Link { from: other, to: node },
    };
    pairs(hit, all).into_iter().map(link).collect()
}
