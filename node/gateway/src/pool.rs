//! One function on this node: its instances here, their slots, and one queue for them.
//!
//! The queue is ordered by age across the cluster: a peer's poll counts as old as the oldest request
//! waiting there, so a host serves its own requests and its peers' alike. There is never a free slot
//! while the queue holds anything: each change ends with [`Pool::serve`].

mod books;

use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use muster_core::ids::{AccountName, FunctionName, NodeId};
use muster_core::mutant;
use tokio::sync::oneshot;
use tokio::time::Instant;

use self::books::{Inner, Member, Place, Waiter};
use crate::failure::Failure;
use crate::host::{Instance, InstanceLoad};
use crate::metrics::Metrics;
use crate::slots::{RemoteSlot, Slot};
use crate::{QUEUE_ACCOUNTS_MAX, QueueLoad};

/// Polls of other nodes that wait for one function. More than nodes in a cluster.
const POLLS_MAX: usize = 1024;

pub(crate) type Grant = Result<Slot, Failure>;

pub(crate) struct Pool {
    pub(crate) function: FunctionName,
    metrics: Arc<Metrics>,
    inner: Mutex<Inner>,
}

/// A slot that is taken. Dropping it frees the slot.
pub(crate) struct SlotGuard {
    pool: Arc<Pool>,
    pub(crate) instance: Arc<Instance>,
    served: bool,
}

/// A place in the queue. Dropping it gives the place up.
pub(crate) struct Ticket<T> {
    pool: Arc<Pool>,
    place: Place,
    grant: oneshot::Receiver<T>,
}

/// Slots on their way to those who waited for them. Delivered without the lock: a receiver that is
/// gone frees its slot at once.
#[derive(Default)]
struct Deliveries {
    local: Vec<(oneshot::Sender<Grant>, Slot)>,
    peers: Vec<(oneshot::Sender<Vec<SlotGuard>>, Vec<SlotGuard>)>,
}

impl Pool {
    pub(crate) fn new(function: FunctionName, metrics: Arc<Metrics>) -> Arc<Self> {
        Arc::new(Pool { function, metrics, inner: Mutex::default() })
    }

    /// A free slot, if nobody waits for one.
    pub(crate) fn try_take(self: &Arc<Self>) -> Option<SlotGuard> {
        let mut inner = self.lock();
        if !inner.queue.is_empty() {
            return None;
        }
        inner.take_free().map(|instance| self.guard(instance))
    }

    /// Joins the queue as one that has waited since `since`; `None` if `max` wait here already.
    pub(crate) fn wait(
        self: &Arc<Self>,
        account: &AccountName,
        since: Instant,
        max: Option<u32>,
    ) -> Option<Ticket<Grant>> {
        let mut inner = self.lock();
        if max.is_some_and(|max| inner.local >= max) {
            return None;
        }
        self.metrics.waiting.fetch_add(1, Relaxed);
        let (grant, receiver) = oneshot::channel();
        let place = inner.push(since, Waiter::Local { account: account.clone(), grant });
        self.serve(inner);
        Some(Ticket { pool: Arc::clone(self), place, grant: receiver })
    }

    /// Joins the queue for another node whose oldest request has waited since `since`.
    pub(crate) fn poll(self: &Arc<Self>, want: u32, since: Instant) -> Option<Ticket<Vec<SlotGuard>>> {
        let mut inner = self.lock();
        if inner.queue.len() - inner.local as usize >= POLLS_MAX {
            return None;
        }
        let (grant, receiver) = oneshot::channel();
        let place = inner.push(since, Waiter::Peer { want, grant });
        self.serve(inner);
        Some(Ticket { pool: Arc::clone(self), place, grant: receiver })
    }

    /// Hands a remote slot to the oldest waiter that entered here. Without one it is given back.
    pub(crate) fn offer(&self, slot: RemoteSlot) {
        let mut slot = Slot::Remote(slot);
        loop {
            let Some(grant) = self.lock().pop_local(&self.metrics) else { return };
            match grant.send(Ok(slot)) {
                Ok(()) => return,
                Err(unwanted) => slot = unwanted.expect("a slot was sent"),
            }
        }
    }

