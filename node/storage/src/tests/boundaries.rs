//! A scripted history on a disk in memory, stopped after each of its operations, with each number of the batches
//! that were not synced surviving: what the store then has is what an oracle knows was acknowledged, or something
//! that was under way.

use std::fmt::Debug;

use muster_core::ids::{Incarnation, NodeId, StoreId};
use openraft::storage::{RaftLogStorage, RaftLogStorageExt};
use openraft::testing::log_id;
use openraft::{Entry, EntryPayload, RaftLogReader, Vote};

use super::{TypeConfig, block_on, data};
use crate::memory::Operation;
use crate::{Memory, Snapshot, Store};

/// What one part of the store has been, in order, and after how many operations of the disk each was
/// acknowledged: none for what nobody is told of.
struct History<T>(Vec<(Option<usize>, T)>);

impl<T: PartialEq + Debug> History<T> {
    /// What may be found after a stop when `done` operations were done: the last acknowledged, or later.
    fn allow(&self, done: usize, found: &T, what: &str) {
        let acknowledged = |(at, _): &(Option<usize>, T)| at.is_some_and(|at| at <= done);
        let from = self.0.iter().rposition(acknowledged).unwrap_or(0);
        let allowed = &self.0[from..];
        assert!(allowed.iter().any(|(_, value)| value == found), "{what}: {found:?} is none of {allowed:?}");
    }
}

type LogEntry = Entry<TypeConfig>;

fn entry(term: u64, index: u64) -> LogEntry {
    Entry { log_id: log_id(term, NodeId(1), index), payload: EntryPayload::Normal(data(index + 1000 * term)) }
}

struct Script {
    memory: Memory,
    vote: History<Option<Vote<NodeId>>>,
    log: History<Vec<LogEntry>>,
    journal: History<Vec<(u64, Vec<u8>)>>,
    snapshot: History<Option<Snapshot>>,
    incarnation: History<Incarnation>,
}

impl Script {
    fn now(&self) -> Option<usize> {
        Some(self.memory.count_operations())
    }
}

async fn run() -> Script {
    let memory = Memory::new();
    let mut script = Script {
        memory: memory.clone(),
        vote: History(vec![(None, None)]),
        log: History(vec![(None, vec![])]),
        journal: History(vec![(None, vec![])]),
        snapshot: History(vec![(None, None)]),
        incarnation: History(vec![(None, Incarnation(0))]),
    };
    let store = Store::in_memory(&memory).unwrap();
    store.claim_node(NodeId(1), StoreId(1)).unwrap();
    store.begin_incarnation().unwrap();
    script.incarnation.0.push((script.now(), Incarnation(1)));
    let mut log = store.log::<TypeConfig>().unwrap();
    let mut entries: Vec<LogEntry> = Vec::new();
    for turn in 0..4_u64 {
        let vote = Vote::new(turn + 1, NodeId(1));
        script.vote.0.push((None, Some(vote)));
        log.save_vote(&vote).await.unwrap();
        script.vote.0.push((script.now(), Some(vote)));

        let next = entries.last().map_or(0, |last: &LogEntry| last.log_id.index + 1);
        let fresh: Vec<LogEntry> = (next..next + 7).map(|index| entry(turn + 1, index)).collect();
        entries.extend(fresh.clone());
        script.log.0.push((None, entries.clone()));
        log.blocking_append(fresh).await.unwrap();
        script.log.0.push((script.now(), entries.clone()));

        // A new leader replaces the end; nobody is told before the append behind it.
        let at = next + 4;
        entries.retain(|entry| entry.log_id.index < at);
        script.log.0.push((None, entries.clone()));
        log.truncate(log_id(turn + 1, NodeId(1), at)).await.unwrap();
        entries.push(entry(turn + 1, at));
        script.log.0.push((None, entries.clone()));
        log.blocking_append([entry(turn + 1, at)]).await.unwrap();
        script.log.0.push((script.now(), entries.clone()));
        log.save_committed(Some(log_id(turn + 1, NodeId(1), at))).await.unwrap();

        let mut records = script.journal.0.last().unwrap().1.clone();
        for _ in 0..3 {
            let number = records.last().map_or(1 + 3 * turn, |(last, _)| last + 1);
            records.push((number, data(number)));
            script.journal.0.push((None, records.clone()));
            assert_eq!(store.journal().append(data(number)).await.unwrap(), number);
            script.journal.0.push((script.now(), records.clone()));
        }
        let through = records[1].0;
        records.retain(|(number, _)| *number > through);
        script.journal.0.push((None, records));
        store.journal().remove_through(through).unwrap();

        let saved = Snapshot { meta: vec![u8::try_from(turn).unwrap(); 6_000], data: data(turn).repeat(900) };
        script.snapshot.0.push((None, Some(saved.clone())));
        store.snapshots().save(&saved.meta, &saved.data).await.unwrap();
        script.snapshot.0.push((script.now(), Some(saved)));
        store.snapshots().arrivals().durable(at - 2);
        entries.retain(|entry| entry.log_id.index > at - 2);
        script.log.0.push((None, entries.clone()));
        log.purge(log_id(turn + 1, NodeId(1), at - 2)).await.unwrap();
    }
    store.begin_incarnation().unwrap();
    script.incarnation.0.push((script.now(), Incarnation(2)));
    script
}

