//! Synthetic traces, each from a seed, shaped like what has been published about real ones.
//!
//! Shahrad et al. (ATC'20, figures 3 to 7) about Azure Functions: 45 % of the functions are called at most once
//! an hour and 81 % at most once a minute, while a few make most of the load; one function in six is a
//! timer, about one in five is called at even intervals, two in five are burstier than chance; half
//! run for less than a second on average; load has a daily cycle. The parameters below are drawn to that
//! shape; no function stands for a real one.

use crate::dice::Dice;
use crate::trace::{Function, Invocation, Trace};

const HOUR_MS: f64 = 3_600_000.0;
const MINUTE_MS: f64 = 60_000.0;

/// How a function is called.
#[derive(Clone, Copy, Debug)]
enum Habit {
    /// Every so many milliseconds, give or take.
    Timer { every_ms: f64, jitter_ms: f64 },
    /// At random.
    Poisson { mean_ms: f64, daily: bool },
    /// So many calls in a row, a short time apart, then a long time none.
    Bursts { pause_ms: f64, calls: f64, gap_ms: f64, daily: bool },
    /// A rate that climbs to its peak and falls again, once.
    Hill { peak_per_s: f64 },
}

/// The names of all workloads.
pub const NAMES: [&str; 6] = ["mixed", "rare", "timers", "bursts", "daily", "load"];

/// `hours`: its length; `None`: as documented. `None` as the answer: no such workload.
pub fn make(name: &str, seed: u64, hours: Option<f64>) -> Option<Trace> {
    let (count, usual_hours) = match name {
        "mixed" => (200, 48.0),
        "rare" | "timers" | "bursts" => (60, 48.0),
        "daily" => (30, 48.0),
        "load" => (6, 3.0),
        _ => return None,
    };
    let end_ms = hours.unwrap_or(usual_hours) * HOUR_MS;
    let mut trace = Trace { name: name.to_owned(), end_ms: millis(end_ms), ..Trace::default() };
    for place in 0..count {
        let mut dice = Dice::new(seed, place as u64 + 1000 * u64::from(name.as_bytes()[0]));
        let habit = habit(name, place, count, &mut dice);
        let mean_ms = (dice.normal() * 1.5).exp() * 400.0;
        let mean_ms =
            if name == "load" { dice.log_within(50.0, 1000.0) } else { mean_ms.clamp(5.0, 20_000.0) };
        trace.functions.push(Function {
            name: format!("{name}-{place}"),
            memory_mb: *dice.pick(&[128, 128, 192, 256, 512]),
            startup_ms: millis(((dice.normal() * 0.6).exp() * 800.0).clamp(150.0, 5000.0)),
            concurrency: if name == "load" { *dice.pick(&[1, 4]) } else { 1 },
        });
        for at in calls(habit, end_ms, &mut dice) {
            let duration_ms = millis((mean_ms * (dice.normal() * 0.4).exp()).max(1.0));
            trace.invocations.push(Invocation { at_ms: millis(at), function: place, duration_ms });
        }
    }
    trace.invocations.sort();
    Some(trace)
}

fn habit(name: &str, place: usize, count: usize, dice: &mut Dice) -> Habit {
    let every_ms = |dice: &mut Dice| {
        *dice.pick(&[1.0, 5.0, 5.0, 10.0, 15.0, 15.0, 20.0, 30.0, 60.0, 60.0, 120.0, 360.0]) * MINUTE_MS
    };
    let bursts = |dice: &mut Dice, pause_ms: f64, daily: bool| {
        let (calls, gap_ms) = (dice.log_within(3.0, 60.0), dice.log_within(200.0, 20_000.0));
        Habit::Bursts { pause_ms: pause_ms * calls.sqrt(), calls, gap_ms, daily }
    };
    match name {
        "rare" => Habit::Poisson { mean_ms: dice.log_within(5.0 * MINUTE_MS, 6.0 * HOUR_MS), daily: false },
        "timers" => Habit::Timer { every_ms: every_ms(dice), jitter_ms: dice.log_within(100.0, 10_000.0) },
        "bursts" => {
            let pause_ms = dice.log_within(5.0 * MINUTE_MS, 90.0 * MINUTE_MS);
            bursts(dice, pause_ms, false)
        }
        "daily" => Habit::Poisson { mean_ms: dice.log_within(2_000.0, 20.0 * MINUTE_MS), daily: true },
        "load" => Habit::Hill { peak_per_s: dice.log_within(2.0, 40.0) },
        _ => {
            // By how often they are called, evenly, so that every seed has the published shares.
            let share = (place as f64 + 0.5) / count as f64;
            let mean_ms = match share {
                s if s < 0.45 => dice.log_within(HOUR_MS, 12.0 * HOUR_MS),
                s if s < 0.81 => dice.log_within(MINUTE_MS, HOUR_MS),
                s if s < 0.99 => dice.log_within(4_000.0, MINUTE_MS),
                _ => dice.log_within(400.0, 1_000.0),
            };
            let daily = dice.chance(0.5);
            match dice.unit() {
                kind if kind < 0.16 && mean_ms >= MINUTE_MS => {
                    Habit::Timer { every_ms: mean_ms, jitter_ms: dice.log_within(100.0, 5_000.0) }
                }
                kind if kind < 0.2 => Habit::Timer { every_ms: mean_ms, jitter_ms: mean_ms / 20.0 },
                kind if kind < 0.6 => Habit::Poisson { mean_ms, daily },
                _ => bursts(dice, mean_ms, daily),
            }
        }
    }
}

/// The moments of all calls.
fn calls(habit: Habit, end_ms: f64, dice: &mut Dice) -> Vec<f64> {
    let mut calls = Vec::new();
    match habit {
        Habit::Timer { every_ms, jitter_ms } => {
            let mut at = dice.within(0.0, every_ms);
            while at < end_ms {
                calls.push((at + dice.normal().abs() * jitter_ms).min(end_ms));
                at += every_ms;
            }
        }
        Habit::Poisson { mean_ms, daily } => {
            let mut at = dice.exponential(mean_ms);
            while at < end_ms {
                calls.push(at);
                at += dice.exponential(mean_ms) / rate(at, daily);
            }
        }
        Habit::Bursts { pause_ms, calls: count, gap_ms, daily } => {
            let mut at = dice.exponential(pause_ms);
            while at < end_ms {
                let mut left = dice.exponential(count).ceil();
                while left > 0.0 && at < end_ms {
                    calls.push(at);
                    at += dice.exponential(gap_ms);
                    left -= 1.0;
                }
                at += dice.exponential(pause_ms) / rate(at, daily);
            }
        }
        Habit::Hill { peak_per_s } => {
            let mut at = 0.0;
            while at < end_ms {
                let height = (std::f64::consts::PI * at / end_ms).sin().max(0.02);
                at += dice.exponential(1000.0 / (peak_per_s * height));
                calls.push(at.min(end_ms));
            }
        }
    }
    calls
}

/// Of the mean rate: in the early afternoon most, at night a tenth of that.
fn rate(at_ms: f64, daily: bool) -> f64 {
    let hour = at_ms / HOUR_MS;
    if daily { 1.0 + 0.82 * (std::f64::consts::TAU * (hour - 8.0) / 24.0).sin() } else { 1.0 }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "moments of a trace")]
fn millis(value: f64) -> u64 {
    value as u64
}
