//! What a leader remembers of one function between plans.

use std::collections::BTreeMap;

use super::Context;
use super::census::Census;
use super::demand::Queue;
use super::levels::{Lately, Levels};
use super::notes::{Forecasts, Notes, is_adaptive};
use crate::autoscaler::Demand;
use crate::ids::FunctionName;
use crate::units::Millis;
use crate::window::Window;

/// A reason to hold is recorded again when it was gone for this long.
const HELD_FOR: Millis = Millis::from_secs(60);
/// Changing reasons to hold are recorded at most this often.
const HOLD_EVERY: Millis = Millis::from_secs(1);

#[derive(Clone, Debug)]
pub(super) struct FunctionMemory {
    pub window: Window,
    /// Since when fewer instances would do.
    calm_since: Option<Millis>,
    /// When a request was last waiting or served.
    pub last_asked: Millis,
    /// When it was last planned for.
    pub last_active: Millis,
    /// The last known mean duration of a request.
    mean_duration: Option<Millis>,
    held: Option<Held>,
    pub notes: Notes,
    pub lately: Lately,
    pub levels: Levels,
}

/// The last recorded reason for not doing what is wanted.
#[derive(Clone, Debug)]
struct Held {
    reason: String,
    recorded_at: Millis,
    seen_at: Millis,
}

impl FunctionMemory {
    /// The memory of a function. A changed window begins anew, and with it the wait for calm.
    pub(super) fn of<'m>(
        all: &'m mut BTreeMap<FunctionName, FunctionMemory>,
        name: &FunctionName,
        span: Millis,
        elapsed: Millis,
    ) -> &'m mut FunctionMemory {
        let known = all.entry(name.clone()).or_insert_with(|| FunctionMemory {
            window: Window::new(span),
            calm_since: None,
            last_asked: elapsed,
            last_active: elapsed,
            mean_duration: None,
            held: None,
            notes: Notes::default(),
            lately: Lately::default(),
            levels: Levels::default(),
        });
        if known.window.span() != span {
            known.window = Window::new(span);
            known.calm_since = None;
        }
        known
    }

    /// `on_its_way`: an instance has not served yet the request it was launched for; `used`: so many were in use
    /// lately.
    #[expect(clippy::too_many_arguments, reason = "called once, where all of it is at hand")]
    pub(super) fn demand(
        &mut self,
        context: &Context<'_>,
        name: &FunctionName,
        queue: &Queue,
        census: &Census<'_>,
        on_its_way: bool,
        used: u32,
        forecasts: &mut Forecasts,
    ) -> Demand {
        let at = context.elapsed;
        let habit = context.state.habits.get(name.as_str());
        let adaptive = is_adaptive(context.state, name);
        let asked = queue.waiting > 0 || census.in_flight > 0;
        if asked && adaptive {
            self.notes.asked(context.now, context.now, habit);
        }
        if asked || on_its_way {
            self.last_asked = at;
        }
        let idle_for = || {
            let known = self.notes.idle_for(habit, context.now).filter(|_| adaptive);
            known.unwrap_or(Millis(at.0.saturating_sub(self.last_asked.0)))
        };
        let idle_for = (!asked && !on_its_way).then(idle_for);
        let outlook = idle_for.filter(|_| adaptive).map(|idle_for| forecasts.outlook(name, habit, idle_for));
        let kept = if adaptive { self.kept(context, name, queue, census, used) } else { 0 };
        self.mean_duration = self.window.mean_duration(at).or(self.mean_duration);
        Demand {
            busy_milli_slots: self.window.busy_milli_slots(at),
            in_flight: census.in_flight,
            waiting: queue.waiting,
            oldest_wait: Millis(queue.oldest_ms),
            mean_duration: self.mean_duration,
            idle_for,
            outlook: outlook.unwrap_or_default(),
            kept,
            informed: context.hosts.informed(at, self.window.span()),
        }
    }

    /// How many instances are worth keeping for what was needed at once before.
    fn kept(
        &mut self,
        context: &Context<'_>,
        name: &FunctionName,
        queue: &Queue,
        census: &Census<'_>,
        used: u32,
    ) -> u32 {
        let Some(function) = context.state.functions.get(name.as_str()) else { return 0 };
        let concurrency = function.current().spec.concurrency;
        let served = self.lately.needed(used, concurrency, context.elapsed);
        let unserved = queue.waiting.saturating_sub(census.idle_slots).div_ceil(concurrency.max(1));
        self.levels.used(served.saturating_add(unserved), context.elapsed);
        self.levels.kept(context.elapsed)
    }

    pub(super) fn calm_for(&mut self, calm: bool, elapsed: Millis) -> Millis {
        self.calm_since = if calm { self.calm_since.or(Some(elapsed)) } else { None };
        self.calm_since.map_or(Millis::ZERO, |since| Millis(elapsed.0 - since.0))
    }

    /// Whether this reason to hold is news.
    pub(super) fn holds(&mut self, reason: &str, elapsed: Millis) -> bool {
        let since = |moment: Millis| elapsed.0 - moment.0;
        let news = match &mut self.held {
            None => true,
            Some(held) if held.reason == reason => {
                let again = since(held.seen_at) > HELD_FOR.0;
                held.seen_at = elapsed;
                again
            }
            Some(held) => since(held.recorded_at) >= HOLD_EVERY.0,
        };
        if news {
            self.held = Some(Held { reason: reason.to_owned(), recorded_at: elapsed, seen_at: elapsed });
        }
        news
    }
}
