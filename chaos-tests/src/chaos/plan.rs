//! What a seed means: the faults with their times, and each worker's operations.
//!
//! Everything here follows from the seed and the settings. What cannot be known in advance, such as
//! who leads, is left as a role and resolved when its time has come.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::catalog::{self, ACCOUNTS, INVOKED};
use super::dice::Dice;
use super::faults;
use super::op::{Mode, Op};
use crate::Engine;

/// Before the first fault: the cluster shows that it works at all.
const WARM_UP_MS: u64 = 2_000;
/// No fault lasts for more than this part of the time in which faults begin.
const LONGEST_PART: u64 = 4;
/// Streams of the seed's choices: faults, then one per worker.
const FAULT_STREAM: u64 = 0;
const WORKER_STREAM: u64 = 1;
/// Steps after which a worker takes fresh registers: a search through all orders of a register's
/// operations must stay short.
const EPOCH_STEPS: u64 = 120;
/// Keys a worker keeps alive.
const KEYS_MAX: usize = 3;
/// Admins a worker keeps in office.
const DEPUTIES_MAX: usize = 2;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Plan {
    pub seed: u64,
    pub seconds: u64,
    pub nodes: u64,
    pub docker: bool,
    pub faults: Vec<String>,
    pub workers: u64,
    pub strikes: Vec<Strike>,
}

/// One fault, when, on whom and for how long.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Strike {
    pub fault: String,
    pub at_ms: u64,
    pub span_ms: u64,
    pub role: Role,
    /// Chooses among those who have the role when the time has come.
    pub choice: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    Leader,
    Follower,
    /// As many as the cluster can do without, the leader perhaps among them.
    Minority,
    All,
}

/// What a worker does next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    pub op: Op,
    pub node: u64,
    pub pause: Duration,
}

impl Plan {
    pub fn new(seed: u64, seconds: u64, nodes: u64, engine: Engine, faults: &[String]) -> Self {
        let mut plan = Plan {
            seed,
            seconds,
            nodes,
            docker: engine == Engine::Docker,
            faults: faults.to_vec(),
            workers: 2 * nodes.min(3),
            strikes: Vec::new(),
        };
        plan.strikes = plan.strikes();
        plan
    }

    pub fn engine(&self) -> Engine {
        if self.docker { Engine::Docker } else { Engine::Process }
    }

    /// The command that does the same again.
    pub fn command(&self) -> String {
        format!("cargo run -p muster-chaos -- {}", self.arguments().join(" "))
    }

    /// What this program must be told to plan the same.
    pub fn arguments(&self) -> Vec<String> {
        let engine = if self.docker { "docker" } else { "process" };
        let faults = if self.faults.is_empty() { "none".to_owned() } else { self.faults.join(",") };
        let numbers = [("--seed", self.seed), ("--seconds", self.seconds), ("--nodes", self.nodes)];
        let numbers = numbers.into_iter().flat_map(|(name, number)| [name.to_owned(), number.to_string()]);
        let texts = ["--faults".to_owned(), faults, "--engine".to_owned(), engine.to_owned()];
        numbers.chain(texts).collect()
    }

    /// All that `worker` will ever do, for as long as it is asked.
    pub fn steps(&self, worker: u64) -> Steps {
        Steps {
            dice: Dice::new(self.seed, WORKER_STREAM + worker),
            worker,
            workers: self.workers,
            nodes: self.nodes,
            step: 0,
            keys_made: 0,
            keys: Vec::new(),
            deputies_made: 0,
            deputies: Vec::new(),
        }
    }

    fn strikes(&self) -> Vec<Strike> {
        let mut dice = Dice::new(self.seed, FAULT_STREAM);
        let mut strikes = Vec::new();
        // Every fault has its turn before any has a second one.
        let mut turns = self.faults.clone();
        dice.shuffle(&mut turns);
        let end_ms = self.seconds * 1_000;
        let mut at_ms = WARM_UP_MS;
        while at_ms < end_ms && !self.faults.is_empty() {
            let name = turns.pop().unwrap_or_else(|| dice.pick(&self.faults).clone());
            let (least, most) = faults::by_name(&name).map_or((500, 2_000), |fault| fault.frame().span_ms);
            let role = dice.weighted(&[
                (40, Role::Leader),
                (30, Role::Follower),
                (20, Role::Minority),
                (10, Role::All),
            ]);
            // In a short run a long fault would be all that happens.
            let most = most.min(end_ms / LONGEST_PART).max(least + 1);
            // Short spans are as telling as long ones: spread them evenly by order of magnitude.
            let most = if dice.chance(50) { most.min(least * 8) } else { most };
            let span_ms = dice.between(least, most);
            strikes.push(Strike { fault: name, at_ms, span_ms, role, choice: dice.below(1 << 32) });
            // Often before the last one is mended.
            at_ms += dice.between(1_500, 5_000);
        }
        strikes
    }
}

