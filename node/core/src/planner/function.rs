//! The plan for one function: ask the autoscaler, launch what is missing, drain what is too much.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use super::census::{Census, Member, count};
use super::demand::Queue;
use super::memory::FunctionMemory;
use super::{Context, Memory, levels};
use crate::autoscaler::{self, Demand, Supply, Why};
use crate::functions::{Function, ScalingPolicy};
use crate::ids::{ChangeId, FunctionName, InstanceId, NodeId};
use crate::instances::{Command as C, DecidedAction, Decision, DrainReason, Inputs, LaunchCause, Trigger};
use crate::mutant;
use crate::nodes::Resources;
use crate::scheduler::{self, Candidate, Need, NoPlace};
use crate::state::Command;
use crate::units::{Millis, Timestamp};

/// The fewest commands that can do something: a change and the record of its reason.
pub(super) const COMMANDS_MIN: usize = 2;
/// An instance that has served nothing yet is given this long before it counts as idle: the request
/// it was launched for is on its way.
const UNUSED_GRACE: Millis = Millis::from_secs(2);

/// The commands for one function, at most `room`, which is at least [`COMMANDS_MIN`].
pub(super) fn plan(
    context: &mut Context<'_>,
    name: &FunctionName,
    queue: &Queue,
    memory: &mut Memory,
    room: usize,
) -> Vec<Command> {
    let Some(function) = context.state.functions.get(name.as_str()) else { return Vec::new() };
    let policy = &function.current().spec.scaling;
    let census = Census::take(context, name, function);
    let known = FunctionMemory::of(&mut memory.functions, name, policy.window, context.elapsed);
    known.last_active = context.elapsed;
    let unused = |m: &Member<'_>| {
        let young = m.instance.ready_at.is_some_and(|at| context.now.since(at) < UNUSED_GRACE);
        // One that was launched ahead of need has no request on its way.
        let asked = m.instance.cause.trigger != Trigger::Prewarm;
        young && asked && memory.counters.get(&m.id).is_none_or(|known| known.counters.completed == 0)
    };
    let on_its_way = census.staying_ready.iter().any(unused);
    let in_use = |m: &&Member<'_>| {
        let used_at = memory.counters.get(&m.id).and_then(|known| known.used_at);
        m.in_flight > 0 || used_at.is_some_and(|at| at.0 + levels::AT_ONCE.0 > context.elapsed.0)
    };
    let ready = census.staying_ready.iter().chain(&census.leaving_ready);
    let used = u32::try_from(ready.filter(in_use).count()).expect("bounded by the maximum");
    let supply = census.supply(context, function);
    let demand = known.demand(context, name, queue, &census, on_its_way, used, &mut memory.forecasts);
    let calm_for = known.calm_for(autoscaler::is_calm(policy, &demand, supply), context.elapsed);
    let decision = autoscaler::desired(policy, &demand, supply, calm_for);
    let inputs = Inputs {
        ready: census.ready(),
        launching: census.launching(),
        draining: census.draining,
        waiting: queue.waiting,
        in_flight: census.in_flight,
        utilization_permille: known.window.utilization_permille(context.elapsed),
        desired: decision.desired,
    };
    let target = target(policy, function, &census, &demand, supply, decision);
    let overdue = census.overdue.iter().take(room).cloned().map(Command::Instances);
    let commands = overdue.collect();
    let placed = BTreeMap::new();
    let mut turn = Turn {
        context,
        name,
        function,
        queue,
        census,
        supply,
        decision,
        inputs,
        idle_for: demand.idle_for,
        target,
        placed,
        room,
        commands,
    };
    let launched = turn.launch(known);
    turn.drain(launched);
    turn.commands
}

/// How many staying instances there should be. Where instances leave that nobody asks for, only the
/// minimum is replaced; but what serves is kept while its successor fails.
fn target(
    policy: &ScalingPolicy,
    function: &Function,
    census: &Census<'_>,
    demand: &Demand,
    supply: Supply,
    decision: autoscaler::Decision,
) -> u32 {
    let quiet = demand.informed
        && demand.idle_for.is_some()
        && autoscaler::needed(policy, demand, supply) == 0
        && function.health.consecutive_failures == 0;
    if quiet && census.leaving() > 0 { policy.min.min(decision.desired) } else { decision.desired }
}

struct Turn<'t, 'a> {
    context: &'t mut Context<'a>,
    name: &'t FunctionName,
    function: &'a Function,
    queue: &'t Queue,
    census: Census<'a>,
    supply: Supply,
    decision: autoscaler::Decision,
    inputs: Inputs,
    idle_for: Option<Millis>,
    target: u32,
    /// Placed in this turn.
    placed: BTreeMap<NodeId, u32>,
    room: usize,
    commands: Vec<Command>,
}

