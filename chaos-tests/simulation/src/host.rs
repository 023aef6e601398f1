//! A simulated host: a disk, containers and clocks that outlive the node's process, and the process
//! itself, which is a tokio runtime of one thread whose clock stands still but for our ticks.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use muster_chaos::chaos::dice::Dice;
use muster_consensus::Identity;
use muster_core::ClusterState;
use muster_core::authority::AuthoritySeed;
use muster_core::ids::{NodeId, StoreId};
use muster_core::version::{Range, SUPPORTED};
use muster_node::Config;
use muster_node::parts::{Parts, Surroundings};
use muster_storage::{Memory, Store};
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinHandle;
use tokio::time::{advance, sleep};

use crate::containers::Containers;
use crate::network::{Network, Request, address};
use crate::system;

/// Where simulated time begins: 2026-01-01, 00:00 UTC.
const EPOCH: Duration = Duration::from_secs(1_767_225_600);
pub(crate) const TICK: Duration = Duration::from_millis(1);

#[derive(Debug)]
pub struct Host {
    pub id: u64,
    pub disk: Memory,
    pub containers: Containers,
    /// By how much the wall clock is wrong.
    pub wall_error_ms: i64,
    /// Of a hundred ticks, this many are missed (below zero: made twice) by the clock.
    pub drift_percent: i64,
    /// The process is stopped until this moment, as by SIGSTOP.
    pub held_until_ms: u64,
    /// What its software supports, from the process's next start on.
    pub versions: Range,
    /// The process has ended because its disk failed, and nobody has taken note yet.
    pub disk_failed: bool,
    monotonic: Duration,
    process: Option<Process>,
    network: Network,
    dice: Dice,
    settings: Settings,
}

/// What the seed chooses for the nodes of a cluster.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    pub nodes: u64,
    pub snapshot_after_entries: u64,
    pub keep_entries: u64,
    /// See `agent.pause_idle_after_ms`.
    pub pause_idle_after_ms: u64,
}

#[derive(Debug)]
struct Process {
    runtime: Runtime,
    starting: Option<JoinHandle<anyhow::Result<Parts>>>,
    parts: Option<Parts>,
    /// Why it could not go on, once it can't.
    ended: Arc<Mutex<Option<String>>>,
    behind: Duration,
}

impl Host {
    pub fn new(id: u64, seed: u64, network: Network, settings: Settings) -> Host {
        Host {
            id,
            disk: Memory::new(),
            containers: Containers::new(id, seed),
            wall_error_ms: 0,
            drift_percent: 0,
            held_until_ms: 0,
            versions: SUPPORTED,
            disk_failed: false,
            // Booted at different times.
            monotonic: Duration::from_secs(1_000 * id),
            process: None,
            network,
            dice: Dice::new(seed, 2_000 + id),
            settings,
        }
    }

    /// Starts the process, if it is not running.
    pub fn start(&mut self, now_ms: u64) {
        if self.process.is_some() {
            return;
        }
        self.show_time(now_ms);
        let runtime = Builder::new_current_thread().enable_time().start_paused(true).build();
        let runtime = runtime.expect("a runtime without IO needs nothing from the system");
        let (disk, network, containers) = (self.disk.clone(), self.network.clone(), self.containers.clone());
        let (id, settings, versions) = (self.id, self.settings, self.versions);
        let starting = runtime.spawn(async move {
            let store = Store::in_memory(&disk).context("the store does not open")?;
            let node = NodeId(id);
            // Each host has one disk for good.
            let own = store.claim_node(node, StoreId(id))?;
            let identity = Identity { node, store: own, incarnation: store.begin_incarnation()? };
            let surroundings = Surroundings {
                store,
                identity,
                transport: network.transport(id),
                tls: None,
                authority: Some(AuthoritySeed([7; 32])),
                engines: containers.connection(),
                packages_dir: None,
            };
            let mut config = config(id, settings);
            config.raft.versions = versions;
            Parts::start(config, surroundings).await
        });
        self.held_until_ms = 0;
        self.process = Some(Process {
            runtime,
            starting: Some(starting),
            parts: None,
            ended: Arc::default(),
            behind: Duration::ZERO,
        });
    }

    /// Ends the process and cuts the power: what was not synced may be lost.
    pub fn crash(&mut self, now_ms: u64) {
        if self.end(now_ms) {
            let dice = &mut self.dice;
            self.disk.cut_power(|unsynced| usize::try_from(dice.below(unsynced as u64 + 1)).unwrap_or(0));
        }
    }

    /// As a crash, in which nothing survives that was not synced.
    pub fn crash_forgetting(&mut self, now_ms: u64) {
        if self.end(now_ms) {
            self.disk.cut_power(|_unsynced| 0);
        }
    }

    /// Ends the process; answers whether there was one.
    fn end(&mut self, now_ms: u64) -> bool {
        let Some(process) = self.process.take() else { return false };
        self.show_time(now_ms);
        drop(process);
        self.network.break_off(self.id);
        true
    }

