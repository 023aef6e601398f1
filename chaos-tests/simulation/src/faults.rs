//! What befalls the hosts and the network, and when it is mended again: all of it drawn from the seed.

use std::collections::BTreeMap;
use std::time::Duration;

use muster_chaos::chaos::dice::Dice;

use crate::checks::Checks;
use crate::host::Host;
use crate::network::{Network, Weather};

#[derive(Clone, Copy, Debug)]
enum Mend {
    Start(usize),
    Links,
    Weather,
    Disk(usize),
    Drift(usize),
    Containers(usize),
}

/// Percent by which monotonic clocks may be wrong for some seconds.
///
/// Leases rest on clocks that run at nearly the same rate, as all real ones do. Nothing else may, so other
/// seeds have clocks that run at any.
const DRIFT_MOST: u64 = 30;
const DRIFT_MOST_UNDER_LEASES: u64 = 2;

/// Whether clocks are good enough for leases in this seed.
pub fn keeps_time(seed: u64) -> bool {
    seed.is_multiple_of(2)
}

/// Elections on slow disks are through within it.
const TRAP_MS: u64 = 4_000;

#[derive(Debug)]
pub struct Faults {
    dice: Dice,
    drift_most: u64,
    next_ms: u64,
    /// The mean pause between two of them.
    pause_ms: u64,
    mends: BTreeMap<(u64, u64), Mend>,
    struck: BTreeMap<&'static str, u64>,
    count: u64,
    trap: Option<Trap>,
}

/// Waits for an election to take the power from those who have voted in it.
#[derive(Clone, Copy, Debug)]
struct Trap {
    /// The host that leads until then, and is stopped for it.
    leader: usize,
    until_ms: u64,
}

impl Faults {
    pub fn new(seed: u64, now_ms: u64) -> Faults {
        let mut dice = Dice::new(seed, 3);
        let pause_ms = *dice.pick(&[300, 700, 1_500, 4_000]);
        let drift_most = if keeps_time(seed) { DRIFT_MOST_UNDER_LEASES } else { DRIFT_MOST };
        let (mends, struck) = (BTreeMap::new(), BTreeMap::new());
        Faults { dice, drift_most, next_ms: now_ms, pause_ms, mends, struck, count: 0, trap: None }
    }