impl Turn<'_, '_> {
    /// Launches what is missing, as far as health, limits and room allow. Answers how many.
    fn launch(&mut self, known: &mut FunctionMemory) -> u32 {
        if self.decision.why == Why::AtMaximum {
            self.hold(known, Why::AtMaximum.to_string());
        }
        let missing = self.target.saturating_sub(self.census.staying());
        if missing == 0 {
            return 0;
        }
        let health = &self.function.health;
        if health.retry_at() > self.context.now {
            let failures = health.consecutive_failures;
            let reason = format!(
                "{failures} launches in a row failed, waiting before the next: {}",
                health.last_reason
            );
            self.hold(known, reason);
            return 0;
        }
        let growth = self.decision.desired.saturating_sub(self.supply.running());
        let wanted = missing.min(self.room_below_maximum()).min(self.room_in_step());
        if wanted == 0 {
            self.make_way();
        }
        for launched in 0..wanted {
            if !self.has_room() {
                return launched;
            }
            match self.choose() {
                Ok(node) => self.place(node, launched < growth),
                Err(no_place) => {
                    self.hold(known, no_place.to_string());
                    return launched;
                }
            }
        }
        wanted
    }

    /// The maximum holds for all wanted instances of the current version, those that leave included.
    fn room_below_maximum(&self) -> u32 {
        let leaving = self.census.leaving_ready.iter().chain(&self.census.leaving_launching);
        let current = leaving.filter(|m| self.is_current(m)).count();
        let taken = self.census.staying() + u32::try_from(current).expect("bounded by the maximum");
        self.function.current().spec.scaling.max.saturating_sub(taken)
    }

    /// How many more may start now. After a failure one launch at a time finds out whether it is over.
    fn room_in_step(&self) -> u32 {
        let health = &self.function.health;
        let proven = self
            .census
            .staying_ready
            .iter()
            .any(|m| m.instance.ready_at.is_some_and(|at| at > health.last_failure_at));
        let step = match health.consecutive_failures > 0 && !proven {
            true => 1,
            false => autoscaler::step(&self.function.current().spec.scaling, self.census.ready()),
        };
        step.saturating_sub(count(&self.census.staying_launching))
    }

    /// Where the maximum leaves no room for a replacement, one instance on a node that is being
    /// drained goes first, and the next only when its replacement is ready.
    fn make_way(&mut self) {
        if self.room_below_maximum() > 0 || !self.census.staying_launching.is_empty() {
            return;
        }
        let mut leaving: Vec<Member<'_>> =
            self.census.leaving_ready.iter().filter(|m| self.is_current(m)).copied().collect();
        self.cheapest_first(&mut leaving);
        if let Some(first) = leaving.first()
            && self.choose().is_ok()
        {
            self.drain_one(first.id, DrainReason::NodeDraining);
        }
    }

    fn choose(&self) -> Result<NodeId, NoPlace> {
        let spec = &self.function.current().spec;
        let need = Need { resources: resources(self.function), engine: spec.source.engine() };
        let image = spec.source.needs();
        let hosts = &self.context.hosts.by_id;
        let failures = self.failures();
        let candidates: Vec<Candidate> = hosts
            .iter()
            .map(|(id, host)| Candidate {
                node: *id,
                condition: host.condition,
                heard: host.heard.is_some(),
                has_engine: host.node.profile.engines.contains(&need.engine),
                free: host.free,
                has_image: image
                    .as_ref()
                    .is_none_or(|image| host.heard.is_some_and(|heard| heard.report.images.contains(image))),
                has_demand: self.queue.by_node.contains_key(id),
                instances: self.instances_on(*id),
                failures: failures.get(id).copied().unwrap_or(0),
            })
            .collect();
        scheduler::choose(&candidates, need)
    }

    /// Where the launches that failed in a row have failed.
    fn failures(&self) -> BTreeMap<NodeId, u32> {
        let mut failures = BTreeMap::new();
        if mutant!("failures-not-placed") {
            return failures;
        }
        let row = usize::try_from(self.function.health.consecutive_failures).unwrap_or(usize::MAX);
        for failed in self.context.state.instances.failed(self.name).take(row) {
            if !failed.was_proven() {
                *failures.entry(failed.node).or_default() += 1;
            }
        }
        failures
    }

    fn instances_on(&self, node: NodeId) -> u32 {
        let staying = self.census.staying_ready.iter().chain(&self.census.staying_launching);
        let known = staying.filter(|m| m.instance.node == node).count();
        u32::try_from(known).expect("bounded by the maximum") + self.placed.get(&node).copied().unwrap_or(0)
    }

