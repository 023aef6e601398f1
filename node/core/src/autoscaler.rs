//! How many instances a function should have: up at once, down with care.
//!
//! * Up on utilization: as many as keep it at the target.
//! * Up on queued requests that no idle slot will take, less what is starting for them already.
//! * At most doubling, or [`STEP_MIN`] more where there are few; or the policy's own step.
//! * Down only after demand has stayed below what is running for a whole window, while nothing
//!   waits, and by a leader that has listened for a whole window. Never so far that utilization
//!   would not be well below the target afterwards.
//! * Nor, where the keep-alive is adaptive, to fewer than are worth keeping for what is often needed at once.
//! * To the minimum only when nothing was asked of the function for its keep-alive time, or where its
//!   habits say that nothing will be for some time; and up again before they say that it will.

use std::fmt;

use crate::functions::{KEEP_ALIVE_UNKNOWN, KeepAlive, ScalingPolicy};
use crate::habits::Outlook;
use crate::mutant;
use crate::units::Millis;

/// Instances that may be starting at once where there are fewer than this: enough for a burst from
/// zero, few enough for a container engine.
pub const STEP_MIN: u32 = 10;
/// How far below the target utilization must stay after a scale-down, in thousandths of the target.
const SLACK_PERMILLE: u64 = 100;
/// The time within which queued requests should have found a slot.
pub const DRAIN_TARGET: Millis = Millis::from_secs(1);

/// What is asked of a function.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Demand {
    /// Slots busy on average, in thousandths of a slot. See [`Window::busy_milli_slots`](crate::window::Window::busy_milli_slots).
    pub busy_milli_slots: u64,
    /// Requests being served now.
    pub in_flight: u32,
    /// Requests that wait for a slot, at all entry nodes together.
    pub waiting: u32,
    /// How long the first of them has waited.
    pub oldest_wait: Millis,
    /// How long a request holds a slot, if known.
    pub mean_duration: Option<Millis>,
    /// How long nothing was asked of it; `None` while something is.
    pub idle_for: Option<Millis>,
    /// What its habits say, where the keep-alive is adaptive and nothing is asked of it now.
    pub outlook: Outlook,
    /// Instances that are worth keeping for what was needed at once before, where the keep-alive is adaptive;
    /// otherwise 0.
    pub kept: u32,
    /// The leader has heard every live node for a whole window.
    pub informed: bool,
}

/// What is there to serve it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Supply {
    pub ready: u32,
    /// Those of them on nodes that are heard. The others may be gone already.
    pub serving: u32,
    /// Placed or starting.
    pub launching: u32,
    /// Slots of ready instances that are free: queued requests are on their way to them.
    pub idle_slots: u32,
    /// Slots of one instance.
    pub concurrency: u32,
}

impl Supply {
    pub fn running(&self) -> u32 {
        self.ready + self.launching
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Instances wanted now, ready and launching together.
    pub desired: u32,
    pub why: Why,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    Steady,
    Minimum,
    Queued,
    /// The number that keeps utilization at the target; more or fewer than are running.
    Utilization,
    CoolingDown,
    Idle,
    /// Its habits say that it is about to be asked for.
    Expected,
    /// Its habits say that it will not be asked for soon.
    NotExpected,
    Uninformed,
    /// More are needed than the policy allows.
    AtMaximum,
    /// More are running than the policy allows.
    AboveMaximum,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Why::Steady => "as many as are needed",
            Why::Minimum => "the policy's minimum",
            Why::Queued => "requests are waiting",
            Why::Utilization => "to keep utilization at the target",
            Why::CoolingDown => "fewer would do, but not yet for a whole window",
            Why::Idle => "nothing was asked of it for the keep-alive time",
            Why::Expected => "by its habits it is about to be asked for",
            Why::NotExpected => "by its habits it will not be asked for soon",
            Why::Uninformed => "fewer would do, but this leader has not listened for a whole window",
            Why::AtMaximum => "more are needed than the policy's maximum",
            Why::AboveMaximum => "more are running than the policy's maximum",
        })
    }
}

/// Instances wanted now. `calm_for` is how long [`is_calm`] has held without a break.
pub fn desired(policy: &ScalingPolicy, demand: &Demand, supply: Supply, calm_for: Millis) -> Decision {
    let running = supply.running();
    if running > policy.max {
        return Decision { desired: policy.max, why: Why::AboveMaximum };
    }
    let idle = idle(policy, demand);
    // What the window remembers is no reason to keep a function that is past its keep-alive time.
    let needed = if idle.is_some() { 0 } else { needed(policy, demand, supply) };
    let queued = supply.ready + launches_for_queue(demand, supply);
    let expected = demand.idle_for.is_some() && demand.outlook == Outlook::Expected;
    if queued.max(needed).max(policy.min).max(u32::from(expected)) > running {
        return up(policy, needed, queued, expected, supply);
    }
    let kept = needed_with_slack(policy, demand, supply).max(policy.min).max(demand.kept).max(1);
    let floor = if idle.is_some() { policy.min } else { kept };
    let in_use = demand.in_flight.div_ceil(supply.concurrency.max(1));
    let floor = floor.max(supply.launching).max(in_use).min(running);
    let why = if floor == running {
        Why::Steady
    } else if !demand.informed {
        Why::Uninformed
    } else if let Some(why) = idle {
        why
    } else if demand.waiting > 0 || calm_for < policy.window {
        Why::CoolingDown
    } else {
        Why::Utilization
    };
    let down = matches!(why, Why::Idle | Why::NotExpected | Why::Utilization);
    Decision { desired: if down { floor } else { running }, why }
}

