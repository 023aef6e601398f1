//! Containers that stand still in Docker's freezer.

use std::time::Duration;

use muster_core::ids::InstanceId;

use super::{DockerEngine, container, docker_status, within};
use crate::EngineError;

/// Freezing takes some milliseconds, and somebody may wait for the thaw.
const DEADLINE: Duration = Duration::from_secs(5);

impl DockerEngine {
    pub(super) async fn freeze(&self, instance: InstanceId) -> Result<(), EngineError> {
        let name = container::name(self.cluster, instance);
        fine_as_it_is(within("pause the container", DEADLINE, self.docker.pause_container(&name)).await)
    }

    pub(super) async fn thaw(&self, instance: InstanceId) -> Result<(), EngineError> {
        let name = container::name(self.cluster, instance);
        fine_as_it_is(within("unpause the container", DEADLINE, self.docker.unpause_container(&name)).await)
    }
}

/// Docker refuses what is the case already with 409 or, in older releases, with 500.
fn fine_as_it_is(done: Result<(), EngineError>) -> Result<(), EngineError> {
    match done {
        Err(error) if matches!(docker_status(&error), Some(404 | 409)) => Ok(()),
        Err(error) if docker_status(&error) == Some(500) && says_so(&error) => Ok(()),
        done => done,
    }
}

fn says_so(error: &EngineError) -> bool {
    let reason = error.reason();
    ["is not paused", "is already paused", "is not running"].iter().any(|said| reason.contains(said))
}
