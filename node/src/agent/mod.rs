//! Makes the containers on this host match the replicated assignment.
//!
//! Level-triggered: on every change of the state, every hint from an engine, every finished action
//! and every second, `muster_core::reconcile` compares what should be with what was last listed, and
//! the actions run as tasks, one per instance at a time. An instance whose action has finished stays
//! out of the comparison until a listing begun after that is in: an old list must not judge it.

mod actions;
mod alive;
mod listing;
mod report;
mod rest;
mod shield;
mod sweep;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use muster_consensus::Consensus;
use muster_core::functions::EngineKind;
use muster_core::ids::{ClusterId, Incarnation, InstanceId, NodeId};
use muster_core::instances;
use muster_core::reconcile::{self, AgentAction, Found, FoundPhase};
use muster_engine::{Engine, RunState, Running};
use muster_gateway::Gateway;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::controller::Controller;
use crate::images::Images;
use crate::meter::Meter;
use crate::packages::Packages;
use listing::{LIST_LIMIT, Listing, Listings};

pub(crate) type Engines = BTreeMap<EngineKind, Arc<dyn Engine>>;

/// The pause before the cluster is asked again whether this replica is up to date.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// The least time between two comparisons for changes of the state: each costs as much as there are
/// instances here, and under load the state changes thousands of times a second.
const COMPARE_PAUSE: Duration = Duration::from_millis(5);

/// What actions need. Shared by their tasks.
#[derive(Debug)]
struct Tools {
    node: NodeId,
    incarnation: Incarnation,
    cluster: ClusterId,
    engines: Engines,
    consensus: Consensus,
    controller: Controller,
    gateway: Arc<Gateway>,
    meter: Meter,
    packages: Packages,
    images: Images,
    settings: crate::config::Agent,
}

#[derive(Debug)]
pub(crate) struct Agent {
    tools: Arc<Tools>,
    /// As last listed, with the engine it runs on.
    listed: BTreeMap<InstanceId, (EngineKind, Running)>,
    /// Engines that have answered at least once. Before all have, an empty list means nothing.
    heard: BTreeSet<EngineKind>,
    /// Instances this process routes to or has begun to.
    served: BTreeSet<InstanceId>,
    /// Instances with an action under way, or finished but not listed since.
    busy: BTreeMap<InstanceId, Busy>,
    actions: JoinSet<(InstanceId, actions::Outcome)>,
    listings: Listings,
}

#[derive(Debug)]
enum Busy {
    /// Can be called off. With the engine it is about, if that is known.
    Acting { call_off: CancellationToken, engine: Option<EngineKind> },
    /// Waits for a listing with at least this number, of this engine.
    Settling { listing: u64, engine: Option<EngineKind> },
}

impl Busy {
    /// Whether a listing with this number leaves it unjudged, which `answered` has given.
    fn outlasts(&self, number: u64, answered: EngineKind) -> bool {
        match self {
            Busy::Acting { .. } => true,
            Busy::Settling { listing, engine } => {
                *listing > number || engine.is_some_and(|engine| engine != answered)
            }
        }
    }
}

impl Agent {
    #[expect(clippy::too_many_arguments, reason = "called once, where the node wires its parts")]
    pub(crate) fn new(
        config: &Config,
        cluster: ClusterId,
        incarnation: Incarnation,
        engines: Engines,
        consensus: Consensus,
        controller: Controller,
        gateway: Arc<Gateway>,
        meter: Meter,
        packages: Packages,
        images: Images,
    ) -> Self {
        let tools = Tools {
            node: config.node(),
            incarnation,
            cluster,
            engines: engines.clone(),
            consensus,
            controller,
            gateway,
            meter,
            packages,
            images,
            settings: config.agent.clone(),
        };
        Agent {
            tools: Arc::new(tools),
            listed: BTreeMap::new(),
            heard: BTreeSet::new(),
            served: BTreeSet::new(),
            busy: BTreeMap::new(),
            actions: JoinSet::new(),
            listings: Listings::new(engines, LIST_LIMIT),
        }
    }

