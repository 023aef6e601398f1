//! openraft's own conformance suite, on the real store.

use std::io::Cursor;

use muster_core::ids::NodeId;
use openraft::storage::{RaftStateMachine, Snapshot};
use openraft::testing::{StoreBuilder, Suite};
use openraft::{
    AnyError, BasicNode, Entry, EntryPayload, LogId, OptionalSend, RaftSnapshotBuilder, SnapshotMeta,
    StorageError, StorageIOError, StoredMembership,
};
use serde::{Deserialize, Serialize};
use tempfile::TempDir;

use super::{Log, TypeConfig, open};
use crate::{SnapshotStore, StoreError, codec};

type Failure = StorageError<NodeId>;

#[test]
fn openraft_suite() {
    Suite::test_all(Builder).unwrap();
}

struct Builder;

impl StoreBuilder<TypeConfig, Log, Machine, TempDir> for Builder {
    async fn build(&self) -> Result<(TempDir, Log, Machine), Failure> {
        let dir = TempDir::new().unwrap();
        let store = open(dir.path());
        let log = store.log().unwrap();
        Ok((dir, log, Machine { snapshots: store.snapshots(), state: State::default(), built: 0 }))
    }
}

/// A state machine that keeps what it applied, and persists snapshots alone.
#[derive(Clone)]
struct Machine {
    snapshots: SnapshotStore,
    state: State,
    built: u64,
}

#[derive(Clone, Default, Serialize, Deserialize)]
struct State {
    applied: Option<LogId<NodeId>>,
    membership: StoredMembership<NodeId, BasicNode>,
    data: Vec<Vec<u8>>,
}

type Meta = SnapshotMeta<NodeId, BasicNode>;

impl Machine {
    async fn save(&self, meta: &Meta, data: &[u8]) -> Result<(), Failure> {
        let meta = codec::encode(1, meta).unwrap();
        self.snapshots.save(&meta, data).await.map_err(failure)
    }
}

impl RaftStateMachine<TypeConfig> for Machine {
    type SnapshotBuilder = Machine;

    async fn applied_state(
        &mut self,
    ) -> Result<(Option<LogId<NodeId>>, StoredMembership<NodeId, BasicNode>), Failure> {
        Ok((self.state.applied, self.state.membership.clone()))
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<()>, Failure>
    where
        I: IntoIterator<Item = Entry<TypeConfig>> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut answers = Vec::new();
        for entry in entries {
            self.state.applied = Some(entry.log_id);
            match entry.payload {
                EntryPayload::Blank => {}
                EntryPayload::Normal(data) => self.state.data.push(data),
                EntryPayload::Membership(membership) => {
                    self.state.membership = StoredMembership::new(Some(entry.log_id), membership);
                }
            }
            answers.push(());
        }
        Ok(answers)
    }

    async fn get_snapshot_builder(&mut self) -> Machine {
        self.built += 1;
        self.clone()
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<Cursor<Vec<u8>>>, Failure> {
        Ok(Box::default())
    }

    async fn install_snapshot(&mut self, meta: &Meta, data: Box<Cursor<Vec<u8>>>) -> Result<(), Failure> {
        self.state = codec::decode(&[1], codec::DECODE_MAX, data.get_ref()).unwrap();
        self.save(meta, data.get_ref()).await
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot<TypeConfig>>, Failure> {
        let found = self.snapshots.load().map_err(failure)?;
        Ok(found.map(|found| Snapshot {
            meta: codec::decode(&[1], codec::DECODE_MAX, &found.meta).unwrap(),
            snapshot: Box::new(Cursor::new(found.data)),
        }))
    }
}

impl RaftSnapshotBuilder<TypeConfig> for Machine {
    async fn build_snapshot(&mut self) -> Result<Snapshot<TypeConfig>, Failure> {
        let meta = Meta {
            last_log_id: self.state.applied,
            last_membership: self.state.membership.clone(),
            snapshot_id: format!("{:?}-{}", self.state.applied, self.built),
        };
        let data = codec::encode(1, &self.state).unwrap();
        self.save(&meta, &data).await?;
        Ok(Snapshot { meta, snapshot: Box::new(Cursor::new(data)) })
    }
}

fn failure(error: StoreError) -> Failure {
    StorageIOError::write_snapshot(None, AnyError::new(&error)).into()
}
