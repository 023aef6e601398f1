//! Asking other hosts for slots while requests wait here.
//!
//! Per function and remote host with ready instances there is at most one loop, which long-polls for
//! as many slots as requests wait. So no request is bounced between nodes, a slot that becomes free
//! anywhere finds its waiter in one round trip, and an idle cluster sends nothing.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use muster_core::ClusterState;
use muster_core::ids::{FunctionName, NodeId};
use muster_core::instances::Phase;
use tokio::time::{Instant, sleep, sleep_until};

use crate::Gateway;
use crate::peers::{Ask, WANT_MAX};
use crate::pool::Pool;

/// The least time between polls that were answered with nothing.
const EMPTY_PAUSE: Duration = Duration::from_millis(50);

/// Other nodes with ready instances of a function.
pub(crate) fn remote_hosts(state: &ClusterState, function: &FunctionName, here: NodeId) -> BTreeSet<NodeId> {
    let instances = state.instances.of_function(function.as_str());
    instances.filter(|(_, i)| i.phase == Phase::Ready && i.node != here).map(|(_, i)| i.node).collect()
}

/// Begins a loop for each host that could serve those who wait, where none runs.
pub(crate) fn raise(gateway: &Arc<Gateway>, pool: &Arc<Pool>, state: &ClusterState) {
    for node in remote_hosts(state, &pool.function, gateway.config.node) {
        if pool.begin_asking(node) {
            tokio::spawn(ask(Arc::clone(gateway), Arc::clone(pool), node));
        }
    }
}

async fn ask(gateway: Arc<Gateway>, pool: Arc<Pool>, node: NodeId) {
    let wait = Duration::from_millis(gateway.config.poll_ms);
    while let Some((waiting, oldest)) = pool.demand_or_end(node) {
        if !remote_hosts(&gateway.control.state(), &pool.function, gateway.config.node).contains(&node) {
            // Should it become ready just now, the next round begins another loop.
            pool.end_asking(node);
            return;
        }
        if let Some(until) = gateway.peers.avoided_until(node) {
            sleep_until(until).await;
            continue;
        }
        let ask = Ask {
            function: pool.function.clone(),
            want: waiting.min(WANT_MAX),
            wait_ms: gateway.config.poll_ms,
            waited_us: u64::try_from(oldest.as_micros()).unwrap_or(u64::MAX),
        };
        let asked = Instant::now();
        match gateway.peers.ask(node, &ask, wait).await {
            Ok(slots) if slots.is_empty() => {
                if asked.elapsed() < EMPTY_PAUSE {
                    sleep(EMPTY_PAUSE).await;
                }
            }
            Ok(slots) => slots.into_iter().for_each(|slot| pool.offer(slot)),
            Err(error) => {
                tracing::debug!(%node, function = %pool.function, %error, "cannot ask for slots");
                gateway.peers.avoid(node);
            }
        }
    }
}
