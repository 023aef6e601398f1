//! The log's tail in memory.

use std::collections::BTreeMap;
use std::ops::Range;

/// Entries by index. What is not durable yet is never evicted, since it cannot be read elsewhere.
pub(super) struct Cache<E> {
    entries: BTreeMap<u64, Cached<E>>,
    bytes: usize,
    bytes_max: usize,
    entries_max: usize,
}

struct Cached<E> {
    entry: E,
    stored: Stored,
}

/// An entry's record.
#[derive(Clone, Copy)]
pub(super) struct Stored {
    pub(super) bytes: usize,
    pub(super) crc: u32,
    /// The number of the write that stores it.
    pub(super) write: u64,
}

impl<E: Clone> Cache<E> {
    pub(super) fn new(bytes_max: usize, entries_max: usize) -> Cache<E> {
        Cache { entries: BTreeMap::new(), bytes: 0, bytes_max, entries_max }
    }

    /// The first index in the cache. From there on, nothing is missing.
    pub(super) fn first(&self) -> Option<u64> {
        self.entries.first_key_value().map(|(index, _)| *index)
    }

    /// The entries of the range, until `limit` bytes are reached; at least one, if there is one.
    pub(super) fn range(&self, range: Range<u64>, limit: usize) -> Vec<E> {
        if range.is_empty() {
            return Vec::new();
        }
        let mut bytes = 0;
        let within = self.entries.range(range).enumerate().take_while(|(count, (_, cached))| {
            bytes += cached.stored.bytes;
            *count == 0 || bytes <= limit
        });
        within.map(|(_, (_, cached))| cached.entry.clone()).collect()
    }

    /// The checksum of an entry's record.
    pub(super) fn crc(&self, index: u64) -> Option<u32> {
        self.entries.get(&index).map(|cached| cached.stored.crc)
    }

    /// The number of the write that stores an entry.
    pub(super) fn write(&self, index: u64) -> Option<u64> {
        self.entries.get(&index).map(|cached| cached.stored.write)
    }

    /// The last entry up to `index` of a write up to number `durable`.
    pub(super) fn last_durable(&self, index: u64, durable: u64) -> Option<&E> {
        let last = self.entries.range(..=index).rev().find(|(_, cached)| cached.stored.write <= durable);
        last.map(|(_, cached)| &cached.entry)
    }

    pub(super) fn insert(&mut self, index: u64, entry: E, stored: Stored) {
        self.bytes += stored.bytes;
        if let Some(old) = self.entries.insert(index, Cached { entry, stored }) {
            self.bytes -= old.stored.bytes;
        }
    }

    /// Drops the oldest entries while there are too many, as far as they are durable: those of
    /// writes up to number `durable`.
    pub(super) fn evict(&mut self, durable: u64) {
        while self.bytes > self.bytes_max || self.entries.len() > self.entries_max {
            match self.entries.first_entry() {
                Some(oldest) if oldest.get().stored.write <= durable => {
                    self.bytes -= oldest.remove().stored.bytes;
                }
                _ => break,
            }
        }
    }

    /// Drops everything from `index` on.
    pub(super) fn truncate(&mut self, index: u64) {
        let dropped = self.entries.split_off(&index);
        self.bytes -= dropped.values().map(|cached| cached.stored.bytes).sum::<usize>();
    }

    /// Drops everything up to `index`, inclusive.
    pub(super) fn purge(&mut self, index: u64) {
        let kept = self.entries.split_off(&index.saturating_add(1));
        let dropped = std::mem::replace(&mut self.entries, kept);
        self.bytes -= dropped.values().map(|cached| cached.stored.bytes).sum::<usize>();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_durable_entries_are_evicted() {
        let mut cache = Cache::new(100, 3);
        for index in 1..=5 {
            cache.insert(index, index, Stored { bytes: 30, crc: 0, write: index });
        }
        for (durable, first) in [(0, Some(1)), (1, Some(2)), (9, Some(3))] {
            cache.evict(durable);
            assert_eq!(cache.first(), first, "durable up to {durable}");
        }
        assert_eq!(cache.range(0..9, 60), [3, 4]);
        let last = |index, durable| cache.last_durable(index, durable).copied();
        assert_eq!([last(5, 4), last(4, 9), last(5, 2)], [Some(4), Some(4), None]);
        assert_eq!([cache.write(2), cache.write(3)], [None, Some(3)]);
        assert_eq!(cache.range(4..9, 1), [4]);
        cache.truncate(5);
        cache.purge(3);
        assert_eq!((cache.range(0..9, 999), cache.bytes), (vec![4], 30));
        // A replaced entry counts once.
        cache.insert(4, 40, Stored { bytes: 10, crc: 0, write: 6 });
        assert_eq!((cache.range(0..9, 999), cache.bytes), (vec![40], 10));
    }
}
