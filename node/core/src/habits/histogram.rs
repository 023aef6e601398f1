//! Idle times, counted in buckets that grow with their length.

use serde::{Deserialize, Serialize};

use crate::units::Millis;

/// Shorter than this, nothing was idle: hosts report four times a second.
pub const IDLE_MIN: Millis = Millis::from_secs(1);
/// The longest idle time that is told from a longer one: a function that is called once a day is
/// within it, with half a day to spare.
pub const IDLE_MAX: Millis = Millis::from_secs(36 * 3600);
/// Idle times in one row for one function: as many as fit between two rows, and some more.
pub const IDLE_TIMES_MAX: usize = 64;

/// Buckets to each doubling: a bucket is a 64th to a 128th as wide as the idle times in it are long,
/// so that one a timer's calls fall into costs little to be kept through.
const SPLIT: u32 = 64;
/// What one idle time weighs.
const WEIGHT: u16 = 4;
/// All idle times together weigh at most this; then each is halved. So the last hundred count, and a
/// habit that was given up is soon forgotten.
const WEIGHT_MAX: u32 = 100 * WEIGHT as u32;

/// A range of idle times. Up to 64 s each second has its own; from there on every doubling has 64.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Bucket(u16);

impl Bucket {
    pub(super) const FIRST: Bucket = Bucket(0);
    /// Everything from [`IDLE_MAX`] on.
    pub const BEYOND: Bucket = Bucket(bucket(IDLE_MAX));

    /// The bucket of an idle time; `None` for one that is too short to count.
    pub fn of(idle: Millis) -> Option<Bucket> {
        (idle >= IDLE_MIN).then(|| Bucket(bucket(idle)).min(Bucket::BEYOND))
    }

    /// The shortest idle time in it.
    pub fn start(self) -> Millis {
        let (octave, place) = (u32::from(self.0) / SPLIT, u64::from(u32::from(self.0) % SPLIT));
        match octave {
            0 => Millis::from_secs(place),
            _ => Millis::from_secs((u64::from(SPLIT) + place) << (octave - 1)),
        }
    }

    /// The shortest idle time that is longer than those in it.
    pub fn end(self) -> Millis {
        self.after(1).start()
    }

    pub(super) const fn number(self) -> usize {
        self.0 as usize
    }

    pub(super) fn before(self, distance: u16) -> Bucket {
        Bucket(self.0.saturating_sub(distance))
    }

    pub(super) fn after(self, distance: u16) -> Bucket {
        Bucket(self.0 + distance)
    }
}

#[expect(clippy::cast_possible_truncation, reason = "it is looked at first; `try_from` is not const")]
const fn bucket(idle: Millis) -> u16 {
    let secs = idle.0 / 1000;
    let shift = secs.ilog2().saturating_sub(SPLIT.ilog2());
    let number = (SPLIT * shift) as u64 + (secs >> shift);
    // Above this every number stands for more than anyone is idle for.
    if number < 4096 { number as u16 } else { 4096 }
}

/// Weights by bucket. Old idle times fade. At most [`WEIGHT_MAX`] in all, hence at most as many buckets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Histogram {
    /// In order, each weight above 0.
    weights: Vec<(Bucket, u16)>,
}

impl Histogram {
    pub fn add(&mut self, bucket: Bucket) {
        let bucket = bucket.clamp(Bucket(1), Bucket::BEYOND);
        match self.weights.binary_search_by_key(&bucket, |(known, _)| *known) {
            Ok(place) => self.weights[place].1 += WEIGHT,
            Err(place) => self.weights.insert(place, (bucket, WEIGHT)),
        }
        if self.total() > WEIGHT_MAX {
            self.weights.iter_mut().for_each(|(_, weight)| *weight /= 2);
            self.weights.retain(|(_, weight)| *weight > 0);
        }
    }

    /// How many idle times this rests on, at most: those that have faded count in part.
    pub fn samples(&self) -> u32 {
        self.total().div_ceil(u32::from(WEIGHT))
    }

    pub fn weights(&self) -> &[(Bucket, u16)] {
        &self.weights
    }

    pub(super) fn total(&self) -> u32 {
        self.weights.iter().map(|(_, weight)| u32::from(*weight)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_idle_time_has_one_bucket_that_holds_it() {
        assert_eq!(Bucket::of(Millis(999)), None);
        let mut last = Bucket(0);
        for secs in 1..=IDLE_MAX.0 / 1000 + 5 {
            let bucket = Bucket::of(Millis(secs * 1000 + 999)).unwrap();
            assert_eq!(Bucket::of(Millis(secs * 1000)), Some(bucket));
            if bucket != Bucket::BEYOND {
                assert!(bucket.start().0 <= secs * 1000 && secs * 1000 + 999 < bucket.end().0, "{secs}");
                assert!((bucket.end().0 - bucket.start().0) * 64 <= bucket.start().0.max(64_000), "{secs}");
            }
            assert!(bucket >= last && bucket.0 <= last.0 + 1, "{secs}: no bucket is left out");
            last = bucket;
        }
        assert_eq!((last, last.0), (Bucket::BEYOND, 766));
        assert_eq!(Bucket::of(Millis(u64::MAX)), Some(Bucket::BEYOND));
    }

    #[test]
    fn old_idle_times_fade_and_the_size_is_bounded() {
        let mut histogram = Histogram::default();
        let twenty = Bucket::of(Millis::from_secs(1200)).unwrap();
        let thirty = Bucket::of(Millis::from_secs(1800)).unwrap();
        (0..1000).for_each(|_| histogram.add(twenty));
        assert!(histogram.samples() <= 100);
        (0..250).for_each(|_| histogram.add(thirty));
        assert_eq!(histogram.weights().iter().map(|(b, _)| *b).collect::<Vec<_>>(), [twenty, thirty]);
        (0..250).for_each(|_| histogram.add(thirty));
        assert_eq!(histogram.weights().len(), 1, "{histogram:?}");
        for secs in 1..500_000 {
            histogram.add(Bucket::of(Millis::from_secs(secs)).unwrap());
            assert!(histogram.samples() <= 100 && histogram.weights().len() <= 400);
        }
        histogram.add(Bucket(u16::MAX));
        assert_eq!(histogram.weights().last().unwrap().0, Bucket::BEYOND, "a wrong record does no harm");
    }
}
