//! Knative's autoscaler with its defaults: average concurrency over a stable window of 60 s and a panic
//! window of 6 s, a target of 70 % of an instance's slots, panic at 200 % of what is ready, none removed in
//! a panic, at most half removed at a time, and a grace of 30 s before the last. A request at zero starts
//! the first at once (the activator's part).

use std::collections::VecDeque;

use super::{Ids, Policy, steer};
use crate::machine::Fleet;
use crate::trace::Trace;

const STABLE_S: usize = 60;
const PANIC_S: usize = 6;
const TARGET: f64 = 0.7;
const PANIC_AT: f64 = 2.0;
const GRACE_MS: u64 = 30_000;
/// Its autoscaler decides every two seconds.
const DECIDE_MS: u64 = 2_000;

#[derive(Debug, Default)]
struct Scaled {
    /// Average load in each of the last seconds, the latest first.
    seconds: VecDeque<f64>,
    load_ms: u64,
    /// Panicking until then.
    panic_until_ms: u64,
    panic_most: u32,
    /// Since when nothing was asked in the stable window.
    zero_since_ms: Option<u64>,
}

#[derive(Debug)]
pub struct Knative {
    ids: Ids,
    functions: Vec<Scaled>,
    sampled_ms: u64,
}

impl Knative {
    pub fn new(trace: &Trace) -> Self {
        let functions = trace.functions.iter().map(|_| Scaled::default()).collect();
        Knative { ids: Ids::default(), functions, sampled_ms: 0 }
    }
}

impl Scaled {
    #[expect(clippy::cast_precision_loss, reason = "small numbers")]
    fn sample(&mut self, load_ms: u64, passed_ms: u64) {
        self.seconds.push_front((load_ms - self.load_ms) as f64 / passed_ms as f64);
        self.seconds.truncate(STABLE_S);
        self.load_ms = load_ms;
    }

    #[expect(clippy::cast_precision_loss, reason = "small numbers")]
    fn average(&self, seconds: usize) -> f64 {
        let count = seconds.min(self.seconds.len()).max(1);
        self.seconds.iter().take(count).sum::<f64>() / count as f64
    }

    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "small, and not negative")]
    fn desired(&mut self, now: u64, slots: u32, running: u32, ready: u32) -> u32 {
        let pods = |load: f64| (load / (TARGET * f64::from(slots))).ceil() as u32;
        let (stable, panic) = (pods(self.average(STABLE_S)), pods(self.average(PANIC_S)));
        let zero = stable == 0 && panic == 0;
        self.zero_since_ms = if zero { self.zero_since_ms.or(Some(now)) } else { None };
        if f64::from(panic) >= PANIC_AT * f64::from(ready.max(1)) {
            self.panic_until_ms = now + STABLE_S as u64 * 1000;
        }
        if now < self.panic_until_ms {
            self.panic_most = self.panic_most.max(panic).max(running);
            return self.panic_most;
        }
        self.panic_most = 0;
        let desired = stable.max(running / 2);
        let grace = self.zero_since_ms.is_some_and(|since| now >= since + GRACE_MS);
        if zero && !grace { desired.max(running.min(1)) } else { desired }
    }
}

impl Policy for Knative {
    fn name(&self) -> &'static str {
        "Knative's rule"
    }

    fn tick_ms(&self, _waiting: bool) -> u64 {
        1000
    }

    fn reacts(&self, fleet: &Fleet<'_>, function: usize) -> bool {
        fleet.wanted(function) == (0, 0)
    }

    fn decide(&mut self, fleet: &mut Fleet<'_>) {
        let now = fleet.now;
        let passed_ms = now - self.sampled_ms;
        let sampled = passed_ms >= 1000;
        for (function, scaled) in self.functions.iter_mut().enumerate() {
            if sampled {
                scaled.sample(fleet.demand[function].load_ms(now), passed_ms);
            }
            let (starting, ready) = fleet.wanted(function);
            let running = starting + ready;
            if running == 0 && fleet.demand[function].waiting.is_empty() {
                continue;
            }
            if running == 0 {
                // What it forgot while it was at zero does not dull the first averages.
                scaled.seconds.clear();
                steer(fleet, &mut self.ids, function, 1);
            } else if sampled && now % DECIDE_MS < 1000 {
                let slots = fleet.trace.functions[function].concurrency;
                let desired = scaled.desired(now, slots, running, ready);
                steer(fleet, &mut self.ids, function, desired);
            }
        }
        if sampled {
            self.sampled_ms = now;
        }
    }
}
