//! What kind of cluster.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use toml::{Table, Value};

/// What runs the instances.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Engine {
    #[default]
    Process,
    Docker,
}

/// What kind of cluster to start. The defaults suit correctness tests on a small machine: timings
/// that a busy disk or a debug build do not upset.
#[derive(Clone, Debug)]
pub struct Settings {
    pub(super) nodes: u64,
    pub(super) engine: Engine,
    pub(super) proxied: bool,
    pub(super) docker_proxied: bool,
    pub(super) faulty_disks: bool,
    pub(super) faulty_clocks: bool,
    pub(super) networked: bool,
    pub(super) log: String,
    pub(super) versions: Option<String>,
    /// Merged into every node's configuration.
    overrides: Table,
}

impl Default for Settings {
    fn default() -> Self {
        let settings = Settings {
            nodes: 3,
            engine: Engine::default(),
            proxied: false,
            docker_proxied: false,
            faulty_disks: false,
            faulty_clocks: false,
            networked: false,
            // It says of every lost connection again and again what is meant to happen here.
            log: "info,openraft=off".into(),
            versions: None,
            overrides: Table::new(),
        };
        settings
            .set("raft.heartbeat_ms", 100)
            .set("raft.election_min_ms", 300)
            .set("raft.election_max_ms", 600)
            .set("agent.report_every_ms", 100)
            .set("agent.stop_grace_ms", 2_000)
    }
}

impl Settings {
    /// How many nodes, all of them voters; 3 unless told.
    #[must_use]
    pub fn nodes(mut self, nodes: u64) -> Self {
        self.nodes = nodes;
        self
    }

    #[must_use]
    pub fn engine(mut self, engine: Engine) -> Self {
        self.engine = engine;
        self
    }

    /// Puts a [`Proxy`](super::Proxy) before each node's peer listener: see
    /// [`Cluster::peer_link`](super::Cluster::peer_link).
    #[must_use]
    pub fn proxied(mut self) -> Self {
        self.proxied = true;
        self
    }

    /// Puts a [`DockerProxy`](super::DockerProxy) between each node and Docker: see
    /// [`Cluster::docker_link`](super::Cluster::docker_link).
    #[must_use]
    pub fn docker_proxied(mut self) -> Self {
        self.docker_proxied = true;
        self
    }

    /// Gives each node a disk whose power can be cut, and more: see
    /// [`Cluster::disk`](super::Cluster::disk).
    #[must_use]
    pub fn faulty_disks(mut self) -> Self {
        self.faulty_disks = true;
        self
    }

    /// Gives each node a wall clock that can be wrong: see [`Cluster::clock`](super::Cluster::clock).
    #[must_use]
    pub fn faulty_clocks(mut self) -> Self {
        self.faulty_clocks = true;
        self
    }

    /// Puts each node into a network namespace of its own, so that what passes between nodes can be
    /// lost or late: see [`Cluster::network`](super::Cluster::network). Not together with
    /// [`proxied`](Self::proxied).
    #[must_use]
    pub fn networked(mut self) -> Self {
        self.networked = true;
        self
    }

    /// What nodes log, in the words of `MUSTER_LOG`.
    #[must_use]
    pub fn log(mut self, filter: &str) -> Self {
        filter.clone_into(&mut self.log);
        self
    }

    /// Every node, also one that joins later, begins as an older release, which supports these cluster versions:
    /// see [`Cluster::claim_versions`](super::Cluster::claim_versions).
    #[must_use]
    pub fn versions(mut self, versions: &str) -> Self {
        self.versions = Some(versions.to_owned());
        self
    }

    /// Sets a value in every node's configuration: `raft.snapshot_after_entries`, say.
    ///
    /// # Panics
    /// If the path leads through something that is no table.
    #[must_use]
    pub fn set(mut self, path: &str, value: impl Into<Value>) -> Self {
        let (tables, name) =
            path.rsplit_once('.').map_or((None, path), |(tables, name)| (Some(tables), name));
        let mut table = &mut self.overrides;
        for part in tables.into_iter().flat_map(|tables| tables.split('.')) {
            let entry = table.entry(part).or_insert_with(|| Value::Table(Table::new()));
            table = entry.as_table_mut().unwrap_or_else(|| panic!("`{part}` in `{path}` is not a table"));
        }
        table.insert(name.to_owned(), value.into());
        self
    }

    /// The configuration file of a node that listens where `address` says. `members` are the first
    /// voters; the first of them begins the cluster.
    pub(super) fn config(&self, dir: &Path, address: &Address, members: &[Address]) -> Result<String> {
        let mut config = self.common(dir, address)?;
        config.insert("node_id".into(), number(address.id)?);
        if self.docker_proxied {
            let engine =
                config.get_mut("engine").and_then(Value::as_table_mut).context("it was just made")?;
            let socket = docker_socket(dir, address.id);
            engine.insert("docker_socket".into(), socket.to_str().context("the folder is not UTF-8")?.into());
        }
        let secret = dir.join(SECRET_FILE);
        let secret = secret.to_str().context("the folder is not UTF-8")?;
        let peer = config.get_mut("peer").and_then(Value::as_table_mut).context("it was just made")?;
        peer.insert("secret_file".into(), secret.into());
        self.founding(dir, address, members, &mut config)?;
        merge(&mut config, &self.overrides);
        toml::to_string(&config).context("a configuration is plain data")
    }

