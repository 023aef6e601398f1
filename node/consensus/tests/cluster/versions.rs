//! Nodes that cannot go along with a version that is in effect all the same.

use std::collections::BTreeMap;
use std::io::Cursor;
use std::time::{Duration, Instant};

use muster_consensus::{Estate, Member, RefoundError, StartError};
use muster_core::ids::{Incarnation, NodeId};
use muster_core::units::Timestamp;
use muster_core::version::{self, Range, Support, Version};
use muster_core::{Command, Entry, ProposalId};
use openraft::storage::{RaftLogStorage, RaftLogStorageExt};
use openraft::{EntryPayload, LogId};
use serde::{Deserialize, Deserializer, Serialize};

use crate::harness::{Cluster, bootstrap, create};

const SOON: Duration = Duration::from_secs(30);
const OLD: Range = Range { oldest: Version(1), newest: Version(1) };

fn raise() -> Command {
    Command::Version(version::Command::Raise { to: Version(2) })
}

/// Node 3 is old, and nobody has looked at that.
async fn with_an_old_node(snapshot_after_entries: u64) -> Cluster {
    #[cfg(feature = "mutants")]
    muster_core::mutants::choose(std::env::var("MUSTER_MUTANT").ok());
    let mut cluster = Cluster::start_with(3, |config| {
        config.snapshot_after_entries = snapshot_after_entries;
        config.keep_entries = snapshot_after_entries / 5;
    })
    .await;
    cluster.leader().await;
    cluster.node(1).propose(bootstrap()).await.unwrap().unwrap();
    cluster.take_down(3).await;
    cluster.claim(3, OLD);
    cluster.bring_up(3).await;
    cluster.leader().await;
    cluster
}