    fn place(&mut self, node: NodeId, grows: bool) {
        let demand = resources(self.function);
        let host = self.context.hosts.by_id.get_mut(&node).expect("a candidate was chosen");
        host.free = host.free.minus(demand);
        *self.placed.entry(node).or_default() += 1;
        let instance = InstanceId((self.context.ids)());
        let (trigger, reason) = match self.decision.why {
            _ if !grows => (Trigger::Rollout, "takes the place of one that leaves".to_owned()),
            why @ Why::Queued => (Trigger::Queued, why.to_string()),
            why @ Why::Expected => {
                let secs = self.idle_for.unwrap_or_default().0 / 1000;
                (Trigger::Prewarm, format!("{why}, after {secs} s of idle time"))
            }
            why @ Why::Minimum => (Trigger::Minimum, why.to_string()),
            why => (Trigger::Utilization, why.to_string()),
        };
        let cause = LaunchCause { trigger, accounts: self.queue.accounts() };
        let version = self.function.current().number;
        let function = self.name.clone();
        self.commands.push(Command::Instances(C::Place { instance, function, version, node, cause }));
        self.record(DecidedAction::Launch { instance, node }, reason);
    }

    /// Drains what is more than enough: of those that leave, as many as the others can do without;
    /// then of those that stay.
    fn drain(&mut self, launched: u32) {
        let above = self.decision.why == Why::AboveMaximum;
        let staying = self.census.staying() + launched;
        let mut leaving = self.census.leaving_ready.clone();
        self.cheapest_first(&mut leaving);
        let excess = self.census.ready().saturating_sub(self.target);
        leaving.truncate(usize::try_from(excess).expect("fits"));
        if staying >= self.target {
            leaving.extend(&self.census.leaving_launching);
        }
        for member in leaving {
            let reason = match () {
                () if self.decision.why == Why::Idle => DrainReason::Idle,
                () if self.decision.why == Why::NotExpected => DrainReason::NotExpected,
                () if self.is_current(&member) => DrainReason::NodeDraining,
                () => DrainReason::OldVersion,
            };
            self.drain_one(member.id, reason);
        }
        let mut surplus = self.census.staying_ready.clone();
        if above {
            surplus.extend(&self.census.staying_launching);
        }
        self.cheapest_first(&mut surplus);
        surplus.truncate(usize::try_from(staying.saturating_sub(self.decision.desired)).expect("fits"));
        let reason = match self.decision.why {
            Why::Idle => DrainReason::Idle,
            Why::NotExpected => DrainReason::NotExpected,
            Why::AboveMaximum => DrainReason::AboveMaximum,
            _ => DrainReason::LowUtilization,
        };
        for member in surplus {
            self.drain_one(member.id, reason);
        }
    }

    /// The order in which instances are given up: first what is not ready yet; then the one with the
    /// fewest requests in flight; then the one where fewest requests wait, since those would have to
    /// be forwarded; then the youngest, whose caches are the coldest; at last by id.
    fn cheapest_first(&self, members: &mut [Member<'_>]) {
        members.sort_by_key(|m| {
            let here = self.queue.by_node.get(&m.instance.node).copied().unwrap_or(0);
            let since = m.instance.ready_at.unwrap_or(Timestamp(u64::MAX));
            (m.instance.phase, m.in_flight, here, Reverse(since), m.id)
        });
    }

    fn is_current(&self, member: &Member<'_>) -> bool {
        member.instance.version == self.function.current().number
    }

    fn has_room(&self) -> bool {
        self.commands.len() + COMMANDS_MIN <= self.room
    }

    fn drain_one(&mut self, instance: InstanceId, reason: DrainReason) {
        if self.has_room() {
            self.commands.push(Command::Instances(C::Drain { instance, reason }));
            self.record(DecidedAction::Drain { instance }, reason.to_string());
        }
    }

    /// Says why what is wanted is not done, once for as long as the reason holds.
    fn hold(&mut self, known: &mut FunctionMemory, reason: String) {
        if self.commands.len() < self.room && known.holds(&reason, self.context.elapsed) {
            self.record(DecidedAction::Hold, reason);
        }
    }

    fn record(&mut self, action: DecidedAction, reason: String) {
        let id = ChangeId((self.context.ids)());
        let function = self.name.clone();
        let decision = Decision { id, function, action, inputs: self.inputs, reason };
        self.commands.push(Command::Instances(C::Record { decision }));
    }
}

fn resources(function: &Function) -> Resources {
    let spec = &function.current().spec;
    Resources { memory_mb: u64::from(spec.memory_mb), cpu_millis: u64::from(spec.cpu_millis) }
}