    /// The configuration file of a node that joins members at `addresses` with the token in a file.
    pub(super) fn joining(
        &self,
        dir: &Path,
        address: &Address,
        addresses: &[String],
        token_file: &Path,
    ) -> Result<String> {
        let mut config = self.common(dir, address)?;
        let mut join = Table::new();
        join.insert("addresses".into(), Value::Array(addresses.iter().cloned().map(Value::String).collect()));
        join.insert("token_file".into(), token_file.to_str().context("the folder is not UTF-8")?.into());
        config.insert("join".into(), join.into());
        merge(&mut config, &self.overrides);
        toml::to_string(&config).context("a configuration is plain data")
    }

    /// What stands in every node's.
    fn common(&self, dir: &Path, address: &Address) -> Result<Table> {
        let path = |name: &str| dir.join(name).to_str().map(str::to_owned).context("the folder is not UTF-8");
        let mut config = Table::new();
        let data_dir = data_dir(Path::new(""), address.id, self.faulty_disks);
        config.insert("data_dir".into(), path(data_dir.to_str().context("plain text")?)?.into());
        config.insert("http".into(), table([("listen", address.http.clone())]));
        let peer = [("listen", address.peer.clone()), ("advertise", address.peer_advertised.clone())];
        config.insert("peer".into(), table(peer));
        let engine = match self.engine {
            Engine::Process => "process",
            Engine::Docker => "docker",
        };
        config.insert("engine".into(), table([("kind", engine.to_owned())]));
        Ok(config)
    }

    fn founding(&self, dir: &Path, address: &Address, members: &[Address], config: &mut Table) -> Result<()> {
        let path = |name: &str| dir.join(name).to_str().map(str::to_owned).context("the folder is not UTF-8");
        if members.first().is_some_and(|first| first.id == address.id) {
            let member = |member: &Address| {
                let mut entry = Table::from_iter(
                    [("http", &member.http), ("peer", &member.peer_advertised)]
                        .map(|(k, v)| (k.to_owned(), Value::String(v.clone()))),
                );
                entry.insert("id".into(), number(member.id)?);
                anyhow::Ok(Value::Table(entry))
            };
            let mut bootstrap = Table::new();
            let members: Vec<Value> = members.iter().map(member).collect::<Result<_>>()?;
            bootstrap.insert("members".into(), members.into());
            bootstrap.insert("root_key_file".into(), path(ROOT_KEY_FILE)?.into());
            config.insert("bootstrap".into(), bootstrap.into());
        }
        Ok(())
    }
}

/// Where a faulty disk is mounted in a cluster's folder.
pub(super) fn disk_dir(dir: &Path, node: u64) -> PathBuf {
    dir.join(format!("disk{node}"))
}

/// Where a node keeps its data: on its faulty disk, if it has one.
pub(super) fn data_dir(dir: &Path, node: u64, faulty_disk: bool) -> PathBuf {
    let name = format!("node{node}");
    if faulty_disk { disk_dir(dir, node).join(name) } else { dir.join(name) }
}

pub(super) const SECRET_FILE: &str = "peer.secret";
pub(super) const ROOT_KEY_FILE: &str = "root.key";

/// Where a node reaches Docker under [`Settings::docker_proxied`].
pub(super) fn docker_socket(dir: &Path, node: u64) -> PathBuf {
    dir.join(format!("docker{node}.sock"))
}

/// Where a node listens.
#[derive(Clone, Debug)]
pub(super) struct Address {
    pub(super) id: u64,
    pub(super) http: String,
    pub(super) peer: String,
    /// The peer listener itself, or the proxy before it.
    pub(super) peer_advertised: String,
}

fn number(id: u64) -> Result<Value> {
    Ok(Value::Integer(i64::try_from(id).context("a node id that TOML cannot hold")?))
}

fn table<const N: usize>(entries: [(&str, String); N]) -> Value {
    Value::Table(entries.into_iter().map(|(name, value)| (name.to_owned(), Value::String(value))).collect())
}

fn merge(into: &mut Table, from: &Table) {
    for (name, value) in from {
        match (into.get_mut(name), value) {
            (Some(Value::Table(into)), Value::Table(from)) => merge(into, from),
            _ => drop(into.insert(name.clone(), value.clone())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(id: u64) -> Address {
        let at = |port: u64| format!("127.0.0.1:{}", port + id);
        Address { id, http: at(8080), peer: at(9080), peer_advertised: at(10_080) }
    }

    #[test]
    fn configurations_are_merged_and_only_the_first_node_begins() {
        let settings = Settings::default()
            .set("raft.snapshot_after_entries", 50)
            .set("http.advertise", "node:1")
            .set("raft.heartbeat_ms", 70);
        let members = [address(1), address(2)];
        for (number, begins) in [(0, true), (1, false)] {
            let text = settings.config(Path::new("/x"), &members[number], &members).unwrap();
            let config: Table = text.parse().unwrap();
            assert_eq!(config.contains_key("bootstrap"), begins);
            assert_eq!(config["raft"]["heartbeat_ms"].as_integer(), Some(70), "the later setting holds");
            assert_eq!(config["raft"]["snapshot_after_entries"].as_integer(), Some(50));
            assert_eq!(config["raft"]["election_max_ms"].as_integer(), Some(600), "the others stay");
            assert_eq!(config["http"]["listen"].as_str(), Some(members[number].http.as_str()));
            assert_eq!(config["http"]["advertise"].as_str(), Some("node:1"));
            assert_eq!(config["peer"]["advertise"].as_str(), Some(members[number].peer_advertised.as_str()));
        }
    }
}
