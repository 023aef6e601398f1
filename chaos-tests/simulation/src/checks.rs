//! What must hold at every moment, judged from outside: by the disks' bytes in their documented layout
//! and by the published states.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use muster_core::ClusterState;
use muster_core::ids::InstanceId;

use crate::host::Host;
use crate::trace;

/// By then an entry that was applied is on the disk, however slow the seed made that: until then an
/// older one may lie in its place.
const SETTLED_MS: u64 = 2_000;
/// The kind of a log entry's key.
const LOG: u8 = 16;
/// The format of a log entry's record.
const ENTRY_FORMAT: u8 = 2;
/// In the first byte of each part of a record, beside the number of parts after it.
const SEALED: u8 = 0x80;
/// The checksum at the end of a record.
const SEAL_BYTES: usize = 4;

#[derive(Debug, Default)]
pub struct Checks {
    /// Each committed entry's fingerprint and leader, and who had it first.
    chain: BTreeMap<u64, Committed>,
    states: BTreeMap<u64, (u64, Arc<ClusterState>)>,
    seen: BTreeMap<u64, Seen>,
}

#[derive(Clone, Copy, Debug)]
struct Committed {
    fingerprint: u64,
    /// Its leader: term and node.
    leader: (u64, u64),
    node: u64,
}

/// How far one process of a node was seen.
#[derive(Debug, Default)]
struct Seen {
    applied: u64,
    /// How long it ran: a process that is stopped writes nothing.
    ran_ms: u64,
    /// When it ran so long, it had applied that.
    history: Vec<(u64, u64)>,
    checked: u64,
}

impl Checks {
    /// The index that any node has applied.
    pub fn newest(&self) -> u64 {
        self.states.last_key_value().map_or(0, |(index, _)| *index)
    }

    /// A process ended: the next one begins from what its disk has.
    pub fn forget(&mut self, node: u64) {
        self.seen.remove(&node);
    }

    /// Looks at one host after its tick.
    ///
    /// # Errors
    /// With what is broken.
    pub fn look(&mut self, host: &Host, now_ms: u64) -> Result<(), String> {
        if let Some(violation) = host.containers.violation() {
            return Err(violation);
        }
        if let Some(reason) = host.ended() {
            return Err(format!("node {} ended by itself: {reason}", host.id));
        }
        let Some(parts) = host.parts() else { return Ok(()) };
        let published = parts.consensus.state();
        let applied = published.applied_index();
        let seen = self.seen.entry(host.id).or_default();
        if applied < seen.applied {
            return Err(format!("node {} went back from index {} to {applied}", host.id, seen.applied));
        }
        seen.ran_ms += u64::from(!host.is_held(now_ms));
        let ran_ms = seen.ran_ms;
        if applied > seen.applied {
            seen.applied = applied;
            seen.history.push((ran_ms, applied));
            let (first, state) =
                self.states.entry(applied).or_insert_with(|| (host.id, Arc::clone(&published.state)));
            if *first != host.id && *state != published.state {
                return Err(format!("nodes {first} and {} differ at index {applied}", host.id));
            }
        }
        let settled = seen.history.iter().take_while(|(at, _)| at + SETTLED_MS <= ran_ms).count();
        let last = seen.history.drain(..settled).next_back();
        if let Some((_, index)) = last {
            let from = seen.checked + 1;
            seen.checked = index;
            self.compare_log(host, from, index)?;
        }
        Ok(())
    }

    /// Compares all that is on a disk up to an index.
    ///
    /// # Errors
    /// With what differs.
    pub fn compare_log(&mut self, host: &Host, from: u64, through: u64) -> Result<(), String> {
        for index in from..=through {
            let prefix: Vec<u8> = [LOG].into_iter().chain(index.to_be_bytes()).collect();
            let parts = host.disk.records(&prefix);
            // Purged behind a snapshot, to the last part or but for later ones.
            if parts.first().is_none_or(|(key, _)| key[prefix.len()..] != [0; 4]) {
                continue;
            }
            let Some(record) = assemble(parts.into_iter().map(|(_, part)| part)) else {
                return Err(format!("node {} keeps a part of entry {index}", host.id));
            };
            let Some(Stored { leader, index: stored, bytes }) = Stored::read(&record) else {
                return Err(format!("node {} keeps no log entry under index {index}", host.id));
            };
            if stored != index {
                return Err(format!("node {} keeps entry {stored} under index {index}", host.id));
            }
            let entry = Committed { fingerprint: trace::of_bytes(bytes), leader, node: host.id };
            let known = *self.chain.entry(index).or_insert(entry);
            if known.fingerprint != entry.fingerprint {
                let (one, other) = (known.node, host.id);
                return Err(format!("nodes {one} and {other} have different committed entries at {index}"));
            }
            let before = self.chain.range(..index).next_back();
            if let Some((_, before)) = before.filter(|(_, before)| before.leader > leader) {
                return Err(format!(
                    "entry {index} is of leader {leader:?}, after one of {:?}",
                    before.leader
                ));
            }
        }
        Ok(())
    }
}

