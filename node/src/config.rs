//! A node's configuration: one struct per component, defaults in one place, unknown keys refused.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use muster_core::ids::NodeId;
use muster_core::ledger::Retention;
use serde::Deserialize;

/// The file given by `--config`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// This node's id in the cluster: a founding member's. One that joins is given its id, and may leave this
    /// out for ever. Never reused: a wiped node joins anew.
    pub node_id: Option<u64>,
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
    #[serde(default)]
    pub ledger: Ledger,
    #[serde(default)]
    pub logs: Logs,
    #[serde(default)]
    pub packages: Packages,
    /// Only in the file of the node that begins the cluster; harmless afterwards.
    pub bootstrap: Option<Bootstrap>,
    /// How a node that is new finds the cluster; not looked at afterwards.
    pub join: Option<Join>,
}

/// Where to join, and with what.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Join {
    /// `host:port` of members' peer listeners; one that answers is enough.
    pub addresses: Vec<String>,
    /// A file with the token that `muster cluster join` gave. Absent: `MUSTER_JOIN_TOKEN` holds it.
    pub token_file: Option<PathBuf>,
}

/// The public listener.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Http {
    pub listen: SocketAddr,
    /// `host:port` where clients and peers reach it; the listening address if absent.
    pub advertise: Option<String>,
    /// Absent: clients speak plain HTTP.
    pub tls: Option<HttpTls>,
}

/// The public listener's certificate. The files are read again when they change.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HttpTls {
    /// PEM: the certificate, then those between it and its authority.
    pub certificate_file: PathBuf,
    /// PEM.
    pub key_file: PathBuf,
}

/// The listener for other nodes.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Peer {
    pub listen: SocketAddr,
    pub advertise: Option<String>,
    /// A file with the secret that the cluster's founding nodes share: its certificate authority follows from it. A
    /// node that joined by a token needs none: its certificate is in its data directory.
    pub secret_file: Option<PathBuf>,
    /// How long the node's certificate lasts. It is renewed when a third of that is left.
    #[serde(default = "certificate_days")]
    pub certificate_days: u64,
    /// Instead of days, for tests.
    pub certificate_seconds: Option<u64>,
}

fn certificate_days() -> u64 {
    90
}

/// Hosts' clocks may be wrong by hours; a third of a day bears that.
const CERTIFICATE_DAYS: std::ops::RangeInclusive<u64> = 1..=3650;

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Engine {
    pub kind: EngineChoice,
    /// Docker's socket; its usual place if absent.
    pub docker_socket: Option<String>,
    /// Network namespaces kept ready for containers to come, at most 32; 0 for none.
    pub prepared_namespaces: usize,
    /// Whether containers are kept from this host, the nodes' ports and link-local addresses, by `iptables`.
    pub firewall: bool,
    /// Whether images that Docker lacks are pulled from their registries.
    pub pull_images: bool,
    /// Credentials for registries, as `docker login` writes them.
    pub registry_auth_file: Option<PathBuf>,
}

impl Default for Engine {
    fn default() -> Self {
        Engine {
            kind: EngineChoice::default(),
            docker_socket: None,
            prepared_namespaces: 4,
            firewall: true,
            pull_images: true,
            registry_auth_file: None,
        }
    }
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
    /// It is looked this often whether instances that serve nobody still answer. 0: never.
    pub probe_every_ms: u64,
    /// An instance that has served nobody for so long is paused until the next request: it keeps its memory and
    /// gets no CPU time. 0: never.
    pub pause_idle_after_ms: u64,
}

impl Default for Agent {
    fn default() -> Self {
        Agent {
            report_every_ms: 250,
            reconcile_every_ms: 1_000,
            drain_grace_ms: 60_000,
            stop_grace_ms: 5_000,
            probe_every_ms: 10_000,
            pause_idle_after_ms: 0,
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

/// How long usage is told apart by the hour and by the day. The leader's settings count; what has been
/// added up once stays so.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Ledger {
    /// Whole days, besides the present one.
    pub hours_for_days: u32,
    /// Whole months, besides the present one.
    pub days_for_months: u32,
}

impl Default for Ledger {
    fn default() -> Self {
        let Retention { hours_for_days, days_for_months } = Retention::default();
        Ledger { hours_for_days, days_for_months }
    }
}

/// What this host keeps of the output of instances that have ended, each engine by itself.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Logs {
    /// In all, in MiB.
    pub ended_max_mb: u64,
    /// Of one function, in MiB.
    pub function_max_mb: u64,
    /// For how long.
    pub keep_hours: u64,
}

impl Default for Logs {
    fn default() -> Self {
        Logs { ended_max_mb: 512, function_max_mb: 32, keep_hours: 72 }
    }
}

impl Logs {
    pub(crate) fn limits(self) -> muster_engine::logs::Limits {
        muster_engine::logs::Limits {
            function_bytes: self.function_max_mb.saturating_mul(1 << 20),
            node_bytes: self.ended_max_mb.saturating_mul(1 << 20),
            age: Duration::from_secs(self.keep_hours.saturating_mul(3600)),
            ..muster_engine::logs::Limits::default()
        }
    }
}

/// The files that functions are made of, which the cluster keeps.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Packages {
    /// The largest that this node takes, in MiB.
    pub max_mb: u64,
    /// How long one is kept that no version of a function is of. The leader's setting counts.
    pub keep_unused_seconds: u64,
}