/// The disk after the power was cut behind `done` operations, `survivors` of the batches since the last
/// sync having reached it.
fn disk_after(operations: &[Operation], done: usize, survivors: usize) -> Memory {
    let memory = Memory::new();
    let synced = operations[..done].iter().rposition(|o| matches!(o, Operation::Sync)).map_or(0, |at| at + 1);
    for operation in operations[..synced].iter().chain(operations[synced..done].iter().take(survivors)) {
        if let Operation::Write(batch) = operation {
            memory.apply(batch.clone());
        }
    }
    memory.sync().expect("this disk does not fail");
    memory
}

#[test]
fn a_stop_after_each_operation_loses_nothing_acknowledged() {
    let script = block_on(run());
    let operations = script.memory.operations();
    let mut stops = 0;
    for done in 0..=operations.len() {
        let unsynced =
            operations[..done].iter().rev().take_while(|o| matches!(o, Operation::Write(_))).count();
        for survivors in 0..=unsynced {
            stops += 1;
            let when = format!("after {done} operations, {survivors} of {unsynced} survive");
            block_on(async {
                let store = Store::in_memory(&disk_after(&operations, done, survivors)).unwrap();
                let mut log = store.log::<TypeConfig>().unwrap();
                script.vote.allow(done, &log.read_vote().await.unwrap(), &format!("{when}: vote"));
                let purged = log.get_log_state().await.unwrap().last_purged_log_id;
                let mut entries = log.try_get_log_entries(..).await.unwrap();
                // A purge is known as soon as its mark is there, and nobody waits for it.
                let from = purged.map_or(0, |id| id.index + 1);
                entries.retain(|entry| entry.log_id.index >= from);
                let shortened = |value: &Vec<LogEntry>| {
                    value.iter().filter(|entry| entry.log_id.index >= from).cloned().collect::<Vec<_>>()
                };
                let history = script.log.0.iter().map(|(at, value)| (*at, shortened(value))).collect();
                History(history).allow(done, &entries, &format!("{when}: log"));
                let pending = store.journal().pending(usize::MAX).unwrap();
                script.journal.allow(done, &pending, &format!("{when}: journal"));
                let snapshot = store.snapshots().load().unwrap();
                script.snapshot.allow(done, &snapshot, &format!("{when}: snapshot"));
                let incarnation = store.identity().incarnation;
                script.incarnation.allow(done, &incarnation, &format!("{when}: incarnation"));
            });
        }
    }
    assert!(stops > 100, "only {stops} stops were tried");
}

/// The proof that the check can fail.
#[test]
#[should_panic(expected = "is none of")]
fn a_lost_acknowledgement_is_seen() {
    let script = block_on(run());
    let operations = script.memory.operations();
    block_on(async {
        // As if the last syncs had been acknowledged and never made.
        let store = Store::in_memory(&disk_after(&operations, operations.len() / 2, 0)).unwrap();
        let mut log = store.log::<TypeConfig>().unwrap();
        script.vote.allow(operations.len(), &log.read_vote().await.unwrap(), "vote");
    });
}
