//! From a histogram of idle times to the idle times at which an instance is worth keeping.
//!
//! An instance that nobody uses costs its time; a request that finds none costs its caller a cold
//! start, and [`WORTH`] says how much of the one is spent to avert one of the other. For every stretch of
//! idle time the histogram tells how many of the idle times that lasted so long end within it. Kept
//! through the stretch, an instance costs its length for each of them; let go, it costs
//! [`WORTH`] for each that ends. The cheapest sequence of stretches, with [`RESTART`] for each launch
//! ahead of need, is found exactly.
//!
//! Unlike a head and a tail percentile (as in the paper) this spends nothing on idle times that are
//! long and irregular, and keeps an instance through the calls of a burst *and* before the next burst.
//!
//! Where idle times follow no pattern, a few dozen of them show one all the same. So a plain rule stands
//! beside it: keep the instance where idle times are shorter on average than a cold start is worth, and
//! otherwise let it go at once. Whichever would have cost less lately is followed; what each would have
//! cost is counted as the idle times come, before they are learned from.

use super::histogram::{Bucket, Histogram};
use super::{Costs, Habit};
use crate::units::Millis;

/// The idle time of one instance that one averted cold start is worth.
pub const WORTH: Millis = Millis::from_secs(1500);
/// What a launch ahead of need costs, in idle time: the start itself, and the work of the engine.
pub const RESTART: Millis = Millis::from_secs(60);
/// How long before it is expected an instance is launched: the time that starting takes.
pub const LEAD: Millis = Millis::from_secs(10);
/// Fewer idle times than this say nothing.
pub const SAMPLES_MIN: u32 = 4;
/// By the plain rule an instance is kept for so long at least: longer, and the function was given up.
const PLAIN_MIN: Millis = Millis::from_secs(3600);
/// ... or for so many of its mean idle times, if that is longer.
const PLAIN_TIMES: u64 = 4;
/// Longer idle times count as this long in their mean: a night says little about the day.
const PLAIN_IDLE_MAX: Millis = Millis::from_secs(7200);
/// The next idle time will be like the last ones, not equal to them. So the weight of each is spread
/// over the buckets around its own: by distance, in 64ths. Half of it stays close, for timers; the
/// other half reaches some 14 to 28 % further either way, for people.
const SPREAD: [u64; 10] = [16, 8, 2, 2, 2, 2, 2, 2, 2, 2];
const SPREAD_WHOLE: u64 = 64;

/// The idle times at which an instance should be there, as ranges without their ends, in order. The
/// first begins at zero, where the instance that has just served is still there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Forecast {
    warm: Vec<(Millis, Millis)>,
}

/// What a forecast says about one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Outlook {
    /// Too little is known.
    #[default]
    Unknown,
    /// What is there should stay.
    Keep,
    /// An instance should be there, launched if need be.
    Expected,
    /// None need be there.
    NotExpected,
}

impl Forecast {
    /// `None` where the histogram is not representative.
    pub fn of(habit: &Habit) -> Option<Forecast> {
        let known = habit.idle.samples() >= SAMPLES_MIN;
        known.then(|| match habit.costs.is_plain_better() {
            true => Forecast::plain(&habit.idle),
            false => Forecast::pattern(&habit.idle, Some(RESTART)),
        })
    }

    fn plain(histogram: &Histogram) -> Forecast {
        let weighted = histogram
            .weights()
            .iter()
            .map(|(bucket, weight)| bucket.start().0.min(PLAIN_IDLE_MAX.0) * u64::from(*weight));
        let mean_ms = weighted.sum::<u64>() / u64::from(histogram.total().max(1));
        let kept = Millis(PLAIN_MIN.0.max(mean_ms * PLAIN_TIMES));
        Forecast { warm: if mean_ms < WORTH.0 { vec![(Millis::ZERO, kept)] } else { Vec::new() } }
    }

    fn pattern(histogram: &Histogram, restart: Option<Millis>) -> Forecast {
        let mut warm = Vec::new();
        let stretches = stretches(histogram);
        for (stretch, keep) in stretches.iter().zip(cheapest(&stretches, restart)) {
            match warm.last_mut() {
                _ if !keep => {}
                Some((_, end)) if *end == stretch.start => *end = stretch.end,
                _ => warm.push((stretch.start, stretch.end)),
            }
        }
        for (start, _) in &mut warm {
            start.0 = start.0.saturating_sub(LEAD.0);
        }
        Forecast { warm }
    }

    /// What an idle time costs under it: the time an instance is kept, and what the call finds missing.
    fn cost(&self, idle: Millis) -> u64 {
        let kept = self.warm.iter().map(|(start, end)| end.0.min(idle.0).saturating_sub(start.0));
        let missing = if self.outlook(idle) == Outlook::NotExpected { WORTH.0 } else { 0 };
        kept.sum::<u64>() + missing
    }