impl Default for Packages {
    fn default() -> Self {
        Packages { max_mb: 2048, keep_unused_seconds: 3600 }
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
        ensure!(self.node_id != Some(0), "`node_id` must be above 0");
        if let Some(join) = &self.join {
            ensure!(self.bootstrap.is_none(), "`join` and `bootstrap` exclude each other");
            ensure!(
                self.node_id.is_none(),
                "`join` and `node_id` exclude each other: who joins is given an id"
            );
            ensure!(!join.addresses.is_empty(), "`join.addresses` must name a member's peer address");
        }
        self.raft.validate().map_err(anyhow::Error::msg)?;
        self.gateway.validate().context("`gateway`")?;
        for (name, value) in [
            ("agent.report_every_ms", self.agent.report_every_ms),
            ("agent.reconcile_every_ms", self.agent.reconcile_every_ms),
            ("controller.plan_every_ms", self.controller.plan_every_ms),
            ("ledger.hours_for_days", self.ledger.hours_for_days.into()),
            ("ledger.days_for_months", self.ledger.days_for_months.into()),
            ("packages.max_mb", self.packages.max_mb),
            ("packages.keep_unused_seconds", self.packages.keep_unused_seconds),
        ] {
            ensure!(value > 0, "`{name}` must be above 0");
        }
        let most = muster_engine::PREPARED_MAX;
        ensure!(
            self.engine.prepared_namespaces <= most,
            "`engine.prepared_namespaces` must be at most {most}"
        );
        ensure!(
            self.controller.down_after_ms > 2 * self.agent.report_every_ms,
            "`controller.down_after_ms` must be more than twice `agent.report_every_ms`"
        );
        let (least, most) = (CERTIFICATE_DAYS.start(), CERTIFICATE_DAYS.end());
        ensure!(
            CERTIFICATE_DAYS.contains(&self.peer.certificate_days),
            "`peer.certificate_days` must be between {least} and {most}"
        );
        ensure!(self.peer.certificate_seconds != Some(0), "`peer.certificate_seconds` must be above 0");
        if let Some(bootstrap) = &self.bootstrap {
            let node = self.node_id.context("`node_id` must be set where `bootstrap` is")?;
            let own = bootstrap.members.iter().any(|member| member.id == node);
            ensure!(own, "`bootstrap.members` must name this node, {node}");
        }
        Ok(())
    }

    /// # Panics
    /// For a node that joins, before its id is settled as its store is opened.
    pub fn node(&self) -> NodeId {
        NodeId(self.node_id.expect("the id is settled as the store is opened"))
    }

    /// `host:port` where clients reach it.
    pub(crate) fn http_address(&self) -> String {
        self.http.advertise.clone().unwrap_or_else(|| self.http.listen.to_string())
    }

    /// `host:port` where other nodes reach it.
    pub(crate) fn peer_address(&self) -> String {
        self.peer.advertise.clone().unwrap_or_else(|| self.peer.listen.to_string())
    }

    pub(crate) fn certificate_lasts(&self) -> Duration {
        let days = self.peer.certificate_days * 24 * 3600;
        Duration::from_secs(self.peer.certificate_seconds.unwrap_or(days))
    }

    /// Where the node's own certificate and key are.
    pub(crate) fn credentials_dir(&self) -> PathBuf {
        self.data_dir.join("tls")
    }

    /// Reads the secret that the founding nodes share, if this node has it.
    pub(crate) fn peer_secret(&self) -> anyhow::Result<Option<String>> {
        let Some(path) = &self.peer.secret_file else { return Ok(None) };
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read `peer.secret_file` {}", path.display()))?;
        let secret = text.trim();
        if secret.len() < SECRET_MIN_CHARS || !secret.bytes().all(|b| b.is_ascii_graphic()) {
            bail!(
                "{}: the peer secret must be at least {SECRET_MIN_CHARS} printable characters",
                path.display()
            );
        }
        Ok(Some(secret.to_owned()))
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
            (format!("{GOOD}\n[join]\naddresses = [\"a:1\"]"), "exclude each other"),
            (GOOD.replace("node_id = 1", "join = { addresses = [] }"), "join.addresses"),
            (format!("{GOOD}\n[raft]\nvoters_max = 4"), "raft.voters_max"),
            (format!("{GOOD}\ncertificate_days = 0"), "peer.certificate_days"),
            (format!("{GOOD}\n[http.tls]\nkey_file = \"k\""), "certificate_file"),
            (format!("{GOOD}\n[raft]\nheartbeat_ms = 500"), "raft.heartbeat_ms"),
            (format!("{GOOD}\n[raft]\nhartbeat_ms = 500"), "hartbeat_ms"),
            (format!("{GOOD}\n[controller]\ndown_after_ms = 100"), "controller.down_after_ms"),
            (format!("{GOOD}\n[ledger]\nhours_for_days = 0"), "ledger.hours_for_days"),
            (format!("{GOOD}\n[engine]\nprepared_namespaces = 33"), "engine.prepared_namespaces"),
            (format!("{GOOD}\n[bootstrap]\nmembers = []\nroot_key_file = \"k\""), "bootstrap.members"),
        ] {
            let error = format!("{:#}", parse(&text).unwrap_err());
            assert!(error.contains(named), "{error} does not name {named}");
        }
    }
}
