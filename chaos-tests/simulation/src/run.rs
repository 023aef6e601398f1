//! One run: boot, a phase of faults in which safety is judged, healing, and a phase in which liveness
//! is.

use std::collections::BTreeMap;
use std::panic;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use muster_chaos::chaos::dice::Dice;
use muster_consensus::Member;
use muster_core::Command;
use muster_core::accounts::KeyHash;
use muster_core::ids::{ClusterId, NodeId, StoreId, TokenId};
use muster_core::instances::Phase;
use muster_core::members::{self, Addresses};
use muster_core::version::{Range, SUPPORTED, Version};

use tokio::time::sleep;

use crate::admin::root_key;
use crate::checks::{self, Checks};
use crate::faults::{Faults, keeps_time};
use crate::host::{Host, Settings};
use crate::network::{Network, address};
use crate::system;
use crate::trace::Trace;
use crate::workload::{FUNCTIONS, Figures, History, Workload, call, prove_alive};

/// A cluster that is started whole is one within this time.
const BOOT_LIMIT_MS: u64 = 20_000;
/// Once all is mended, every node writes and reads within this time.
const ALIVE_LIMIT_MS: u64 = 20_000;
/// And this much later what runs is what should: the longest pause after failed launches is 60 s.
const CONVERGED_LIMIT_MS: u64 = 150_000;
/// Before a request that was refused is made again.
const ASK_PAUSE: Duration = Duration::from_millis(100);
/// For what the last entries leave on the disks.
const QUIET_MS: u64 = 3_000;

/// The first panic of a task, which its runtime would swallow.
static PANIC: Mutex<Option<String>> = Mutex::new(None);

/// What came of a run.
#[derive(Clone, Debug)]
pub struct Outcome {
    pub nodes: u64,
    pub violation: Option<String>,
    pub fingerprint: u64,
    pub virtual_ms: u64,
    pub entries: u64,
    pub instances: u64,
    pub figures: Figures,
    pub faults: BTreeMap<&'static str, u64>,
}

struct World {
    now_ms: u64,
    hosts: Vec<Host>,
    /// The first so many begin the cluster; the others join it.
    founders: u64,
    network: Network,
    checks: Checks,
    history: History,
    trace: Trace,
    /// When which of the hosts gets the newer release, after the boot.
    upgrades: Vec<(u64, usize)>,
}

/// Runs a seed for so many seconds of faults. To be called once a process.
///
/// With `lying_disks` no disk keeps what it was told to sync: only to prove that the checks see it.
pub fn run(seed: u64, seconds: u64, lying_disks: bool) -> Outcome {
    // A thread of its own: the standard library draws the keys of a thread's maps once, at their first
    // use, and they must be the seed's.
    let thread = std::thread::spawn(move || run_here(seed, seconds, lying_disks));
    thread.join().expect("a run tells of its panics")
}

fn run_here(seed: u64, seconds: u64, lying_disks: bool) -> Outcome {
    system::take_over(seed);
    panic::set_hook(Box::new(|info| {
        eprintln!("{info}");
        let mut first = PANIC.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        first.get_or_insert_with(|| format!("a panic: {info}"));
    }));
    let mut dice = Dice::new(seed, 0);
    let settings = Settings {
        nodes: *dice.pick(&[3, 3, 5]),
        snapshot_after_entries: *dice.pick(&[30, 100, 400, 20_000]),
        keep_entries: *dice.pick(&[5, 50]),
        pause_idle_after_ms: *dice.pick(&[0, 20, 500]),
    };
    let joiners = *dice.pick(&[0, 1, 2]);
    let trace = Trace::new();
    let network = Network::new(seed, trace.clone());
    let host = |id| Host::new(id, seed, network.clone(), settings);
    let mut world = World {
        now_ms: 0,
        hosts: (1..=settings.nodes + joiners).map(host).collect(),
        founders: settings.nodes,
        network: network.clone(),
        checks: Checks::default(),
        history: History::new(keeps_time(seed)),
        trace: trace.clone(),
        upgrades: Vec::new(),
    };
    world.make_old(&mut Dice::new(seed, 9_000), seconds);
    world.hosts.iter().for_each(|host| host.disk.set_forgetful(lying_disks));
    let mut faults = Faults::new(seed, BOOT_LIMIT_MS);
    let verdict = world.play(seed, seconds, &mut dice, &mut faults);
    let state = world.hosts[0].parts().map(|parts| parts.consensus.state());
    Outcome {
        nodes: settings.nodes + joiners,
        violation: verdict.err().map(|what| format!("after {} virtual ms: {what}", world.now_ms)),
        fingerprint: trace.fingerprint(),
        virtual_ms: world.now_ms,
        entries: world.checks.newest(),
        instances: state.map_or(0, |state| state.state.instances.last_generation().0),
        figures: world.history.figures(),
        faults: faults.struck().clone(),
    }
}

