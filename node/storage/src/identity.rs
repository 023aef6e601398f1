//! Who a directory belongs to, and how often it was started.

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use muster_core::ids::{ClusterId, Incarnation, NodeId, StoreId};
use muster_core::mutant;
use serde::{Deserialize, Serialize};

use crate::codec;
use crate::database::Database;
use crate::error::StoreError;
use crate::keys::{self, Kind, RECORD_MAX};
use crate::store::Store;

/// Format of the identity record. History:
/// * 1, 2026-11: node and incarnation;
/// * 2, 2026-11: the store's own id behind them;
/// * 3, 2026-11: the cluster behind that.
pub(crate) const FORMAT: u8 = 3;
const FORMAT_WITHOUT_CLUSTER: u8 = 2;
const FORMAT_WITHOUT_STORE: u8 = 1;

/// A node's identity, as its directory knows it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// None until the node has an id.
    pub node: Option<NodeId>,
    /// Zero until [`Store::begin_incarnation`] was called for the first time.
    pub incarnation: Incarnation,
    /// None until the node has an id.
    pub store: Option<StoreId>,
    /// The cluster it takes part in; none until it has learnt of one.
    pub cluster: Option<ClusterId>,
}

/// As format 1 had it.
#[derive(Deserialize)]
struct WithoutStore {
    node: Option<NodeId>,
    incarnation: Incarnation,
}

/// As format 2 had it.
#[derive(Deserialize)]
struct WithoutCluster {
    node: Option<NodeId>,
    incarnation: Incarnation,
    store: Option<StoreId>,
}

pub(crate) struct State(Mutex<Identity>);

impl State {
    pub(crate) fn load(db: &Database, dir: &Path) -> Result<State, StoreError> {
        let identity = match keys::get(db, dir, Kind::Identity, 0)? {
            Some(record) => decode(dir, &record)?,
            None => Identity::default(),
        };
        Ok(State(Mutex::new(identity)))
    }

    pub(crate) fn get(&self) -> Identity {
        *self.lock()
    }

    fn lock(&self) -> MutexGuard<'_, Identity> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(crate) fn decode(dir: &Path, record: &[u8]) -> Result<Identity, StoreError> {
    const WHAT: &str = "the identity";
    if record.first() == Some(&FORMAT_WITHOUT_STORE) {
        let WithoutStore { node, incarnation } = keys::decode(dir, WHAT, &[FORMAT_WITHOUT_STORE], record)?;
        return Ok(Identity { node, incarnation, store: None, cluster: None });
    }
    if record.first() == Some(&FORMAT_WITHOUT_CLUSTER) {
        let old = keys::decode(dir, WHAT, &[FORMAT_WITHOUT_CLUSTER], record)?;
        let WithoutCluster { node, incarnation, store } = old;
        return Ok(Identity { node, incarnation, store, cluster: None });
    }
    keys::decode(dir, WHAT, &[FORMAT], record)
}

impl Store {
    /// Starts a new incarnation; durable before it returns. To be called once per start of the node,
    /// before anything is sent under it.
    ///
    /// # Errors
    /// [`StoreError::Closed`].
    pub fn begin_incarnation(&self) -> Result<Incarnation, StoreError> {
        let mut identity = self.inner().identity.lock();
        let last = if mutant!("incarnation-not-raised") { 0 } else { identity.incarnation.0 };
        let next = Identity { incarnation: Incarnation(last + 1), ..*identity };
        self.save_identity(next)?;
        *identity = next;
        Ok(next.incarnation)
    }

    /// Marks the directory as this node's, under `fresh` unless it has an id of its own; durable before
    /// it returns. Answers the directory's id, which stays the same for as long as it is there.
    ///
    /// # Errors
    /// [`StoreError::OtherNode`] if it belongs to another node.
    pub fn claim_node(&self, node: NodeId, fresh: StoreId) -> Result<StoreId, StoreError> {
        let mut identity = self.inner().identity.lock();
        if let Some(owner) = identity.node.filter(|owner| *owner != node) {
            return Err(StoreError::OtherNode { dir: self.inner().dir.clone(), owner, claimed: node });
        }
        let store = identity.store.unwrap_or(fresh);
        let next = Identity { node: Some(node), store: Some(store), ..*identity };
        if next != *identity {
            self.save_identity(next)?;
            *identity = next;
        }
        Ok(store)
    }

    /// Remembers which cluster the node takes part in, so that it can say so before it has read its log;
    /// durable before it returns.
    ///
    /// # Errors
    /// [`StoreError::Closed`].
    pub fn remember_cluster(&self, cluster: ClusterId) -> Result<(), StoreError> {
        self.change_identity(|identity| identity.cluster = Some(cluster))
    }

    /// Makes the next incarnation a later one than this: for a fresh directory whose node is known already.
    ///
    /// # Errors
    /// [`StoreError::Closed`].
    pub fn continue_after(&self, incarnation: Incarnation) -> Result<(), StoreError> {
        self.change_identity(|identity| identity.incarnation = identity.incarnation.max(incarnation))
    }

    fn change_identity(&self, change: impl FnOnce(&mut Identity)) -> Result<(), StoreError> {
        let mut identity = self.inner().identity.lock();
        let mut next = *identity;
        change(&mut next);
        if next != *identity {
            self.save_identity(next)?;
            *identity = next;
        }
        Ok(())
    }

    /// Gives the directory an id of its own before it is known which node's it is, `fresh` unless it has one;
    /// durable before it returns.
    ///
    /// # Errors
    /// [`StoreError::Closed`].
    pub fn adopt(&self, fresh: StoreId) -> Result<StoreId, StoreError> {
        let mut identity = self.inner().identity.lock();
        if let Some(store) = identity.store {
            return Ok(store);
        }
        let next = Identity { store: Some(fresh), ..*identity };
        self.save_identity(next)?;
        *identity = next;
        Ok(fresh)
    }

    fn save_identity(&self, identity: Identity) -> Result<(), StoreError> {
        let record = codec::encode(FORMAT, &identity)
            .map_err(|source| StoreError::Encode { what: "the identity", source })?;
        debug_assert!(record.len() < RECORD_MAX, "four integers");
        self.inner().writer.write_blocking(keys::put(Kind::Identity, 0, &record).collect())
    }
}