/// One worker's operations.
#[derive(Debug)]
pub struct Steps {
    dice: Dice,
    worker: u64,
    workers: u64,
    nodes: u64,
    step: u64,
    keys_made: u64,
    /// Labels of keys made and not yet revoked.
    keys: Vec<String>,
    deputies_made: u64,
    /// Numbers of admins appointed and not yet deprived, those without a key first.
    deputies: Vec<(u64, Key)>,
}

/// Whether an admin has been given a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Key {
    Due,
    Made,
}

#[derive(Clone, Copy)]
enum Choice {
    Invoke,
    Register,
    Account,
    Grant,
    Key,
    Deputy,
    Administer,
    Usage,
}

impl Iterator for Steps {
    type Item = Step;

    fn next(&mut self) -> Option<Step> {
        let choice = self.dice.weighted(&[
            (50, Choice::Invoke),
            (24, Choice::Register),
            (10, Choice::Account),
            (10, Choice::Grant),
            (8, Choice::Key),
            (6, Choice::Deputy),
            (10, Choice::Administer),
            (2, Choice::Usage),
        ]);
        let op = match choice {
            Choice::Invoke => self.invoke(),
            Choice::Register => self.register(),
            Choice::Account => self.account(),
            Choice::Grant => self.grant(),
            Choice::Key => self.key(),
            Choice::Deputy => self.deputy(),
            Choice::Administer => self.administer(),
            Choice::Usage => Op::ReadUsage { account: (*self.dice.pick(&ACCOUNTS)).to_owned() },
        };
        self.step += 1;
        let node = self.dice.between(1, self.nodes);
        let pause = Duration::from_millis(self.dice.between(5, 80));
        Some(Step { op, node, pause })
    }
}

impl Steps {
    fn epoch(&self) -> u64 {
        self.step / EPOCH_STEPS
    }

    fn local(&mut self) -> bool {
        self.dice.chance(20)
    }

    fn invoke(&mut self) -> Op {
        let function = self.dice.weighted(&INVOKED);
        let (mode, work_ms) = match (function, self.dice.below(100)) {
            (catalog::FRAGILE, 0..30) => (Mode::Exit, 0),
            (catalog::FRAGILE, 30..35) => (Mode::Hang, 0),
            (_, 0..60) => (Mode::Answer, 0),
            (_, 60..95) => (Mode::Answer, self.dice.between(5, 200)),
            _ => (Mode::Answer, self.dice.between(200, 1_500)),
        };
        let caller = match self.dice.below(10) {
            0..6 => (*self.dice.pick(&ACCOUNTS)).to_owned(),
            6..8 => catalog::guest(self.dice.below(self.workers)),
            // One of anyone's keys, perhaps revoked or not yet made.
            _ => {
                let owner = self.dice.below(self.workers);
                let newest = self.keys_made + 2;
                label(owner, self.dice.below(newest))
            }
        };
        Op::Invoke { function: function.to_owned(), caller, work_ms, mode }
    }

    /// A third of the registers is this worker's alone, the others are anyone's.
    fn register(&mut self) -> Op {
        let epoch = self.epoch();
        if self.dice.chance(30) {
            // With deletions, whose answers tell whether there was something.
            let name = format!("churn-{}-{epoch}", self.dice.below(2));
            return match self.dice.below(10) {
                0..4 => Op::PutFunction { name, rev: self.fresh() },
                4..7 => Op::DeleteFunction { name },
                _ => Op::ReadFunction { name, local: self.local() },
            };
        }
        let name = match self.dice.chance(33) {
            true => format!("own-{}-{epoch}", self.worker),
            false => format!("shared-{}-{epoch}", self.dice.below(3)),
        };
        match self.dice.below(10) {
            0..5 => Op::PutFunction { name, rev: self.fresh() },
            _ => Op::ReadFunction { name, local: self.local() },
        }
    }

    /// No two writes of a run have the same value.
    fn fresh(&self) -> u64 {
        self.step * self.workers + self.worker + 1
    }

