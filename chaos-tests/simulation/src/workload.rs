//! What clients do through the nodes, and what the answers they got promise.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::Request;
use http::header::AUTHORIZATION;
use muster_chaos::chaos::dice::Dice;
use muster_core::accounts::{self, KeyHash, Role};
use muster_core::functions::{self, KeepAlive, Payer, ScalingPolicy, Source, Spec, UsageDurability};
use muster_core::ids::{AccountName, ChangeId, FunctionName, InstanceId, KeyId};
use muster_core::ledger::{Usage, UsageRow};
use muster_core::units::Millis;
use muster_core::{Answer, ClusterState, Command, Reply};
use muster_gateway::Meter;
use muster_node::parts::Parts;
use tokio::time::sleep;

use crate::admin::{self, RULED, Rights};
use crate::containers::{CONCURRENCY, Containers};
use crate::host::Host;
use crate::trace::Trace;

pub const FUNCTIONS: u64 = 4;
pub const OWNER: &str = "owner";

/// What was promised so far. A clone is a handle to the same.
#[derive(Clone, Debug)]
pub struct History(Arc<Mutex<Promises>>);

#[derive(Debug, Default)]
struct Promises {
    /// Names of accounts, and whether their creation was acknowledged.
    accounts: BTreeMap<String, bool>,
    /// Keys whose revocation was acknowledged.
    revoked: BTreeSet<KeyId>,
    /// Those of them that no node may admit any more.
    withdrawn: BTreeSet<KeyId>,
    /// Keys that exist for certain: their creation was acknowledged and no revocation was begun.
    keys: BTreeSet<KeyId>,
    /// The newest version of each function that an answer told of.
    versions: BTreeMap<String, u64>,
    /// An index that was applied somewhere when an operation ended: no later read may be before it.
    floor: u64,
    /// What was promised through the admin API.
    rights: Rights,
    recorded: u64,
    acknowledged: u64,
    /// Whether clocks are good enough for leases.
    keeps_time: bool,
    figures: Figures,
    violation: Option<String>,
}

#[derive(Clone, Copy, Debug, Default)]
pub struct Figures {
    pub begun: u64,
    pub writes: u64,
    pub reads: u64,
    pub usage: u64,
    pub withdrawn: u64,
    /// Invocations that got a slot, and that got none.
    pub served: u64,
    pub unserved: u64,
    /// Requests of admins who were none any more.
    in_vain: u64,
}

/// What a read must show at least.
struct Floor {
    index: u64,
    accounts: BTreeSet<String>,
    revoked: BTreeSet<KeyId>,
    versions: BTreeMap<String, u64>,
}

impl History {
    /// `keeps_time`: whether clocks are good enough for leases.
    pub fn new(keeps_time: bool) -> History {
        History(Arc::new(Mutex::new(Promises { keeps_time, ..Promises::default() })))
    }

    pub(crate) fn rights<T>(&self, with: impl FnOnce(&mut Rights) -> T) -> T {
        with(&mut self.lock().rights)
    }

    /// A right was taken away, which was acknowledged.
    pub(crate) fn withdrew(&self) {
        self.lock().figures.withdrawn += 1;
    }

    pub(crate) fn ruled_in_vain(&self) {
        self.lock().figures.in_vain += 1;
    }

    /// Someone was let in who must not be, if leases can be relied on.
    pub(crate) fn misjudged(&self, what: String) {
        let mut promises = self.lock();
        if promises.keeps_time {
            promises.violation.get_or_insert(what);
        }
    }

    pub fn figures(&self) -> Figures {
        self.lock().figures
    }

    pub fn violation(&self) -> Option<String> {
        self.lock().violation.clone()
    }

