//! The state machine: committed entries in, published states and answers out.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use arc_swap::ArcSwap;
use muster_core::ids::{Incarnation, NodeId};
use muster_core::version::Unsupported;
use muster_core::{Answer, Applied, ClusterState, Command, Entry, ProposalId, mutant};
use muster_storage::{Durable, SnapshotStore};
use openraft::storage::RaftStateMachine;
use openraft::{EntryPayload, OptionalSend, Snapshot, StorageIOError};
use tokio::sync::{oneshot, watch};

use crate::clock::now;
use crate::contents::Contents;
use crate::digest::Digest;
use crate::snapshots::{self, Builder, SnapshotData};
use crate::types::{LogId, SnapshotMeta, StorageError, StoredMembership, TypeConfig};
use crate::versions::Versions;
use crate::vital::Vital;

/// An immutable state and how far it reaches.
#[derive(Clone, Debug, Default)]
pub struct Published {
    pub state: Arc<ClusterState>,
    pub(crate) applied: Option<LogId>,
    /// Those the log is sent to, by what was applied.
    pub(crate) members: Arc<BTreeSet<NodeId>>,
    /// Over all that was applied; absent behind a snapshot of format 1, which carried none.
    pub digest: Option<Digest>,
}

impl Published {
    /// The index of the last applied entry; 0 before the first.
    pub fn applied_index(&self) -> u64 {
        self.applied.map_or(0, |id| id.index)
    }

    /// The term of the last applied entry; 0 before the first.
    pub fn applied_term(&self) -> u64 {
        self.applied.map_or(0, |id| id.leader_id.term)
    }
}

/// What came of a proposal, seen where it was made.
pub(crate) enum Fate {
    Answers(Vec<Answer>),
    /// Applied, but inside a snapshot: the answers are gone.
    AnswersLost,
}

/// The one proposal this node has under way.
#[derive(Default)]
pub(crate) struct Pending(Mutex<Option<(ProposalId, oneshot::Sender<Fate>)>>);

impl std::fmt::Debug for Pending {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Pending")
    }
}

impl Pending {
    pub(crate) fn expect(&self, id: ProposalId) -> oneshot::Receiver<Fate> {
        let (tx, rx) = oneshot::channel();
        *self.lock() = Some((id, tx));
        rx
    }

    pub(crate) fn forget(&self) {
        *self.lock() = None;
    }

    fn resolve(&self, id: ProposalId, fate: Fate) {
        let mut slot = self.lock();
        if slot.as_ref().is_some_and(|(waiting, _)| *waiting == id)
            && let Some((_, tx)) = slot.take()
        {
            // The proposer may have given up; then nobody wants the answer.
            let _unheard = tx.send(fate);
        }
    }