    /// Answers everyone who entered here and waits.
    pub(crate) fn fail_waiting(&self, failure: &Failure) {
        loop {
            let Some(grant) = self.lock().pop_local(&self.metrics) else { return };
            // One that is gone needs no answer.
            let _gone = grant.send(Err(failure.clone()));
        }
    }

    /// How many entered here and wait, and how long the oldest has.
    pub(crate) fn waiting(&self) -> (u32, Duration) {
        let inner = self.lock();
        (inner.local, inner.oldest_local())
    }

    pub(crate) fn queue_load(&self) -> Option<QueueLoad> {
        let inner = self.lock();
        if inner.local == 0 {
            return None;
        }
        let mut accounts: Vec<_> = inner.accounts.iter().map(|(name, n)| (name.clone(), *n)).collect();
        accounts.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        accounts.truncate(QUEUE_ACCOUNTS_MAX);
        let oldest_ms = whole_ms(inner.oldest_local());
        Some(QueueLoad { function: self.function.clone(), waiting: inner.local, oldest_ms, accounts })
    }

    /// Whether a demand loop for `node` should begin: requests wait, and none runs yet.
    pub(crate) fn begin_asking(&self, node: NodeId) -> bool {
        let mut inner = self.lock();
        inner.local > 0 && inner.asked.insert(node)
    }

    /// What to ask for: how many wait and how long the oldest has. `None` ends the loop: in one
    /// step with the count, so that a request which begins to wait later begins a new one.
    pub(crate) fn demand_or_end(&self, node: NodeId) -> Option<(u32, Duration)> {
        let mut inner = self.lock();
        if inner.local > 0 {
            return Some((inner.local, inner.oldest_local()));
        }
        inner.asked.remove(&node);
        None
    }

    pub(crate) fn end_asking(&self, node: NodeId) {
        self.lock().asked.remove(&node);
    }

    pub(crate) fn add(self: &Arc<Self>, instance: Arc<Instance>) {
        let mut inner = self.lock();
        inner.members.push(Member {
            instance,
            in_flight: 0,
            draining: false,
            suspect_until: None,
            busy: Duration::ZERO,
            counted_at: Instant::now(),
            completed: 0,
        });
        if !mutant!("waiters-not-woken") {
            self.serve(inner);
        }
    }

    pub(crate) fn drain(&self, instance: &Arc<Instance>) {
        if let Some(member) = self.lock().member(instance) {
            member.draining = true;
        }
    }

    /// Leaves an instance alone for a moment. The caller kicks the pool when it is over.
    pub(crate) fn suspect(&self, instance: &Arc<Instance>, until: Instant) {
        if let Some(member) = self.lock().member(instance) {
            member.suspect_until = Some(until);
        }
    }

    pub(crate) fn remove(&self, instance: &Arc<Instance>) {
        let mut inner = self.lock();
        inner.members.retain(|member| !Arc::ptr_eq(&member.instance, instance));
    }

    /// Slots of it that are taken; zero if it is not here.
    pub(crate) fn in_flight(&self, instance: &Arc<Instance>) -> u32 {
        self.lock().member(instance).map_or(0, |member| member.in_flight)
    }

    /// Whether any instance here takes requests.
    pub(crate) fn can_serve(&self) -> bool {
        self.lock().members.iter().any(|member| !member.draining)
    }

    pub(crate) fn is_unused(&self) -> bool {
        let inner = self.lock();
        inner.members.is_empty() && inner.queue.is_empty() && inner.asked.is_empty()
    }

