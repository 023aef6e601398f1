//! Tells the engines where the nodes are, from which they keep instances.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::Tools;

/// Nodes join rarely, and names may come to mean another address.
const EVERY: Duration = Duration::from_secs(10);

pub(super) async fn shield_for_ever(tools: Arc<Tools>) {
    loop {
        let names: BTreeSet<String> = tools.consensus.with_state(|state| {
            let profiles = state.nodes.iter().map(|(_, node)| &node.profile);
            profiles.flat_map(|profile| [profile.http.clone(), profile.peer.clone()]).collect()
        });
        for engine in tools.engines.values() {
            engine.close_ports(names.clone()).await;
        }
        tokio::time::sleep(EVERY).await;
    }
}
