//! `partition`: the nodes that are hit and the others cannot talk; if all are hit, nobody can.
//! Clients still reach every node.

use super::links::{OnLinks, around};
use crate::cluster::network::Trouble;

pub(super) const PARTITION: OnLinks = OnLinks::new("partition", (300, 12_000), |_| Trouble::Cut, around);
