//! The replicated state and how it changes. Rules that span two aggregates are here and nowhere else.

mod refound;
mod since;

use std::sync::Arc;

use imbl::OrdMap;
use serde::{Deserialize, Serialize};

use crate::accounts::{self, Accounts, Action, Key, KeyHash, ROOT, Role};
use crate::authority::AuthoritySeed;
use crate::billing;
use crate::functions::{self, EngineKind, Functions, KeepAlive, PutOutcome};
use crate::habits::{self, Habits};
use crate::ids::{
    AccountName, ClusterId, FunctionName, Generation, Incarnation, InstanceId, KeyId, NodeId, PackageDigest,
};
use crate::instances::{self, Instance, Instances, LaunchCause, Phase};
use crate::ledger::{self, Interval, Ledger, Rollups, UsageRow};
use crate::members::{self, Members};
use crate::mutant;
use crate::nodes::{self, Condition, Nodes, Resources, Stores};
use crate::packages::{self, Packages};
use crate::rejection::{Kind, Rejection};
use crate::units::{Millis, Timestamp};
use crate::version;

/// What one node asked to be done, decided once: time, ids and nodes stand in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The leader's clock when it took the proposal.
    pub at: Timestamp,
    pub proposal: ProposalId,
    pub commands: Vec<Command>,
}

/// Names a proposal for ever. A node has one proposal under way at a time and numbers them, so the
/// last number applied tells whether a proposal that is sent again was applied already.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ProposalId {
    pub node: NodeId,
    pub incarnation: Incarnation,
    pub sequence: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// Gives the cluster its identity and its first key. Once.
    Bootstrap {
        cluster: ClusterId,
        key: KeyId,
        hash: KeyHash,
    },
    Functions(functions::Command),
    Accounts(accounts::Command),
    Nodes(nodes::Command),
    Instances(instances::Command),
    Ledger(ledger::Command),
    /// Keeps the seed of the certificate authority that the nodes' certificates are of, in place of any other.
    /// Proposed by a founding node; that it was committed shows that a quorum trusts that authority.
    SetAuthority {
        seed: AuthoritySeed,
    },
    Members(members::Command),
    /// Makes another cluster of this state, whose only node is `founder`: after a restore from a backup, or
    /// the loss of a majority. Nobody proposes it; it is written into a log that nobody else shares.
    Refound {
        cluster: ClusterId,
        founder: NodeId,
    },
    Habits(habits::Command),
    Version(version::Command),
    Packages(packages::Command),
}

/// The answer to a command that was not refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    Done,
    Put {
        version: u64,
        outcome: PutOutcome,
    },
    Placed {
        generation: Generation,
    },
    /// Done, and someone has fewer rights than before: nodes that have not applied it yet may still
    /// admit them.
    Revoked,
    /// A token was made, for a node with this id.
    Reserved {
        node: NodeId,
        expires_at: Timestamp,
    },
    /// A token was redeemed: who presented it is this node.
    Enrolled {
        node: NodeId,
    },
}

pub type Answer = Result<Reply, Rejection>;

/// What came of an entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Applied {
    /// One answer per command, in order.
    Answers(Vec<Answer>),
    /// It was applied before; nothing changed.
    Repeated,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterState {
    /// Never runs backwards, so nothing is ever billed backwards.
    pub clock: Timestamp,
    pub cluster: Option<ClusterId>,
    #[serde(deserialize_with = "crate::maps::map")]
    proposals: OrdMap<NodeId, (Incarnation, u64)>,
    pub functions: Functions,
    pub accounts: Accounts,
    pub nodes: Nodes,
    pub instances: Instances,
    pub ledger: Ledger,
    // From here on: what older snapshots end before (see `muster-consensus`, `contents`). What is empty of it is
    // encoded as zeros.
    pub stores: Stores,
    /// None until a founding node has told it.
    pub authority: Option<AuthoritySeed>,
    pub members: Members,
    pub rollups: Rollups,
    pub habits: Habits,
    /// What all members understand.
    pub version: version::InEffect,
    pub packages: Packages,
}

impl ClusterState {
    /// Applies one entry. Pure: the same state and entry give the same result on every replica.
    pub fn apply(&mut self, entry: &Entry) -> Applied {
        if self.has_applied(entry.proposal) && !mutant!("proposal-applied-twice") {
            return Applied::Repeated;
        }
        let ProposalId { node, incarnation, sequence } = entry.proposal;
        self.proposals.insert(node, (incarnation, sequence));
        self.clock = if mutant!("clock-runs-back") { entry.at } else { self.clock.max(entry.at) };
        Applied::Answers(entry.commands.iter().map(|command| self.execute(command)).collect())
    }