    fn lock(&self) -> MutexGuard<'_, Promises> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn floor(&self) -> Floor {
        let promises = self.lock();
        let made = promises.accounts.iter().filter(|(_, made)| **made);
        Floor {
            index: promises.floor,
            accounts: made.map(|(name, _)| name.clone()).collect(),
            revoked: promises.revoked.clone(),
            versions: promises.versions.clone(),
        }
    }

    /// Whether a node that admits callers by this state admits nobody whose revocation was acknowledged.
    ///
    /// # Errors
    /// With the key.
    pub fn check_admission(&self, node: u64, state: &ClusterState) -> Result<(), String> {
        let promises = self.lock();
        if !promises.keeps_time {
            return Ok(());
        }
        if let Some(pattern) = promises.rights.stale_grant(state) {
            return Err(format!("node {node} admits by the revoked grant for {pattern}"));
        }
        let owner = state.accounts.get(OWNER);
        let key = owner.and_then(|owner| promises.withdrawn.iter().find(|key| owner.keys.contains_key(*key)));
        key.map_or(Ok(()), |key| Err(format!("node {node} admits the revoked key {key}")))
    }

    fn violated(&self, what: String) {
        self.lock().violation.get_or_insert(what);
    }

    /// Whether a state that everyone has in the end keeps every promise.
    ///
    /// # Errors
    /// With the promise.
    pub fn check_final(&self, state: &ClusterState) -> Result<(), String> {
        self.floor().check(state)?;
        let promises = self.lock();
        for (name, _) in state.accounts.iter().filter(|(name, _)| name.as_str().starts_with('a')) {
            if !promises.accounts.contains_key(name.as_str()) {
                return Err(format!("account {name} was never created"));
            }
        }
        let owner = state.accounts.get(OWNER).ok_or("the owner's account is gone")?;
        if let Some(pattern) = promises.rights.lost_grant(state) {
            return Err(format!("the acknowledged grant for {pattern} is gone"));
        }
        if let Some(key) = promises.keys.iter().find(|key| !owner.keys.contains_key(*key)) {
            return Err(format!("the acknowledged key {key} is gone"));
        }
        let hours = state.ledger.usage().values().map(|usage| usage.invocations);
        let rollups = state.rollups.days().values().chain(state.rollups.months().values());
        let counted: u64 = hours.chain(rollups.map(|sums| sums.usage.invocations)).sum();
        if counted < promises.acknowledged || counted > promises.recorded {
            let Promises { acknowledged, recorded, .. } = &*promises;
            return Err(format!(
                "{counted} invocations in the ledger, {acknowledged} acknowledged, {recorded} made"
            ));
        }
        Ok(())
    }
}

impl Floor {
    fn check(&self, state: &ClusterState) -> Result<(), String> {
        if let Some(name) = self.accounts.iter().find(|name| state.accounts.get(name).is_none()) {
            return Err(format!("the acknowledged account {name} is not there"));
        }
        let holder = state.accounts.get(OWNER);
        let key = holder.and_then(|owner| self.revoked.iter().find(|key| owner.keys.contains_key(*key)));
        if let Some(key) = key {
            return Err(format!("the revoked key {key} is there"));
        }
        for (name, version) in &self.versions {
            let found = state.functions.get(name).map_or(0, |function| function.current().number);
            if found < *version {
                return Err(format!("{name} is at version {found}, and {version} was acknowledged"));
            }
        }
        Ok(())
    }
}

/// Draws and begins operations.
#[derive(Debug)]
pub struct Workload {
    dice: Dice,
    history: History,
    trace: Trace,
    begun: u64,
}

impl Workload {
    pub fn new(seed: u64, history: History, trace: Trace) -> Workload {
        Workload { dice: Dice::new(seed, 2), history, trace, begun: 0 }
    }

    /// What must be there before the rest makes sense.
    pub fn prepare() -> Vec<Command> {
        let owner = Command::Accounts(accounts::Command::Create { name: account(OWNER), role: Role::User });
        let mut commands = vec![owner];
        commands.extend((0..FUNCTIONS).map(|number| put(&format!("f{number}"), number, number, number % 3)));
        commands.push(put(RULED, FUNCTIONS, FUNCTIONS, 0));
        commands
    }

