//! The end of a container: it is asked to end, then ended, what it wrote is kept, and it is removed.

use std::time::Duration;

use bollard::query_parameters::{
    KillContainerOptionsBuilder, RemoveContainerOptionsBuilder, WaitContainerOptionsBuilder,
};
use futures_util::StreamExt;
use muster_core::ids::InstanceId;
use muster_core::units::Millis;
use tokio::time::timeout;

use super::{CONFLICT_PAUSE, DockerEngine, READ_DEADLINE, REMOVE_DEADLINE, container, docker_status, within};
use crate::EngineError;
use crate::error::status;

/// How long a removal waits for launches.
const REMOVAL_PATIENCE: Duration = Duration::from_secs(1);

impl DockerEngine {
    pub(super) async fn stop_instance(&self, instance: InstanceId, grace: Millis) -> Result<(), EngineError> {
        let name = container::name(self.cluster, instance);
        let inspection = self.docker.inspect_container(&name, None);
        let found = match within("inspect the container", READ_DEADLINE, inspection).await {
            Err(error) if docker_status(&error) == Some(404) => return Ok(()),
            found => found?,
        };
        let paused = found.state.and_then(|state| state.paused).unwrap_or_default();
        let labels = found.config.and_then(|config| config.labels).unwrap_or_default();
        let sigterm = KillContainerOptionsBuilder::new().signal("SIGTERM").build();
        let signalled =
            within("signal the container", READ_DEADLINE, self.docker.kill_container(&name, Some(sigterm)));
        match signalled.await {
            Ok(()) => {
                // It hears of it when it goes on.
                if paused && let Err(error) = self.thaw(instance).await {
                    tracing::debug!(%instance, reason = error.reason(), "whether it runs is not known");
                }
                self.wait_for_end(&name, grace).await;
            }
            Err(error) => match docker_status(&error) {
                Some(404) => return Ok(()),
                // Not running, or about to end: there is nothing to wait for.
                Some(409 | 500) => {}
                _ => return Err(error),
            },
        }
        if let Some(origin) = container::origin(&labels) {
            self.keep_logs(&name, origin).await;
        }
        // Removals hold up launches inside dockerd, and somebody waits for those.
        let mut launching = self.launching.subscribe();
        let idle = async { launching.wait_for(|launches| *launches == 0).await.is_ok() };
        let _idle_or_not = timeout(REMOVAL_PATIENCE, idle).await;
        self.remove(&name).await?;
        if let (Some(pool), Some(holder)) = (self.pool(), container::holder(&labels)) {
            pool.release(holder).await;
        }
        Ok(())
    }

    /// Removes a container whatever its state. One that is gone, or on its way, is fine.
    pub(super) async fn remove(&self, name: &str) -> Result<(), EngineError> {
        let _permit = self.removals.acquire().await.expect("the semaphore is never closed");
        let removal = async {
            loop {
                let options = RemoveContainerOptionsBuilder::new().force(true).v(true).build();
                match self.docker.remove_container(name, Some(options)).await {
                    Err(error) if status(&error) == Some(404) => return Ok(()),
                    // Its removal is already in progress: see it through.
                    Err(error) if status(&error) == Some(409) => tokio::time::sleep(CONFLICT_PAUSE).await,
                    done => return done,
                }
            }
        };
        within("remove the container", REMOVE_DEADLINE, removal).await
    }

    /// Returns when the container has ended or `grace` has passed. `docker stop` counts in seconds, so
    /// this is its own.
    async fn wait_for_end(&self, name: &str, grace: Millis) {
        let options = WaitContainerOptionsBuilder::new().condition("not-running").build();
        let mut ended = std::pin::pin!(self.docker.wait_container(name, Some(options)));
        // Whatever ends the wait, the forced removal that follows is right.
        let _ = timeout(grace.to_duration(), ended.next()).await;
    }
}