    pub fn has_applied(&self, proposal: ProposalId) -> bool {
        let ProposalId { node, incarnation, sequence } = proposal;
        self.proposals.get(&node).is_some_and(|last| (incarnation, sequence) <= *last)
    }

    /// Whether `account` may do `action` to `function`: by role, by ownership or by a grant.
    pub fn allows(&self, account: &AccountName, action: Action, function: &FunctionName) -> bool {
        self.functions.get(function.as_str()).is_some_and(|f| f.owner == *account)
            || self.accounts.granted(account, action, function)
    }

    fn execute(&mut self, command: &Command) -> Answer {
        match command {
            Command::Bootstrap { cluster, key, hash } => self.bootstrap(*cluster, *key, *hash),
            Command::Functions(command) => self.functions_command(command),
            Command::Accounts(command) => self.accounts_command(command),
            Command::Nodes(command) => self.nodes_command(command),
            Command::Instances(command) => self.instances_command(command),
            Command::Ledger(command) => self.ledger_command(command),
            Command::SetAuthority { seed } => {
                self.authority = Some(*seed);
                Ok(Reply::Done)
            }
            Command::Members(command) => self.members_command(command),
            Command::Refound { cluster, founder } => self.refound(*cluster, *founder),
            Command::Habits(habits::Command::Observe { rows }) => {
                rows.iter().for_each(|row| self.observe(row));
                Ok(Reply::Done)
            }
            Command::Version(command) => self.version_command(*command),
            Command::Packages(command) => {
                self.packages.execute(command, self.clock)?;
                Ok(Reply::Done)
            }
        }
    }

    fn version_command(&mut self, command: version::Command) -> Answer {
        match command {
            version::Command::Begin { version } => {
                let pristine = self.nodes.iter().next().is_none();
                self.version.begin(version, pristine)?;
            }
            version::Command::Raise { to } => self.version.raise(to)?,
        }
        Ok(Reply::Done)
    }

    fn ledger_command(&mut self, command: &ledger::Command) -> Answer {
        use ledger::Command as C;
        match command {
            C::RecordUsage { node, incarnation, batch, rows } => {
                return self.record_usage(*node, *incarnation, *batch, rows);
            }
            C::Keep { hours_from, days_from } => self.rollups.keep(*hours_from, *days_from),
            C::RollUp { days, months } => self.rollups.roll_up(&mut self.ledger, days, months)?,
        }
        Ok(Reply::Done)
    }

    fn bootstrap(&mut self, cluster: ClusterId, key: KeyId, hash: KeyHash) -> Answer {
        match self.cluster {
            Some(known) if known == cluster => return Ok(Reply::Done),
            Some(known) => return Err(Rejection::Conflict(format!("this cluster is {known} already"))),
            None => self.cluster = Some(cluster),
        }
        let root = AccountName::new(ROOT).expect("`root` is a valid name");
        self.accounts.create(&root, Role::Admin, self.clock)?;
        self.accounts.create_key(&root, key, Key { hash, created_at: self.clock, expires_at: None })?;
        Ok(Reply::Done)
    }

    fn functions_command(&mut self, command: &functions::Command) -> Answer {
        match command {
            functions::Command::Put { name, spec, owner, change } => {
                if self.accounts.get(owner.as_str()).is_none() {
                    return Err(Rejection::missing(Kind::Account, owner));
                }
                if let Some(package) = spec.source.package() {
                    self.packages.check_known(package)?;
                }
                let before = self.packages_of(name);
                let (version, outcome) = self.functions.put(name, spec, owner, *change, self.clock)?;
                self.packages.replace_uses(&before, &self.packages_of(name), self.clock);
                if !self.is_adaptive(name) {
                    self.habits.forget(name);
                }
                Ok(Reply::Put { version, outcome })
            }
            functions::Command::Delete { name, force } => self.delete_function(name, *force),
        }
    }