    /// Begins one operation through a node.
    pub fn step(&mut self, host: &Host) {
        let Some(parts) = host.parts().cloned() else { return };
        self.begun += 1;
        let number = self.begun;
        self.history.lock().figures.begun += 1;
        let (history, trace) = (self.history.clone(), self.trace.clone());
        let function = self.dice.below(FUNCTIONS);
        match self.dice.below(18) {
            14.. => {
                let containers = host.containers.clone();
                let work_ms = *self.dice.pick(&[1, 20, 200, 3_000]);
                host.spawn(async move {
                    call(parts, containers, history, function, work_ms).await;
                });
            }
            10..14 => admin::step(host, parts, &history, &mut self.dice, number),
            0 | 1 => {
                let name = format!("a{number}");
                history.lock().accounts.insert(name.clone(), false);
                host.spawn(create(parts, history, trace, name));
            }
            2 => {
                let name = format!("f{function}");
                let command = put(&name, function, number + 1_000, self.dice.below(4));
                host.spawn(change(parts, history, trace, function, command));
            }
            3 => {
                let key = KeyId(number);
                host.spawn(make_key(parts, history, key));
            }
            4 => {
                let key = history.lock().keys.pop_first();
                if let Some(key) = key {
                    host.spawn(revoke_key(parts, history, key));
                }
            }
            5 | 6 => host.spawn(read(parts, history, trace)),
            _ => {
                let durability = *self.dice.pick(&[
                    UsageDurability::Interval,
                    UsageDurability::Acknowledged,
                    UsageDurability::Replicated,
                ]);
                let busy_ms = self.dice.between(1, 500);
                host.spawn(invoke(parts, history, function, busy_ms, durability));
            }
        }
    }
}

/// Writes and reads through a node until both work.
pub async fn prove_alive(parts: Parts, history: History, trace: Trace, name: String) {
    history.lock().accounts.insert(name.clone(), false);
    create(parts.clone(), history.clone(), trace.clone(), name.clone()).await;
    if !history.lock().accounts[&name] {
        // A proposal whose outcome is unknown must not be made again: by another name it may.
        return Box::pin(prove_alive(parts, history, trace, format!("{name}x"))).await;
    }
    while parts.consensus.linearize().await.is_err() {}
    read(parts, history, trace).await;
}

async fn create(parts: Parts, history: History, trace: Trace, name: String) {
    let command = Command::Accounts(accounts::Command::Create { name: account(&name), role: Role::User });
    let answer = parts.consensus.propose(command).await;
    let index = parts.consensus.state().applied_index();
    trace.note(&[1, index, u64::from(answer.is_ok())]);
    match answer {
        Ok(Ok(_)) => {
            history.lock().accounts.insert(name, true);
            acknowledged(&history, index);
        }
        Ok(Err(rejection)) => history.violated(format!("account {name} was refused: {rejection}")),
        Err(_) => {}
    }
}

fn acknowledged(history: &History, index: u64) {
    let mut promises = history.lock();
    promises.floor = promises.floor.max(index);
    promises.figures.writes += 1;
}

async fn change(parts: Parts, history: History, trace: Trace, function: u64, command: Command) {
    let answer: Result<Answer, _> = parts.consensus.propose(command).await;
    let index = parts.consensus.state().applied_index();
    trace.note(&[2, index, u64::from(answer.is_ok())]);
    if let Ok(Ok(Reply::Put { version, .. })) = answer {
        acknowledged(&history, index);
        let mut promises = history.lock();
        let known = promises.versions.entry(format!("f{function}")).or_default();
        *known = version.max(*known);
    }
}

async fn make_key(parts: Parts, history: History, id: KeyId) {
    let hash = KeyHash::of("a simulated secret");
    let command = accounts::Command::CreateKey { account: account(OWNER), id, hash, expires_at: None };
    if let Ok(Ok(_)) = parts.consensus.propose(Command::Accounts(command)).await {
        history.lock().keys.insert(id);
        acknowledged(&history, parts.consensus.state().applied_index());
    }
}

async fn revoke_key(parts: Parts, history: History, id: KeyId) {
    let command = accounts::Command::RevokeKey { account: account(OWNER), id };
    if let Ok(Ok(_)) = parts.consensus.propose(Command::Accounts(command)).await {
        history.lock().revoked.insert(id);
        acknowledged(&history, parts.consensus.state().applied_index());
        // As the admin API does before it answers.
        parts.consensus.settle_permissions().await;
        let mut promises = history.lock();
        promises.withdrawn.insert(id);
        promises.figures.withdrawn += 1;
    }
}

