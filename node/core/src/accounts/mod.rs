//! Accounts, their API keys and what they may do. Default deny.

mod grants;
mod keys;

use std::collections::BTreeSet;
use std::sync::Arc;

use imbl::OrdMap;
use serde::{Deserialize, Serialize};

pub use grants::*;
pub use keys::*;

use crate::ids::{AccountName, FunctionName, KeyId};
use crate::rejection::{Kind, Rejection};
use crate::units::Timestamp;

pub const ACCOUNTS_MAX: usize = 100_000;
pub const KEYS_PER_ACCOUNT_MAX: usize = 100;
pub const GRANTS_PER_ACCOUNT_MAX: usize = 1_000;
/// The account made at bootstrap. It cannot be deleted: someone must be able to repair the rest.
pub const ROOT: &str = "root";

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    Create { name: AccountName, role: Role },
    Delete { name: AccountName },
    CreateKey { account: AccountName, id: KeyId, hash: KeyHash, expires_at: Option<Timestamp> },
    RevokeKey { account: AccountName, id: KeyId },
    Grant { account: AccountName, pattern: Pattern, actions: BTreeSet<Action> },
    Revoke { account: AccountName, pattern: Pattern },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Role {
    /// May do everything.
    Admin,
    /// May do what it was granted, and manage what it owns.
    User,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    pub role: Role,
    pub created_at: Timestamp,
    #[serde(deserialize_with = "crate::maps::map")]
    pub keys: OrdMap<KeyId, Key>,
    #[serde(deserialize_with = "crate::maps::map")]
    pub grants: OrdMap<Pattern, Arc<BTreeSet<Action>>>,
}

/// Why a caller was not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unauthenticated {
    #[error("the API key is malformed: expected `mk_<id>_<secret>`")]
    Malformed,
    #[error("the API key is unknown or revoked")]
    Unknown,
    #[error("the API key has expired")]
    Expired,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accounts {
    #[serde(deserialize_with = "crate::maps::map")]
    by_name: OrdMap<AccountName, Arc<Account>>,
    /// The owner of each key, so that a caller is found in one step.
    #[serde(deserialize_with = "crate::maps::map")]
    key_owners: OrdMap<KeyId, AccountName>,
}

impl Accounts {
    pub fn get(&self, name: &str) -> Option<&Arc<Account>> {
        self.by_name.get(name)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&AccountName, &Arc<Account>)> {
        self.by_name.iter()
    }

    /// Who presents this key. `now` is the caller's wall clock, against which expiry is judged.
    pub fn authenticate(&self, key: &str, now: Timestamp) -> Result<&AccountName, Unauthenticated> {
        let (id, secret) = parse_key(key).ok_or(Unauthenticated::Malformed)?;
        let owner = self.key_owners.get(&id).ok_or(Unauthenticated::Unknown)?;
        let account = self.by_name.get(owner).ok_or(Unauthenticated::Unknown)?;
        let key = account.keys.get(&id).ok_or(Unauthenticated::Unknown)?;
        if !key.hash.matches(secret) {
            return Err(Unauthenticated::Unknown);
        }
        match key.expires_at {
            Some(end) if end <= now => Err(Unauthenticated::Expired),
            _ => Ok(owner),
        }
    }

    /// Whether a grant (or the admin role) lets `account` do `action` to `function`. Ownership is
    /// the caller's to add: it spans two aggregates.
    pub fn granted(&self, account: &AccountName, action: Action, function: &FunctionName) -> bool {
        self.by_name.get(account).is_some_and(|account| {
            account.role == Role::Admin
                || account
                    .grants
                    .iter()
                    .any(|(pattern, actions)| actions.contains(&action) && pattern.matches(function.as_str()))
        })
    }

    pub fn is_admin(&self, account: &AccountName) -> bool {
        self.by_name.get(account).is_some_and(|account| account.role == Role::Admin)
    }

    pub(crate) fn create(&mut self, name: &AccountName, role: Role, now: Timestamp) -> Result<(), Rejection> {
        if self.by_name.contains_key(name) {
            return Err(Rejection::exists(Kind::Account, name));
        }
        if self.by_name.len() >= ACCOUNTS_MAX {
            return Err(Rejection::Limit { what: "accounts".into(), max: ACCOUNTS_MAX as u64 });
        }
        let account = Account { role, created_at: now, keys: OrdMap::new(), grants: OrdMap::new() };
        self.by_name.insert(name.clone(), Arc::new(account));
        Ok(())
    }

    pub(crate) fn delete(&mut self, name: &AccountName) -> Result<(), Rejection> {
        if name.as_str() == ROOT {
            return Err(Rejection::Conflict("the account `root` cannot be deleted".into()));
        }
        let account = self.by_name.remove(name).ok_or_else(|| Rejection::missing(Kind::Account, name))?;
        for id in account.keys.keys() {
            self.key_owners.remove(id);
        }
        Ok(())
    }

    pub(crate) fn create_key(&mut self, owner: &AccountName, id: KeyId, key: Key) -> Result<(), Rejection> {
        if let Some(known) = self.key_owners.get(&id) {
            let same = known == owner
                && self.get(owner.as_str()).and_then(|a| a.keys.get(&id)).is_some_and(|k| k.hash == key.hash);
            return if same { Ok(()) } else { Err(Rejection::exists(Kind::Key, id)) };
        }
        self.update(owner, |account| {
            if account.keys.len() >= KEYS_PER_ACCOUNT_MAX {
                let max = KEYS_PER_ACCOUNT_MAX as u64;
                return Err(Rejection::Limit { what: "keys per account".into(), max });
            }
            account.keys.insert(id, key);
            Ok(())
        })?;
        self.key_owners.insert(id, owner.clone());
        Ok(())
    }

    pub(crate) fn revoke_key(&mut self, owner: &AccountName, id: KeyId) -> Result<(), Rejection> {
        self.update(owner, |account| match account.keys.remove(&id) {
            Some(_) => Ok(()),
            None => Err(Rejection::missing(Kind::Key, id)),
        })?;
        self.key_owners.remove(&id);
        Ok(())
    }

    /// Answers whether an action that was granted no longer is.
    pub(crate) fn grant(
        &mut self,
        account: &AccountName,
        pattern: &Pattern,
        actions: &BTreeSet<Action>,
    ) -> Result<bool, Rejection> {
        let before = self.by_name.get(account).and_then(|account| account.grants.get(pattern));
        let narrowed = before.is_some_and(|before| !before.is_subset(actions));
        self.update(account, |account| {
            if account.grants.len() >= GRANTS_PER_ACCOUNT_MAX && !account.grants.contains_key(pattern) {
                let max = GRANTS_PER_ACCOUNT_MAX as u64;
                return Err(Rejection::Limit { what: "grants per account".into(), max });
            }
            account.grants.insert(pattern.clone(), Arc::new(actions.clone()));
            Ok(())
        })?;
        Ok(narrowed)
    }

    pub(crate) fn revoke(&mut self, account: &AccountName, pattern: &Pattern) -> Result<(), Rejection> {
        self.update(account, |account| match account.grants.remove(pattern) {
            Some(_) => Ok(()),
            None => Err(Rejection::missing(Kind::Grant, pattern)),
        })
    }

    /// A change that is refused must not have changed anything: an account that only this state has is changed
    /// where it is.
    fn update(
        &mut self,
        name: &AccountName,
        change: impl FnOnce(&mut Account) -> Result<(), Rejection>,
    ) -> Result<(), Rejection> {
        let known = self.by_name.get_mut(name).ok_or_else(|| Rejection::missing(Kind::Account, name))?;
        change(Arc::make_mut(known))
    }
}
