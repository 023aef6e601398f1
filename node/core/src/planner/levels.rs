//! What the instances beside the last one are worth, where the keep-alive is adaptive: for each number of
//! instances, how long so many were not in use at once. The habit of the *n*-th instance is judged as the
//! last one's is ([`habits`](crate::habits)), but only by what this leader has seen, and none is launched ahead of need.

use std::collections::VecDeque;

use crate::functions::KEEP_ALIVE_UNKNOWN;
use crate::habits::{Bucket, Habit, Outlook, Rules};
use crate::units::Millis;

/// Instances beyond this are kept by utilization alone.
const LEVELS_MAX: usize = 64;
/// What was in use within this time counts as in use at once: hosts report four times a second, each for itself.
pub(super) const AT_ONCE: Millis = Millis::from_secs(1);
/// What follows from idle times is worked out anew after this at the earliest.
const RENEW_EVERY: Millis = Millis::from_secs(30);

/// How many instances of a function were in use at once lately, as far as reports tell.
///
/// An entry takes the fullest free instance, so those used within a second are about as many as were needed at
/// once. But requests that follow each other on several nodes use as many, so no more count than random arrivals with as
/// much work would need: the mean and twice its square root.
#[derive(Clone, Debug, Default)]
pub(super) struct Lately {
    /// When each report came, what was done since the one before and in how long.
    work: VecDeque<(Millis, u64, u64)>,
}

impl Lately {
    pub(super) fn add(&mut self, at: Millis, busy_ms: u64, within_ms: u64) {
        self.work.push_back((at, busy_ms, within_ms));
        while self.work.front().is_some_and(|(first, ..)| first.0 + AT_ONCE.0 <= at.0) {
            self.work.pop_front();
        }
    }

    /// Of `used` instances with so many slots each, those that were needed.
    pub(super) fn needed(&self, used: u32, concurrency: u32, now: Millis) -> u32 {
        let recent = self.work.iter().filter(|(at, ..)| at.0 + AT_ONCE.0 > now.0);
        let (busy_ms, longest_ms) = recent
            .fold((0, AT_ONCE.0), |(sum, longest), (_, busy, within)| (sum + busy, longest.max(*within)));
        let mean_milli = busy_ms * 1000 / longest_ms;
        let slots = (mean_milli + 2 * (mean_milli * 1000).isqrt()).div_ceil(1000) + 1;
        used.min(u32::try_from(slots.div_ceil(u64::from(concurrency.max(1)))).unwrap_or(u32::MAX))
    }
}

/// The second instance's habit, the third's, and so on.
#[derive(Clone, Debug, Default)]
pub(super) struct Levels(Vec<Level>);

#[derive(Clone, Debug)]
struct Level {
    used_until: Millis,
    habit: Habit,
    rules: Option<Rules>,
    renewed_at: Millis,
}

impl Levels {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// So many instances were in use at once, some of them for the requests that wait.
    pub(super) fn used(&mut self, instances: u32, now: Millis) {
        let beside = usize::try_from(instances.saturating_sub(1)).unwrap_or(usize::MAX).min(LEVELS_MAX);
        for level in self.0.iter_mut().take(beside) {
            level.used(now);
        }
        while self.0.len() < beside {
            let (habit, rules) = (Habit::default(), None);
            self.0.push(Level { used_until: now, habit, rules, renewed_at: now });
        }
    }

    /// The number of instances that are worth keeping, the last one aside: at least 1.
    pub(super) fn kept(&self, now: Millis) -> u32 {
        let highest = self.0.iter().rposition(|level| level.is_kept(now));
        1 + u32::try_from(highest.map_or(0, |place| place + 1)).expect("few levels")
    }
}

impl Level {
    fn used(&mut self, now: Millis) {
        let idle = Millis(now.0 - self.used_until.0);
        self.used_until = now;
        let Some(bucket) = Bucket::of(idle) else { return };
        if let Some(rules) = &self.rules {
            self.habit.costs = rules.costs_after(self.habit.costs, bucket);
        }
        self.habit.idle.add(bucket);
        if self.rules.is_none() || now.0 - self.renewed_at.0 >= RENEW_EVERY.0 {
            self.rules = Rules::of(&self.habit, None);
            self.renewed_at = now;
        }
    }

    fn is_kept(&self, now: Millis) -> bool {
        let idle = Millis(now.0 - self.used_until.0);
        match self.rules.as_ref().map(|rules| rules.better(self.habit.costs).outlook(idle)) {
            None | Some(Outlook::Unknown) => idle < KEEP_ALIVE_UNKNOWN,
            Some(outlook) => outlook != Outlook::NotExpected,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: u64 = 60_000;

    /// Three in use at once for a minute, every so many minutes, so many times; then not for `idle`.
    fn kept_after(every: u64, times: u64, idle: u64) -> u32 {
        let mut levels = Levels::default();
        let mut now = 0;
        for _ in 0..times {
            (0..MINUTE).step_by(250).for_each(|at| levels.used(3, Millis(now + at)));
            (MINUTE..every * MINUTE).step_by(250).for_each(|at| levels.used(1, Millis(now + at)));
            now += every * MINUTE;
        }
        levels.kept(Millis(now - every * MINUTE + MINUTE + idle * MINUTE))
    }

    #[test]
    fn what_is_often_needed_is_kept_and_what_is_not_is_let_go() {
        for (every, times, idle, kept) in [
            // Too little is known: ten minutes.
            (60, 1, 9, 3),
            (60, 1, 10, 1),
            (60, 4, 9, 3),
            // Every ten minutes: through the pauses, but not for ever.
            (10, 10, 0, 3),
            (10, 10, 8, 3),
            (10, 10, 600, 1),
            // Every three hours: not at all, once that is known.
            (180, 10, 1, 1),
            (180, 10, 9, 1),
        ] {
            assert_eq!(
                kept_after(every, times, idle),
                kept,
                "every {every} min {times} times, after {idle} min"
            );
        }
    }

    #[test]
    fn levels_are_bounded() {
        let mut levels = Levels::default();
        levels.used(u32::MAX, Millis(0));
        assert_eq!((levels.0.len(), levels.kept(Millis(0))), (LEVELS_MAX, 65));
        assert_eq!(Levels::default().kept(Millis(0)), 1);
    }

    #[test]
    fn requests_that_follow_each_other_need_fewer_than_they_use() {
        // Busy milliseconds in a report that covers so many; of ten that were used, with so many slots each.
        for (reports, concurrency, needed) in [
            (&[][..], 1, 1),
            (&[(250, 10, 250)], 1, 2),
            (&[(250, 250, 250), (500, 250, 250)], 1, 3),
            (&[(500, 2000, 500)], 1, 6),
            (&[(500, 2000, 500)], 4, 2),
            (&[(500, 20_000, 500)], 1, 10),
            // One that covers two seconds, and one that is too old.
            (&[(500, 2000, 2000)], 1, 4),
            (&[(0, 20_000, 250), (1000, 10, 250)], 1, 2),
        ] {
            let mut lately = Lately::default();
            for (at, busy_ms, within_ms) in reports {
                lately.add(Millis(*at), *busy_ms, *within_ms);
            }
            assert_eq!(lately.needed(10, concurrency, Millis(1000)), needed, "{reports:?}");
        }
        assert_eq!(Lately::default().needed(0, 1, Millis(0)), 0);
    }
}
