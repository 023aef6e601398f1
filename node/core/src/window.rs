//! Utilization over a sliding window, from the cumulative counters that hosts report.
//!
//! A window belongs to a function, not to an instance: what an instance did before it ended stays
//! in the window until it has moved out of it. That work was asked of the function and will be asked
//! of the instances that are left; forgetting it at once would make the ratio jump at each scale-down.

use std::collections::VecDeque;

use crate::observation::InstanceLoad;
use crate::units::Millis;

/// Buckets in a window. Its memory is bounded by this, however often hosts report.
const BUCKETS: u64 = 60;
/// The recent part is at least this long: shorter, and it would show the rhythm of the reports.
const RECENT_MIN: Millis = Millis::from_secs(2);

/// An instance's cumulative counters, or the difference between two readings of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    pub busy_ms: u64,
    pub ready_ms: u64,
    pub completed: u64,
}

impl From<&InstanceLoad> for Counters {
    fn from(load: &InstanceLoad) -> Self {
        Counters { busy_ms: load.busy_ms, ready_ms: load.ready_ms, completed: load.completed }
    }
}

impl Counters {
    /// What happened since `previous`. Counters that were never seen, or that run backwards because
    /// the host restarted, began at zero; they count in full if they began within `span`, and
    /// otherwise not at all, since nobody knows when it was.
    pub fn since(self, previous: Option<Counters>, span: Millis) -> Counters {
        let forward = previous.filter(|p| {
            p.busy_ms <= self.busy_ms && p.ready_ms <= self.ready_ms && p.completed <= self.completed
        });
        match forward {
            Some(p) => Counters {
                busy_ms: self.busy_ms - p.busy_ms,
                ready_ms: self.ready_ms - p.ready_ms,
                completed: self.completed - p.completed,
            },
            None if self.ready_ms <= span.0 => self,
            None => Counters::default(),
        }
    }
}

/// The recent past of one function. Moments are on the leader's monotonic clock.
#[derive(Clone, Debug)]
pub struct Window {
    span: Millis,
    /// By index, oldest first, at most [`BUCKETS`] + 1; without those in which nothing was ready.
    buckets: VecDeque<Bucket>,
}

#[derive(Clone, Debug)]
struct Bucket {
    /// Its start, in bucket lengths.
    index: u64,
    busy_ms: u64,
    /// Ready time times concurrency.
    ready_slot_ms: u64,
    completed: u64,
    /// The stretch of it in which some instance was ready.
    from: u64,
    to: u64,
}

#[derive(Default)]
struct Totals {
    busy_ms: u64,
    ready_slot_ms: u64,
    completed: u64,
    covered_ms: u64,
}

impl Window {
    pub fn new(span: Millis) -> Self {
        Window { span, buckets: VecDeque::new() }
    }

    pub fn span(&self) -> Millis {
        self.span
    }

    /// Adds what one instance did in the `delta.ready_ms` before `at`, evenly spread over them. An
    /// instance is never busier than its slots.
    pub fn add(&mut self, at: Millis, delta: Counters, concurrency: u32) {
        let slots = u64::from(concurrency.max(1));
        let busy_ms = delta.busy_ms.min(delta.ready_ms.saturating_mul(slots));
        let start = at.0.saturating_sub(delta.ready_ms);
        let mut from = start.max(at.0.saturating_sub(self.span.0));
        while from < at.0 {
            let to = at.0.min((from / self.bucket_ms() + 1) * self.bucket_ms());
            let busy_until = |moment: u64| share(busy_ms, moment - start, at.0 - start);
            let bucket = self.bucket(from, to);
            bucket.busy_ms += busy_until(to) - busy_until(from);
            bucket.ready_slot_ms += (to - from) * slots;
            if to == at.0 {
                bucket.completed += delta.completed;
            }
            from = to;
        }
        self.forget_before(at);
    }

    /// Busy slot time over ready slot time within the window, in thousandths, at most 1000.
    pub fn utilization_permille(&self, at: Millis) -> u32 {
        let totals = self.totals(at, self.span);
        let ratio = totals.busy_ms * 1000 / totals.ready_slot_ms.max(1);
        u32::try_from(ratio.min(1000)).expect("at most 1000")
    }

    /// Slots busy on average, in thousandths of a slot: utilization times the slots there were. It
    /// is the larger of the whole window's and its recent part's, so that a rise counts soon and a
    /// fall late. Less than a recent part's worth of ready time does not count as a whole one: one
    /// busy second says little.
    pub fn busy_milli_slots(&self, at: Millis) -> u64 {
        let recent = Millis((self.span.0 / 10).max(RECENT_MIN.0).min(self.span.0));
        let average = |span: Millis| {
            let totals = self.totals(at, span);
            totals.busy_ms * 1000 / totals.covered_ms.max(recent.0)
        };
        average(self.span).max(average(recent))
    }

    /// The mean time a request held a slot; `None` if none has finished within the window.
    pub fn mean_duration(&self, at: Millis) -> Option<Millis> {
        let totals = self.totals(at, self.span);
        (totals.completed > 0).then(|| Millis((totals.busy_ms / totals.completed).max(1)))
    }

    fn bucket_ms(&self) -> u64 {
        self.span.0.div_ceil(BUCKETS).max(1)
    }

    /// The bucket of a stretch that lies within one, stretched to cover it.
    fn bucket(&mut self, from: u64, to: u64) -> &mut Bucket {
        let index = from / self.bucket_ms();
        let place = match self.buckets.binary_search_by_key(&index, |b| b.index) {
            Ok(place) => place,
            Err(place) => {
                let new = Bucket { index, busy_ms: 0, ready_slot_ms: 0, completed: 0, from, to };
                self.buckets.insert(place, new);
                place
            }
        };
        let bucket = &mut self.buckets[place];
        bucket.from = bucket.from.min(from);
        bucket.to = bucket.to.max(to);
        bucket
    }

    fn forget_before(&mut self, at: Millis) {
        let first = at.0.saturating_sub(self.span.0) / self.bucket_ms();
        while self.buckets.front().is_some_and(|b| b.index < first) {
            self.buckets.pop_front();
        }
    }

    fn totals(&self, at: Millis, span: Millis) -> Totals {
        let first = at.0.saturating_sub(span.0) / self.bucket_ms();
        let mut totals = Totals::default();
        for bucket in self.buckets.iter().filter(|b| b.index >= first) {
            totals.busy_ms += bucket.busy_ms;
            totals.ready_slot_ms += bucket.ready_slot_ms;
            totals.completed += bucket.completed;
            totals.covered_ms += bucket.to - bucket.from;
        }
        totals
    }
}

/// `total` × `part` / `whole`, rounded down.
fn share(total: u64, part: u64, whole: u64) -> u64 {
    u64::try_from(u128::from(total) * u128::from(part) / u128::from(whole)).expect("at most the total")
}

#[cfg(test)]
#[path = "window_tests.rs"]
mod tests;
