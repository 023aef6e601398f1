//! The cluster and its nodes.

use muster_api::{Cluster, Node};

use crate::{Client, Error};

impl Client {
    /// Leader, term and members, as the asked node knows them.
    pub async fn cluster(&self) -> Result<Cluster, Error> {
        self.get(&["v1", "cluster"], &[]).await
    }

    /// The hosts, with their capacity and condition.
    pub async fn nodes(&self) -> Result<Vec<Node>, Error> {
        self.get(&["v1", "nodes"], &[]).await
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