    pub(crate) fn loads(&self) -> Vec<InstanceLoad> {
        let mut inner = self.lock();
        let now = Instant::now();
        let load = |member: &mut Member| {
            member.count(now);
            InstanceLoad {
                instance: member.instance.id,
                in_flight: member.in_flight,
                busy_ms: whole_ms(member.busy),
                ready_ms: whole_ms(now.duration_since(member.instance.ready_at)),
                completed: member.completed,
                silent: member.instance.silent.load(Relaxed),
            }
        };
        inner.members.iter_mut().map(load).collect()
    }

    /// Grants what is free to who waits, after a change.
    pub(crate) fn kick(self: &Arc<Self>) {
        self.serve(self.lock());
    }

    fn serve(self: &Arc<Self>, mut inner: MutexGuard<'_, Inner>) {
        let mut deliveries = Deliveries::default();
        self.serve_all(&mut inner, &mut deliveries);
        drop(inner);
        deliveries.deliver();
    }

    fn serve_all(self: &Arc<Self>, inner: &mut Inner, deliveries: &mut Deliveries) {
        while let Some(entry) = inner.queue.first_entry() {
            let place = *entry.key();
            let Some(instance) = inner.take_free() else { return };
            let mut slots = vec![self.guard(instance)];
            match inner.take_waiter(&place, &self.metrics).expect("the first waiter is there") {
                Waiter::Local { grant, .. } => {
                    let slot = Slot::Local(slots.remove(0));
                    deliveries.local.push((grant, slot));
                }
                Waiter::Peer { want, grant } => {
                    // More than one only where nobody else waits: the rest of what this peer wants
                    // is younger than the first, and asks again.
                    while inner.queue.is_empty() && slots.len() < want as usize {
                        let Some(instance) = inner.take_free() else { break };
                        slots.push(self.guard(instance));
                    }
                    deliveries.peers.push((grant, slots));
                }
            }
        }
    }

    fn release(self: &Arc<Self>, instance: &Arc<Instance>, served: bool) {
        let mut inner = self.lock();
        self.metrics.in_flight.fetch_sub(1, Relaxed);
        let mut idle = true;
        if let Some(member) = inner.member(instance) {
            member.count(Instant::now());
            member.in_flight -= 1;
            member.completed += u64::from(served);
            idle = member.in_flight == 0;
        }
        self.serve(inner);
        if idle {
            instance.idle.notify_waiters();
        }
    }

    fn guard(self: &Arc<Self>, instance: Arc<Instance>) -> SlotGuard {
        self.metrics.in_flight.fetch_add(1, Relaxed);
        SlotGuard { pool: Arc::clone(self), instance, served: false }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SlotGuard {
    /// Marks that a request was served on it, not just held.
    pub(crate) fn served(&mut self) {
        self.served = true;
    }

    /// Leaves its instance alone for a moment.
    pub(crate) fn suspect(&self, span: Duration) {
        let until = Instant::now() + span;
        self.pool.suspect(&self.instance, until);
        let pool = Arc::downgrade(&self.pool);
        tokio::spawn(async move {
            tokio::time::sleep_until(until).await;
            if let Some(pool) = pool.upgrade() {
                pool.kick();
            }
        });
    }
}

impl Drop for SlotGuard {
    fn drop(&mut self) {
        self.pool.release(&self.instance, self.served);
    }
}

impl<T> Ticket<T> {
    /// Waits for the grant. `None` if the queue let go of it, which happens only at shutdown.
    pub(crate) async fn granted(&mut self) -> Option<T> {
        (&mut self.grant).await.ok()
    }
}

impl<T> Drop for Ticket<T> {
    fn drop(&mut self) {
        let given_up = self.pool.lock().take_waiter(&self.place, &self.pool.metrics);
        drop(given_up);
    }
}

impl Deliveries {
    fn deliver(self) {
        for (grant, slot) in self.local {
            // Whoever is gone drops the slot, which frees it for the next.
            drop(grant.send(Ok(slot)));
        }
        for (grant, slots) in self.peers {
            drop(grant.send(slots));
        }
    }
}

fn whole_ms(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
#[path = "pool_tests.rs"]
mod tests;
