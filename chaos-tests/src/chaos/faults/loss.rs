//! `loss`: of the packets between the nodes that are hit and the others 10 to 40 in 100 are lost.

use super::links::{OnLinks, around};
use crate::cluster::network::Trouble;

pub(super) const LOSS: OnLinks =
    OnLinks::new("loss", (1_000, 8_000), |choice| Trouble::Lose { percent: 10 + (choice >> 8) % 31 }, around);
