//! `docker-hang`: the engine takes requests and answers none, as a daemon that is stopped or waits for its
//! disk. When it goes on it carries out what it was asked meanwhile, wanted or not.

use super::docker_trouble::OnDocker;
use crate::cluster::Trouble;

pub(super) const DOCKER_HANG: OnDocker = OnDocker::new("docker-hang", (500, 8_000), |_| Trouble::Hang);
