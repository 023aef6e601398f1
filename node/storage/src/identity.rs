//! Who a directory belongs to, and how often it was started.

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use muster_core::ids::{Incarnation, NodeId};
use serde::{Deserialize, Serialize};

use crate::codec;
use crate::error::StoreError;
use crate::keys::{self, Kind, RECORD_MAX};
use crate::store::Store;

/// Format of the identity record. History: 1, 2026-11: node and incarnation.
pub(crate) const FORMAT: u8 = 1;

/// A node's identity, as its directory knows it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// None until the node has an id.
    pub node: Option<NodeId>,
    /// Zero until [`Store::begin_incarnation`] was called for the first time.
    pub incarnation: Incarnation,
}

pub(crate) struct State(Mutex<Identity>);

impl State {
    pub(crate) fn load(db: &sled::Db, dir: &Path) -> Result<State, StoreError> {
        let identity = match keys::get(db, dir, Kind::Identity, 0)? {
            Some(record) => keys::decode(dir, "the identity", &[FORMAT], &record)?,
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

impl Store {
    /// Starts a new incarnation; durable before it returns. To be called once per start of the node,
    /// before anything is sent under it.
    ///
    /// # Errors
    /// [`StoreError::Closed`].
    pub fn begin_incarnation(&self) -> Result<Incarnation, StoreError> {
        let mut identity = self.inner().identity.lock();
        let next = Identity { incarnation: Incarnation(identity.incarnation.0 + 1), ..*identity };
        self.save_identity(next)?;
        *identity = next;
        Ok(next.incarnation)
    }

    /// Marks the directory as this node's; durable before it returns. Repeating it is harmless.
    ///
    /// # Errors
    /// [`StoreError::OtherNode`] if it belongs to another node.
    pub fn claim_node(&self, node: NodeId) -> Result<(), StoreError> {
        let mut identity = self.inner().identity.lock();
        match identity.node {
            Some(owner) if owner == node => Ok(()),
            Some(owner) => Err(StoreError::OtherNode { dir: self.inner().dir.clone(), owner, claimed: node }),
            None => {
                let next = Identity { node: Some(node), ..*identity };
                self.save_identity(next)?;
                *identity = next;
                Ok(())
            }
        }
    }

    fn save_identity(&self, identity: Identity) -> Result<(), StoreError> {
        let record = codec::encode(FORMAT, &identity)
            .map_err(|source| StoreError::Encode { what: "the identity", source })?;
        debug_assert!(record.len() < RECORD_MAX, "two integers");
        self.inner().writer.write_blocking(keys::put(Kind::Identity, 0, &record).collect())
    }
}