/// A record without its seal; none if not all of it is there. What a longer one left behind it is no part
/// of it.
fn assemble(parts: impl IntoIterator<Item = Vec<u8>>) -> Option<Vec<u8>> {
    let mut record = Vec::new();
    for part in parts {
        let (first, body) = part.split_first()?;
        record.extend_from_slice(body);
        if *first == SEALED {
            record.truncate(record.len().checked_sub(SEAL_BYTES)?);
            return Some(record);
        }
    }
    None
}

/// What the record of a log entry says.
#[derive(Debug, PartialEq, Eq)]
struct Stored<'a> {
    /// Term and node.
    leader: (u64, u64),
    index: u64,
    /// The entry as openraft knows it. Not so the checksum of the record before, which is the replica's own:
    /// there is none before the first, and the log of one that was sent a snapshot begins behind that.
    bytes: &'a [u8],
}

impl Stored<'_> {
    fn read(record: &[u8]) -> Option<Stored<'_>> {
        let (format, linked) = record.split_first()?;
        if *format != ENTRY_FORMAT {
            return None;
        }
        let mut numbers = Numbers(linked);
        let _link = numbers.next();
        let bytes = numbers.0;
        let leader = (numbers.next(), numbers.next());
        Some(Stored { leader, index: numbers.next(), bytes })
    }
}

/// bincode's variable-length integers.
struct Numbers<'a>(&'a [u8]);

impl Numbers<'_> {
    fn next(&mut self) -> u64 {
        let (length, value) = match self.0[0] {
            251 => (3, u64::from(u16::from_le_bytes(self.0[1..3].try_into().expect("two bytes")))),
            252 => (5, u64::from(u32::from_le_bytes(self.0[1..5].try_into().expect("four bytes")))),
            253 => (9, u64::from_le_bytes(self.0[1..9].try_into().expect("eight bytes"))),
            small => (1, u64::from(small)),
        };
        self.0 = &self.0[length..];
        value
    }
}

/// No instance was ever launched on two hosts.
///
/// # Errors
/// With the instance.
pub fn launched_once(hosts: &[Host]) -> Result<(), String> {
    let mut all: BTreeSet<InstanceId> = BTreeSet::new();
    for host in hosts {
        for id in host.containers.launched() {
            if !all.insert(id) {
                return Err(format!("{id} was launched on node {} and on another", host.id));
            }
        }
    }
    Ok(())
}

/// What callers and owners are charged for instance time is what the ended instances ran.
///
/// # Errors
/// With both sums.
pub fn conserved(state: &ClusterState) -> Result<(), String> {
    let intervals: Vec<u64> =
        state.ledger.intervals().map(|interval| interval.ended_at.since(interval.launched_at).0).collect();
    if intervals.len() >= muster_core::ledger::INTERVALS_MAX {
        return Ok(());
    }
    let ran: u64 = intervals.iter().sum();
    let hours = state.ledger.instance_time().values().map(|time| time.millis);
    let rollups = state.rollups.days().values().chain(state.rollups.months().values());
    let charged: u64 = hours.chain(rollups.map(|sums| sums.time.millis)).sum();
    if ran == charged { Ok(()) } else { Err(format!("instances ran {ran} ms and {charged} ms were charged")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENTRY: &str = include_str!("../../../node/storage/tests/golden/entry_normal.v2.hex");

    #[test]
    fn entries_are_read_as_they_are_laid_out() {
        let byte = |at: usize| u8::from_str_radix(&ENTRY[at..at + 2], 16).expect("hexadecimal");
        let record: Vec<u8> = (0..ENTRY.trim_end().len()).step_by(2).map(byte).collect();
        let entry = &record[6..];
        let want = Stored { leader: (1, 1), index: 7, bytes: entry };
        assert_eq!(Stored::read(&record), Some(want));
        // The same entry behind another, and behind none.
        for link in [&[7][..], &[0]] {
            let other = [&[ENTRY_FORMAT], link, entry].concat();
            assert_eq!(Stored::read(&other).map(|stored| stored.bytes), Some(entry));
        }
        assert_eq!(Stored::read(&[1]), None);
    }

    #[test]
    fn records_end_where_their_parts_say() {
        let parts = [&[SEALED | 1, 1, 2][..], &[SEALED, 3, 9, 9, 9, 9], &[SEALED, 8]].map(<[u8]>::to_vec);
        assert_eq!(assemble(parts.clone()), Some(vec![1, 2, 3]));
        assert_eq!(assemble(parts.into_iter().take(1)), None, "a part is missing");
    }
}