    fn resolve_contained(&self, state: &ClusterState) {
        let waiting = self.lock().as_ref().map(|(id, _)| *id);
        if let Some(id) = waiting.filter(|id| state.has_applied(*id)) {
            self.resolve(id, Fate::AnswersLost);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<(ProposalId, oneshot::Sender<Fate>)>> {
        self.0.lock().expect("nothing panics while holding the pending proposal")
    }
}

/// The state machine as openraft drives it. One per node.
#[derive(Debug)]
pub struct Machine {
    origin: (NodeId, Incarnation),
    state: ClusterState,
    applied: Option<LogId>,
    digest: Option<Digest>,
    membership: StoredMembership,
    /// The nodes in it.
    members: Arc<BTreeSet<NodeId>>,
    snapshots: Arc<snapshots::Shelf>,
    published: Arc<ArcSwap<Published>>,
    changes: watch::Sender<u64>,
    pending: Arc<Pending>,
    versions: Versions,
    /// Of the log that what is applied comes from, if that runs ahead.
    durable: Option<Durable<TypeConfig>>,
    /// Watches over what builds snapshots.
    vital: Vital,
}

impl Machine {
    /// Rebuilds the state from the last snapshot; openraft then replays the log behind it.
    pub async fn open(
        node: NodeId,
        incarnation: Incarnation,
        store: SnapshotStore,
        versions: Versions,
    ) -> Result<Self, StorageError> {
        let shelf = Arc::new(snapshots::Shelf::new(store));
        let mut machine = Machine {
            origin: (node, incarnation),
            state: ClusterState::default(),
            applied: None,
            digest: Some(Digest::default()),
            membership: StoredMembership::default(),
            members: Arc::default(),
            snapshots: shelf,
            published: Arc::new(ArcSwap::from_pointee(Published::default())),
            changes: watch::Sender::new(0),
            pending: Arc::default(),
            versions,
            durable: None,
            vital: Vital::default(),
        };
        if let Some((meta, contents)) = machine.snapshots.load_state().await? {
            machine.adopt(&meta, contents);
        }
        Ok(machine)
    }

    /// Has it show nothing of a log that is not durable.
    pub(crate) fn behind(mut self, durable: Durable<TypeConfig>) -> Self {
        self.durable = Some(durable);
        self
    }

    /// Has it tell of panics.
    pub(crate) fn watched(mut self, vital: Vital) -> Self {
        self.vital = vital;
        self
    }

    pub(crate) fn published(&self) -> Arc<ArcSwap<Published>> {
        Arc::clone(&self.published)
    }

    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    pub(crate) fn pending(&self) -> Arc<Pending> {
        Arc::clone(&self.pending)
    }

    fn adopt(&mut self, meta: &SnapshotMeta, contents: Contents) {
        let old = (std::mem::replace(&mut self.state, contents.state), self.published.load_full());
        self.digest = contents.digest;
        self.applied = meta.last_log_id;
        self.set_membership(meta.last_membership.clone());
        self.publish();
        self.pending.resolve_contained(&self.state);
        // Nobody waits for that: a large state is many small pieces.
        self.snapshots.let_go(old);
    }

    fn set_membership(&mut self, membership: StoredMembership) {
        self.members = Arc::new(membership.membership().nodes().map(|(id, _)| *id).collect());
        self.membership = membership;
    }

    fn publish(&self) {
        self.published.store(Arc::new(Published {
            state: Arc::new(self.state.clone()),
            applied: self.applied,
            members: Arc::clone(&self.members),
            digest: self.digest,
        }));
        self.changes.send_replace(self.applied.map_or(0, |id| id.index));
    }

    /// Applies an entry, unless it leads to a version that this release does not support. Then nothing is
    /// changed, and the node ends.
    fn apply_supported(&mut self, entry: &Entry) -> Result<Applied, Unsupported> {
        if !entry.commands.iter().any(|command| matches!(command, Command::Version(_))) {
            return Ok(self.state.apply(entry));
        }
        // Whether the command is refused is the state's to say.
        let mut next = self.state.clone();
        let applied = next.apply(entry);
        self.versions.check(&next)?;
        self.state = next;
        Ok(applied)
    }

    fn answer(&self, mine: &mut Vec<(ProposalId, Vec<Answer>)>) {
        for (id, answers) in mine.drain(..) {
            self.pending.resolve(id, Fate::Answers(answers));
        }
    }
}

impl RaftStateMachine<TypeConfig> for Machine {
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), StorageError> {
        Ok((self.applied, self.membership.clone()))
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<()>, StorageError>
    where
        I: IntoIterator<Item = openraft::Entry<TypeConfig>> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut replies = Vec::new();
        let mut mine = Vec::new();
        for entry in entries {
            let log_id = entry.log_id;
            let applied = match &entry.payload {
                EntryPayload::Blank => None,
                EntryPayload::Membership(membership) => {
                    self.set_membership(StoredMembership::new(Some(entry.log_id), membership.clone()));
                    None
                }
                EntryPayload::Normal(entry) if mutant!("replicas-use-their-clocks") => {
                    Some(self.state.apply(&Entry { at: now(), ..entry.clone() }))
                }
                EntryPayload::Normal(entry) => {
                    let applied = self.apply_supported(entry);
                    Some(applied.map_err(|e| StorageIOError::apply(log_id, openraft::AnyError::new(&e)))?)
                }
            };
            self.applied = Some(log_id);
            replies.push(());
            self.digest = self.digest.map(|digest| digest.then(&entry, applied.as_ref()));
            if let (EntryPayload::Normal(entry), Some(Applied::Answers(answers))) = (entry.payload, applied)
                && (entry.proposal.node, entry.proposal.incarnation) == self.origin
            {
                mine.push((entry.proposal, answers));
            }
        }
        if let (Some(durable), Some(applied)) = (&self.durable, self.applied)
            && !mutant!("applied-before-sync")
        {
            let waited = durable.up_to(applied.index).await;
            waited.map_err(|e| StorageIOError::apply(applied, openraft::AnyError::new(&e)))?;
        }
        if mutant!("answer-before-publish") {
            self.answer(&mut mine);
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        // Publish first: who is answered must be able to read what it wrote.
        self.publish();
        self.answer(&mut mine);
        Ok(replies)
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        // A clone of persistent maps: writes go on while it is encoded.
        let contents = Contents { state: self.state.clone(), digest: self.digest };
        let (shelf, vital) = (Arc::clone(&self.snapshots), self.vital.clone());
        Builder::new(shelf, contents, self.applied, self.membership.clone(), vital)
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<SnapshotData>, StorageError> {
        Ok(Box::new(self.snapshots.begin_receiving()))
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: Box<SnapshotData>,
    ) -> Result<(), StorageError> {
        let contents = self.snapshots.install(meta, *snapshot, &self.versions).await?;
        self.adopt(meta, contents);
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot<TypeConfig>>, StorageError> {
        self.snapshots.current()
    }
}
