//! `docker-slow`: every request to the engine takes longer, as on a host that is short of disk or memory.

use std::time::Duration;

use super::docker_trouble::OnDocker;
use crate::cluster::Trouble;

pub(super) const DOCKER_SLOW: OnDocker = OnDocker::new("docker-slow", (1_000, 8_000), |choice| {
    let least = Duration::from_millis(100 + choice % 400);
    Trouble::Slow { least, most: least * 5 }
});
