//! What is taken away is gone everywhere once it is acknowledged, also on a node that the others cannot reach.

#![expect(clippy::unwrap_used, reason = "a test ends where what it relies on does not hold")]

use std::time::Duration;

use anyhow::ensure;
use muster_api::{Action, CreateKey};
use muster_chaos::cluster::Link;
use muster_chaos::wait::{stays, until};
use muster_chaos::{Cluster, Settings, functions};

const SOON: Duration = Duration::from_secs(30);
/// After the acknowledgement nobody may be admitted, now or later; this long is looked at.
const LOOKED_AT: Duration = Duration::from_secs(2);
const FUNCTION: &str = "echo";

struct Stage {
    cluster: Cluster,
    /// A follower, which the others are about to lose.
    away: u64,
    /// Its account is called as the key is.
    key: String,
    key_id: String,
}

impl Stage {
    /// The account `name` may call the function through every node.
    async fn set(name: &str) -> Self {
        let settings = Settings::default()
            .proxied()
            .set("raft.quorum_fresh_ms", 1_500)
            .set("raft.permission_lease_ms", 1_500);
        let cluster = Cluster::start(settings).await.unwrap();
        let client = cluster.client();
        client.put_function(FUNCTION, &functions::faulty("echo")).await.unwrap();
        client.create_account(name, Default::default()).await.unwrap();
        client.put_grant(name, FUNCTION, &[Action::Invoke]).await.unwrap();
        let created = client.create_key(name, &CreateKey::default()).await.unwrap();
        let leader = cluster.leader().await.unwrap();
        let away = cluster.others(leader)[0];
        let stage = Stage { cluster, away, key: created.key, key_id: created.id };
        for node in stage.cluster.numbers() {
            let served = || async {
                let status = stage.status(node).await?;
                ensure!(status == 200, "node {node} answers {status}");
                Ok(())
            };
            until("the account is served", SOON, served).await.unwrap();
        }
        stage
    }

    async fn status(&self, node: u64) -> anyhow::Result<u16> {
        Ok(self.cluster.invoke(node, &self.key, FUNCTION, "hello").await?.status)
    }

    /// Nobody is admitted through any node, and the node that was away learns why in the end.
    async fn is_refused_everywhere(&self, mended: impl FnOnce(&Cluster)) {
        let refused = || async {
            for node in self.cluster.running() {
                let status = self.status(node).await?;
                ensure!([401, 403, 503].contains(&status), "node {node} answers {status}");
            }
            Ok(())
        };
        stays("the account is refused", LOOKED_AT, refused).await.unwrap();
        mended(&self.cluster);
        let told = || async {
            let status = self.status(self.away).await?;
            assert_ne!(status, 200, "node {} admits whom the others have revoked", self.away);
            ensure!([401, 403].contains(&status), "it answers {status}");
            Ok(())
        };
        until("the node that was away knows", SOON, told).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_key_is_of_no_use_on_a_node_that_hears_nothing() {
    let stage = Stage::set("alice").await;
    stage.cluster.peer_link(stage.away).set(Link::Silent);
    let others = stage.cluster.client_of(&stage.cluster.others(stage.away), stage.cluster.root_key());
    others.revoke_key("alice", &stage.key_id).await.unwrap();
    stage.is_refused_everywhere(|cluster| cluster.peer_link(stage.away).set(Link::Open)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_grant_is_of_no_use_on_a_node_that_slept() {
    let stage = Stage::set("bob").await;
    stage.cluster.pause(stage.away).unwrap();
    let others = stage.cluster.client_of(&stage.cluster.others(stage.away), stage.cluster.root_key());
    others.delete_grant("bob", FUNCTION).await.unwrap();
    stage.is_refused_everywhere(|cluster| cluster.resume(stage.away).unwrap()).await;
}
