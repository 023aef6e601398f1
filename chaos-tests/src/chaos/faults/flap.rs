//! `flap`: a partition that comes and goes several times a second, as a loose cable or a switch that
//! starts again and again.

use std::time::Duration;

use super::links::{OnLinks, around};
use crate::cluster::network::Trouble;

pub(super) const FLAP: OnLinks = OnLinks::new("flap", (1_500, 8_000), trouble, around);

/// About an election's timeout, a little shorter or longer.
fn trouble(choice: u64) -> Trouble {
    Trouble::Flap(Duration::from_millis(200 + (choice >> 8) % 600))
}
