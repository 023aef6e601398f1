//! What happens to those who wait when the world changes: upon each change of the state, and a few
//! times a second for what time alone changes.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Weak};
use std::time::Duration;

use muster_core::ClusterState;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::Gateway;
use crate::admit::crash_loop;
use crate::demand::{raise, remote_hosts};
use crate::failure::{Failure, Kind};
use crate::pool::Pool;
use crate::tally::now;

const TICK: Duration = Duration::from_millis(250);
/// Ticks between looking for pools of functions that are no more.
const FORGET_EVERY: u64 = 40;
/// Ticks between greetings to other nodes: two of them within [`IDLE_TIMEOUT`](crate::peers::IDLE_TIMEOUT).
const WARM_EVERY: u64 = 16;
pub(crate) const NO_QUORUM_RETRY_S: u64 = 2;

/// Runs until the gateway is dropped.
pub(crate) async fn watch(gateway: Weak<Gateway>, mut changes: watch::Receiver<u64>) {
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut tick = 0;
    let mut changing = true;
    let mut no_quorum_since = None;
    loop {
        let ticked = tokio::select! {
            _ = ticks.tick() => true,
            changed = changes.changed(), if changing => {
                changing = changed.is_ok();
                false
            }
        };
        let Some(gateway) = gateway.upgrade() else { return };
        let state = gateway.control.state();
        gateway.peers.notice(&state);
        if ticked {
            tick += 1;
            upkeep(&gateway, &state, tick);
            no_quorum_since = match gateway.control.has_quorum() {
                true => None,
                false => no_quorum_since.or(Some(Instant::now())),
            };
        }
        if gateway.metrics.waiting.load(Relaxed) > 0 {
            let grace = Duration::from_millis(gateway.config.quorum_grace_ms);
            let alone = no_quorum_since.is_some_and(|since| since.elapsed() >= grace);
            for pool in gateway.host.pools() {
                judge(&gateway, &pool, &state, alone);
            }
        }
    }
}

/// Frees what nobody came back for.
fn upkeep(gateway: &Gateway, state: &ClusterState, tick: u64) {
    let expired = gateway.host.tokens.expire(Duration::from_millis(gateway.config.token_ttl_ms));
    gateway.metrics.tokens_expired.fetch_add(u64::try_from(expired).unwrap_or(0), Relaxed);
    if tick % WARM_EVERY == 1 {
        gateway.peers.keep_warm(state, gateway.config.node);
    }
    if tick.is_multiple_of(FORGET_EVERY) {
        gateway.host.forget_pools(|name| state.functions.get(name.as_str()).is_some());
    }
}

/// Answers those who wait in vain; for the others asks wherever there is hope.
fn judge(gateway: &Arc<Gateway>, pool: &Arc<Pool>, state: &ClusterState, alone: bool) {
    if pool.waiting().0 == 0 {
        return;
    }
    match verdict(gateway, pool, state, alone) {
        Some(failure) => pool.fail_waiting(&failure),
        None => raise(gateway, pool, state),
    }
}

/// `alone`: there has been no quorum for a while, so nothing new will be launched.
fn verdict(gateway: &Gateway, pool: &Pool, state: &ClusterState, alone: bool) -> Option<Failure> {
    let function = &pool.function;
    if state.functions.get(function.as_str()).is_none() {
        let detail = format!("the function `{function}` was deleted");
        return Some(Failure::not_started(Kind::NoFunction, detail));
    }
    if let Some(failure) = crash_loop(state, function, now()) {
        return Some(failure);
    }
    let reachable = |node| gateway.peers.avoided_until(node).is_none();
    let hope =
        pool.can_serve() || remote_hosts(state, function, gateway.config.node).into_iter().any(reachable);
    if alone && !hope {
        let detail = format!("no instance of `{function}` runs, and without a quorum none can be launched");
        return Some(Failure::not_started(Kind::NoQuorum, detail).retry_after(NO_QUORUM_RETRY_S));
    }
    None
}
