//! Three consensus nodes in one process: real store, real HTTP between them.

#![expect(clippy::unwrap_used, reason = "a test may fail by panicking")]

mod harness;
mod versions;

use std::time::{Duration, Instant};

use harness::{Cluster, account, create};
use muster_consensus::{Consensus, HandOverError};
use muster_core::Rejection;
use muster_core::ids::NodeId;

#[tokio::test(flavor = "multi_thread")]
async fn any_node_takes_writes_and_reads_its_own() {
    let cluster = Cluster::start(3).await;
    for (index, node) in cluster.nodes().enumerate() {
        let name = format!("from-{index}");
        node.propose(create(&name)).await.unwrap().unwrap();
        assert!(node.with_state(|state| state.accounts.get(&name).is_some()), "own write of node {index}");
    }
    for node in cluster.nodes() {
        node.linearize().await.unwrap();
        for index in 0..3 {
            let name = format!("from-{index}");
            assert!(node.with_state(|state| state.accounts.get(&name).is_some()));
        }
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_are_answers() {
    let cluster = Cluster::start(3).await;
    for node in cluster.nodes() {
        let _first_or_again = node.propose(create("same")).await.unwrap();
    }
    let follower = cluster.follower();
    let answer = follower.propose(create("same")).await.unwrap();
    assert!(matches!(answer, Err(Rejection::Exists { .. })), "{answer:?}");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_writes_through_all_nodes_are_all_applied_once() {
    let cluster = Cluster::start(3).await;
    let mut writers = Vec::new();
    for (index, node) in cluster.nodes().enumerate() {
        for job in 0..100 {
            let node = node.clone();
            writers.push(tokio::spawn(async move {
                node.propose(create(&format!("w{index}-{job}"))).await.unwrap().unwrap();
            }));
        }
    }
    for writer in writers {
        writer.await.unwrap();
    }
    cluster.converged().await;
    for node in cluster.nodes() {
        assert_eq!(node.with_state(|state| state.accounts.iter().count()), 300);
    }
    cluster.stop().await;
}

/// How often the leadership is given away anew where an election that nobody asked for came between.
const TRIES: u32 = 5;

fn newest_term(cluster: &Cluster) -> u64 {
    cluster.nodes().map(|node| node.status().term).max().unwrap()
}

fn may_be_an_election(error: &HandOverError) -> bool {
    use HandOverError::{Behind, NotElected, NotLeader, UnderWay, Unreachable};
    matches!(error, NotLeader | UnderWay | Behind(_) | NotElected(_) | Unreachable)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_leadership_is_given_away_while_writes_go_on() {
    let cluster = Cluster::start(3).await;
    let mut writers = Vec::new();
    for (index, node) in cluster.nodes().enumerate() {
        let node = node.clone();
        writers.push(tokio::spawn(async move {
            for job in 0..100 {
                node.propose(create(&format!("w{index}-{job}"))).await.unwrap().unwrap();
            }
        }));
    }
    for turn in 0..6 {
        for tries in 1.. {
            let term = newest_term(&cluster);
            let leader = cluster.leader().await;
            // Asked through any node; to whom it is best, or to a named one.
            let to = (turn % 2 == 0).then_some(NodeId(leader % 3 + 1));
            let answer = cluster.node(turn % 3 + 1).transfer(to).await;
            let came_between = match &answer {
                Ok(successor) if successor.0 != leader && to.is_none_or(|to| to == *successor) => break,
                Ok(_) => newest_term(&cluster) > term + 1,
                Err(error) => may_be_an_election(error),
            };
            assert!(came_between && tries < TRIES, "{leader}: {to:?}, {answer:?}");
        }
    }
    for writer in writers {
        writer.await.unwrap();
    }
    for tries in 1.. {
        cluster.leader().await;
        let answer = cluster.node(1).transfer(Some(NodeId(9))).await;
        if answer == Err(HandOverError::NoVoter(NodeId(9))) {
            break;
        }
        assert!(answer.as_ref().is_err_and(may_be_an_election) && tries < TRIES, "{answer:?}");
    }
    cluster.converged().await;
    for node in cluster.nodes() {
        assert_eq!(node.with_state(|state| state.accounts.iter().count()), 300);
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_resume_after_the_leader_is_gone_and_it_catches_up() {
    let mut cluster = Cluster::start(3).await;
    cluster.nodes().next().unwrap().propose(create("before")).await.unwrap().unwrap();
    let leader = cluster.leader().await;
    cluster.take_down(leader).await;
    let survivor = cluster.nodes().next().unwrap().clone();
    survivor.propose(create("during")).await.unwrap().unwrap();
    cluster.bring_up(leader).await;
    cluster.converged().await;
    let returned = cluster.node(leader);
    for name in ["before", "during"] {
        assert!(returned.with_state(|state| state.accounts.get(name).is_some()), "{name}");
    }
    returned.propose(create("after")).await.unwrap().unwrap();
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_survives_when_all_nodes_stop() {
    let mut cluster = Cluster::start(3).await;
    for index in 0..50 {
        cluster.follower().propose(create(&format!("kept-{index}"))).await.unwrap().unwrap();
    }
    for id in 1..=3 {
        cluster.take_down(id).await;
    }
    for id in 1..=3 {
        cluster.bring_up(id).await;
    }
    let node = cluster.node(2).clone();
    cluster.caught_up(&node).await;
    assert_eq!(node.with_state(|state| state.accounts.iter().count()), 50);
    cluster.converged().await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_away_beyond_the_purge_catches_up_by_snapshot() {
    let mut cluster = Cluster::start_with(3, |config| {
        config.snapshot_after_entries = 50;
        config.keep_entries = 5;
    })
    .await;
    cluster.leader().await;
    let away = cluster.follower().node().0;
    cluster.take_down(away).await;
    let writer = cluster.nodes().next().unwrap().clone();
    let leader = cluster.leader().await;
    let is_purged = || cluster.node(leader).log_metrics().purged.is_some_and(|purged| purged.index > 50);
    let deadline = Instant::now() + Duration::from_secs(60);
    let mut written = 0;
    // A snapshot that is due while another is built waits for the next entry.
    while written < 200 || !is_purged() {
        writer.propose(create(&format!("n{written}"))).await.unwrap().unwrap();
        written += 1;
        assert!(Instant::now() < deadline, "after {written} entries the log is not purged");
    }
    cluster.bring_up(away).await;
    cluster.converged().await;
    let returned = cluster.node(away);
    assert_eq!(returned.with_state(|state| state.accounts.iter().count()), written);
    cluster.eventually("it was fed by a snapshot", || returned.log_metrics().snapshot.is_some()).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_quorum_nothing_is_acknowledged() {
    let mut cluster = Cluster::start_with(3, |config| {
        config.propose_timeout_ms = 1_000;
        config.read_timeout_ms = 1_000;
        config.quorum_fresh_ms = 500;
    })
    .await;
    cluster.take_down(2).await;
    cluster.take_down(3).await;
    let alone = cluster.node(1).clone();
    alone.propose(create("lonely")).await.unwrap_err();
    alone.linearize().await.unwrap_err();
    cluster.eventually("the node knows it has no quorum", || !alone.has_quorum()).await;
    cluster.bring_up(2).await;
    cluster.eventually("the quorum is back", || alone.has_quorum()).await;
    cluster.created(&alone, "together").await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_fit_the_log_is_refused_before_it_is_sent() {
    let cluster = Cluster::start(1).await;
    let error = cluster.node(1).propose(harness::oversized()).await.unwrap_err();
    assert!(error.to_string().contains("bytes"), "{error}");
    cluster.node(1).propose(create("small")).await.unwrap().unwrap();
    assert!(account("small").as_str() == "small");
    tokio::time::timeout(Duration::from_secs(10), cluster.stop()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_restarts_serves_no_stale_reads() {
    let mut cluster = Cluster::start(3).await;
    for round in 0..5 {
        // It mostly resumes its term, before the others miss it.
        let leader = cluster.leader().await;
        let names = ["a", "b", "c"].map(|name| format!("{name}-{round}"));
        for name in &names {
            cluster.node(leader).propose(create(name)).await.unwrap().unwrap();
        }
        cluster.take_down(leader).await;
        cluster.bring_up(leader).await;
        let node = cluster.node(leader);
        cluster.caught_up(node).await;
        for name in &names {
            assert!(node.with_state(|state| state.accounts.get(name).is_some()), "{name} was acknowledged");
        }
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_is_settled_by_all_nodes_or_when_their_leases_are_over() {
    let cluster = Cluster::start_with(3, |config| {
        config.quorum_fresh_ms = 1_000;
        config.permission_lease_ms = 20_000;
    })
    .await;
    cluster.eventually("all hold leases", || cluster.nodes().all(Consensus::holds_lease)).await;
    let writer = cluster.follower().clone();
    writer.propose(create("gone")).await.unwrap().unwrap();
    let index = writer.state().applied_index();
    tokio::time::timeout(Duration::from_secs(10), writer.settle_permissions()).await.unwrap();
    assert!(cluster.nodes().all(|node| node.state().applied_index() >= index), "all have applied it");
    cluster.stop().await;

    let mut cluster = Cluster::start_with(3, |config| {
        config.quorum_fresh_ms = 1_000;
        config.permission_lease_ms = 1_500;
        config.read_timeout_ms = 1_000;
    })
    .await;
    cluster.eventually("all hold leases", || cluster.nodes().all(Consensus::holds_lease)).await;
    let writer = cluster.node(cluster.leader().await).clone();
    // Whoever leads by now.
    let away = cluster.nodes().map(Consensus::node).find(|id| *id != writer.node()).unwrap().0;
    cluster.take_down(away).await;
    writer.propose(create("gone")).await.unwrap().unwrap();
    // It waits for that node's lease to run out, and no longer.
    tokio::time::timeout(Duration::from_secs(10), writer.settle_permissions()).await.unwrap();
    let last = cluster.nodes().find(|node| node.node() != writer.node()).unwrap().node().0;
    cluster.take_down(last).await;
    cluster.eventually("nobody admits without a quorum", || !writer.holds_lease()).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_loses_a_task_to_a_panic_can_no_longer_take_part() {
    let cluster = Cluster::start(3).await;
    let broken = cluster.follower().clone();
    let whole = cluster.nodes().find(|node| node.node() != broken.node()).unwrap();
    cluster.make_panic(broken.node());
    let end = Instant::now() + Duration::from_secs(30);
    let reason = loop {
        if let Ok(reason) = tokio::time::timeout(Duration::from_secs(1), broken.stopped()).await {
            break reason;
        }
        assert!(Instant::now() < end, "it goes on");
        // It may have come to lead, and who leads asks nobody; refused where another leads already.
        let _led_or_not = whole.transfer(Some(whole.node())).await;
    };
    assert_eq!(reason, "a task of it panicked");
    whole.propose(create("goes-on")).await.unwrap().unwrap();
    cluster.stop().await;
}