    pub fn outlook(&self, idle_for: Millis) -> Outlook {
        match self.warm.iter().find(|(start, end)| (*start..*end).contains(&idle_for)) {
            None => Outlook::NotExpected,
            Some((Millis(0), _)) => Outlook::Keep,
            Some(_) => Outlook::Expected,
        }
    }

    /// The ranges of idle time in which an instance should be there.
    pub fn warm(&self) -> &[(Millis, Millis)] {
        &self.warm
    }
}

/// What follows from the same idle times by either rule.
#[derive(Clone, Debug)]
pub struct Rules {
    plain: Forecast,
    pattern: Forecast,
}

impl Rules {
    /// `None` where the histogram is not representative. `restart`: what a launch ahead of need costs; without it
    /// there is none, and what was let go stays so until it is asked for.
    pub fn of(habit: &Habit, restart: Option<Millis>) -> Option<Rules> {
        let known = habit.idle.samples() >= SAMPLES_MIN;
        known.then(|| Rules {
            plain: Forecast::plain(&habit.idle),
            pattern: Forecast::pattern(&habit.idle, restart),
        })
    }

    /// The costs of both when this idle time has come, which they do not know yet.
    pub fn costs_after(&self, costs: Costs, idle: Bucket) -> Costs {
        let with = |cost: u64, rule: &Forecast| cost - cost / FADING + rule.cost(idle.start());
        Costs { plain: with(costs.plain, &self.plain), pattern: with(costs.pattern, &self.pattern) }
    }

    /// The one that has cost less.
    pub fn better(&self, costs: Costs) -> &Forecast {
        if costs.is_plain_better() { &self.plain } else { &self.pattern }
    }
}

impl Costs {
    fn is_plain_better(self) -> bool {
        self.plain < self.pattern
    }
}

impl Habit {
    /// The costs of both rules when these idle times have come, which the habit does not know yet.
    pub fn costs_after(&self, idle: &[Bucket]) -> Costs {
        let rules = if idle.is_empty() { None } else { Rules::of(self, Some(RESTART)) };
        idle.iter().fold(self.costs, |costs, bucket| {
            rules.as_ref().map_or(costs, |rules| rules.costs_after(costs, *bucket))
        })
    }
}

/// With each idle time the costs of those before count for so much less: a twentieth.
const FADING: u64 = 20;

/// A part of the axis of idle times.
#[derive(Clone, Copy, Debug)]
struct Stretch {
    start: Millis,
    end: Millis,
    /// The weight of the idle times that end in it, and of those that end in it or later.
    ending: u64,
    lasting: u64,
}

/// The buckets in which idle times end and the gaps before them. What is beyond all buckets ends nowhere.
fn stretches(histogram: &Histogram) -> Vec<Stretch> {
    let mut spread = [0_u64; Bucket::BEYOND.number() + SPREAD.len()];
    let mut lasting = 0;
    for (bucket, weight) in histogram.weights() {
        let weight = u64::from(*weight);
        lasting += weight * SPREAD_WHOLE;
        if *bucket == Bucket::BEYOND {
            continue;
        }
        for (distance, part) in (0..).zip(SPREAD) {
            spread[bucket.before(distance).number()] += weight * part;
            if distance > 0 {
                spread[bucket.after(distance).number()] += weight * part;
            }
        }
    }
    let mut all = Vec::new();
    let mut at = Millis::ZERO;
    for (bucket, ending) in (0..).map(|n| Bucket::FIRST.after(n)).zip(spread) {
        if ending == 0 {
            continue;
        }
        if bucket.start() > at {
            all.push(Stretch { start: at, end: bucket.start(), ending: 0, lasting });
        }
        at = bucket.end();
        all.push(Stretch { start: bucket.start(), end: at, ending, lasting });
        lasting -= ending;
    }
    all
}

/// Whether to keep an instance through each stretch, so that the sum of all costs is least.
fn cheapest(stretches: &[Stretch], restart: Option<Millis>) -> Vec<bool> {
    // By whether an instance is there: the least cost up to here, and for each stretch whether it
    // was there in the stretch before.
    let (mut without, mut with) = (u64::MAX / 2, 0);
    let mut from = Vec::new();
    for stretch in stretches {
        let length = stretch.end.0 - stretch.start.0;
        // Those that end in it last for half of it.
        let keeping = length * (2 * stretch.lasting - stretch.ending) / 2;
        let launching = restart.map_or(u64::MAX / 2, |restart| without + restart.0 * stretch.lasting);
        from.push((with < without, with <= launching));
        (without, with) = (with.min(without) + WORTH.0 * stretch.ending, with.min(launching) + keeping);
    }
    let mut there = with < without;
    let mut keep: Vec<bool> = Vec::new();
    for (if_without, if_with) in from.iter().rev() {
        keep.push(there);
        there = if there { *if_with } else { *if_without };
    }
    keep.reverse();
    keep
}

#[cfg(test)]
#[path = "forecast_tests.rs"]
mod tests;