    fn delete_function(&mut self, name: &FunctionName, force: bool) -> Answer {
        if self.functions.get(name.as_str()).is_none() {
            return Err(Rejection::missing(Kind::Function, name));
        }
        let live: Vec<InstanceId> = self.instances.of_function(name.as_str()).map(|(id, _)| id).collect();
        if !live.is_empty() && !force {
            let count = live.len();
            let detail = format!("the function `{name}` has {count} live instances and `force` is not set");
            return Err(Rejection::Conflict(detail));
        }
        for id in live {
            self.drain(id, instances::DrainReason::FunctionDeleted)?;
        }
        let before = self.packages_of(name);
        self.functions.remove(name)?;
        self.packages.replace_uses(&before, &[], self.clock);
        self.habits.forget(name);
        Ok(Reply::Done)
    }

    /// The packages of all versions that are kept of a function, one for each version that has one.
    fn packages_of(&self, name: &FunctionName) -> Vec<PackageDigest> {
        let function = self.functions.get(name.as_str());
        let versions = function.into_iter().flat_map(|function| function.versions());
        versions.filter_map(|version| version.spec.source.package()).collect()
    }

    /// Only functions that are scaled by their habits have any, and only their own: not those of a
    /// namesake that was deleted.
    fn observe(&mut self, row: &habits::Row) {
        let function = self.functions.get(row.function.as_str());
        let own = function.is_some_and(|f| f.created_at <= row.asked_until);
        if own && self.is_adaptive(&row.function) {
            self.habits.observe(row);
        }
    }

    fn is_adaptive(&self, name: &FunctionName) -> bool {
        let function = self.functions.get(name.as_str());
        function.is_some_and(|f| f.current().spec.scaling.keep_alive == KeepAlive::Adaptive)
    }

    fn accounts_command(&mut self, command: &accounts::Command) -> Answer {
        match command {
            accounts::Command::Create { name, role } => self.accounts.create(name, *role, self.clock)?,
            accounts::Command::Delete { name } => {
                if let Some(function) = self.functions.owned_by(name).filter(|_| name.as_str() != ROOT) {
                    let detail = format!("the account `{name}` owns the function `{function}`");
                    return Err(Rejection::Conflict(detail));
                }
                self.accounts.delete(name)?;
                return Ok(Reply::Revoked);
            }
            accounts::Command::CreateKey { account, id, hash, expires_at } => {
                let key = Key { hash: *hash, created_at: self.clock, expires_at: *expires_at };
                self.accounts.create_key(account, *id, key)?;
            }
            accounts::Command::RevokeKey { account, id } => {
                self.accounts.revoke_key(account, *id)?;
                return Ok(Reply::Revoked);
            }
            accounts::Command::Grant { account, pattern, actions } => {
                if self.accounts.grant(account, pattern, actions)? {
                    return Ok(Reply::Revoked);
                }
            }
            accounts::Command::Revoke { account, pattern } => {
                self.accounts.revoke(account, pattern)?;
                return Ok(Reply::Revoked);
            }
        }
        Ok(Reply::Done)
    }

    fn nodes_command(&mut self, command: &nodes::Command) -> Answer {
        match command {
            nodes::Command::Register { node, incarnation, profile } => {
                self.members.check_not_removed(*node)?;
                if self.nodes.register(*node, *incarnation, profile, self.clock)? {
                    // Child processes die with their node; containers outlive it and are adopted.
                    self.lose(*node, "its node restarted", |i| i.engine == EngineKind::Process);
                    // It serves again, whatever it said before.
                    self.members.returned(*node);
                }
            }
            nodes::Command::Claim { node, store } => {
                self.members.check_not_removed(*node)?;
                self.stores.claim(*node, *store)?;
            }
            nodes::Command::SetCondition { node, incarnation, condition, reason } => {
                if *condition == Condition::Ready {
                    self.members.check_stays(*node)?;
                }
                let changed =
                    self.nodes.set_condition(*node, *incarnation, *condition, reason, self.clock)?;
                if changed && *condition == Condition::Down {
                    self.lose(*node, "its node went down", |_| true);
                }
            }
        }
        Ok(Reply::Done)
    }

