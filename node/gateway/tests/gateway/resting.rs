//! Instances that serve nobody are paused, and go on before they are sent anything.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::FutureExt;
use muster_api::InvocationState;
use muster_core::ids::InstanceId;
use muster_core::units::Millis;
use muster_gateway::{BoxFuture, Pausing};

use crate::cluster::*;
use crate::function::Function;

const AFTER: Duration = Duration::from_millis(20);

/// Notes who stands still.
#[derive(Default)]
struct Freezer {
    paused: Mutex<BTreeSet<InstanceId>>,
    pauses: AtomicU64,
    /// Pauses are carried out, and the answer is lost.
    deaf: AtomicBool,
    /// Nothing goes on.
    stuck: AtomicBool,
}

impl Pausing for Freezer {
    fn pause(&self, instance: InstanceId) -> BoxFuture<'_, Result<(), String>> {
        self.paused.lock().unwrap().insert(instance);
        self.pauses.fetch_add(1, SeqCst);
        let answer = if self.deaf.load(SeqCst) { Err("no answer".to_owned()) } else { Ok(()) };
        async move { answer }.boxed()
    }

    fn resume(&self, instance: InstanceId) -> BoxFuture<'_, Result<(), String>> {
        async move {
            if self.stuck.load(SeqCst) {
                return Err("it is stuck".to_owned());
            }
            // Slow enough for others to come meanwhile.
            tokio::task::yield_now().await;
            self.paused.lock().unwrap().remove(&instance);
            Ok(())
        }
        .boxed()
    }
}

impl Freezer {
    /// One for the node with this index.
    fn at(cluster: &Cluster, index: usize) -> Arc<Freezer> {
        let freezer = Arc::new(Freezer::default());
        let (gateway, pausing) = (Arc::clone(&cluster.nodes[index].gateway), Arc::clone(&freezer));
        gateway.host().pause_through(pausing);
        tokio::spawn(async move { gateway.host().pause_idle(AFTER).await });
        freezer
    }

    fn holds(&self, id: InstanceId) -> bool {
        self.paused.lock().unwrap().contains(&id)
    }
}

#[tokio::test]
async fn the_next_request_from_anywhere_finds_it_awake() {
    let cluster = Cluster::start(2).await;
    cluster.deploy("alpha", |spec| spec.concurrency = 4);
    let alpha = Function::start().await;
    let id = cluster.run(0, "alpha", alpha.addr);
    let freezer = Freezer::at(&cluster, 0);
    for round in 0..20 {
        until(|| freezer.holds(id)).await;
        // Whether the answer to a pause was lost or not.
        freezer.deaf.store(round % 2 == 0, SeqCst);
        let urls = [0, 1, 0, 1].map(|index| cluster.url(index, "alpha"));
        let answers = futures_util::future::join_all(urls.iter().map(|url| post(url, ""))).await;
        for (head, body) in answers {
            assert_eq!(head.status, 200, "{body:?}");
            assert_eq!(head.get("muster-cold-start"), "false");
        }
    }
    // Awake means that it was seen to go on before: those that were answered found it so.
    assert!(freezer.pauses.load(SeqCst) >= 20);
    let (rows, usage) = cluster.usage();
    assert_eq!((rows, usage.failures), (80, 0));
}

#[tokio::test]
async fn one_that_is_asked_is_left_alone() {
    let cluster = Cluster::start(1).await;
    cluster.deploy("alpha", |_| {});
    let alpha = Function::start().await;
    let id = cluster.run(0, "alpha", alpha.addr);
    let freezer = Freezer::at(&cluster, 0);
    until(|| freezer.holds(id)).await;
    let url = cluster.url(0, "alpha/hold");
    let holding = tokio::spawn(async move { post(&url, "").await });
    until(|| alpha.seen().len() == 1).await;
    let pauses = freezer.pauses.load(SeqCst);
    // Others are paused meanwhile, so there was time for it.
    cluster.deploy("beta", |_| {});
    let beta = Function::start().await;
    let other = cluster.run(0, "beta", beta.addr);
    until(|| freezer.holds(other)).await;
    assert_eq!((freezer.holds(id), freezer.pauses.load(SeqCst)), (false, pauses + 1));
    alpha.gate.add_permits(1);
    assert_eq!(within(holding).await.unwrap().0.status, 200);
    until(|| freezer.holds(id)).await;
}

#[tokio::test]
async fn one_that_does_not_go_on_is_passed_over_and_nobody_pays() {
    let cluster = Cluster::start(2).await;
    cluster.deploy("alpha", |spec| spec.timeout = Millis(2_000));
    let (stuck, good) = (Function::start().await, Function::start().await);
    let id = cluster.run(0, "alpha", stuck.addr);
    let freezer = Freezer::at(&cluster, 0);
    until(|| freezer.holds(id)).await;
    freezer.stuck.store(true, SeqCst);
    let (head, problem) = problem(call(request(&cluster.url(0, "alpha"), "")).await).await;
    // Tried again until the deadline: it could have gone on after all.
    assert_eq!((head.status, problem.invocation_state), (504, Some(InvocationState::NotStarted)));
    assert_eq!(cluster.usage().0, 0);

    cluster.run(1, "alpha", good.addr);
    for _ in 0..4 {
        let (head, body) = post(&cluster.url(0, "alpha"), "").await;
        assert_eq!(head.status, 200, "{body:?}");
    }
    assert_eq!((stuck.seen().len(), good.seen().len()), (0, 4));
}

#[tokio::test]
async fn one_that_an_earlier_life_has_paused_goes_on_with_the_first_request() {
    let cluster = Cluster::start(1).await;
    cluster.deploy("alpha", |spec| spec.timeout = Millis(2_000));
    let alpha = Function::start().await;
    let id = cluster.place(cluster.nodes[0].id, "alpha");
    let freezer = Arc::new(Freezer::default());
    freezer.paused.lock().unwrap().insert(id);
    cluster.adopt_resting(id, alpha.addr);
    // Sent nothing while nobody can have it go on.
    let (head, problem) = problem(call(request(&cluster.url(0, "alpha"), "")).await).await;
    assert_eq!((head.status, problem.invocation_state), (504, Some(InvocationState::NotStarted)));
    // Nothing is paused here any more, by the present configuration.
    cluster.nodes[0].gateway.host().pause_through(Arc::clone(&freezer) as Arc<dyn Pausing>);
    let (head, body) = post(&cluster.url(0, "alpha"), "").await;
    assert_eq!(head.status, 200, "{body:?}");
    assert!(!freezer.holds(id) && alpha.seen().len() == 1);
}
