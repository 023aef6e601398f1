//! Who may take part: ids that are given once, tokens to join with, and who is leaving or has left.
//!
//! Raft's own membership, who votes and who learns, is an entry of the log and not here. This is what
//! *should* be; [`crate::membership`] compares the two.

use imbl::{OrdMap, OrdSet};
use serde::{Deserialize, Serialize};

use crate::accounts::KeyHash;
use crate::ids::{Incarnation, NodeId, StoreId, TokenId};
use crate::rejection::Rejection;
use crate::units::{Millis, Timestamp};

/// Tokens that may be out at a time; they travel in every snapshot.
pub const TOKENS_MAX: usize = 1_000;
/// The longest a token may be good for: it is meant to be used at once.
pub const TOKEN_LIFETIME_MAX: Millis = Millis::from_secs(7 * 24 * 3600);
/// How long a used token is remembered behind its end, for a node that never heard the answer.
const USED_KEPT: Millis = Millis::from_secs(3600);

/// A change to who takes part. Repeating a command is harmless.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// Reserves an id that no node ever had, for whoever presents the token.
    CreateToken {
        token: TokenId,
        /// Of its secret.
        hash: KeyHash,
        /// By the state's clock, from when it is applied.
        expires_in: Millis,
        /// The highest id among the members that the proposer knew of: founding members are in no
        /// aggregate before they register.
        above: NodeId,
        /// The member that goes once the new one has caught up.
        replaces: Option<NodeId>,
    },
    /// Redeems a token: from now on the store is the reserved node's.
    Enroll { token: TokenId, hash: KeyHash, store: StoreId, addresses: Addresses },
    /// An operator's wish that a node goes: after it has drained, or, with `force`, as it is.
    Remove { node: NodeId, force: bool },
    /// Said by a node that is to go: it serves nobody any more, and its usage is in the ledger.
    Leave { node: NodeId, incarnation: Incarnation },
    /// Said by the leader of a node that is to go, once it has no vote and nobody's permission lease
    /// rests on it. The id is used up.
    Expel { node: NodeId },
}

/// Where a node listens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Addresses {
    /// `host:port` of the public listener.
    pub http: String,
    /// `host:port` of the listener for other nodes.
    pub peer: String,
}

/// A token, without its secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    hash: KeyHash,
    node: NodeId,
    expires_at: Timestamp,
    replaces: Option<NodeId>,
    used_by: Option<StoreId>,
}

impl Token {
    pub(crate) fn new(hash: KeyHash, expires_at: Timestamp, replaces: Option<NodeId>) -> Self {
        Token { hash, node: NodeId(0), expires_at, replaces, used_by: None }
    }
}

/// A node that came by a token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Enrolled {
    pub addresses: Addresses,
    pub replaces: Option<NodeId>,
    pub at: Timestamp,
}

/// A node that is to go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Removal {
    /// Whether it goes as it is: nobody waits for it to drain.
    pub force: bool,
    /// Whether it has said that it serves nobody any more.
    pub left: bool,
    pub since: Timestamp,
}

