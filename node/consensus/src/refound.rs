//! Another cluster, of one node, out of a backup or of what a survivor has. No node may run meanwhile.
//!
//! Both ways end with the same two log entries behind all that is known: a membership of the founder alone,
//! and [`Command::Refound`]. They are written in one batch. So the change is there as a whole or not at all,
//! and is then applied, digested and sent to nodes that join like any other.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use muster_core::ids::{ClusterId, Incarnation, NodeId};
use muster_core::version::Unsupported;
use muster_core::{Applied, ClusterState, Command, Entry, ProposalId};
use muster_storage::{LogStore, Store, StoreError};
use openraft::storage::{RaftLogStorage, RaftLogStorageExt, RaftStateMachine};
use openraft::{CommittedLeaderId, EntryPayload, Membership, RaftLogReader};

use crate::archive::Archived;
use crate::machine::Machine;
use crate::snapshots::Shelf;
use crate::types::{LogId, Member, SnapshotMeta, StorageError, StoredMembership, TypeConfig, Vote};
use crate::versions::{Versions, raised_beyond};

/// Entries read at a time.
const READ_ENTRIES: u64 = 256;

/// The first node of the new cluster.
#[derive(Clone, Debug)]
pub struct Founder {
    pub node: NodeId,
    pub member: Member,
    /// The new cluster.
    pub cluster: ClusterId,
}

