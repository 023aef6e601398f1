//! Usage on its way to the ledger: summed in memory, journaled durably, shipped in numbered batches.
//!
//! Finished invocations are summed per account, function, instance and hour. Every 100 ms, or at
//! once when an answer waits for it, the sums become batches: first in this node's journal, then in
//! the replicated ledger, then gone from the journal. A batch keeps its number however often it is
//! sent, and the ledger applies each once; so a crash repeats, and never loses or doubles, what was
//! journaled.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use muster_consensus::{Consensus, Vital};
use muster_core::Command;
use muster_core::functions::UsageDurability;
use muster_core::ids::{AccountName, FunctionName, Incarnation, InstanceId, NodeId};
use muster_core::ledger::{self, ROWS_PER_BATCH_MAX, Usage, UsageRow};
use muster_core::units::Hour;
use muster_gateway::MeterError;
use muster_storage::{Journal, codec};
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, oneshot, watch};
use tokio::time::timeout;

/// The most usage, in time, that a crash may lose under `usage_durability = "interval"`.
const FLUSH_EVERY: Duration = Duration::from_millis(100);
/// The pause before a batch is sent again while there is no quorum.
const RETRY_PAUSE: Duration = Duration::from_millis(200);
/// Batches read back from the journal at a time.
const SHIP_AT_ONCE: usize = 64;
/// History: 1, 2026-11: incarnation, batch, rows.
const FORMAT: u8 = 1;

#[derive(Debug, Serialize, Deserialize)]
struct Batch {
    incarnation: Incarnation,
    number: u64,
    rows: Vec<UsageRow>,
}

type SumKey = (AccountName, FunctionName, InstanceId, Hour);

/// Takes the gateway's usage. A clone is a handle to the same.
#[derive(Clone, Debug)]
pub(crate) struct Meter(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    sums: Mutex<Sums>,
    /// Someone waits: flush without delay.
    urgent: Notify,
    journaled: Notify,
    /// The journal's sequence number through which everything is in the ledger.
    shipped: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Sums {
    rows: BTreeMap<SumKey, Usage>,
    waiting: Vec<Waiter>,
}

#[derive(Debug)]
struct Waiter {
    durability: UsageDurability,
    done: oneshot::Sender<Result<(), MeterError>>,
}

impl Meter {
    /// Starts the flusher and the shipper; batches of earlier incarnations are shipped first.
    pub(crate) fn spawn(
        node: NodeId,
        incarnation: Incarnation,
        journal: Journal,
        consensus: Consensus,
        vital: &Vital,
    ) -> Self {
        let meter = Meter(Arc::new(Inner {
            sums: Mutex::default(),
            urgent: Notify::new(),
            journaled: Notify::new(),
            shipped: watch::Sender::new(0),
        }));
        let flusher = Flusher {
            meter: meter.clone(),
            incarnation,
            journal: journal.clone(),
            next_batch: 1,
            journaled_through: 0,
        };
        vital.spawn(flusher.run());
        vital.spawn(ship(meter.clone(), node, journal, consensus));
        meter
    }

    /// Waits until all usage recorded so far is in the ledger, at most `limit`. Answers whether it is.
    pub(crate) async fn settle(&self, limit: Duration) -> bool {
        let waiting = self.wait_for(UsageDurability::Replicated, &mut self.lock());
        matches!(timeout(limit, waiting).await, Ok(Ok(())))
    }

    /// Waits until all usage recorded so far is in the journal, at most `limit`. Answers whether it is.
    pub(crate) async fn journal(&self, limit: Duration) -> bool {
        let waiting = self.wait_for(UsageDurability::Acknowledged, &mut self.lock());
        matches!(timeout(limit, waiting).await, Ok(Ok(())))
    }

    fn wait_for(
        &self,
        durability: UsageDurability,
        sums: &mut Sums,
    ) -> BoxFuture<'static, Result<(), MeterError>> {
        let (done, waiter) = oneshot::channel();
        sums.waiting.push(Waiter { durability, done });
        self.0.urgent.notify_one();
        async move { waiter.await.unwrap_or(Err(MeterError::Stopping)) }.boxed()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Sums> {
        self.0.sums.lock().expect("nothing panics while holding the sums")
    }
}

impl muster_gateway::Meter for Meter {
    fn record(
        &self,
        row: UsageRow,
        durability: UsageDurability,
    ) -> Option<BoxFuture<'static, Result<(), MeterError>>> {
        let mut sums = self.lock();
        let key = (row.account, row.function, row.instance, row.hour);
        sums.rows.entry(key).or_default().add(&row.usage);
        match durability {
            UsageDurability::Interval => None,
            UsageDurability::Acknowledged | UsageDurability::Replicated => {
                Some(self.wait_for(durability, &mut sums))
            }
        }
    }
}

