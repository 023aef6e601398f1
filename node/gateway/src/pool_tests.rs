use super::*;
use crate::config::Config;
use crate::host::{Host, Hosted};
use crate::outside::{BoxFuture, Meter, MeterError};
use muster_core::functions::UsageDurability;
use muster_core::ids::{Generation, InstanceId};
use muster_core::ledger::UsageRow;

struct Nothing;

impl Meter for Nothing {
    fn record(&self, _: UsageRow, _: UsageDurability) -> Option<BoxFuture<'static, Result<(), MeterError>>> {
        None
    }
}

fn host() -> (Host, Arc<Pool>) {
    let host = Host::new(&Config::default(), Arc::new(Nothing), Arc::default());
    let pool = host.pool(&FunctionName::new("f").unwrap());
    (host, pool)
}

fn add(host: &Host, id: u64, concurrency: u32) {
    host.add(Hosted {
        instance: InstanceId(id),
        generation: Generation(id),
        function: FunctionName::new("f").unwrap(),
        addr: "127.0.0.1:9".parse().unwrap(),
        concurrency,
        memory_mb: 1,
        adopted: false,
        resting: false,
    });
}

fn account(name: &str) -> AccountName {
    AccountName::new(name).unwrap()
}

fn granted(ticket: &mut Ticket<Grant>) -> Option<SlotGuard> {
    match ticket.grant.try_recv() {
        Ok(Ok(Slot::Local(slot))) => Some(slot),
        _ => None,
    }
}

#[tokio::test]
async fn the_least_loaded_instance_is_taken_and_none_twice() {
    let (host, pool) = host();
    add(&host, 1, 1);
    add(&host, 2, 3);
    let slots: Vec<_> = std::iter::from_fn(|| pool.try_take()).collect();
    let order: Vec<_> = slots.iter().map(|slot| slot.instance.id.0).collect();
    assert_eq!(order, [1, 2, 2, 2]);
    assert_eq!(pool.metrics.in_flight.load(Relaxed), 4);
    drop(slots);
    assert_eq!(pool.metrics.in_flight.load(Relaxed), 0);
    assert!(pool.loads().iter().all(|load| load.in_flight == 0));
}

#[tokio::test]
async fn the_queue_is_by_age_for_requests_and_polls_alike() {
    let (host, pool) = host();
    add(&host, 1, 1);
    let held = pool.try_take().unwrap();
    let now = Instant::now();
    let ago = |ms| now.checked_sub(Duration::from_millis(ms)).unwrap();
    let mut young = pool.wait(&account("a"), ago(1), None).unwrap();
    let mut poll = pool.poll(5, ago(2)).unwrap();
    let mut old = pool.wait(&account("b"), ago(3), None).unwrap();
    assert_eq!(pool.waiting().0, 2);
    assert!(pool.try_take().is_none(), "nobody jumps the queue");
    drop(held);
    let slot = granted(&mut old).expect("the oldest is first");
    assert!(poll.grant.try_recv().is_err());
    drop(slot);
    let slots = poll.grant.try_recv().expect("then the poll");
    assert_eq!(slots.len(), 1);
    assert!(granted(&mut young).is_none());
    drop(slots);
    assert!(granted(&mut young).is_some());
    assert_eq!(pool.waiting().0, 0);
}

#[tokio::test]
async fn a_place_given_up_passes_its_slot_on() {
    let (host, pool) = host();
    add(&host, 1, 1);
    let held = pool.try_take().unwrap();
    let now = Instant::now();
    let first = pool.wait(&account("a"), now, None).unwrap();
    let second = pool.wait(&account("a"), now, None).unwrap();
    let mut third = pool.wait(&account("b"), now, None).unwrap();
    assert!(pool.wait(&account("b"), now, Some(3)).is_none(), "full");
    let load = pool.queue_load().unwrap();
    assert_eq!((load.waiting, load.accounts), (3, vec![(account("a"), 2), (account("b"), 1)]));
    drop(first);
    drop(held);
    // The second was granted the slot and leaves without looking.
    drop(second);
    assert!(granted(&mut third).is_some());
    assert_eq!(pool.metrics.waiting.load(Relaxed), 0);
}

#[tokio::test]
async fn a_poll_takes_more_than_one_only_where_nobody_else_waits() {
    let (host, pool) = host();
    let mut alone = pool.poll(3, Instant::now()).unwrap();
    add(&host, 1, 2);
    let held = alone.grant.try_recv().unwrap();
    assert_eq!(held.len(), 2);
    let mut poll = pool.poll(2, Instant::now()).unwrap();
    let mut local = pool.wait(&account("a"), Instant::now(), None).unwrap();
    add(&host, 2, 2);
    let slots = poll.grant.try_recv().unwrap();
    assert_eq!((slots.len(), granted(&mut local).is_some()), (1, true));
}

#[tokio::test]
async fn those_who_wait_can_be_answered_and_pools_forgotten() {
    let (host, pool) = host();
    let mut ticket = pool.wait(&account("a"), Instant::now(), None).unwrap();
    let failure = Failure::not_started(crate::failure::Kind::NoFunction, "gone");
    pool.fail_waiting(&failure);
    assert!(matches!(ticket.grant.try_recv(), Ok(Err(told)) if told == failure));
    drop(ticket);
    host.forget_pools(|_| false);
    assert_eq!(host.pools().len(), 1, "somebody holds it");
    drop(pool);
    host.forget_pools(|_| true);
    assert_eq!(host.pools().len(), 1, "its function exists");
    host.forget_pools(|_| false);
    assert_eq!(host.pools().len(), 0);
}
