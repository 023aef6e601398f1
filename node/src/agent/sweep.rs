//! Removes the output of functions that were deleted: whoever creates one of the same name must not read it.

use std::sync::Arc;
use std::time::Duration;

use super::Tools;

const EVERY: Duration = Duration::from_secs(60);

pub(super) async fn sweep_for_ever(tools: Arc<Tools>) {
    loop {
        tokio::time::sleep(EVERY).await;
        // A replica that lags would take what is new for deleted.
        if tools.consensus.linearize().await.is_err() {
            continue;
        }
        let functions: std::collections::BTreeMap<_, _> = tools.consensus.with_state(|state| {
            state.functions.iter().map(|(name, function)| (name.clone(), function.created_at)).collect()
        });
        for engine in tools.engines.values() {
            engine.retain_logs(functions.clone()).await;
        }
    }
}