async fn read(parts: Parts, history: History, trace: Trace) {
    let floor = history.floor();
    if parts.consensus.linearize().await.is_err() {
        return;
    }
    let published = parts.consensus.state();
    let index = published.applied_index();
    trace.note(&[5, index]);
    let node = parts.consensus.node();
    if index < floor.index {
        history.violated(format!("a read through node {node} saw index {index} after {}", floor.index));
    }
    if let Err(what) = floor.check(&published.state) {
        history.violated(format!("a read through node {node} at index {index}: {what}"));
    }
    let mut promises = history.lock();
    promises.floor = promises.floor.max(index);
    promises.figures.reads += 1;
}

/// An invocation through this node, as far as it can be served here: admitted, queued, given a slot that is held for
/// a while, and counted. Answers whether it was.
pub async fn call(
    parts: Parts,
    containers: Containers,
    history: History,
    function: u64,
    work_ms: u64,
) -> bool {
    let (_, key, _) = admin::root_key();
    let request =
        Request::post(format!("/function/f{function}")).header(AUTHORIZATION, format!("Bearer {key}"));
    let (head, ()) = request.body(()).expect("a valid head").into_parts();
    let Ok(reservation) = parts.gateway().reserve(&head).await else {
        history.lock().figures.unserved += 1;
        return false;
    };
    // Dropped with the node's process: then it counts in any case.
    history.lock().recorded += 1;
    let serving = containers.serve(reservation.instance());
    sleep(Duration::from_millis(work_ms)).await;
    drop(serving);
    let recorded = reservation.end();
    let mut durable = true;
    if let Some(recorded) = recorded {
        durable = recorded.await.is_ok();
        let mut promises = history.lock();
        promises.acknowledged += u64::from(durable);
    }
    history.lock().figures.served += 1;
    durable
}

/// Leaves the usage that an invocation on this node leaves.
async fn invoke(parts: Parts, history: History, function: u64, busy_ms: u64, durability: UsageDurability) {
    let state = parts.consensus.state();
    let name = format!("f{function}");
    let mut here = state.state.instances.of_function(&name).filter(|(_, i)| i.node == parts.consensus.node());
    let instance = here.next().map_or(InstanceId(1), |(id, _)| id);
    let row = UsageRow {
        account: account(OWNER),
        function: FunctionName::new(&name).expect("a valid name"),
        instance,
        hour: muster_consensus::now().hour(),
        usage: Usage { invocations: 1, busy_ms, ..Usage::default() },
    };
    history.lock().recorded += 1;
    if let Some(durable) = parts.meter().record(row, durability)
        && durable.await.is_ok()
    {
        let mut promises = history.lock();
        promises.acknowledged += 1;
        promises.figures.usage += 1;
    }
}

fn account(name: &str) -> AccountName {
    AccountName::new(name).expect("a valid name")
}

fn put(name: &str, function: u64, change: u64, min: u64) -> Command {
    let spec = Spec {
        source: Source::Image("simulated".into()),
        env: BTreeMap::from([("CHANGE".into(), change.to_string())]),
        port: 80,
        readiness_path: None,
        memory_mb: 64,
        cpu_millis: 100,
        concurrency: CONCURRENCY,
        timeout: Millis::from_secs(10),
        startup_timeout: Millis::from_secs(10),
        scaling: ScalingPolicy {
            min: u32::try_from(min).expect("a few"),
            max: 4,
            step: None,
            target_permille: 700,
            window: Millis::from_secs(2),
            keep_alive: KeepAlive::Fixed(Millis::from_secs(5)),
        },
        max_waiting: 10,
        payer: if function.is_multiple_of(2) { Payer::Owner } else { Payer::Callers },
        usage_durability: UsageDurability::Interval,
        idempotent: false,
    };
    let name = FunctionName::new(name).expect("a valid name");
    let change = ChangeId(change + 1);
    Command::Functions(functions::Command::Put { name, spec, owner: account(OWNER), change })
}