/// Tokens, in the order of the ids that they get, and their use.
fn enrollments(founders: u64, joiners: &[u64]) -> Vec<Command> {
    let hash = KeyHash::of("a simulated token");
    let tokens = joiners.iter().map(|id| members::Command::CreateToken {
        token: TokenId(*id),
        hash,
        // Clocks jump by hours.
        expires_in: members::TOKEN_LIFETIME_MAX,
        above: NodeId(founders),
        replaces: None,
    });
    let uses = joiners.iter().map(|id| members::Command::Enroll {
        token: TokenId(*id),
        hash,
        store: StoreId(*id),
        addresses: Addresses { http: address(*id), peer: address(*id) },
    });
    tokens.chain(uses).map(Command::Members).collect()
}

impl World {
    /// In every other seed the founders begin as an older release, and get the newer one at some time. Who joins
    /// has it: another would be refused.
    fn make_old(&mut self, dice: &mut Dice, seconds: u64) {
        if dice.chance(50) {
            return;
        }
        for at in 0..usize::try_from(self.founders).expect("few hosts") {
            self.hosts[at].versions = Range { oldest: Version::FIRST, newest: Version::FIRST };
            self.upgrades.push((dice.below(seconds * 1_000 + 1), at));
        }
    }

    /// Restarts hosts with the newer release, as if the power had failed.
    fn upgrade(&mut self, since_boot_ms: u64) {
        let now_ms = self.now_ms;
        for (_, at) in self.upgrades.extract_if(.., |(due_ms, _)| *due_ms <= since_boot_ms) {
            let host = &mut self.hosts[at];
            host.versions = SUPPORTED;
            if host.is_up() {
                host.crash(now_ms);
                self.checks.forget(host.id);
                host.start(now_ms);
            }
        }
    }

    fn play(&mut self, seed: u64, seconds: u64, dice: &mut Dice, faults: &mut Faults) -> Result<(), String> {
        self.boot()?;
        *faults = Faults::new(seed, self.now_ms);
        let mut workload = Workload::new(seed, self.history.clone(), self.trace.clone());
        let pause_ms = *dice.pick(&[5, 20, 50, 150]);
        let mut step_ms = self.now_ms;
        let until = self.now_ms + seconds * 1_000;
        let mut join_ms = self.now_ms + dice.below(seconds * 500 + 1);
        while self.now_ms < until {
            self.upgrade(self.now_ms + seconds * 1_000 - until);
            if self.now_ms >= join_ms {
                // The request may be lost with the node that was asked: others are asked until it is known.
                join_ms = self.now_ms + dice.between(200, 2_000);
                let at = usize::try_from(dice.below(self.founders)).unwrap_or(0);
                self.enroll(at);
            }
            faults.tick(self.now_ms, &mut self.hosts, &self.network, &mut self.checks);
            if self.now_ms >= step_ms {
                step_ms = self.now_ms + dice.between(1, 2 * pause_ms);
                let at = usize::try_from(dice.below(self.hosts.len() as u64)).unwrap_or(0);
                workload.step(&self.hosts[at]);
            }
            self.tick()?;
        }
        checks::launched_once(&self.hosts)?;
        self.upgrade(u64::MAX);
        faults.heal(self.now_ms, &mut self.hosts, &self.network, &mut self.checks);
        self.prove_liveness()
    }