#[derive(Debug, thiserror::Error)]
pub enum RefoundError {
    #[error(transparent)]
    Version(#[from] Unsupported),
    #[error("cannot read what the node has")]
    Read(#[source] Box<StorageError>),
    #[error("cannot use the store")]
    Store(#[from] StoreError),
    #[error("{} holds no cluster's state: this node never took part in one", dir.display())]
    Empty { dir: PathBuf },
    #[error("the log of the node breaks off: entry {expected} is missing")]
    Gap { expected: u64 },
    #[error("the state refuses to become another cluster's: {0}")]
    Refused(String),
}

impl From<StorageError> for RefoundError {
    fn from(error: StorageError) -> Self {
        RefoundError::Read(Box::new(error))
    }
}

/// Applies entries that must all be there.
async fn replay(
    log: &mut LogStore<TypeConfig>,
    machine: &mut Machine,
    entries: Range<u64>,
) -> Result<(), RefoundError> {
    let Range { start: mut next, end } = entries;
    while next < end {
        let until = end.min(next + READ_ENTRIES);
        let entries = log.try_get_log_entries(next..until).await?;
        let found = entries.iter().map(Some).chain(std::iter::repeat(None));
        for (expected, entry) in (next..until).zip(found) {
            if entry.is_none_or(|entry| entry.log_id.index != expected) {
                return Err(RefoundError::Gap { expected });
            }
        }
        machine.apply(entries).await?;
        next = until;
    }
    Ok(())
}

/// What a node that does not run has: its state, with all of its log applied, committed or not. What was
/// acknowledged and reached this node is in it; what is in it and was never acknowledged may be, as after
/// any lost answer.
#[derive(Debug)]
pub struct Estate {
    store: Store,
    log: LogStore<TypeConfig>,
    machine: Machine,
    vote: Option<Vote>,
    /// Whether the log ends before the state does, as a crash while a snapshot is installed leaves it.
    log_is_behind: bool,
    last: LogId,
    committed: u64,
    membership: StoredMembership,
}

impl Estate {
    /// Reads all of it. Changes nothing.
    ///
    /// # Errors
    /// What cannot be read, and where there is nothing.
    pub async fn open(store: Store, node: NodeId) -> Result<Self, RefoundError> {
        let versions = Versions::of_release();
        let mut machine =
            Machine::open(node, Incarnation::default(), store.snapshots(), versions.clone()).await?;
        let mut log = store.log::<TypeConfig>()?;
        let (in_log, vote) = (log.get_log_state().await?, log.read_vote().await?);
        let committed = log.read_committed().await?;
        let (applied, _) = machine.applied_state().await?;
        let behind = applied.map_or(0, |id| id.index + 1);
        let end = in_log.last_log_id.map_or(0, |id| id.index + 1);
        if let Err(error) = replay(&mut log, &mut machine, behind..end).await {
            let beyond = raised_beyond(log, versions.range(), behind).await;
            return Err(beyond.map_or(error, RefoundError::from));
        }
        let (last, membership) = machine.applied_state().await?;
        versions.check(&machine.published().load().state)?;
        let cluster = machine.published().load().state.cluster;
        let (Some(last), Some(_)) = (last, cluster) else {
            return Err(RefoundError::Empty { dir: store.dir().to_owned() });
        };
        let committed = committed.max(applied).map_or(0, |id| id.index);
        let log_is_behind = in_log.last_log_id < Some(last);
        Ok(Estate { store, log, machine, vote, log_is_behind, last, committed, membership })
    }

    /// The state, all of the log applied.
    pub fn state(&self) -> Arc<ClusterState> {
        Arc::clone(&self.machine.published().load().state)
    }

    /// Index and term of the last entry.
    pub fn last(&self) -> (u64, u64) {
        (self.last.index, self.last.leader_id.term)
    }

    /// The last index that this node knows to be committed. Those behind it may be.
    pub fn committed(&self) -> u64 {
        self.committed
    }

    /// The cluster's members, as this node knows them, and whether each votes.
    pub fn members(&self) -> BTreeMap<NodeId, (Member, bool)> {
        let membership = self.membership.membership();
        let voters: BTreeSet<NodeId> = membership.voter_ids().collect();
        membership.nodes().map(|(id, member)| (*id, (member.clone(), voters.contains(id)))).collect()
    }

    /// Makes it the state of a new cluster. Durable when it returns.
    ///
    /// # Errors
    /// What cannot be written.
    pub async fn refound(mut self, founder: Founder) -> Result<(), RefoundError> {
        let Founder { node, member, cluster } = founder;
        let state = self.state();
        self.store.continue_after(state.last_incarnation(node))?;
        let incarnation = self.store.begin_incarnation()?;
        let command = Command::Refound { cluster, founder: node };
        // Dated by the last thing that is known: nobody is charged for what came after.
        let proposal = ProposalId { node, incarnation, sequence: 1 };
        let entry = Entry { at: state.clock, proposal, commands: vec![command] };
        match ClusterState::clone(&state).apply(&entry) {
            Applied::Answers(answers) if answers.iter().all(Result::is_ok) => {}
            refused => return Err(RefoundError::Refused(format!("{refused:?}"))),
        }
        // Before the entries: after a crash in between, the old cluster's nodes hear nothing from this one,
        // and it nothing from them, until this is done again.
        self.store.remember_cluster(cluster)?;
        if self.log_is_behind {
            self.log.purge(self.last).await?;
        }
        let known = self.vote.map_or(0, |vote| vote.leader_id.term);
        let term = known.max(self.last.leader_id.term) + 1;
        self.log.save_vote(&Vote::new(term, node)).await?;
        let leader = CommittedLeaderId::new(term, node);
        let at = |behind: u64| LogId::new(leader, self.last.index + behind);
        let members = Membership::new(vec![BTreeSet::from([node])], BTreeMap::from([(node, member)]));
        let entries = [
            openraft::Entry { log_id: at(1), payload: EntryPayload::Membership(members) },
            openraft::Entry { log_id: at(2), payload: EntryPayload::Normal(entry) },
        ];
        self.log.blocking_append(entries).await?;
        Ok(())
    }

    /// Whether the node is a cluster by itself.
    pub fn is_alone(&self, node: NodeId) -> bool {
        self.members().into_iter().all(|(id, (_, votes))| (id == node) == votes)
    }
}

/// Fills an empty store with the state of a backup, as a new cluster's. Durable when it returns.
///
/// # Errors
/// What cannot be written.
pub async fn restore(store: Store, archived: Archived, founder: Founder) -> Result<(), RefoundError> {
    let Archived { metadata, contents } = archived;
    let last = LogId::new(CommittedLeaderId::new(metadata.term, founder.node), metadata.index);
    let members = BTreeMap::from([(founder.node, founder.member.clone())]);
    let membership = Membership::new(vec![BTreeSet::from([founder.node])], members);
    let meta = SnapshotMeta {
        last_log_id: Some(last),
        last_membership: StoredMembership::new(Some(last), membership),
        snapshot_id: format!("restored-{}", metadata.index),
    };
    Shelf::new(store.snapshots()).build(&meta, contents).await?;
    let node = founder.node;
    Estate::open(store, node).await?.refound(founder).await
}
