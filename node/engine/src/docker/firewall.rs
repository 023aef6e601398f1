//! What containers must not reach: this host, the nodes of the cluster, and the address where clouds hand
//! out credentials. Docker has no word for that, so it is said to `iptables`, which Docker needs as well:
//!
//! * what comes from the cluster's bridge for this host is refused, unless it answers what the host asked;
//! * what comes from there for link-local addresses, or for a node's port, is refused on its way through.
//!
//! The rules name the bridge's device, so they concern this cluster's containers alone. They are looked at
//! again every minute: a firewall that is reloaded forgets them. A node without the right to set them
//! says so in its log; then the host's own firewall has to do it.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::lookup_host;
use tokio::process::Command;
use tokio::sync::Mutex as AsyncMutex;
use tokio::time::{Instant, timeout};

/// Where clouds serve credentials to their machines, among other things.
const LINK_LOCAL: &str = "169.254.0.0/16";
/// How long rules are taken to be there.
const CHECK_EVERY: Duration = Duration::from_secs(60);
const RUN_DEADLINE: Duration = Duration::from_secs(10);
/// How long `iptables` may wait for another one, in seconds.
const LOCK_SECS: &str = "5";
/// Docker's chain for what others have to say about what it forwards.
const FORWARDED: &str = "DOCKER-USER";
const RECEIVED: &str = "INPUT";

#[derive(Debug)]
pub(super) struct Firewall {
    /// The bridge's device.
    device: String,
    /// Ports of nodes, on this host and others.
    closed: Mutex<BTreeSet<SocketAddr>>,
    /// When the rules were last seen to stand. Held while they are set.
    stood: AsyncMutex<Option<Instant>>,
    complained: AtomicBool,
}

impl Firewall {
    pub(super) fn new(device: String) -> Self {
        Firewall {
            device,
            closed: Mutex::default(),
            stood: AsyncMutex::default(),
            complained: AtomicBool::new(false),
        }
    }

    /// From now on containers are kept from these.
    pub(super) async fn close(&self, ports: BTreeSet<SocketAddr>) {
        let before = std::mem::replace(&mut *self.closed(), ports.clone());
        let mut stood = self.stood.lock().await;
        // Before there is a network there is nothing to keep from anywhere.
        if before != ports && stood.is_some() {
            *stood = None;
            drop(stood);
            self.ensure().await;
        }
    }

    /// Whether the rules were seen to stand lately.
    pub(super) async fn is_fresh(&self) -> bool {
        self.stood.lock().await.is_some_and(|at| at.elapsed() < CHECK_EVERY)
    }

    /// Whether there were rules at all.
    pub(super) async fn has_stood(&self) -> bool {
        self.stood.lock().await.is_some()
    }

    /// Sets what is missing of the rules. That it cannot be done is said once.
    pub(super) async fn ensure(&self) {
        let mut stood = self.stood.lock().await;
        if stood.is_some_and(|at| at.elapsed() < CHECK_EVERY) {
            return;
        }
        let set = self.set().await;
        // Even where it failed: to try before each launch would only make them slow.
        *stood = Some(Instant::now());
        match set {
            Ok(()) => self.complained.store(false, Ordering::Relaxed),
            Err(why) if !self.complained.swap(true, Ordering::Relaxed) => {
                tracing::warn!(
                    "containers can reach this host and the nodes' ports, for iptables fails: {why}"
                );
            }
            Err(_told_already) => {}
        }
    }

    async fn set(&self) -> Result<(), String> {
        forget_devices_that_are_gone().await;
        run("iptables-restore", &["--noflush", "--wait", LOCK_SECS], &self.script()).await?;
        for (parent, chain) in [(FORWARDED, self.forwarded()), (RECEIVED, self.received())] {
            let rule = ["-i", self.device.as_str(), "-j", chain.as_str()];
            if iptables(&["-C", parent], &rule).await.is_err() {
                iptables(&["-I", parent, "1"], &rule).await?;
            }
        }
        Ok(())
    }

    /// Removes the rules, with the network.
    pub(super) async fn remove(&self) {
        *self.stood.lock().await = None;
        remove_device(&self.device).await;
    }

    fn forwarded(&self) -> String {
        chain(&self.device, FORWARDED)
    }

    fn received(&self) -> String {
        chain(&self.device, RECEIVED)
    }

    /// Replaces the two chains at once.
    fn script(&self) -> String {
        let (forwarded, received) = (self.forwarded(), self.received());
        let mut script = format!("*filter\n:{forwarded} - [0:0]\n:{received} - [0:0]\n");
        script.push_str(&format!("-A {forwarded} -d {LINK_LOCAL} -j REJECT\n"));
        for port in self.closed().iter().filter(|port| port.is_ipv4() && !port.ip().is_loopback()) {
            let (ip, port) = (port.ip(), port.port());
            script.push_str(&format!("-A {forwarded} -d {ip} -p tcp --dport {port} -j REJECT\n"));
        }
        script.push_str(&format!("-A {received} -m conntrack --ctstate NEW -j REJECT\nCOMMIT\n"));
        script
    }