/// Why the last instances need not be kept, if so.
fn idle(policy: &ScalingPolicy, demand: &Demand) -> Option<Why> {
    let idle_for = demand.idle_for?;
    let after = |keep_alive| (idle_for >= keep_alive).then_some(Why::Idle);
    match (policy.keep_alive, demand.outlook) {
        (KeepAlive::Fixed(keep_alive), _) => after(keep_alive),
        (KeepAlive::Adaptive, Outlook::Unknown) => after(KEEP_ALIVE_UNKNOWN),
        (KeepAlive::Adaptive, Outlook::Keep | Outlook::Expected) => None,
        (KeepAlive::Adaptive, Outlook::NotExpected) => Some(Why::NotExpected),
    }
}

/// Instances that may be starting at once.
pub fn step(policy: &ScalingPolicy, ready: u32) -> u32 {
    policy.step.unwrap_or(ready.max(STEP_MIN))
}

/// Whether fewer than are running would do and nothing waits.
pub fn is_calm(policy: &ScalingPolicy, demand: &Demand, supply: Supply) -> bool {
    demand.waiting == 0 && needed_with_slack(policy, demand, supply) < supply.running()
}

/// Instances that keep utilization at or below the target. What waits is not counted, nor what is in
/// flight at this very moment: a coincidence of two requests does not break the calm.
pub fn needed(policy: &ScalingPolicy, demand: &Demand, supply: Supply) -> u32 {
    needed_at(policy.target_permille, demand, supply)
}

/// Instances that demand must have fallen to before any are brought down: those that keep
/// utilization [`SLACK_PERMILLE`] below the target. Load that wavers around a whole number of instances would
/// otherwise launch and drain the same one for ever.
fn needed_with_slack(policy: &ScalingPolicy, demand: &Demand, supply: Supply) -> u32 {
    let slack = u64::from(policy.target_permille) * SLACK_PERMILLE / 1000;
    let target = policy.target_permille - u32::try_from(slack).expect("a part of it");
    needed_at(target, demand, supply)
}

fn needed_at(target_permille: u32, demand: &Demand, supply: Supply) -> u32 {
    let per_instance = u64::from(supply.concurrency.max(1)) * u64::from(target_permille.max(1));
    u32::try_from(demand.busy_milli_slots.div_ceil(per_instance)).unwrap_or(u32::MAX)
}

/// More than are running: for utilization, for the queue, for the minimum or ahead of need.
fn up(policy: &ScalingPolicy, needed: u32, queued: u32, expected: bool, supply: Supply) -> Decision {
    let running = supply.running();
    let want = needed.max(queued).max(u32::from(expected));
    let why = match () {
        () if policy.min > want => Why::Minimum,
        () if expected && needed.max(queued) == 0 => Why::Expected,
        () if running >= policy.max => Why::AtMaximum,
        () if queued > running => Why::Queued,
        () => Why::Utilization,
    };
    let step = supply.ready.saturating_add(step(policy, supply.ready));
    // What is launching counts towards the step, so a storm of plans launches no more than one plan.
    let desired = want.max(policy.min).min(step).max(running).min(policy.max);
    Decision { desired, why }
}

/// Instances to have starting for requests that no idle slot will take.
///
/// Where it is known how long a request takes, the work that waits counts, not the number of
/// requests: what the serving instances will have cleared within [`DRAIN_TARGET`] is no reason to
/// launch, and the rest needs as many instances as clear it within that time. (The idea is
/// OpenWhisk's, whose scheduler sizes by stale work.) A request that has waited for that long
/// deserves an instance in any case.
fn launches_for_queue(demand: &Demand, supply: Supply) -> u32 {
    let unrouted = u64::from(demand.waiting.saturating_sub(supply.idle_slots));
    if unrouted == 0 {
        return 0;
    }
    let slots = u64::from(supply.concurrency.max(1));
    let by_count = if mutant!("launch-per-request") { unrouted } else { unrouted.div_ceil(slots) };
    let launches = match demand.mean_duration {
        None => by_count,
        Some(mean) => {
            let mean_ms = mean.0.max(1);
            let cleared = u64::from(supply.serving) * slots * (DRAIN_TARGET.0 / mean_ms);
            let left = unrouted.saturating_sub(cleared);
            let by_work = left.saturating_mul(mean_ms).div_ceil(DRAIN_TARGET.0 * slots);
            let at_least = u64::from(supply.serving == 0 || demand.oldest_wait >= DRAIN_TARGET);
            by_work.min(by_count).max(at_least)
        }
    };
    u32::try_from(launches).expect("no more than requests wait")
}

#[cfg(test)]
#[path = "autoscaler_tests.rs"]
mod tests;
