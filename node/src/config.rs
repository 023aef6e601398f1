//! A node's configuration: one struct per component, defaults in one place, unknown keys refused.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use muster_core::ids::NodeId;
use serde::Deserialize;

/// The file given by `--config`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// This node's id in the cluster. Never reused: a wiped node needs a fresh one.
    pub node_id: u64,
    /// Everything this node keeps. Made with mode 0700 if it is not there.
    pub data_dir: PathBuf,
    pub http: Http,
    pub peer: Peer,
    #[serde(default)]
    pub engine: Engine,
    #[serde(default)]
    pub capacity: Capacity,
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    #[serde(default)]
    pub raft: muster_consensus::Config,
    #[serde(default)]
    pub gateway: muster_gateway::Config,
    #[serde(default)]
    pub agent: Agent,
    #[serde(default)]
    pub controller: Controller,
    /// Only in the file of the node that begins the cluster; harmless afterwards.
    pub bootstrap: Option<Bootstrap>,
}

/// The public listener.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Http {
    pub listen: SocketAddr,
    /// `host:port` where clients and peers reach it; the listening address if absent.
    pub advertise: Option<String>,
}

/// The listener for other nodes.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Peer {
    pub listen: SocketAddr,
    pub advertise: Option<String>,
    /// A file with the secret that all nodes of the cluster share.
    pub secret_file: PathBuf,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Engine {
    pub kind: EngineChoice,
    /// Docker's socket; its usual place if absent.
    pub docker_socket: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EngineChoice {
    Docker,
    #[default]
    Process,
    Both,
}

/// What this host gives to instances. Absent: all it has.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Capacity {
    pub memory_mb: Option<u64>,
    pub cpu_millis: Option<u64>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Agent {
    /// Loads are reported to the leader this often, and at once when a queue forms.
    pub report_every_ms: u64,
    /// What runs is compared with what should run at least this often.
    pub reconcile_every_ms: u64,
    /// How long a draining instance may finish what is in flight.
    pub drain_grace_ms: u64,
    /// Between SIGTERM and SIGKILL.
    pub stop_grace_ms: u64,
}

impl Default for Agent {
    fn default() -> Self {
        Agent {
            report_every_ms: 250,
            reconcile_every_ms: 1_000,
            drain_grace_ms: 60_000,
            stop_grace_ms: 5_000,
        }
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Controller {
    /// The leader plans this often, and at once when a queue forms.
    pub plan_every_ms: u64,
    /// A node silent for this long is down.
    pub down_after_ms: u64,
    /// A new leader gives nodes it has never heard this long: a cluster that was killed whole
    /// comes back one by one, and its containers are adopted rather than replaced.
    pub returning_after_ms: u64,
}

impl Default for Controller {
    fn default() -> Self {
        Controller { plan_every_ms: 200, down_after_ms: 2_000, returning_after_ms: 5_000 }
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bootstrap {
    /// The first voters, this node among them.
    pub members: Vec<BootstrapMember>,
    /// Where the first key goes, with mode 0600. If the file is there, its key is used.
    pub root_key_file: PathBuf,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BootstrapMember {
    pub id: u64,
    pub http: String,
    pub peer: String,
}

/// The least a shared secret may be: 128 bits in hexadecimal.
const SECRET_MIN_CHARS: usize = 32;

impl Config {
    pub fn load(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read the configuration {}", path.display()))?;
        let config: Config =
            toml::from_str(&text).with_context(|| format!("cannot understand {}", path.display()))?;
        config.validate().with_context(|| format!("{} is not valid", path.display()))?;
        Ok(config)
    }

    fn validate(&self) -> anyhow::Result<()> {
        ensure!(self.node_id > 0, "`node_id` must be above 0");
        self.raft.validate().map_err(anyhow::Error::msg)?;
        self.gateway.validate().context("`gateway`")?;
        for (name, value) in [
            ("agent.report_every_ms", self.agent.report_every_ms),
            ("agent.reconcile_every_ms", self.agent.reconcile_every_ms),
            ("controller.plan_every_ms", self.controller.plan_every_ms),
        ] {
            ensure!(value > 0, "`{name}` must be above 0");
        }
        ensure!(
            self.controller.down_after_ms > 2 * self.agent.report_every_ms,
            "`controller.down_after_ms` must be more than twice `agent.report_every_ms`"
        );
        if let Some(bootstrap) = &self.bootstrap {
            let own = bootstrap.members.iter().any(|member| member.id == self.node_id);
            ensure!(own, "`bootstrap.members` must name this node, {}", self.node_id);
        }
        Ok(())
    }

    pub fn node(&self) -> NodeId {
        NodeId(self.node_id)
    }

    /// Reads the secret that nodes show each other.
    pub fn peer_secret(&self) -> anyhow::Result<String> {
        let path = &self.peer.secret_file;
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read `peer.secret_file` {}", path.display()))?;
        let secret = text.trim();
        if secret.len() < SECRET_MIN_CHARS || !secret.bytes().all(|b| b.is_ascii_graphic()) {
            bail!(
                "{}: the peer secret must be at least {SECRET_MIN_CHARS} printable characters",
                path.display()
            );
        }
        Ok(secret.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
        node_id = 1
        data_dir = "/tmp/x"
        [http]
        listen = "127.0.0.1:8081"
        [peer]
        listen = "127.0.0.1:9081"
        secret_file = "/tmp/x.secret"
    "#;

    fn parse(text: &str) -> anyhow::Result<Config> {
        let config: Config = toml::from_str(text)?;
        config.validate()?;
        Ok(config)
    }

    #[test]
    fn bad_settings_are_named() {
        parse(GOOD).unwrap();
        for (text, named) in [
            (GOOD.replace("node_id = 1", "node_id = 0"), "node_id"),
            (GOOD.replace("listen = \"127.0.0.1:8081\"", "listen = \"nowhere\""), "listen"),
            (format!("{GOOD}\n[raft]\nheartbeat_ms = 500"), "raft.heartbeat_ms"),
            (format!("{GOOD}\n[raft]\nhartbeat_ms = 500"), "hartbeat_ms"),
            (format!("{GOOD}\n[controller]\ndown_after_ms = 100"), "controller.down_after_ms"),
            (format!("{GOOD}\n[bootstrap]\nmembers = []\nroot_key_file = \"k\""), "bootstrap.members"),
        ] {
            let error = format!("{:#}", parse(&text).unwrap_err());
            assert!(error.contains(named), "{error} does not name {named}");
        }
    }
}