    fn members_command(&mut self, command: &members::Command) -> Answer {
        use members::Command as C;
        match command {
            C::CreateToken { token, hash, expires_in, above, replaces } => {
                let taken = self.nodes.highest().max(self.stores.highest()).max(*above);
                let request = members::Token::new(*hash, self.clock + *expires_in, *replaces);
                let (node, expires_at) = self.members.reserve(*token, request, taken, self.clock)?;
                return Ok(Reply::Reserved { node, expires_at });
            }
            C::Enroll { token, hash, store, addresses } => {
                let node = self.members.enroll(*token, *hash, *store, addresses, self.clock)?;
                // The id is that data's from now on, not only from its first claim.
                self.stores.claim(node, *store)?;
                return Ok(Reply::Enrolled { node });
            }
            C::Remove { node, force } => self.remove_node(*node, *force)?,
            C::Leave { node, incarnation } => {
                let known = self.nodes.get(*node).map(|node| node.incarnation);
                if known.is_some_and(|known| known != *incarnation) {
                    return Err(Rejection::Stale(format!("node {node} runs as another incarnation")));
                }
                self.members.leave(*node)?;
            }
            C::Expel { node } => {
                if self.members.expel(*node)? {
                    self.lose(*node, "its node was removed", |_| true);
                    self.nodes.forget(*node);
                    self.stores.forget(*node);
                }
            }
        }
        Ok(Reply::Done)
    }

    /// From now on the node gets nothing new; a dead one gets nothing back.
    fn remove_node(&mut self, id: NodeId, force: bool) -> Result<(), Rejection> {
        self.members.remove(id, force, self.clock)?;
        let Some(incarnation) = self.nodes.get(id).map(|node| node.incarnation) else { return Ok(()) };
        let (now, reason) = (self.clock, "it is being removed");
        self.nodes.set_condition(id, incarnation, Condition::Draining, reason, now)?;
        if force {
            self.nodes.set_condition(id, incarnation, Condition::Down, reason, now)?;
            self.lose(id, "its node was removed", |_| true);
        }
        Ok(())
    }

    fn instances_command(&mut self, command: &instances::Command) -> Answer {
        use instances::Command as C;
        match command {
            C::Place { instance, function, version, node, cause } => {
                self.place(*instance, function, *version, *node, cause)
            }
            C::MarkStarting { instance, generation } => self.advance(*instance, *generation, Phase::Starting),
            C::MarkReady { instance, generation } => self.advance(*instance, *generation, Phase::Ready),
            C::Drain { instance, reason } => self.drain(*instance, *reason),
            C::MarkStopped { instance, generation } => {
                self.end(*instance, Some(*generation), Phase::Stopped, None)
            }
            C::MarkFailed { instance, generation, reason } => {
                self.end(*instance, Some(*generation), Phase::Failed, Some(reason.clone()))
            }
            C::Record { decision } => {
                self.instances.record(decision, self.clock);
                Ok(Reply::Done)
            }
        }
    }

    /// The last word on a placement: whatever the leader believed, limits and capacity hold here.
    fn place(
        &mut self,
        id: InstanceId,
        name: &FunctionName,
        version: u64,
        node_id: NodeId,
        cause: &LaunchCause,
    ) -> Answer {
        if let Some(known) = self.instances.get(id) {
            let same = known.function == *name && known.node == node_id && known.version == version;
            return match same {
                true => Ok(Reply::Placed { generation: known.generation }),
                false => Err(Rejection::exists(Kind::Instance, id)),
            };
        }
        let function =
            self.functions.get(name.as_str()).ok_or_else(|| Rejection::missing(Kind::Function, name))?;
        if function.current().number != version {
            return Err(Rejection::Stale(format!("`{name}` is at version {}", function.current().number)));
        }
        let spec = Arc::clone(&function.current().spec);
        let owner = function.owner.clone();
        let wanted = self.instances.of_function(name.as_str());
        let wanted = wanted.filter(|(_, i)| i.version == version && i.phase.is_wanted()).count();
        if wanted >= spec.scaling.max as usize {
            let what = format!("instances of `{name}`");
            return Err(Rejection::Limit { what, max: u64::from(spec.scaling.max) });
        }
        let resources =
            Resources { memory_mb: u64::from(spec.memory_mb), cpu_millis: u64::from(spec.cpu_millis) };
        self.check_room(node_id, &resources, spec.source.engine())?;
        self.nodes.reserve(node_id, resources);
        let instance = Instance {
            function: name.clone(),
            version,
            node: node_id,
            generation: Generation::default(),
            phase: Phase::Placed,
            cause: cause.clone(),
            reason: None,
            engine: spec.source.engine(),
            resources,
            concurrency: spec.concurrency,
            owner,
            payer: spec.payer,
            placed_at: self.clock,
            ready_at: None,
            draining_at: None,
            ended_at: None,
            busy_by: OrdMap::new(),
        };
        Ok(Reply::Placed { generation: self.instances.place(id, instance) })
    }

