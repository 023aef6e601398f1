//! Clients of a cluster, and the keys they have.

use std::time::Duration;

use anyhow::{Result, ensure};
use muster_api::CreateKey;
use muster_client::{Client, Key, Options};

use super::{Cluster, READY_WITHIN};
use crate::wait::until;

impl Cluster {
    /// A client of all nodes with the root key.
    ///
    /// # Panics
    /// Never: the addresses are the harness's own.
    pub fn client(&self) -> Client {
        self.client_of(&self.numbers(), &self.root_key)
    }

    /// A client of one node alone with the root key.
    pub fn client_at(&self, n: u64) -> Client {
        self.client_of(&[n], &self.root_key)
    }

    /// A client of some nodes with some key. Patient: it waits for a quorum.
    ///
    /// # Panics
    /// For a text that cannot be a key.
    pub fn client_of(&self, nodes: &[u64], key: &str) -> Client {
        let key = Key::new(key).expect("a key is printable");
        // Where there is another node to go to. A single one is given the time it takes for itself.
        let attempt_timeout = Duration::from_secs(if nodes.len() > 1 { 5 } else { 15 });
        let options = Options { attempt_timeout, ..Options::default() };
        let urls: Vec<String> = nodes.iter().map(|n| self.url(*n)).collect();
        Client::with_options(urls, Some(key), options).expect("the harness's own addresses are valid")
    }

    /// Makes an account with a key, and a client of all nodes with that key.
    ///
    /// # Errors
    /// Where the account cannot be made; it may be there already.
    pub async fn client_for(&self, account: &str) -> Result<Client> {
        Ok(self.client_of(&self.numbers(), &self.key_for(account).await?))
    }

    /// A new key for an account, which is made if need be. Every running node knows the key when
    /// this returns.
    ///
    /// # Errors
    /// Where the cluster refuses.
    pub async fn key_for(&self, account: &str) -> Result<String> {
        let client = self.client();
        // A busy machine may have to be asked again. A key too many harms nobody.
        let made = || async {
            match client.create_account(account, muster_api::Role::User).await {
                Err(error) if error.status() != Some(409) => return Err(error.into()),
                Ok(_) | Err(_) => {}
            }
            Ok(client.create_key(account, &CreateKey::default()).await?.key)
        };
        let key = until(&format!("{account} has a key"), READY_WITHIN, made).await?;
        self.spread().await?;
        Ok(key)
    }

    /// Waits until every running node has applied what has been committed by now, so that each of
    /// them acts on it.
    ///
    /// # Errors
    /// Where one does not catch up.
    pub async fn spread(&self) -> Result<()> {
        let running = self.running();
        let mut newest = 0;
        for n in &running {
            // A read at any node, settled by a quorum, shows what was committed before.
            newest = newest.max(self.applied(*n).await?);
        }
        for n in running {
            let look = || async {
                let applied = self.applied(n).await?;
                ensure!(applied >= newest, "it has applied {applied} of {newest}");
                Ok(())
            };
            until(&format!("node {n} catches up"), READY_WITHIN, look).await?;
        }
        Ok(())
    }
}
