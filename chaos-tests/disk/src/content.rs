//! One file: what programs see, what the medium has, and the changes between the two.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::RngCore;

/// What a disk writes as a whole.
const SECTOR_BYTES: usize = 512;

/// More unsynced data of a file than this is written back, as a kernel does under pressure.
const DIRTY_BYTES_MAX: usize = 64 << 20;

#[derive(Debug, Default)]
pub struct Content {
    seen: Vec<u8>,
    durable: Vec<u8>,
    /// In the order they were made.
    dirty: Vec<Change>,
    dirty_bytes: usize,
    /// What lies behind was never written: a hole.
    allocated: usize,
    /// Whether one of `dirty` has taken room that was free.
    grown: bool,
}

#[derive(Debug)]
enum Change {
    Write { offset: usize, data: Vec<u8> },
    Resize(usize),
}

/// What a power cut did to a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Loss {
    pub dropped_bytes: u64,
    pub survived_bytes: u64,
    /// Writes of which a part survived.
    pub torn: u64,
}

impl Content {
    pub fn len(&self) -> usize {
        self.seen.len()
    }

    pub fn is_empty(&self) -> bool {
        self.seen.is_empty()
    }

    pub fn dirty_bytes(&self) -> usize {
        self.dirty_bytes
    }

    /// Whether a write up to `end` takes room that is free so far.
    pub fn would_grow(&self, end: usize) -> bool {
        end > self.allocated
    }

    /// Whether something unsynced has taken room.
    pub fn has_grown(&self) -> bool {
        self.grown
    }

    pub fn read(&self, offset: usize, most: usize) -> &[u8] {
        let from = offset.min(self.seen.len());
        &self.seen[from..(from + most).min(self.seen.len())]
    }

    pub fn write(&mut self, offset: usize, data: &[u8]) {
        let end = offset + data.len();
        self.grown |= self.would_grow(end);
        self.allocated = self.allocated.max(end);
        self.dirty_bytes += data.len();
        let change = Change::Write { offset, data: data.to_vec() };
        change.apply(&mut self.seen);
        self.dirty.push(change);
        if self.dirty_bytes > DIRTY_BYTES_MAX {
            self.sync();
        }
    }

    pub fn resize(&mut self, len: usize) {
        self.allocated = self.allocated.min(len);
        let change = Change::Resize(len);
        change.apply(&mut self.seen);
        self.dirty.push(change);
    }

    /// Makes every change durable.
    pub fn sync(&mut self) {
        for change in self.take_dirty() {
            change.apply(&mut self.durable);
        }
    }

    /// A sync has failed: programs still see the changes, and no later sync will write them.
    pub fn lose(&mut self) {
        self.take_dirty();
    }

    /// The power is cut. Without dice nothing unsynced survives; with them each change is lost, kept
    /// or torn by chance.
    pub fn cut(&mut self, mut dice: Option<&mut ChaCha8Rng>) -> Loss {
        let mut loss = Loss::default();
        for change in self.take_dirty() {
            let Some(dice) = dice.as_deref_mut() else {
                loss.dropped_bytes += change.bytes();
                continue;
            };
            match (dice.next_u32() % 3, change) {
                (0, change) => loss.dropped_bytes += change.bytes(),
                (1, change) => {
                    loss.survived_bytes += change.bytes();
                    change.apply(&mut self.durable);
                }
                (_, Change::Write { offset, data }) => self.tear(offset, &data, dice, &mut loss),
                (_, resize) => resize.apply(&mut self.durable),
            }
        }
        self.seen.clone_from(&self.durable);
        self.allocated = self.seen.len();
        loss
    }

