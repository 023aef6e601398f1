//! `delay`: packets between the nodes that are hit and the others are late, each by a time of its own:
//! 20 ms at least, and up to 300 ms.

use std::time::Duration;

use super::links::{OnLinks, around};
use crate::cluster::network::Trouble;

pub(super) const DELAY: OnLinks = OnLinks::new("delay", (1_000, 8_000), trouble, around);

fn trouble(choice: u64) -> Trouble {
    let most_ms = 40 + (choice >> 8) % 261;
    Trouble::Delay { least: Duration::from_millis(20), most: Duration::from_millis(most_ms) }
}