    fn check_room(&self, id: NodeId, demand: &Resources, engine: EngineKind) -> Result<(), Rejection> {
        let node = self.nodes.get(id).ok_or_else(|| Rejection::missing(Kind::Node, id))?;
        if node.condition != Condition::Ready {
            return Err(Rejection::NoCapacity(format!("node {id} is not ready")));
        }
        if !node.profile.engines.contains(&engine) {
            return Err(Rejection::NoCapacity(format!("node {id} has no {engine} engine")));
        }
        if !demand.fits(&node.free()) {
            return Err(Rejection::NoCapacity(format!("node {id} has not enough free memory or cpu")));
        }
        Ok(())
    }

    /// Moves a launching instance forward; what is further along stays where it is.
    fn advance(&mut self, id: InstanceId, generation: Generation, to: Phase) -> Answer {
        let now = self.clock;
        self.instances.update(id, Some(generation), |instance| {
            if instance.phase.is_launching() && instance.phase < to {
                instance.phase = to;
                if to == Phase::Ready {
                    instance.ready_at = Some(now);
                }
            }
        })?;
        Ok(Reply::Done)
    }

    fn drain(&mut self, id: InstanceId, reason: instances::DrainReason) -> Answer {
        let now = self.clock;
        self.instances.update(id, None, |instance| {
            if instance.phase != Phase::Draining {
                instance.phase = Phase::Draining;
                instance.draining_at = Some(now);
                instance.reason = Some(reason.to_string());
            }
        })?;
        Ok(Reply::Done)
    }

    fn lose(&mut self, node: NodeId, reason: &str, which: impl Fn(&Instance) -> bool) {
        let lost: Vec<InstanceId> =
            self.instances.on_node(node).filter(|(_, i)| which(i)).map(|(id, _)| id).collect();
        for id in lost {
            self.end(id, None, Phase::Lost, Some(reason.to_owned())).expect("a listed instance is live");
        }
    }

    /// Ends an instance: frees its room, closes its interval in the ledger and judges the launch.
    fn end(
        &mut self,
        id: InstanceId,
        generation: Option<Generation>,
        phase: Phase,
        reason: Option<String>,
    ) -> Answer {
        let now = self.clock;
        let ended = self.instances.end(id, generation, phase, reason, now)?;
        self.nodes.release(ended.node, ended.resources);
        for charge in billing::charges(&ended, now).into_iter().chain(billing::burst_charges(&ended, now)) {
            self.ledger.add_charge(&mut self.rollups, &ended.function, charge);
        }
        let interval = Interval {
            instance: id,
            function: ended.function.clone(),
            node: ended.node,
            memory_mb: ended.resources.memory_mb,
            launched_at: ended.placed_at,
            ready_at: ended.ready_at,
            ended_at: now,
        };
        self.ledger.close(ended.generation, interval);
        self.judge(&ended, now);
        Ok(Reply::Done)
    }

    /// Counts a failed launch against its function, or forgives it. The end of an old version's
    /// instance, or of a deleted namesake's, says nothing about the current one.
    fn judge(&mut self, ended: &Instance, now: Timestamp) {
        let function = self.functions.get(ended.function.as_str());
        let current = function.is_some_and(|f| {
            f.current().number == ended.version && f.current().created_at <= ended.placed_at
        });
        if !current {
            return;
        }
        let ready_for = ended.ready_at.map(|ready_at| now.since(ready_at));
        match ended.phase {
            Phase::Failed => self.functions.update_health(&ended.function, |health| {
                health.failed(ready_for, ended.reason.as_deref().unwrap_or("failed"), now);
            }),
            Phase::Stopped if ready_for.is_some() => {
                self.functions.update_health(&ended.function, functions::LaunchHealth::ended_well);
            }
            _ => {}
        }
    }

    fn record_usage(
        &mut self,
        node: NodeId,
        incarnation: Incarnation,
        batch: u64,
        rows: &[UsageRow],
    ) -> Answer {
        if !self.ledger.advance(node, incarnation, batch) && !mutant!("usage-counted-twice") {
            return Ok(Reply::Done);
        }
        for row in rows {
            self.ledger.add_usage(&mut self.rollups, row);
            // Time reported after the instance ended is in the ledger but no longer splits its cost.
            let _ended = self.instances.update(row.instance, None, |instance| {
                *instance.busy_by.entry(row.account.clone()).or_default() += Millis(row.usage.busy_ms);
            });
        }
        Ok(Reply::Done)
    }
}