async fn ends_at_version_2(cluster: &Cluster, id: u64) {
    let reason = tokio::time::timeout(SOON, cluster.node(id).stopped()).await.expect("it ends");
    assert!(reason.contains("at version 2") && reason.contains("supports only 1 to 1"), "{reason}");
    assert_eq!(cluster.node(id).version(), Version(1), "nothing of it was applied");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_finds_too_high_a_version_in_the_log_ends_and_starts_only_as_the_newer_release() {
    let mut cluster = with_an_old_node(20_000).await;
    cluster.node(1).propose(raise()).await.unwrap().unwrap();
    cluster.node(1).propose(create("later")).await.unwrap().unwrap();
    ends_at_version_2(&cluster, 3).await;
    cluster.take_down(3).await;
    // What it had is as it was: the newer release goes on with it.
    cluster.claim(3, version::SUPPORTED);
    cluster.bring_up(3).await;
    cluster.converged().await;
    assert_eq!(cluster.node(3).version(), Version(2));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_sent_too_new_a_snapshot_ends_and_keeps_its_own() {
    let mut cluster = with_an_old_node(50).await;
    cluster.take_down(3).await;
    cluster.node(1).propose(raise()).await.unwrap().unwrap();
    for turn in 0..150 {
        cluster.node(1).propose(create(&format!("a{turn}"))).await.unwrap().unwrap();
    }
    cluster
        .eventually("the log is purged", || {
            cluster.nodes().all(|node| node.log_metrics().purged.is_some_and(|purged| purged.index > 60))
        })
        .await;
    cluster.bring_up(3).await;
    ends_at_version_2(&cluster, 3).await;
    cluster.take_down(3).await;
    cluster.claim(3, version::SUPPORTED);
    cluster.bring_up(3).await;
    cluster.converged().await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_does_not_start_on_data_of_a_version_it_does_not_support() {
    let mut cluster = Cluster::start_with(1, |config| config.snapshot_after_entries = 20).await;
    cluster.node(1).propose(bootstrap()).await.unwrap().unwrap();
    // Older data than the release supports.
    cluster.take_down(1).await;
    cluster.claim(1, Range { oldest: Version(2), newest: Version(2) });
    let refused = cluster.try_bring_up(1).await.expect_err("version 1 is too old for it");
    assert!(matches!(refused, StartError::Version(_)), "{refused:?}");
    assert!(refused.to_string().contains("at version 1"), "{refused}");

    // Newer data, in the log and then in a snapshot.
    cluster.claim(1, version::SUPPORTED);
    cluster.bring_up(1).await;
    cluster.leader().await;
    cluster.node(1).propose(raise()).await.unwrap().unwrap();
    // One that is due while another is built waits for the next entry.
    let deadline = Instant::now() + Duration::from_secs(60);
    let in_a_snapshot = |cluster: &Cluster| {
        cluster.node(1).log_metrics().snapshot.is_some_and(|snapshot| snapshot.index > 20)
    };
    for turn in 0.. {
        cluster.node(1).propose(create(&format!("a{turn}"))).await.unwrap().unwrap();
        if in_a_snapshot(&cluster) {
            break;
        }
        assert!(Instant::now() < deadline, "{turn} more entries are in no snapshot");
    }
    cluster.take_down(1).await;
    cluster.claim(1, OLD);
    let refused = cluster.try_bring_up(1).await.expect_err("version 2 is too new for it");
    assert!(matches!(refused, StartError::Version(_)), "{refused:?}");
    assert!(refused.to_string().contains("at version 2"), "{refused}");
    cluster.claim(1, version::SUPPORTED);
    cluster.bring_up(1).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_leader_hears_what_each_member_supports_and_tells_all_of_them() {
    let mut cluster = with_an_old_node(20_000).await;
    let range = version::SUPPORTED;
    let support = |range| Some(Support { range, holds: false });
    let all =
        BTreeMap::from([(NodeId(1), support(range)), (NodeId(2), support(range)), (NodeId(3), support(OLD))]);
    // The second time it has something to tell. Who is slow to answer is asked again.
    let heard = async {
        loop {
            let leader = cluster.leader().await;
            let said = cluster.node(leader).ask_members().await;
            if said == all && cluster.nodes().all(|node| node.members_support() == all) {
                return leader;
            }
        }
    };
    let leader = tokio::time::timeout(SOON, heard).await.expect("all hear what all support");
    for node in cluster.nodes() {
        assert!(matches!(node.next_version(), version::Step::Held { .. }));
    }
    let silent = if leader == 3 { 2 } else { 3 };
    cluster.take_down(silent).await;
    let leader = cluster.leader().await;
    let said = cluster.node(leader).ask_members().await;
    assert_eq!(said[&NodeId(silent)], None, "who is away says nothing, whatever it said before");
    cluster.stop().await;
}

/// Entries as a later release writes them: with commands that this one has never heard of.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
enum Later {
    Known(Entry),
    Unknown(Timestamp, ProposalId, Vec<u32>),
}

impl<'de> Deserialize<'de> for Later {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Entry::deserialize(deserializer).map(Later::Known)
    }
}

openraft::declare_raft_types!(
    LaterRelease: D = Later, R = (), NodeId = NodeId, Node = Member, SnapshotData = Cursor<Vec<u8>>
);

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_only_a_later_release_can_read_is_told_from_a_damaged_one() {
    for raised in [true, false] {
        let mut cluster = Cluster::start(1).await;
        cluster.node(1).propose(bootstrap()).await.unwrap().unwrap();
        cluster.take_down(1).await;
        let store = cluster.open(1);
        let mut log = store.log::<LaterRelease>().unwrap();
        let last = log.get_log_state().await.unwrap().last_log_id.unwrap();
        let proposal = |sequence| ProposalId { node: NodeId(1), incarnation: Incarnation(99), sequence };
        let later = Version(version::SUPPORTED.newest.0 + 1);
        let raises = vec![raise(), Command::Version(version::Command::Raise { to: later })];
        let commands = if raised { raises } else { vec![create("a")] };
        let known = Entry { at: Timestamp(1), proposal: proposal(1), commands };
        let unknown = Later::Unknown(Timestamp(2), proposal(2), vec![99]);
        let entries = [(1, Later::Known(known)), (2, unknown)].map(|(behind, entry)| openraft::Entry {
            log_id: LogId::new(last.leader_id, last.index + behind),
            payload: EntryPayload::Normal(entry),
        });
        let end = entries[1].log_id;
        log.blocking_append(entries).await.unwrap();
        log.save_committed(Some(end)).await.unwrap();
        drop(log);
        tokio::task::spawn_blocking(move || store.close()).await.unwrap();

        cluster.claim(1, OLD);
        let refused = cluster.try_bring_up(1).await.expect_err("it cannot read its log");
        assert_eq!(matches!(refused, StartError::Version(_)), raised, "{refused:?}");
        // The last that it leads to, not the first that is too new.
        assert_eq!(refused.to_string().contains(&format!("at version {later}")), raised, "{refused}");

        // Nor can what such a node has be made a cluster.
        let store = cluster.open(1);
        let refused = Estate::open(store.clone(), NodeId(1)).await.expect_err("it cannot be read");
        assert_eq!(matches!(refused, RefoundError::Version(_)), raised, "{refused:?}");
        assert_eq!(refused.to_string().contains(&format!("at version {later}")), raised, "{refused}");
        tokio::task::spawn_blocking(move || store.close()).await.unwrap();
        cluster.stop().await;
    }
}