impl Removal {
    /// Whether its vote may be taken.
    pub fn is_due(&self) -> bool {
        self.force || self.left
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Members {
    /// No id up to this one is ever given again.
    last_id: NodeId,
    #[serde(deserialize_with = "crate::maps::map")]
    tokens: OrdMap<TokenId, Token>,
    #[serde(deserialize_with = "crate::maps::map")]
    enrolled: OrdMap<NodeId, Enrolled>,
    #[serde(deserialize_with = "crate::maps::map")]
    removing: OrdMap<NodeId, Removal>,
    #[serde(deserialize_with = "crate::maps::set")]
    removed: OrdSet<NodeId>,
}

impl Members {
    /// Those that came by a token and are still wanted.
    pub fn enrolled(&self) -> impl Iterator<Item = (NodeId, &Enrolled)> {
        self.enrolled.iter().map(|(id, enrolled)| (*id, enrolled))
    }

    /// Another cluster begins, of `founder` alone: all others that were ever known are gone for good, their
    /// ids and the tokens that were out with them.
    pub(crate) fn refound(&mut self, founder: NodeId, known: impl Iterator<Item = NodeId>) {
        let mut removed = std::mem::take(&mut self.removed);
        let mut last_id = self.last_id.max(founder);
        for node in known {
            last_id = last_id.max(node);
            removed.insert(node);
        }
        removed.remove(&founder);
        *self = Members { last_id, removed, ..Members::default() };
    }

    pub fn removing(&self) -> impl Iterator<Item = (NodeId, &Removal)> {
        self.removing.iter().map(|(id, removal)| (*id, removal))
    }

    pub fn removal(&self, node: NodeId) -> Option<&Removal> {
        self.removing.get(&node)
    }

    /// Whether a node was removed for ever. Nobody speaks with it.
    pub fn is_removed(&self, node: NodeId) -> bool {
        self.removed.contains(&node)
    }

    /// Whether a node may be promised that a permission holds for a while. Not one that has said that
    /// it serves nobody, nor one that is to go as it is: the end of its last lease is being waited for.
    pub fn may_serve(&self, node: NodeId) -> bool {
        !self.is_removed(node) && self.removal(node).is_none_or(|removal| !removal.is_due())
    }

    /// Whether a node certainly holds no permission lease, also none of before.
    pub fn holds_no_lease(&self, node: NodeId) -> bool {
        self.is_removed(node) || self.removal(node).is_some_and(|removal| removal.left)
    }

    pub(crate) fn check_not_removed(&self, node: NodeId) -> Result<(), Rejection> {
        match self.is_removed(node) {
            true => Err(Rejection::Conflict(format!("node {node} was removed from the cluster"))),
            false => Ok(()),
        }
    }

    pub(crate) fn check_stays(&self, node: NodeId) -> Result<(), Rejection> {
        match self.removing.contains_key(&node) {
            true => Err(Rejection::Conflict(format!("node {node} is being removed"))),
            false => Ok(()),
        }
    }

    /// Gives the token an id above `taken` and all that were given before.
    pub(crate) fn reserve(
        &mut self,
        id: TokenId,
        token: Token,
        taken: NodeId,
        now: Timestamp,
    ) -> Result<(NodeId, Timestamp), Rejection> {
        if let Some(known) = self.tokens.get(&id) {
            return match known.hash == token.hash {
                true => Ok((known.node, known.expires_at)),
                false => Err(Rejection::Conflict(format!("there is a token {id} already"))),
            };
        }
        if let Some(old) = token.replaces {
            self.check_not_removed(old)?;
        }
        self.forget_tokens(now);
        if self.tokens.len() >= TOKENS_MAX {
            return Err(Rejection::Limit { what: "tokens".into(), max: TOKENS_MAX as u64 });
        }
        let seen = [self.removing.get_max().map(|(id, _)| *id), self.removed.get_max().copied()];
        let seen = seen.into_iter().flatten().max().unwrap_or_default();
        let node = NodeId(self.last_id.max(taken).max(seen).0 + 1);
        self.last_id = node;
        let expires_at = token.expires_at;
        self.tokens.insert(id, Token { node, ..token });
        Ok((node, expires_at))
    }

    /// Redeems a token once. The same store may ask again: it may not have heard the answer.
    pub(crate) fn enroll(
        &mut self,
        id: TokenId,
        hash: KeyHash,
        store: StoreId,
        addresses: &Addresses,
        now: Timestamp,
    ) -> Result<NodeId, Rejection> {
        let refused = |why: &str| Err(Rejection::Conflict(format!("the token {why}")));
        let Some(token) = self.tokens.get_mut(&id).filter(|token| token.hash == hash) else {
            return refused("is unknown");
        };
        let node = token.node;
        match token.used_by {
            Some(known) if known == store => {}
            Some(_) => return refused("was used already, by another node"),
            None if now >= token.expires_at => return refused("has expired"),
            None => token.used_by = Some(store),
        }
        let replaces = token.replaces;
        self.check_not_removed(node)?;
        let new = || Enrolled { addresses: addresses.clone(), replaces, at: now };
        self.enrolled.entry(node).or_insert_with(new);
        Ok(node)
    }

    /// What [`Command::Enroll`] would answer.
    ///
    /// # Errors
    /// Why it would be refused.
    pub fn would_enroll(
        &self,
        token: TokenId,
        hash: KeyHash,
        store: StoreId,
        addresses: &Addresses,
        now: Timestamp,
    ) -> Result<NodeId, Rejection> {
        // Persistent maps: a clone costs nothing.
        self.clone().enroll(token, hash, store, addresses, now)
    }

    pub(crate) fn remove(&mut self, node: NodeId, force: bool, now: Timestamp) -> Result<(), Rejection> {
        self.check_not_removed(node)?;
        let new = Removal { force: false, left: false, since: now };
        let removal = self.removing.entry(node).or_insert(new);
        removal.force |= force;
        Ok(())
    }

    pub(crate) fn leave(&mut self, node: NodeId) -> Result<(), Rejection> {
        self.check_not_removed(node)?;
        match self.removing.get_mut(&node) {
            Some(removal) => removal.left = true,
            None => return Err(Rejection::Conflict(format!("node {node} is not being removed"))),
        }
        Ok(())
    }

    /// A node that has started anew serves until it leaves again.
    pub(crate) fn returned(&mut self, node: NodeId) {
        if let Some(removal) = self.removing.get_mut(&node) {
            removal.left = false;
        }
    }

    /// Answers whether it was there until now.
    pub(crate) fn expel(&mut self, node: NodeId) -> Result<bool, Rejection> {
        if self.is_removed(node) {
            return Ok(false);
        }
        match self.removing.get(&node) {
            Some(removal) if removal.is_due() => {}
            Some(_) => return Err(Rejection::Stale(format!("node {node} has not left yet"))),
            None => return Err(Rejection::Conflict(format!("node {node} is not being removed"))),
        }
        self.removing.remove(&node);
        self.enrolled.remove(&node);
        self.removed.insert(node);
        Ok(true)
    }

    fn forget_tokens(&mut self, now: Timestamp) {
        let over = |token: &Token| match token.used_by {
            Some(_) => now >= token.expires_at + USED_KEPT,
            None => now >= token.expires_at,
        };
        let over: Vec<TokenId> = self.tokens.iter().filter(|(_, t)| over(t)).map(|(id, _)| *id).collect();
        for id in over {
            self.tokens.remove(&id);
        }
    }
}

#[cfg(test)]
#[path = "members_tests.rs"]
mod tests;
