//! The state machine: committed entries in, published states and answers out.

use std::io::Cursor;
use std::sync::{Arc, Mutex};

use arc_swap::ArcSwap;
use muster_core::ids::{Incarnation, NodeId};
use muster_core::{Answer, Applied, ClusterState, ProposalId};
use muster_storage::SnapshotStore;
use openraft::storage::RaftStateMachine;
use openraft::{EntryPayload, OptionalSend, Snapshot};
use tokio::sync::{oneshot, watch};

use crate::snapshots::{self, Builder};
use crate::types::{LogId, SnapshotMeta, StorageError, StoredMembership, TypeConfig};

/// An immutable state and how far it reaches.
#[derive(Clone, Debug, Default)]
pub struct Published {
    pub state: Arc<ClusterState>,
    pub(crate) applied: Option<LogId>,
}

impl Published {
    /// The index of the last applied entry; 0 before the first.
    pub fn applied_index(&self) -> u64 {
        self.applied.map_or(0, |id| id.index)
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
    membership: StoredMembership,
    snapshots: Arc<snapshots::Shelf>,
    published: Arc<ArcSwap<Published>>,
    changes: watch::Sender<u64>,
    pending: Arc<Pending>,
}

impl Machine {
    /// Rebuilds the state from the last snapshot; openraft then replays the log behind it.
    pub async fn open(
        node: NodeId,
        incarnation: Incarnation,
        store: SnapshotStore,
    ) -> Result<Self, StorageError> {
        let shelf = Arc::new(snapshots::Shelf::new(store));
        let mut machine = Machine {
            origin: (node, incarnation),
            state: ClusterState::default(),
            applied: None,
            membership: StoredMembership::default(),
            snapshots: shelf,
            published: Arc::new(ArcSwap::from_pointee(Published::default())),
            changes: watch::Sender::new(0),
            pending: Arc::default(),
        };
        if let Some((meta, state)) = machine.snapshots.load_state().await? {
            machine.adopt(&meta, state);
        }
        Ok(machine)
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

    fn adopt(&mut self, meta: &SnapshotMeta, state: ClusterState) {
        self.state = state;
        self.applied = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        self.publish();
        self.pending.resolve_contained(&self.state);
    }

    fn publish(&self) {
        self.published
            .store(Arc::new(Published { state: Arc::new(self.state.clone()), applied: self.applied }));
        self.changes.send_replace(self.applied.map_or(0, |id| id.index));
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
            self.applied = Some(entry.log_id);
            replies.push(());
            match entry.payload {
                EntryPayload::Blank => {}
                EntryPayload::Membership(membership) => {
                    self.membership = StoredMembership::new(Some(entry.log_id), membership);
                }
                EntryPayload::Normal(entry) => {
                    let id = entry.proposal;
                    if let Applied::Answers(answers) = self.state.apply(&entry)
                        && (id.node, id.incarnation) == self.origin
                    {
                        mine.push((id, answers));
                    }
                }
            }
        }
        // Publish first: who is answered must be able to read what it wrote.
        self.publish();
        for (id, answers) in mine {
            self.pending.resolve(id, Fate::Answers(answers));
        }
        Ok(replies)
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        // A clone of persistent maps: writes go on while it is encoded.
        Builder::new(Arc::clone(&self.snapshots), self.state.clone(), self.applied, self.membership.clone())
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<Cursor<Vec<u8>>>, StorageError> {
        Ok(Box::new(Cursor::new(Vec::new())))
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: Box<Cursor<Vec<u8>>>,
    ) -> Result<(), StorageError> {
        let state = self.snapshots.install(meta, snapshot.into_inner()).await?;
        self.adopt(meta, state);
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot<TypeConfig>>, StorageError> {
        self.snapshots.current().await
    }
}