    /// Runs until stopped. Containers stay; the next start adopts them.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let tools = Arc::clone(&self.tools);
        tokio::select! {
            () = self.reconcile_for_ever() => {}
            () = report::report_for_ever(Arc::clone(&tools)) => {}
            () = sweep::sweep_for_ever(Arc::clone(&tools)) => {}
            () = shield::shield_for_ever(Arc::clone(&tools)) => {}
            () = alive::look_for_ever(Arc::clone(&tools)) => {}
            () = rest::pause_for_ever(tools) => {}
            () = stop.cancelled() => {}
        }
    }

    async fn reconcile_for_ever(&mut self) {
        // A replica that has not caught up would take living instances for orphans.
        while self.tools.consensus.linearize().await.is_err() {
            tokio::time::sleep(RETRY_PAUSE).await;
        }
        let hint = Arc::new(Notify::new());
        let mut forwarders = JoinSet::new();
        for engine in self.tools.engines.values() {
            forwarders.spawn(forward(engine.changes(), Arc::clone(&hint)));
        }
        let mut states = self.tools.consensus.changes();
        let mut interval =
            tokio::time::interval(Duration::from_millis(self.tools.settings.reconcile_every_ms));
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut changed = false;
        let mut compare_at = Instant::now();
        loop {
            tokio::select! {
                told = states.changed(), if !changed => {
                    if told.is_err() {
                        return;
                    }
                    changed = true;
                }
                () = sleep_until(compare_at), if changed => {
                    changed = false;
                    self.act();
                    compare_at = Instant::now() + COMPARE_PAUSE;
                }
                () = hint.notified() => self.listings.ask(),
                _ = interval.tick() => self.listings.ask(),
                Some(done) = self.actions.join_next() => {
                    self.finished(done.expect("an action does not panic"));
                    self.listings.ask();
                }
                listing = self.listings.next() => {
                    self.take(listing);
                    self.remind();
                    self.act();
                }
            }
        }
    }

    fn finished(&mut self, (id, outcome): (InstanceId, actions::Outcome)) {
        match outcome {
            actions::Outcome::Serving => {
                self.served.insert(id);
            }
            actions::Outcome::Forgotten => {
                self.served.remove(&id);
            }
            actions::Outcome::Other => {}
        }
        let engine = match self.busy.get(&id) {
            Some(Busy::Acting { engine, .. } | Busy::Settling { engine, .. }) => *engine,
            None => None,
        };
        self.busy.insert(id, Busy::Settling { listing: self.listings.next_number(), engine });
    }

    fn take(&mut self, listing: Listing) {
        let kind = listing.engine;
        let Some(running) = listing.running else { return };
        self.listed.retain(|_, (listed_by, _)| *listed_by != kind);
        self.listed.extend(running.into_iter().map(|running| (running.instance, (kind, running))));
        self.busy.retain(|_, busy| busy.outlasts(listing.number, kind));
        self.heard.insert(kind);
        self.wake_late_sleepers(kind);
    }

    /// Docker may carry out late what was given up: an instance must not stand still while it is sent requests.
    fn wake_late_sleepers(&self, kind: EngineKind) {
        if self.tools.settings.pause_idle_after_ms == 0 {
            return;
        }
        let host = self.tools.gateway.host();
        for (id, (listed_by, running)) in &self.listed {
            if *listed_by != kind || !running.paused || !self.served.contains(id) || host.may_rest(*id) {
                continue;
            }
            let (tools, id) = (Arc::clone(&self.tools), *id);
            tokio::spawn(async move {
                let Some(engine) = actions::engine(&tools, kind) else { return };
                // One that fails is found again by the next listing.
                let _done_or_not = engine.resume(id).await;
            });
        }
    }

    /// Compares and starts what is due.
    fn act(&mut self) {
        if self.heard.len() < self.tools.engines.len() {
            return;
        }
        let published = self.tools.consensus.state();
        let state = &published.state;
        self.call_off_launches(state);
        let found: Vec<Found> = self.listed.values().map(|(_, running)| found(running)).collect();
        let busy: BTreeSet<InstanceId> = self.busy.keys().copied().collect();
        for action in reconcile::reconcile(state, self.tools.node, &found, &self.served, &busy) {
            let id = target(&action);
            let listed = self.listed.get(&id).cloned();
            let instance = state.instances.get(id).cloned();
            let engine = listed.as_ref().map(|(kind, _)| *kind).or(instance.as_ref().map(|i| i.engine));
            let call_off = CancellationToken::new();
            self.busy.insert(id, Busy::Acting { call_off: call_off.clone(), engine });
            let task = actions::run(Arc::clone(&self.tools), action, listed, instance, call_off);
            self.actions.spawn(async move { (id, task.await) });
        }
    }

    /// Says again that instances are ready where the state does not know: the first word may have
    /// been lost with a leader.
    fn remind(&self) {
        self.tools.consensus.with_state(|state| {
            for (id, instance) in state.instances.on_node(self.tools.node) {
                if instance.phase.is_launching() && self.served.contains(&id) && !self.busy.contains_key(&id)
                {
                    let generation = instance.generation;
                    actions::mark(&self.tools, instances::Command::MarkReady { instance: id, generation });
                }
            }
        });
    }

    /// A launch is pointless once the instance is to go or has exited.
    fn call_off_launches(&self, state: &muster_core::ClusterState) {
        for (id, busy) in &self.busy {
            let Busy::Acting { call_off, .. } = busy else { continue };
            let wanted = state.instances.get(*id).is_some_and(|i| i.phase.is_wanted());
            let exited = self.listed.get(id).is_some_and(|(_, r)| matches!(r.state, RunState::Exited(_)));
            if !wanted || exited {
                call_off.cancel();
            }
        }
    }
}

async fn forward(from: Arc<Notify>, to: Arc<Notify>) {
    loop {
        from.notified().await;
        to.notify_one();
    }
}

fn found(running: &Running) -> Found {
    Found {
        instance: running.instance,
        generation: running.generation,
        phase: match &running.state {
            RunState::Starting => FoundPhase::Starting,
            // Until it is known how it ended there is nothing to tell of it.
            RunState::Running { .. } | RunState::Ended => FoundPhase::Running,
            RunState::Exited(exit) => FoundPhase::Exited(exit.to_string()),
        },
    }
}

fn target(action: &AgentAction) -> InstanceId {
    match action {
        AgentAction::Stop { instance }
        | AgentAction::Forget { instance }
        | AgentAction::ReportFailed { instance, .. }
        | AgentAction::ReportStopped { instance, .. }
        | AgentAction::Drain { instance }
        | AgentAction::Adopt { instance }
        | AgentAction::Launch { instance } => *instance,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_its_own_engine_s_later_listing_settles_an_instance() {
        use EngineKind::{Docker, Process};
        let settling = |engine| Busy::Settling { listing: 5, engine };
        for (busy, number, answered, outlasts) in [
            (settling(Some(Docker)), 4, Docker, true),
            (settling(Some(Docker)), 5, Docker, false),
            (settling(Some(Docker)), 6, Process, true),
            (settling(None), 5, Process, false),
            (Busy::Acting { call_off: CancellationToken::new(), engine: None }, 9, Docker, true),
        ] {
            assert_eq!(busy.outlasts(number, answered), outlasts, "{busy:?} by {number} of {answered:?}");
        }
    }
}
