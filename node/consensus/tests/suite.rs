//! openraft's own suite on the real store and the real state machine.

use muster_consensus::{Machine, TypeConfig, Versions};
use muster_core::ids::{Incarnation, NodeId};
use muster_storage::{LogStore, Options, Store};
use openraft::StorageError;
use openraft::testing::{StoreBuilder, Suite};
use tempfile::TempDir;

struct Builder;

/// Keeps the directory until the store is no longer used.
struct Guard {
    _dir: TempDir,
    store: Store,
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.store.close();
    }
}

impl StoreBuilder<TypeConfig, LogStore<TypeConfig>, Machine, Guard> for Builder {
    async fn build(&self) -> Result<(Guard, LogStore<TypeConfig>, Machine), StorageError<NodeId>> {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let store = Store::open(dir.path(), Options::default()).expect("a fresh store opens");
        let machine =
            Machine::open(NodeId(1), Incarnation(1), store.snapshots(), Versions::of_release()).await?;
        let log = store.log::<TypeConfig>().expect("a fresh log opens");
        Ok((Guard { _dir: dir, store }, log, machine))
    }
}

#[test]
fn openraft_suite_passes_on_the_real_store() {
    Suite::test_all(Builder).expect("openraft's storage suite");
}
