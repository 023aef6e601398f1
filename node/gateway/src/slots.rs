//! Slots as values: the right to send one request to one instance.

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use muster_core::ids::NodeId;
use tokio::time::Instant;

use crate::peers::Peers;
use crate::pool::SlotGuard;

/// A slot on this node, or the promise of one on another.
pub(crate) enum Slot {
    Local(SlotGuard),
    Remote(RemoteSlot),
}

/// A slot on another node. Given back when it is dropped unused.
pub(crate) struct RemoteSlot {
    node: NodeId,
    token: Option<Token>,
    peers: Arc<Peers>,
}

impl RemoteSlot {
    pub(crate) fn new(node: NodeId, token: Token, peers: Arc<Peers>) -> Self {
        RemoteSlot { node, token: Some(token), peers }
    }

    /// Uses it up: the host takes the slot back with the invocation.
    pub(crate) fn spend(mut self) -> (NodeId, Token) {
        (self.node, self.token.take().expect("a slot is spent once"))
    }
}

impl Drop for RemoteSlot {
    fn drop(&mut self) {
        if let Some(token) = self.token.take() {
            self.peers.give_back(self.node, token);
        }
    }
}

/// Stands for a slot between its host and an entry node. Random, so that none can be made up.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Token(u128);

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl FromStr for Token {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        u128::from_str_radix(text, 16).map(Token)
    }
}

/// The slots of this node that were promised to other nodes and are not used yet.
#[derive(Default)]
pub(crate) struct Tokens {
    promised: Mutex<HashMap<Token, (SlotGuard, Instant)>>,
}

impl Tokens {
    pub(crate) fn issue(&self, slot: SlotGuard) -> Token {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes).expect("the system's random generator works");
        let token = Token(u128::from_le_bytes(bytes));
        self.lock().insert(token, (slot, Instant::now()));
        token
    }

    /// The slot a token stands for; `None` if it is unknown, used or expired.
    pub(crate) fn redeem(&self, token: Token) -> Option<SlotGuard> {
        self.lock().remove(&token).map(|(slot, _)| slot)
    }

    /// Frees the slots of tokens older than `ttl`; answers how many.
    pub(crate) fn expire(&self, ttl: Duration) -> usize {
        let expired: Vec<_> = self.lock().extract_if(|_, (_, issued)| issued.elapsed() >= ttl).collect();
        // Dropped outside of the lock: each wakes a waiter.
        expired.len()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Token, (SlotGuard, Instant)>> {
        self.promised.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
