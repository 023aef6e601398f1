//! Nodes that join a running cluster, and nodes that leave it for good.

use std::fs;
use std::process::ExitStatus;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use muster_api::{ClusterNode, CreateToken, CreatedToken};

use super::node::{Launch, Node};
use super::settings::Address;
use super::start::free_ports;
use super::{Cluster, Proxy, READY_WITHIN};
use crate::wait::until;

impl Cluster {
    /// Starts a node that joins by a new token; returns at once, with its number.
    ///
    /// # Errors
    /// Where there is no token to be had, or the node does not start.
    pub async fn join(&mut self) -> Result<u64> {
        let created = self.client().create_join_token(&CreateToken::default()).await?;
        self.admit(&created).await
    }

    /// Starts a node that joins by this token; returns at once, with its number.
    ///
    /// # Errors
    /// Where the node does not start.
    pub async fn admit(&mut self, created: &CreatedToken) -> Result<u64> {
        let n = created.node_id;
        ensure!(self.network.is_none(), "a network has room for its first nodes only");
        ensure!(!self.nodes.contains_key(&n), "there is a node {n} already");
        let ports = free_ports(2)?;
        let at = |port: u16| format!("127.0.0.1:{port}");
        let mut address =
            Address { id: n, http: at(ports[0]), peer: at(ports[1]), peer_advertised: at(ports[1]) };
        if self.settings.proxied {
            let proxy = Proxy::start(address.peer.parse().context("an address")?).await?;
            address.peer_advertised = proxy.address().to_string();
            self.links.insert(n, proxy);
        }
        let node = self.joiner(address, created, Launch::default())?;
        self.nodes.insert(n, node);
        self.begin(n)?;
        Ok(n)
    }

    /// Has a node that does not run listen for the others on another port when it is started; from where to where.
    ///
    /// # Errors
    /// Where its configuration cannot be changed.
    pub fn move_peer_port(&self, n: u64) -> Result<(String, String)> {
        let file = self.config_file(n);
        let mut config: toml::Table = fs::read_to_string(file)?.parse()?;
        let to = format!("127.0.0.1:{}", free_ports(1)?[0]);
        let peer = config.get_mut("peer").and_then(toml::Value::as_table_mut).context("it has no `peer`")?;
        let from = peer.insert("listen".to_owned(), to.clone().into());
        peer.insert("advertise".to_owned(), to.clone().into());
        fs::write(file, config.to_string()).context("cannot write the configuration")?;
        let from = from.as_ref().and_then(toml::Value::as_str).context("it listened nowhere")?;
        Ok((from.to_owned(), to))
    }

    /// A node that will join by this token when it is started.
    pub(super) fn joiner(&self, address: Address, created: &CreatedToken, launch: Launch) -> Result<Node> {
        let dir = self.dir.path();
        let token_file = dir.join(format!("join{}.token", address.id));
        fs::write(&token_file, &created.token).context("cannot write the token")?;
        let config = self.settings.joining(dir, &address, &created.addresses, &token_file)?;
        let node = Node::new(dir, address, &self.settings.log, launch);
        node.write_config(&config)?;
        node.claim(self.settings.versions.as_deref());
        Ok(node)
    }

    /// Waits until a node that was removed has ended, and counts it no more among the cluster's.
    ///
    /// # Errors
    /// Where it goes on.
    pub async fn retire(&mut self, n: u64, within: Duration) -> Result<ExitStatus> {
        let ended = self.ended(n, within).await?;
        let node = self.nodes.remove(&n).with_context(|| format!("there is no node {n}"))?;
        self.retired.push(node);
        Ok(ended)
    }

    /// Forgets a node that will not come back.
    ///
    /// # Errors
    /// Where it cannot be killed.
    pub fn bury(&mut self, n: u64) -> Result<()> {
        self.kill(n)?;
        let node = self.nodes.remove(&n).with_context(|| format!("there is no node {n}"))?;
        self.retired.push(node);
        Ok(())
    }

    /// Removes a node, and waits until the cluster does not know it any more.
    ///
    /// # Errors
    /// Where it is refused, or takes too long.
    pub async fn remove(&self, n: u64, force: bool) -> Result<()> {
        let client = self.client_of(&self.others(n), &self.root_key);
        client.remove_node(n, force).await?;
        let gone = || async {
            let members = self.members_at(self.others(n)[0]).await?;
            ensure!(members.iter().all(|member| member.id != n), "{members:?}");
            Ok(())
        };
        until(&format!("node {n} is gone"), READY_WITHIN, gone).await
    }

    /// The cluster's nodes as node `n` knows them.
    ///
    /// # Errors
    /// Where it does not answer.
    pub async fn members_at(&self, n: u64) -> Result<Vec<ClusterNode>> {
        let cluster: muster_api::Cluster = self.get(n, "/v1/cluster").await?;
        Ok(cluster.nodes)
    }

    /// Waits until these nodes vote, and no others, by what every running node knows.
    ///
    /// # Errors
    /// With what they know instead.
    pub async fn voters_are(&self, voters: &[u64]) -> Result<()> {
        let look = || async {
            for n in self.running() {
                let members = self.members_at(n).await?;
                let voting =
                    members.iter().filter(|member| matches!(member.role.as_str(), "leader" | "voter"));
                let voting: Vec<u64> = voting.map(|member| member.id).collect();
                ensure!(voting == voters, "node {n} knows {members:?}");
            }
            Ok(())
        };
        until(&format!("the voters are {voters:?}"), READY_WITHIN, look).await
    }
}
