//! The usage of one attempt: counted once, however it ends.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use muster_core::functions::UsageDurability;
use muster_core::ids::{AccountName, FunctionName};
use muster_core::ledger::{Usage, UsageRow};
use muster_core::units::Timestamp;
use tokio::time::Instant;

use crate::failure::Kind;
use crate::outside::{BoxFuture, Meter, MeterError};
use crate::pool::SlotGuard;
use crate::request_body::Source;

/// How an attempt that reached its function ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Answered,
    /// Without an answer from the function, or with half of one.
    Failed,
    /// Failed, and the entry will try again: its time counts, but it is no invocation.
    Retried,
}

/// Where the number of request bytes stands.
pub(crate) enum RequestBytes {
    Whole(u64),
    Streamed(Arc<Source>),
}

/// Who is charged for an attempt, and how.
#[derive(Clone)]
pub(crate) struct Bill {
    pub(crate) account: AccountName,
    pub(crate) function: FunctionName,
    pub(crate) durability: UsageDurability,
    /// The entry will try again if the function breaks off.
    pub(crate) may_retry: bool,
}

/// Holds the slot of an attempt and measures it. Ends with [`Tally::end`] or when dropped.
pub(crate) struct Tally {
    meter: Arc<dyn Meter>,
    bill: Bill,
    slot: Option<SlotGuard>,
    began: Instant,
    cold: bool,
    request: RequestBytes,
    pub(crate) response_bytes: u64,
    /// Whether the function may have seen the request. What it did not see is not counted.
    pub(crate) sent: bool,
    pub(crate) head_seen: bool,
}

impl Tally {
    pub(crate) fn new(
        meter: Arc<dyn Meter>,
        bill: Bill,
        slot: SlotGuard,
        cold: bool,
        request: RequestBytes,
    ) -> Self {
        let began = Instant::now();
        let slot = Some(slot);
        Tally { meter, bill, slot, began, cold, request, response_bytes: 0, sent: false, head_seen: false }
    }

    /// The slot was no good: the instance does not take connections.
    pub(crate) fn suspect(&self, span: std::time::Duration) {
        if let Some(slot) = &self.slot {
            slot.suspect(span);
        }
    }

    pub(crate) fn may_retry(&self) -> bool {
        self.bill.may_retry
    }

    /// Frees the slot and records the usage. The answer's end must wait for the future, if any.
    pub(crate) fn end(&mut self, outcome: Outcome) -> Option<BoxFuture<'static, Result<(), MeterError>>> {
        let mut slot = self.slot.take()?;
        if !self.sent {
            return None;
        }
        slot.served();
        let row = self.row(&slot, outcome);
        let recorded = self.meter.record(row, self.bill.durability);
        // In this order: whoever sees the instance drained finds its usage with the meter.
        drop(slot);
        recorded
    }

    /// Ends it without an answer. Nobody waits for the record: there is no answer to hold back.
    pub(crate) fn end_failed(&mut self, kind: Kind) {
        let retried = kind == Kind::Broken && self.bill.may_retry;
        let outcome = if retried { Outcome::Retried } else { Outcome::Failed };
        if let Some(recorded) = self.end(outcome) {
            finish(recorded);
        }
    }

    fn row(&self, slot: &SlotGuard, outcome: Outcome) -> UsageRow {
        // Rounded up: no attempt is free, and a busy instance is never billed as idle.
        let busy_ms = u64::try_from(self.began.elapsed().as_micros().div_ceil(1000)).unwrap_or(u64::MAX);
        let counts = u64::from(outcome != Outcome::Retried);
        UsageRow {
            account: self.bill.account.clone(),
            function: self.bill.function.clone(),
            instance: slot.instance.id,
            hour: now().hour(),
            usage: Usage {
                invocations: counts,
                failures: u64::from(outcome == Outcome::Failed),
                cold_starts: if self.cold { counts } else { 0 },
                busy_ms,
                memory_mb_ms: busy_ms.saturating_mul(slot.instance.memory_mb),
                request_bytes: match &self.request {
                    RequestBytes::Whole(bytes) => *bytes,
                    RequestBytes::Streamed(source) => source.bytes(),
                },
                response_bytes: self.response_bytes,
            },
        }
    }
}

impl Drop for Tally {
    /// The client went away, or the attempt was cut. Nobody waits for the record, but it is made.
    fn drop(&mut self) {
        let outcome = if self.head_seen { Outcome::Answered } else { Outcome::Failed };
        if let Some(recorded) = self.end(outcome) {
            finish(recorded);
        }
    }
}

/// Lets a record that no answer waits for come to its end.
pub(crate) fn finish(recorded: BoxFuture<'static, Result<(), MeterError>>) {
    // Without a runtime the process is going down, and the record with it.
    if let Ok(runtime) = tokio::runtime::Handle::try_current() {
        runtime.spawn(async move {
            if let Err(error) = recorded.await {
                tracing::warn!(%error, "usage of a failed invocation was not recorded");
            }
        });
    }
}

/// The wall clock.
pub(crate) fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