    /// Begins the cluster as its first node does, and gives it accounts and functions.
    fn boot(&mut self) -> Result<(), String> {
        for host in &mut self.hosts {
            host.disk.set_barrier(Duration::from_millis(1));
            host.start(0);
        }
        self.until(BOOT_LIMIT_MS, "the nodes start", |world| {
            world.hosts.iter().all(|host| host.parts().is_some())
        })?;
        let members: BTreeMap<NodeId, Member> = self
            .hosts
            .iter()
            .filter(|host| host.id <= self.founders)
            .map(|host| (NodeId(host.id), Member { http: address(host.id), peer: address(host.id) }))
            .collect();
        let parts = self.hosts[0].parts().cloned().expect("it was waited for");
        let (key, _, hash) = root_key();
        self.hosts[0].spawn(async move {
            parts.consensus.initialize(members).await.expect("a pristine node can begin a cluster");
            let bootstrap = Command::Bootstrap { cluster: ClusterId(1), key, hash };
            let mut commands = vec![bootstrap];
            commands.extend(Workload::prepare());
            while parts.consensus.propose_all(commands.clone()).await.is_err() {}
        });
        self.until(BOOT_LIMIT_MS, "the cluster begins", |world| {
            let begun = |host: &Host| {
                let parts = host.parts()?;
                Some(parts.consensus.with_state(|state| state.functions.len()))
            };
            let mut founders = world.hosts.iter().filter(|host| host.id <= world.founders);
            founders.all(|host| begun(host).is_some_and(|functions| functions > 0))
        })
    }

    /// Has everyone who is to join enrolled, through one node, as far as it does not know them yet.
    fn enroll(&self, at: usize) {
        let Some(parts) = self.hosts[at].parts().cloned() else { return };
        let joiners: Vec<u64> = (self.founders + 1..=self.hosts.len() as u64).collect();
        let known = |id: &u64| {
            parts.consensus.with_state(|state| state.members.enrolled().any(|(node, _)| node == NodeId(*id)))
        };
        if joiners.iter().all(known) {
            return;
        }
        let commands = enrollments(self.founders, &joiners);
        self.hosts[at]
            .spawn(async move { while parts.consensus.propose_all(commands.clone()).await.is_err() {} });
    }

    fn prove_liveness(&mut self) -> Result<(), String> {
        let begun = self.now_ms;
        self.until(ALIVE_LIMIT_MS, "all nodes are back", |world| {
            world.hosts.iter().all(|host| host.parts().is_some())
        })?;
        self.enroll(0);
        let done = Arc::new(AtomicUsize::new(0));
        for host in &self.hosts {
            let parts = host.parts().cloned().expect("it was waited for");
            let (history, trace) = (self.history.clone(), self.trace.clone());
            let (name, done) = (format!("alive{}", host.id), done.clone());
            host.spawn(async move {
                prove_alive(parts, history, trace, name).await;
                done.fetch_add(1, Relaxed);
            });
        }
        let left = (begun + ALIVE_LIMIT_MS).saturating_sub(self.now_ms);
        self.until(left, "each node writes and reads", |world| done.load(Relaxed) == world.hosts.len())?;
        self.prove_service()?;
        self.until(CONVERGED_LIMIT_MS, "what runs is what should run", World::has_converged)?;
        self.until(ALIVE_LIMIT_MS, "all are at the newest version", |world| {
            let version = |host: &Host| host.parts().map(|parts| parts.consensus.version());
            world.hosts.iter().all(|host| version(host) == Some(SUPPORTED.newest))
        })?;
        let until = self.now_ms + QUIET_MS;
        while self.now_ms < until {
            self.tick()?;
        }
        self.until(CONVERGED_LIMIT_MS, "all nodes are equally far", World::is_even)?;
        self.judge_end()
    }

    /// Where a function is asked for at every node, somebody is served: the leader hears of it and has it launched.
    /// Not everybody, since no node gets slots of another here.
    fn prove_service(&mut self) -> Result<(), String> {
        let served: Arc<[AtomicBool]> = (0..FUNCTIONS).map(|_| AtomicBool::new(false)).collect();
        for (host, function) in self.hosts.iter().flat_map(|host| (0..FUNCTIONS).map(move |f| (host, f))) {
            let parts = host.parts().cloned().ok_or("a node is not there")?;
            let (containers, history) = (host.containers.clone(), self.history.clone());
            let (served, at) = (Arc::clone(&served), usize::try_from(function).expect("few functions"));
            host.spawn(async move {
                while !served[at].load(Relaxed) {
                    if call(parts.clone(), containers.clone(), history.clone(), function, 5).await {
                        served[at].store(true, Relaxed);
                    }
                    // A refusal takes no time.
                    sleep(ASK_PAUSE).await;
                }
            });
        }
        self.until(CONVERGED_LIMIT_MS, "each function serves somebody who asks for it", |_| {
            served.iter().all(|served| served.load(Relaxed))
        })
    }

