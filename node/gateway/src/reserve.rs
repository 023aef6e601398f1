//! An invocation's way without the invocation: admitted, queued and given a slot of an instance on this node as any,
//! but nothing is sent there. For simulations, whose instances are addresses that nobody listens at.

use std::sync::Arc;

use http::request::Parts;
use muster_core::ids::InstanceId;

use crate::entry;
use crate::outside::{BoxFuture, MeterError};
use crate::pool::SlotGuard;
use crate::tally::{Bill, Outcome, RequestBytes, Tally};
use crate::{Gateway, failure};

/// A slot, held until this is ended or dropped.
pub struct Reservation {
    instance: InstanceId,
    tally: Tally,
}

/// Why there is no slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// As the answer would have it.
    pub status: u16,
    pub detail: String,
}

impl Gateway {
    /// Takes a slot as the invocation with this head would, if it entered here now and could be served here only.
    pub async fn reserve(self: &Arc<Self>, head: &Parts) -> Result<Reservation, Refused> {
        let reserved = entry::reserve(self, head).await;
        let (slot, bill) = reserved.map_err(|failure: failure::Failure| Refused {
            status: failure.kind.status().as_u16(),
            detail: failure.detail,
        })?;
        Ok(Reservation::new(self, slot, bill))
    }
}

impl std::fmt::Debug for Reservation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reservation").field("instance", &self.instance).finish_non_exhaustive()
    }
}

impl Reservation {
    fn new(gateway: &Gateway, slot: SlotGuard, bill: Bill) -> Self {
        let instance = slot.instance.id;
        let meter = Arc::clone(&gateway.host.meter);
        let mut tally = Tally::new(meter, bill, slot, false, RequestBytes::Whole(0));
        // From here on it counts: were it an invocation, the function would be at work.
        tally.sent = true;
        Reservation { instance, tally }
    }

    pub fn instance(&self) -> InstanceId {
        self.instance
    }

    /// Frees the slot and records the usage, as the end of an answer does.
    pub fn end(mut self) -> Option<BoxFuture<'static, Result<(), MeterError>>> {
        self.tally.end(Outcome::Answered)
    }
}
