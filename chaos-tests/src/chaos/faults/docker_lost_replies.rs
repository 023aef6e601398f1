//! `docker-lost-replies`: the engine does what it is asked, and the answers to all, every second or every
//! third request are lost on the way: whoever asked cannot know, and asks again.

use super::docker_trouble::OnDocker;
use crate::cluster::Trouble;

pub(super) const DOCKER_LOST_REPLIES: OnDocker =
    OnDocker::new("docker-lost-replies", (500, 6_000), |choice| Trouble::LoseReplies {
        every: 1 + choice % 3,
    });