    fn judge_end(&mut self) -> Result<(), String> {
        checks::launched_once(&self.hosts)?;
        for host in &self.hosts {
            let published = host.parts().ok_or("a node is not there")?.consensus.state();
            let id = host.id;
            let kept = self.history.check_final(&published.state);
            kept.map_err(|what| format!("in the end, on node {id}: {what}"))?;
            checks::conserved(&published.state)
                .map_err(|what| format!("in the end, on node {id}: {what}"))?;
            // The last entries may still be on their way to the disk.
            self.checks.compare_log(host, 1, published.applied_index().saturating_sub(200))?;
        }
        Ok(())
    }

    fn has_converged(&self) -> bool {
        let Some(parts) = self.hosts[0].parts() else { return false };
        let state = parts.consensus.state().state.clone();
        let enough = state.functions.iter().all(|(name, function)| {
            let current = function.current();
            let live: Vec<_> = state.instances.of_function(name.as_str()).collect();
            let ready = live.iter().filter(|(_, i)| i.phase == Phase::Ready && i.version == current.number);
            let settled = live.iter().all(|(_, i)| i.phase == Phase::Ready && i.version == current.number);
            settled && ready.count() >= current.spec.scaling.min as usize
        });
        enough
            && self.hosts.iter().all(|host| {
                let placed = state.instances.on_node(NodeId(host.id)).map(|(id, _)| id).collect();
                host.containers.alive() == placed
            })
    }

    fn is_even(&self) -> bool {
        let applied = |host: &Host| Some(host.parts()?.consensus.state().applied_index());
        let first = applied(&self.hosts[0]);
        first.is_some() && self.hosts.iter().all(|host| applied(host) == first)
    }

    fn until(&mut self, limit_ms: u64, what: &str, holds: impl Fn(&World) -> bool) -> Result<(), String> {
        let until = self.now_ms + limit_ms;
        while !holds(self) {
            if self.now_ms >= until {
                return Err(format!("not within {limit_ms} ms: {what}. {}", self.describe()));
            }
            self.tick()?;
        }
        Ok(())
    }

    /// One millisecond.
    fn tick(&mut self) -> Result<(), String> {
        self.now_ms += 1;
        let (hosts, now_ms) = (&self.hosts, self.now_ms);
        let at = |id: u64| &hosts[usize::try_from(id - 1).expect("few hosts")];
        let arrived =
            self.network.advance(now_ms, |id| at(id).parts().is_some(), |id| at(id).is_held(now_ms));
        let mut inboxes: BTreeMap<u64, Vec<_>> = BTreeMap::new();
        for request in arrived {
            inboxes.entry(request.to).or_default().push(request);
        }
        for host in &mut self.hosts {
            host.tick(now_ms, inboxes.remove(&host.id).unwrap_or_default());
            self.checks.look(host, now_ms)?;
            if let Some(state) = host.admits_by(now_ms) {
                self.history.check_admission(host.id, &state)?;
            }
        }
        if let Some(violation) = self.history.violation() {
            return Err(violation);
        }
        PANIC.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone().map_or(Ok(()), Err)
    }

    fn describe(&self) -> String {
        let mut lines = String::new();
        for host in &self.hosts {
            let Some(parts) = host.parts() else {
                lines += &format!("\n  node {}: not there", host.id);
                continue;
            };
            let published = parts.consensus.state();
            let phases: Vec<String> = published
                .state
                .instances
                .live()
                .map(|(id, i)| format!("{id} {} v{} {} on {}", i.function, i.version, i.phase, i.node))
                .collect();
            lines += &format!(
                "\n  node {}: leader {:?}, applied {}, runs {:?}, instances {phases:?}",
                host.id,
                parts.consensus.leader().map(|(id, _)| id.0),
                published.applied_index(),
                host.containers.alive(),
            );
        }
        lines
    }
}