    /// Each sector of a write survives or does not.
    fn tear(&mut self, offset: usize, data: &[u8], dice: &mut ChaCha8Rng, loss: &mut Loss) {
        let (dropped, survived) = (loss.dropped_bytes, loss.survived_bytes);
        let mut from = 0;
        while from < data.len() {
            let to_boundary = SECTOR_BYTES - (offset + from) % SECTOR_BYTES;
            let to = (from + to_boundary).min(data.len());
            let sector = Change::Write { offset: offset + from, data: data[from..to].to_vec() };
            if dice.next_u32().is_multiple_of(2) {
                loss.survived_bytes += sector.bytes();
                sector.apply(&mut self.durable);
            } else {
                loss.dropped_bytes += sector.bytes();
            }
            from = to;
        }
        loss.torn += u64::from(loss.dropped_bytes > dropped && loss.survived_bytes > survived);
    }

    fn take_dirty(&mut self) -> Vec<Change> {
        self.dirty_bytes = 0;
        self.grown = false;
        std::mem::take(&mut self.dirty)
    }
}

impl Change {
    fn bytes(&self) -> u64 {
        match self {
            Change::Write { data, .. } => data.len() as u64,
            Change::Resize(_) => 0,
        }
    }

    fn apply(&self, to: &mut Vec<u8>) {
        match self {
            Change::Write { offset, data } => {
                let end = offset + data.len();
                if to.len() < end {
                    to.resize(end, 0);
                }
                to[*offset..end].copy_from_slice(data);
            }
            Change::Resize(len) => to.resize(*len, 0),
        }
    }
}

#[cfg(test)]
mod tests {
    use rand_chacha::rand_core::SeedableRng;

    use super::*;

    #[test]
    fn a_cut_leaves_what_was_synced() {
        let mut file = Content::default();
        file.write(0, b"kept");
        file.sync();
        file.write(2, b"lost, and more");
        file.resize(3);
        assert_eq!(file.read(0, 100), b"kel");
        let loss = file.cut(None);
        assert_eq!(loss, Loss { dropped_bytes: 14, ..Loss::default() });
        assert_eq!(file.read(0, 100), b"kept");
        assert_eq!(file.cut(None), Loss::default(), "a second cut finds nothing to drop");
    }

    #[test]
    fn what_a_failed_sync_lost_no_later_sync_brings_back() {
        let mut file = Content::default();
        file.write(0, b"aaaa");
        file.lose();
        file.write(1, b"b");
        file.sync();
        assert_eq!(file.read(0, 100), b"abaa", "it is seen until the power is cut");
        file.cut(None);
        assert_eq!(file.read(0, 100), b"\0b");
    }

    #[test]
    fn survivors_are_whole_sectors_and_follow_from_the_seed() {
        let cut = |seed| {
            let mut file = Content::default();
            file.write(0, &[1; 64 * SECTOR_BYTES]);
            file.sync();
            for part in 0..16 {
                // Each begins and ends within a sector.
                file.write(part * 4 * SECTOR_BYTES + 100, &[2; 2 * SECTOR_BYTES]);
            }
            let loss = file.cut(Some(&mut ChaCha8Rng::seed_from_u64(seed)));
            (loss, file.read(0, usize::MAX >> 1).to_vec())
        };
        let (loss, bytes) = cut(7);
        assert_eq!((loss, &bytes), (cut(7).0, &cut(7).1));
        assert_ne!(bytes, cut(8).1);
        assert!(loss.torn > 0 && loss.dropped_bytes > 0 && loss.survived_bytes > 0, "{loss:?}");
        assert_eq!(loss.dropped_bytes + loss.survived_bytes, 16 * 2 * SECTOR_BYTES as u64);
        for (number, sector) in bytes.chunks(SECTOR_BYTES).enumerate() {
            let within = match number % 4 {
                0 => &sector[100..],
                2 => &sector[..100],
                _ => sector,
            };
            assert!(within.iter().all(|byte| *byte == within[0]), "sector {number} is mixed");
        }
    }

    #[test]
    fn growing_is_writing_where_nothing_was() {
        let mut file = Content::default();
        file.write(0, &[1; 10]);
        assert!(file.has_grown() && !file.would_grow(10) && file.would_grow(11));
        file.sync();
        file.resize(100);
        assert!(!file.has_grown() && file.would_grow(11), "a hole takes no room");
        file.resize(5);
        assert!(file.would_grow(6));
    }
}