    pub fn is_up(&self) -> bool {
        self.process.is_some()
    }

    pub fn is_held(&self, now_ms: u64) -> bool {
        self.process.is_some() && now_ms < self.held_until_ms
    }

    pub fn parts(&self) -> Option<&Parts> {
        self.process.as_ref()?.parts.as_ref()
    }

    /// The state by which the node admits callers now; none if it admits nobody.
    pub fn admits_by(&self, now_ms: u64) -> Option<Arc<ClusterState>> {
        let process = self.process.as_ref().filter(|_| !self.is_held(now_ms))?;
        let parts = process.parts.as_ref()?;
        // The lease is measured by the node's own clock.
        let _its_clock = process.runtime.enter();
        parts.consensus.holds_lease().then(|| Arc::clone(&parts.consensus.state().state))
    }

    /// Why the process ended by itself, if it did.
    pub fn ended(&self) -> Option<String> {
        self.process.as_ref()?.ended.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Runs something in the process.
    pub fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        if let Some(process) = &self.process {
            process.runtime.spawn(work);
        }
    }

    /// Lets the process do what it has to do in this tick.
    pub fn tick(&mut self, now_ms: u64, requests: Vec<Request>) {
        let ticks = self.ticks();
        self.monotonic += TICK * ticks;
        let held = self.is_held(now_ms);
        self.show_time(now_ms);
        let Some(process) = &mut self.process else { return };
        process.behind += TICK * ticks;
        if held {
            return;
        }
        let span = std::mem::take(&mut process.behind);
        let (parts, network) = (process.parts.clone(), self.network.clone());
        process.runtime.block_on(async move {
            if span > TICK * 2 {
                advance(span - TICK).await;
            }
            for request in requests {
                if let Some(parts) = parts.clone() {
                    tokio::spawn(answer(parts, network.clone(), request));
                }
            }
            if !span.is_zero() {
                sleep(if span > TICK * 2 { TICK } else { span }).await;
            }
        });
        process.take_started();
        // A process whose disk has failed aborts. The host goes on, and so does what the disk holds.
        if self.disk.take_failure().is_some() {
            self.end(now_ms);
            self.disk_failed = true;
        }
    }

    /// Whether the node takes itself for the leader.
    pub fn leads(&self) -> bool {
        let leader = self.parts().and_then(|parts| parts.consensus.leader());
        leader.is_some_and(|(leader, _)| leader.0 == self.id)
    }

    fn ticks(&mut self) -> u32 {
        let percent = self.drift_percent.unsigned_abs();
        match self.drift_percent {
            0 => 1,
            drift if !self.dice.chance(percent) => u32::from(drift != 0),
            drift => {
                if drift > 0 {
                    0
                } else {
                    2
                }
            }
        }
    }

    fn show_time(&self, now_ms: u64) {
        let right = EPOCH + Duration::from_millis(now_ms);
        let error = Duration::from_millis(self.wall_error_ms.unsigned_abs());
        let wall = if self.wall_error_ms < 0 { right - error } else { right + error };
        system::set_time(self.monotonic, wall);
    }
}

impl Process {
    fn take_started(&mut self) {
        let Some(starting) = self.starting.take_if(|starting| starting.is_finished()) else { return };
        let started = match self.runtime.block_on(starting) {
            Ok(started) => started.map_err(|error| format!("{error:#}")),
            Err(error) => Err(error.to_string()),
        };
        let ended = Arc::clone(&self.ended);
        let tell = move |reason| *ended.lock().unwrap_or_else(PoisonError::into_inner) = Some(reason);
        match started {
            Ok(parts) => {
                self.parts = Some(parts.clone());
                self.runtime.spawn(async move { tell(parts.failed().await) });
            }
            Err(reason) => tell(reason),
        }
    }
}

async fn answer(parts: Parts, network: Network, request: Request) {
    let answer = match parts.answer_peer(NodeId(request.from), &request.path, &request.body).await {
        Some(answer) => answer.map_err(|_problem| 400),
        None => Err(404),
    };
    network.answer(&request, answer);
}

fn config(id: u64, settings: Settings) -> Config {
    let Settings { snapshot_after_entries, keep_entries, pause_idle_after_ms, .. } = settings;
    let peer = address(id);
    let text = format!(
        r#"
        node_id = {id}
        data_dir = "/nowhere"
        [http]
        listen = "192.0.2.1:80"
        [peer]
        listen = "192.0.2.1:81"
        advertise = "{peer}"
        secret_file = "/nowhere"
        [capacity]
        memory_mb = 4096
        cpu_millis = 16000
        [raft]
        snapshot_after_entries = {snapshot_after_entries}
        keep_entries = {keep_entries}
        [agent]
        drain_grace_ms = 2000
        pause_idle_after_ms = {pause_idle_after_ms}
        "#
    );
    toml::from_str(&text).expect("the configuration of a simulated node")
}