struct Flusher {
    meter: Meter,
    incarnation: Incarnation,
    journal: Journal,
    next_batch: u64,
    /// The journal's sequence number of the last batch: who waits, waits for this one too.
    journaled_through: u64,
}

impl Flusher {
    async fn run(mut self) {
        loop {
            // Elapsed or urgent: both mean flush now.
            let _elapsed = timeout(FLUSH_EVERY, self.meter.0.urgent.notified()).await;
            self.flush().await;
        }
    }

    async fn flush(&mut self) {
        let Sums { rows, waiting } = std::mem::take(&mut *self.meter.lock());
        let mut through = Ok(self.journaled_through);
        let mut rows = rows.into_iter().map(row).peekable();
        while rows.peek().is_some() {
            let some: Vec<UsageRow> = rows.by_ref().take(ROWS_PER_BATCH_MAX).collect();
            through = self.journal_batch(some).await;
            if through.is_err() {
                break;
            }
        }
        // What could not be journaled is kept, to be tried with the next flush.
        for row in rows {
            let key = (row.account, row.function, row.instance, row.hour);
            self.meter.lock().rows.entry(key).or_default().add(&row.usage);
        }
        self.meter.0.journaled.notify_one();
        self.answer(waiting, through);
    }

    async fn journal_batch(&mut self, rows: Vec<UsageRow>) -> Result<u64, MeterError> {
        let number = self.next_batch;
        self.next_batch += 1;
        let batch = Batch { incarnation: self.incarnation, number, rows };
        let record = codec::encode(FORMAT, &batch).expect("a bounded batch is encodable");
        let appended = self.journal.append(record).await;
        if let Ok(sequence) = appended {
            self.journaled_through = sequence;
        }
        appended.map_err(|error| {
            tracing::error!(%error, "usage could not be journaled");
            let mut sums = self.meter.lock();
            for row in batch.rows {
                let key = (row.account, row.function, row.instance, row.hour);
                sums.rows.entry(key).or_default().add(&row.usage);
            }
            MeterError::NotDurable
        })
    }

    fn answer(&self, waiting: Vec<Waiter>, through: Result<u64, MeterError>) {
        for Waiter { durability, done } in waiting {
            match (&through, durability) {
                (Ok(sequence), UsageDurability::Replicated) => {
                    let mut shipped = self.meter.0.shipped.subscribe();
                    let sequence = *sequence;
                    tokio::spawn(async move {
                        let arrived = shipped.wait_for(|through| *through >= sequence).await;
                        // Whoever waited may have gone; the usage is in the ledger all the same.
                        let _gone = done.send(arrived.map(drop).map_err(|_| MeterError::Stopping));
                    });
                }
                (result, _) => {
                    let _gone = done.send(result.map(drop));
                }
            }
        }
    }
}

fn row(((account, function, instance, hour), usage): (SumKey, Usage)) -> UsageRow {
    UsageRow { account, function, instance, hour, usage }
}

/// Sends what is in the journal to the ledger, in order, for ever.
async fn ship(meter: Meter, node: NodeId, journal: Journal, consensus: Consensus) {
    loop {
        let pending = match journal.pending(SHIP_AT_ONCE) {
            Ok(pending) => pending,
            Err(error) => {
                tracing::error!(%error, "the usage journal cannot be read");
                tokio::time::sleep(RETRY_PAUSE).await;
                continue;
            }
        };
        let Some((last, _)) = pending.last() else {
            meter.0.journaled.notified().await;
            continue;
        };
        let last = *last;
        let commands: Vec<Command> = pending.iter().map(|(_, record)| command(node, record)).collect();
        match consensus.propose_all(commands).await {
            Ok(_applied) => {
                if let Err(error) = journal.remove_through(last) {
                    tracing::warn!(%error, "shipped usage stays in the journal; it will be recognized");
                }
                meter.0.shipped.send_replace(last);
            }
            Err(error) => {
                tracing::debug!(%error, "usage waits for a quorum");
                tokio::time::sleep(RETRY_PAUSE).await;
            }
        }
    }
}

fn command(node: NodeId, record: &[u8]) -> Command {
    let batch: Batch = codec::decode(&[FORMAT], muster_storage::RECORD_MAX, record)
        .expect("the journal returns the records it was given");
    Command::Ledger(ledger::Command::RecordUsage {
        node,
        incarnation: batch.incarnation,
        batch: batch.number,
        rows: batch.rows,
    })
}