    /// How often each struck.
    pub fn struck(&self) -> &BTreeMap<&'static str, u64> {
        &self.struck
    }

    /// Strikes and mends what is due.
    pub fn tick(&mut self, now_ms: u64, hosts: &mut [Host], network: &Network, checks: &mut Checks) {
        while let Some(((at, _), mend)) = self.mends.first_key_value().map(|(key, mend)| (*key, *mend)) {
            if at > now_ms {
                break;
            }
            self.mends.pop_first();
            mended(mend, now_ms, hosts, network);
        }
        self.restart_failed(now_ms, hosts, checks);
        self.spring(now_ms, hosts, network, checks);
        if now_ms >= self.next_ms {
            self.next_ms = now_ms + self.dice.between(1, 2 * self.pause_ms);
            let kind = self.strike(now_ms, hosts, network, checks);
            *self.struck.entry(kind).or_default() += 1;
        }
    }

    /// Mends everything.
    pub fn heal(&mut self, now_ms: u64, hosts: &mut [Host], network: &Network, checks: &mut Checks) {
        self.restart_failed(now_ms, hosts, checks);
        self.mends.clear();
        self.trap = None;
        mended(Mend::Links, now_ms, hosts, network);
        mended(Mend::Weather, now_ms, hosts, network);
        for at in 0..hosts.len() {
            hosts[at].held_until_ms = 0;
            hosts[at].disk.stop_failing();
            for mend in [Mend::Start(at), Mend::Disk(at), Mend::Drift(at), Mend::Containers(at)] {
                mended(mend, now_ms, hosts, network);
            }
        }
    }

    fn later(&mut self, now_ms: u64, least: u64, most: u64, mend: Mend) {
        self.count += 1;
        let at = now_ms + self.dice.between(least, most);
        self.mends.insert((at, self.count), mend);
    }

    fn strike(
        &mut self,
        now_ms: u64,
        hosts: &mut [Host],
        network: &Network,
        checks: &mut Checks,
    ) -> &'static str {
        let at = usize::try_from(self.dice.below(hosts.len() as u64)).unwrap_or(0);
        let ids: Vec<u64> = hosts.iter().map(|host| host.id).collect();
        match self.dice.below(20) {
            0..=3 => {
                self.crash(now_ms, at, hosts, checks);
                "crash"
            }
            4 => {
                for at in 0..hosts.len() {
                    self.crash(now_ms, at, hosts, checks);
                }
                "crash of all"
            }
            5 | 6 => {
                hosts[at].held_until_ms = now_ms + self.dice.between(50, 4_000);
                "pause"
            }
            7 => {
                let sides: Vec<bool> = ids.iter().map(|_| self.dice.chance(50)).collect();
                for (one, from) in ids.iter().enumerate() {
                    for (other, to) in ids.iter().enumerate() {
                        if sides[one] != sides[other] {
                            network.cut(*from, *to);
                        }
                    }
                }
                self.later(now_ms, 100, 6_000, Mend::Links);
                "partition"
            }
            8 => {
                for id in ids.iter().filter(|id| **id != ids[at]) {
                    network.cut(ids[at], *id);
                    if self.dice.chance(50) {
                        network.cut(*id, ids[at]);
                    }
                }
                self.later(now_ms, 100, 6_000, Mend::Links);
                "one-way partition"
            }
            9 | 10 => {
                let most = *self.dice.pick(&[5, 20, 60, 200]);
                let weather = Weather {
                    loss_percent: self.dice.below(30),
                    repeat_percent: self.dice.below(15),
                    delay_ms: (0, most),
                };
                network.set_weather(weather);
                self.later(now_ms, 200, 5_000, Mend::Weather);
                "bad network"
            }
            11 => {
                hosts[at].disk.set_barrier(Duration::from_millis(self.dice.between(5, 500)));
                self.later(now_ms, 200, 4_000, Mend::Disk(at));
                "slow disk"
            }
            12 => {
                let error = i64::try_from(self.dice.below(7_200_000)).unwrap_or(0);
                hosts[at].wall_error_ms = error - 3_600_000;
                "wall clock jump"
            }
            13 => {
                let most = self.drift_most;
                let drift = self.dice.between(0, 2 * most);
                hosts[at].drift_percent = drift.cast_signed() - most.cast_signed();
                self.later(now_ms, 500, 10_000, Mend::Drift(at));
                "clock drift"
            }
            16 => {
                if let Some(parts) = hosts[at].parts().cloned() {
                    hosts[at].spawn(async move {
                        let _given_or_not = parts.consensus.transfer(None).await;
                    });
                }
                "leadership given away"
            }
            17 => {
                hosts[at].disk.fail_next_sync();
                "sync error"
            }
            18 | 19 => self.set_trap(now_ms, hosts, network),
            14 => {
                hosts[at].containers.kill_one();
                "container killed"
            }
            _ => {
                hosts[at].containers.set_trouble(self.dice.between(10, 90), (10, 3_000));
                self.later(now_ms, 500, 5_000, Mend::Containers(at));
                "engine trouble"
            }
        }
    }

    /// Those whose disk has failed begin again a while later.
    fn restart_failed(&mut self, now_ms: u64, hosts: &mut [Host], checks: &mut Checks) {
        for (at, host) in hosts.iter_mut().enumerate() {
            if std::mem::take(&mut host.disk_failed) {
                checks.forget(host.id);
                *self.struck.entry("end of a failed sync").or_default() += 1;
                self.later(now_ms, 10, 3_000, Mend::Start(at));
            }
        }
    }

    /// Stops the leader for as long as the others need to elect one, on disks so slow that they answer
    /// before they have synced, if they do. It does not hear of the election either: it would give up when it
    /// goes on.
    fn set_trap(&mut self, now_ms: u64, hosts: &mut [Host], network: &Network) -> &'static str {
        let Some(leader) = hosts.iter().position(|host| host.leads() && !host.is_held(now_ms)) else {
            return "trap without a leader";
        };
        hosts[leader].held_until_ms = now_ms + TRAP_MS;
        for at in (0..hosts.len()).filter(|at| *at != leader) {
            hosts[at].disk.set_barrier(Duration::from_millis(self.dice.between(10, 60)));
            self.later(now_ms, TRAP_MS, TRAP_MS + 1_000, Mend::Disk(at));
        }
        cut_off(leader, hosts, network);
        self.later(now_ms, TRAP_MS, TRAP_MS, Mend::Links);
        self.trap = Some(Trap { leader, until_ms: now_ms + TRAP_MS });
        "trap for voters"
    }

    /// Once another is elected, its voters lose their power and what they have not synced, it loses its
    /// links, and the old leader goes on: whoever has forgotten its vote will follow the wrong one.
    fn spring(&mut self, now_ms: u64, hosts: &mut [Host], network: &Network, checks: &mut Checks) {
        let Some(Trap { leader, until_ms }) = self.trap else { return };
        if now_ms >= until_ms {
            self.trap = None;
            return;
        }
        let Some(elected) = (0..hosts.len()).find(|at| *at != leader && hosts[*at].leads()) else { return };
        self.trap = None;
        *self.struck.entry("trap sprung").or_default() += 1;
        for at in (0..hosts.len()).filter(|at| *at != leader && *at != elected) {
            hosts[at].crash_forgetting(now_ms);
            checks.forget(hosts[at].id);
            self.later(now_ms, 1, 20, Mend::Start(at));
        }
        network.mend();
        cut_off(elected, hosts, network);
        hosts[leader].held_until_ms = now_ms;
        self.later(now_ms, 500, 2_500, Mend::Links);
    }

    fn crash(&mut self, now_ms: u64, at: usize, hosts: &mut [Host], checks: &mut Checks) {
        hosts[at].crash(now_ms);
        checks.forget(hosts[at].id);
        if self.dice.chance(20) {
            hosts[at].containers.kill_all();
        }
        self.later(now_ms, 10, 6_000, Mend::Start(at));
    }
}

fn cut_off(at: usize, hosts: &[Host], network: &Network) {
    for other in (0..hosts.len()).filter(|other| *other != at) {
        network.cut(hosts[at].id, hosts[other].id);
        network.cut(hosts[other].id, hosts[at].id);
    }
}

fn mended(mend: Mend, now_ms: u64, hosts: &mut [Host], network: &Network) {
    match mend {
        Mend::Start(at) => hosts[at].start(now_ms),
        Mend::Links => network.mend(),
        Mend::Weather => network.set_weather(Weather::CALM),
        Mend::Disk(at) => hosts[at].disk.set_barrier(Duration::from_millis(1)),
        Mend::Drift(at) => hosts[at].drift_percent = 0,
        Mend::Containers(at) => hosts[at].containers.set_trouble(0, (5, 300)),
    }
}