    fn account(&mut self) -> Op {
        let name = format!("acct-{}-{}", self.dice.below(3), self.epoch());
        match self.dice.below(10) {
            0..4 => Op::CreateAccount { name },
            4..7 => Op::DeleteAccount { name },
            _ => Op::ReadAccount { name, local: self.local() },
        }
    }

    /// Only its own worker changes a guest's grant; everyone reads and uses it.
    fn grant(&mut self) -> Op {
        let account = catalog::guest(self.worker);
        match self.dice.below(10) {
            0..4 => Op::Grant { account, actions: self.dice.between(1, 3) },
            4..7 => Op::RevokeGrant { account },
            _ => {
                let account = catalog::guest(self.dice.below(self.workers));
                Op::ReadGrant { account, local: self.local() }
            }
        }
    }

    fn key(&mut self) -> Op {
        let account = catalog::holder(self.worker);
        if self.keys.len() < KEYS_MAX && (self.keys.is_empty() || self.dice.chance(50)) {
            let label = label(self.worker, self.keys_made);
            self.keys_made += 1;
            self.keys.push(label.clone());
            return Op::CreateKey { account, label };
        }
        let oldest = self.keys.remove(0);
        Op::RevokeKey { account, label: oldest }
    }

    /// Appoints an admin, gives it a key, and in the end takes the key or the account away.
    fn deputy(&mut self) -> Op {
        if let Some((number, key)) = self.deputies.iter_mut().find(|(_, key)| *key == Key::Due) {
            *key = Key::Made;
            let (account, label) = (catalog::deputy(self.worker, *number), admin_label(self.worker, *number));
            return Op::CreateKey { account, label };
        }
        if self.deputies.len() < DEPUTIES_MAX && (self.deputies.is_empty() || self.dice.chance(50)) {
            let number = self.deputies_made;
            self.deputies_made += 1;
            self.deputies.push((number, Key::Due));
            return Op::Appoint { account: catalog::deputy(self.worker, number) };
        }
        let (number, _) = self.deputies.remove(0);
        let account = catalog::deputy(self.worker, number);
        match self.dice.chance(50) {
            true => Op::RevokeKey { account, label: admin_label(self.worker, number) },
            false => Op::Dismiss { account },
        }
    }

    /// Anyone's admin, lately deprived or not yet appointed among them.
    fn administer(&mut self) -> Op {
        let owner = self.dice.below(self.workers);
        let lately = self.dice.below(DEPUTIES_MAX as u64 + 3);
        let caller = admin_label(owner, (self.deputies_made + 1).saturating_sub(lately));
        let rev = self.dice.chance(50).then(|| self.fresh());
        Op::Administer { caller, name: catalog::ruled(self.worker), rev }
    }
}

fn admin_label(worker: u64, number: u64) -> String {
    format!("admin-key-{worker}-{number}")
}

fn label(worker: u64, number: u64) -> String {
    format!("key-{worker}-{number}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(seed: u64) -> Plan {
        Plan::new(seed, 60, 3, Engine::Process, &["kill".into(), "pause".into()])
    }

    #[test]
    fn the_same_seed_plans_the_same_run() {
        let (a, b, other) = (plan(42), plan(42), plan(43));
        assert_eq!(a.strikes, b.strikes);
        assert_ne!(a.strikes, other.strikes);
        for worker in 0..a.workers {
            assert!(a.steps(worker).take(2_000).eq(b.steps(worker).take(2_000)));
        }
        assert!(!a.steps(0).take(100).eq(a.steps(1).take(100)));
        assert_eq!(
            a.command(),
            "cargo run -p muster-chaos -- --seed 42 --seconds 60 --nodes 3 --faults kill,pause --engine process"
        );
    }

    #[test]
    fn every_fault_is_planned_even_in_a_short_run_and_values_are_unique() {
        let faults = ["kill".to_owned(), "pause".to_owned()];
        for seed in 0..50 {
            let plan = Plan::new(seed, 10, 5, Engine::Process, &faults);
            for fault in &faults {
                assert!(plan.strikes.iter().any(|s| s.fault == *fault), "seed {seed}: {:?}", plan.strikes);
            }
            assert!(plan.strikes.iter().all(|s| s.at_ms < 10_000));
        }
        let plan = plan(1);
        let mut revs: Vec<u64> = (0..plan.workers)
            .flat_map(|worker| plan.steps(worker).take(1_000))
            .filter_map(|step| match step.op {
                Op::PutFunction { rev, .. } => Some(rev),
                _ => None,
            })
            .collect();
        let count = revs.len();
        revs.sort_unstable();
        revs.dedup();
        assert!(count > 500 && revs.len() == count);
    }
}
