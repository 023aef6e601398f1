//! Has instances that serve nobody stand still, where the configuration says so.

use std::sync::Arc;
use std::time::Duration;

use muster_core::ids::InstanceId;
use muster_engine::{Engine, EngineError};
use muster_gateway::{BoxFuture, Pausing};

use super::{Tools, actions};

pub(super) async fn pause_for_ever(tools: Arc<Tools>) {
    let host = tools.gateway.host();
    // Also where none are paused: an earlier life with another configuration may have left some that are.
    host.pause_through(Arc::new(Engines(Arc::clone(&tools))));
    match tools.settings.pause_idle_after_ms {
        0 => std::future::pending().await,
        after_ms => host.pause_idle(Duration::from_millis(after_ms)).await,
    }
}

struct Engines(Arc<Tools>);

impl Engines {
    /// The engine that an instance runs on; none of one that is gone.
    fn of(&self, instance: InstanceId) -> Option<&Arc<dyn Engine>> {
        let kind = self.0.consensus.with_state(|state| state.instances.get(instance).map(|i| i.engine))?;
        actions::engine(&self.0, kind)
    }
}

impl Pausing for Engines {
    fn pause(&self, instance: InstanceId) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async move {
            let Some(engine) = self.of(instance) else { return Ok(()) };
            engine.pause(instance).await.map_err(|error: EngineError| error.reason())
        })
    }

    fn resume(&self, instance: InstanceId) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async move {
            let Some(engine) = self.of(instance) else { return Ok(()) };
            engine.resume(instance).await.map_err(|error: EngineError| error.reason())
        })
    }
}
