//! The books of a pool: members, waiters and their counts. No locks and no wake-ups here.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use muster_core::ids::{AccountName, NodeId};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::{Grant, SlotGuard};
use crate::host::Instance;
use crate::metrics::Metrics;

#[derive(Default)]
pub(super) struct Inner {
    pub(super) members: Vec<Member>,
    /// By the time the wait began, then by arrival.
    pub(super) queue: BTreeMap<Place, Waiter>,
    pub(super) arrivals: u64,
    /// Waiters in the queue that entered here, and whose they are.
    pub(super) local: u32,
    pub(super) accounts: BTreeMap<AccountName, u32>,
    /// Hosts that a demand loop asks for slots.
    pub(super) asked: BTreeSet<NodeId>,
}

/// A place in the queue.
pub(super) type Place = (Instant, u64);

pub(super) enum Waiter {
    Local { account: AccountName, grant: oneshot::Sender<Grant> },
    Peer { want: u32, grant: oneshot::Sender<Vec<SlotGuard>> },
}

pub(super) struct Member {
    pub(super) instance: Arc<Instance>,
    pub(super) in_flight: u32,
    pub(super) draining: bool,
    /// It could not be connected to; left alone until then.
    pub(super) suspect_until: Option<Instant>,
    pub(super) busy: Duration,
    pub(super) counted_at: Instant,
    pub(super) completed: u64,
}

impl Inner {
    /// Takes a slot of the least loaded instance; of those alike, the one that came first, so that
    /// the rest stay idle and can be brought down.
    pub(super) fn take_free(&mut self) -> Option<Arc<Instance>> {
        let now = Instant::now();
        let free = self.members.iter_mut().filter(|member| member.has_room(now));
        let chosen = free.min_by(|a, b| {
            let a_load = u64::from(a.in_flight) * u64::from(b.instance.concurrency);
            let b_load = u64::from(b.in_flight) * u64::from(a.instance.concurrency);
            a_load.cmp(&b_load)
        })?;
        chosen.count(now);
        chosen.in_flight += 1;
        Some(Arc::clone(&chosen.instance))
    }

    pub(super) fn push(&mut self, since: Instant, waiter: Waiter) -> Place {
        let place = (since, self.arrivals);
        self.arrivals += 1;
        if let Waiter::Local { account, .. } = &waiter {
            self.local += 1;
            *self.accounts.entry(account.clone()).or_default() += 1;
        }
        self.queue.insert(place, waiter);
        place
    }

    pub(super) fn take_waiter(&mut self, place: &Place, metrics: &Metrics) -> Option<Waiter> {
        let waiter = self.queue.remove(place)?;
        if let Waiter::Local { account, .. } = &waiter {
            self.local -= 1;
            metrics.waiting.fetch_sub(1, Relaxed);
            let of_account = self.accounts.get_mut(account).expect("waiters are counted by account");
            *of_account -= 1;
            if *of_account == 0 {
                self.accounts.remove(account);
            }
        }
        Some(waiter)
    }

    pub(super) fn pop_local(&mut self, metrics: &Metrics) -> Option<oneshot::Sender<Grant>> {
        let place = self.first_local()?;
        match self.take_waiter(&place, metrics)? {
            Waiter::Local { grant, .. } => Some(grant),
            Waiter::Peer { .. } => None,
        }
    }

    pub(super) fn first_local(&self) -> Option<Place> {
        let local = |waiter: &Waiter| matches!(waiter, Waiter::Local { .. });
        self.queue.iter().find(|(_, waiter)| local(waiter)).map(|(place, _)| *place)
    }

    pub(super) fn oldest_local(&self) -> Duration {
        self.first_local().map_or(Duration::ZERO, |(since, _)| since.elapsed())
    }

    pub(super) fn member(&mut self, instance: &Arc<Instance>) -> Option<&mut Member> {
        self.members.iter_mut().find(|member| Arc::ptr_eq(&member.instance, instance))
    }
}

impl Member {
    pub(super) fn has_room(&self, now: Instant) -> bool {
        !self.draining
            && self.in_flight < self.instance.concurrency
            && self.suspect_until.is_none_or(|until| until <= now)
    }

    /// Adds the slot time since the last count. Called before each change of `in_flight`, so that
    /// `busy` is the exact integral of it.
    pub(super) fn count(&mut self, now: Instant) {
        self.busy += now.duration_since(self.counted_at) * self.in_flight;
        self.counted_at = now;
    }
}
