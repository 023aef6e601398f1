//! `docker-fail`: the engine answers all, every second or every third request with an error of its own
//! and does nothing.

use super::docker_trouble::OnDocker;
use crate::cluster::Trouble;

pub(super) const DOCKER_FAIL: OnDocker =
    OnDocker::new("docker-fail", (500, 6_000), |choice| Trouble::Fail { every: 1 + choice % 3 });
