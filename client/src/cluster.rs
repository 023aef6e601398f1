//! The cluster and its nodes.

use muster_api::{Cluster, CreateToken, CreatedToken, Node, Transfer, Transferred};

use crate::{Client, Error, ResponseBody};

impl Client {
    /// Leader, term and members, as the asked node knows them.
    pub async fn cluster(&self) -> Result<Cluster, Error> {
        self.get(&["v1", "cluster"], &[]).await
    }

    /// The hosts, with their capacity and condition.
    pub async fn nodes(&self) -> Result<Vec<Node>, Error> {
        self.get(&["v1", "nodes"], &[]).await
    }

    /// A backup of the whole state, as it is written. It is whole only if [`muster_archive::Decoder`] says
    /// so at its end.
    ///
    /// # Errors
    /// Before it begins; after that, those of [`ResponseBody::chunk`].
    pub async fn backup(&self) -> Result<ResponseBody, Error> {
        self.get_streamed(&["v1", "cluster", "backup"]).await
    }

    /// Makes a token for a node to join with; this answer alone carries its secret. Never repeated by itself
    /// once it was sent: one that nobody holds expires.
    pub async fn create_join_token(&self, create: &CreateToken) -> Result<CreatedToken, Error> {
        self.post(&["v1", "cluster", "tokens"], create).await
    }

    /// Has a node removed for ever: once it has drained, or with `force` as it is. It is on its way out when
    /// this returns, and gone when [`cluster`](Self::cluster) does not show it any more.
    pub async fn remove_node(&self, node: u64, force: bool) -> Result<(), Error> {
        let query: &[(&str, &str)] = if force { &[("force", "true")] } else { &[] };
        self.delete(&["v1", "cluster", "nodes", &node.to_string()], query).await
    }

    /// Has another voter lead: this one, or any that has caught up. Answers who leads then.
    pub async fn transfer_leadership(&self, to: Option<u64>) -> Result<u64, Error> {
        let transferred: Transferred = self.post(&["v1", "cluster", "transfer"], &Transfer { to }).await?;
        Ok(transferred.leader)
    }

    /// Has a node's instances moved away; it takes no new ones until it is undrained.
    pub async fn drain_node(&self, node: u64) -> Result<(), Error> {
        self.put_nothing(&["v1", "nodes", &node.to_string(), "drain"]).await
    }

    /// Lets a node take instances again.
    pub async fn undrain_node(&self, node: u64) -> Result<(), Error> {
        self.delete(&["v1", "nodes", &node.to_string(), "drain"], &[]).await
    }

    /// Whether some node can serve at this moment. Each is asked once at most; nothing is waited
    /// for.
    ///
    /// # Errors
    /// What the last node asked had to say for itself.
    pub async fn readyz(&self) -> Result<(), Error> {
        self.probe("/readyz").await
    }
}
