//! The instances of one function, sorted by what a plan may do with them.

use super::Context;
use crate::autoscaler::Supply;
use crate::functions::Function;
use crate::ids::{FunctionName, InstanceId};
use crate::instances::{Command, Instance, Phase, Trigger};
use crate::nodes::Condition;
use crate::units::Millis;

/// After an instance's start-up time its agent has this long to say so; then the leader does.
const OVERDUE_AFTER: Millis = Millis::from_secs(10);

/// A wanted instance.
#[derive(Clone, Copy)]
pub(super) struct Member<'a> {
    pub id: InstanceId,
    pub instance: &'a Instance,
    pub in_flight: u32,
}

/// *Staying* instances have the current version and a node that is not being drained; *leaving*
/// ones serve until others have taken their place.
#[derive(Default)]
pub(super) struct Census<'a> {
    pub staying_ready: Vec<Member<'a>>,
    pub staying_launching: Vec<Member<'a>>,
    pub leaving_ready: Vec<Member<'a>>,
    pub leaving_launching: Vec<Member<'a>>,
    pub draining: u32,
    /// Free slots of ready instances on nodes that are heard.
    pub idle_slots: u32,
    /// Ready instances on nodes that are heard.
    pub serving: u32,
    pub in_flight: u32,
    /// Instances that never became ready, and whose agent does not say so.
    pub overdue: Vec<Command>,
}

impl<'a> Census<'a> {
    /// Instances on nodes that this plan takes down are gone.
    pub(super) fn take(context: &Context<'a>, name: &FunctionName, function: &Function) -> Self {
        let mut census = Census::default();
        for (id, instance) in context.state.instances.of_function(name.as_str()) {
            let condition = context.hosts.condition(instance.node);
            if condition == Condition::Down {
                continue;
            }
            if instance.phase == Phase::Draining {
                census.draining += 1;
                continue;
            }
            if let Some(command) = overdue(context, id, instance, function) {
                census.overdue.push(command);
                continue;
            }
            census.admit(context, id, instance, function, condition);
        }
        census
    }

    fn admit(
        &mut self,
        context: &Context<'a>,
        id: InstanceId,
        instance: &'a Instance,
        function: &Function,
        condition: Condition,
    ) {
        let load = context.hosts.load(id, instance);
        let in_flight = load.map_or(0, |load| load.in_flight);
        let ready = instance.phase == Phase::Ready;
        if ready {
            self.in_flight += in_flight;
            let heard = context.hosts.is_heard(instance.node);
            if heard {
                self.serving += 1;
                self.idle_slots += instance.concurrency.saturating_sub(in_flight);
            }
        }
        let stays = instance.version == function.current().number && condition == Condition::Ready;
        let group = match (stays, ready) {
            (true, true) => &mut self.staying_ready,
            (true, false) => &mut self.staying_launching,
            (false, true) => &mut self.leaving_ready,
            (false, false) => &mut self.leaving_launching,
        };
        group.push(Member { id, instance, in_flight });
    }

    pub(super) fn staying(&self) -> u32 {
        count(&self.staying_ready) + count(&self.staying_launching)
    }

    pub(super) fn leaving(&self) -> u32 {
        count(&self.leaving_ready) + count(&self.leaving_launching)
    }

    pub(super) fn ready(&self) -> u32 {
        count(&self.staying_ready) + count(&self.leaving_ready)
    }

    pub(super) fn launching(&self) -> u32 {
        count(&self.staying_launching) + count(&self.leaving_launching)
    }

    /// What the autoscaler should count: an instance and its replacement are one.
    pub(super) fn supply(&self, context: &Context<'_>, function: &Function) -> Supply {
        let leaving = self.leaving_ready.iter().chain(&self.leaving_launching);
        let since = leaving
            .map(|m| match m.instance.version == function.current().number {
                true => context.hosts.by_id[&m.instance.node].node.changed_at,
                false => function.current().created_at,
            })
            .min();
        let replaces = |m: &&Member<'_>| {
            m.instance.cause.trigger == Trigger::Rollout
                && since.is_some_and(|since| m.instance.placed_at >= since)
        };
        let replacing = |members: &[Member<'_>]| {
            u32::try_from(members.iter().filter(replaces).count()).expect("bounded by the maximum")
        };
        let replacements = replacing(&self.staying_ready) + replacing(&self.staying_launching);
        let pairs = replacements.min(self.leaving());
        let ready_pairs = replacing(&self.staying_ready).min(count(&self.leaving_ready));
        let running = self.ready() + self.launching() - pairs;
        let ready = (self.ready() - ready_pairs).min(running);
        Supply {
            ready,
            serving: self.serving,
            launching: running - ready,
            idle_slots: self.idle_slots,
            concurrency: function.current().spec.concurrency,
        }
    }
}

pub(super) fn count(members: &[Member<'_>]) -> u32 {
    u32::try_from(members.len()).expect("bounded by the maximum")
}

fn overdue(
    context: &Context<'_>,
    id: InstanceId,
    instance: &Instance,
    function: &Function,
) -> Option<Command> {
    let version = function.versions().iter().find(|v| v.number == instance.version);
    let allowed = version.unwrap_or(function.current()).spec.startup_timeout;
    let late =
        instance.phase.is_launching() && context.now.since(instance.placed_at) > allowed + OVERDUE_AFTER;
    late.then(|| Command::MarkFailed {
        instance: id,
        generation: instance.generation,
        reason: format!("not ready within {allowed}, and its node does not say why"),
    })
}
