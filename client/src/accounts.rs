//! Accounts, their keys and their grants.

use muster_api::{Account, Action, CreateAccount, CreateKey, CreatedKey, Grant, Key, PutGrant, Role};

use crate::{Client, Error};

impl Client {
    /// Creates an account. Never repeated by itself once it was sent: look whether it is there.
    pub async fn create_account(&self, name: &str, role: Role) -> Result<Account, Error> {
        self.post(&["v1", "accounts"], &CreateAccount { name: name.to_owned(), role }).await
    }

    pub async fn accounts(&self) -> Result<Vec<Account>, Error> {
        self.get(&["v1", "accounts"], &[]).await
    }

    pub async fn account(&self, name: &str) -> Result<Account, Error> {
        self.get(&["v1", "accounts", name], &[]).await
    }

    pub async fn delete_account(&self, name: &str) -> Result<(), Error> {
        self.delete(&["v1", "accounts", name], &[]).await
    }

    /// Creates a key; this answer alone carries its secret. Never repeated by itself once it was
    /// sent: revoke the key nobody holds.
    pub async fn create_key(&self, account: &str, create: &CreateKey) -> Result<CreatedKey, Error> {
        self.post(&["v1", "accounts", account, "keys"], create).await
    }

    pub async fn keys(&self, account: &str) -> Result<Vec<Key>, Error> {
        self.get(&["v1", "accounts", account, "keys"], &[]).await
    }

    /// Revokes a key. Once it returns, no node admits the key any more.
    pub async fn revoke_key(&self, account: &str, id: &str) -> Result<(), Error> {
        self.delete(&["v1", "accounts", account, "keys", id], &[]).await
    }

    /// Lets an account use the functions whose names match `pattern`, in place of what it was
    /// granted for that pattern before.
    pub async fn put_grant(&self, account: &str, pattern: &str, actions: &[Action]) -> Result<Grant, Error> {
        let body = PutGrant { actions: actions.to_vec() };
        let (_, grant) = self.put(&["v1", "accounts", account, "grants", pattern], &body).await?;
        Ok(grant)
    }

    /// Takes a grant back. Once it returns, no node admits the account on its strength any more.
    pub async fn delete_grant(&self, account: &str, pattern: &str) -> Result<(), Error> {
        self.delete(&["v1", "accounts", account, "grants", pattern], &[]).await
    }
}