    fn closed(&self) -> std::sync::MutexGuard<'_, BTreeSet<SocketAddr>> {
        self.closed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The addresses behind `host:port`s.
pub(super) async fn resolve(names: BTreeSet<String>) -> BTreeSet<SocketAddr> {
    let mut ports = BTreeSet::new();
    for name in names {
        match timeout(RUN_DEADLINE, lookup_host(&name)).await {
            Ok(Ok(addresses)) => ports.extend(addresses),
            Ok(Err(error)) => tracing::debug!(name, %error, "a node's address is not known"),
            Err(_elapsed) => tracing::debug!(name, "a node's address is not found in time"),
        }
    }
    ports
}

fn chain(device: &str, parent: &str) -> String {
    format!("{device}-{}", if parent == RECEIVED { "in" } else { "out" })
}

/// Rules of clusters whose network somebody removed without them.
async fn forget_devices_that_are_gone() {
    let Ok(rules) = iptables(&["-S", RECEIVED], &[]).await else { return };
    let devices: BTreeSet<String> = rules.lines().filter_map(device_of).collect();
    for device in devices {
        if !Path::new("/sys/class/net").join(&device).exists() {
            remove_device(&device).await;
        }
    }
}

/// The device of a rule that is ours: `-A INPUT -i mu… -j mu…-in`.
fn device_of(rule: &str) -> Option<String> {
    let words: Vec<&str> = rule.split(' ').collect();
    let &["-A", RECEIVED, "-i", device, "-j", target] = words.as_slice() else { return None };
    (device.starts_with("mu") && target == chain(device, RECEIVED)).then(|| device.to_owned())
}

async fn remove_device(device: &str) {
    for parent in [FORWARDED, RECEIVED] {
        let chain = chain(device, parent);
        // Several nodes on one host may have set it at once.
        while iptables(&["-D", parent], &["-i", device, "-j", &chain]).await.is_ok() {}
        let _gone = iptables(&["-F", &chain], &[]).await;
        let _gone = iptables(&["-X", &chain], &[]).await;
    }
}

/// The node's own, and where administrators' programs are, which not every user's has.
fn search_path() -> String {
    format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default())
}

async fn iptables(command: &[&str], rule: &[&str]) -> Result<String, String> {
    run("iptables", &[&["-w", LOCK_SECS], command, rule].concat(), "").await
}

async fn run(program: &str, arguments: &[&str], input: &str) -> Result<String, String> {
    let spawned = Command::new(program)
        .args(arguments)
        .env("PATH", search_path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn();
    let mut child = spawned.map_err(|error| format!("{program}: {error}"))?;
    let running = async {
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(input.as_bytes()).await?;
        }
        child.wait_with_output().await
    };
    let ran = timeout(RUN_DEADLINE, running).await.map_err(|_| format!("{program} takes too long"))?;
    let ran = ran.map_err(|error| format!("{program}: {error}"))?;
    match ran.status.success() {
        true => Ok(String::from_utf8_lossy(&ran.stdout).into_owned()),
        false => Err(format!("{program}: {}", String::from_utf8_lossy(&ran.stderr).trim())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_rules() {
        let firewall = Firewall::new("mu0123456789abc".into());
        let ports = ["10.0.0.2:9081", "127.0.0.1:8081", "[fd00::1]:80"].map(|port| port.parse().unwrap());
        firewall.close(ports.into()).await;
        let golden = "\
            *filter\n\
            :mu0123456789abc-out - [0:0]\n\
            :mu0123456789abc-in - [0:0]\n\
            -A mu0123456789abc-out -d 169.254.0.0/16 -j REJECT\n\
            -A mu0123456789abc-out -d 10.0.0.2 -p tcp --dport 9081 -j REJECT\n\
            -A mu0123456789abc-in -m conntrack --ctstate NEW -j REJECT\n\
            COMMIT\n";
        assert_eq!(firewall.script(), golden);
    }

    #[test]
    fn only_rules_of_ours_are_known_as_such() {
        for (rule, device) in [
            ("-A INPUT -i mu0123456789abc -j mu0123456789abc-in", Some("mu0123456789abc")),
            ("-A INPUT -i mu0 -j ACCEPT", None),
            ("-A INPUT -i eth0 -j eth0-in", None),
            ("-P INPUT ACCEPT", None),
        ] {
            assert_eq!(device_of(rule).as_deref(), device, "{rule}");
        }
    }
}
