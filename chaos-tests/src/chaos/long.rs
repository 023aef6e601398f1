//! Evidence as a long run would leave it, made up: judging it must stay a matter of seconds, and find
//! nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use muster_api::Usage;

use super::evidence::tests::{evidence, window};
use super::evidence::{Evidence, FinalView, Sample};
use super::history::Entry;
use super::invariants;
use super::op::{Op, Outcome, Verdict};
use super::plan::Plan;
use crate::Engine;

/// With six workers a million operations are eight hours, as in a real run.
const OPERATION_US: u64 = 180_000;
/// One of so many operations ends without an answer.
const LOST_EVERY: u64 = 97;

/// A cluster that does each operation when it begins, one after the other.
#[derive(Default)]
struct Model {
    registers: BTreeMap<String, u64>,
    keys: BTreeMap<String, String>,
    /// Keys ever made, those that are worth nothing any more too.
    made: BTreeSet<String>,
    usage: BTreeMap<(String, String), u64>,
    executions: BTreeMap<u64, u64>,
    index: u64,
}

impl Model {
    fn perform(&mut self, id: u64, op: &Op) -> Outcome {
        self.index += u64::from(op.is_write());
        let done = Outcome { applied: Some(self.index), ..Outcome::new(Verdict::Done).status(200) };
        let refused = |status| Outcome { applied: None, ..Outcome::new(Verdict::Refused).status(status) };
        let register = op.register().unwrap_or_default();
        match op {
            Op::PutFunction { rev, .. } => drop(self.registers.insert(register, *rev)),
            Op::Grant { actions, .. } => drop(self.registers.insert(register, *actions)),
            Op::CreateAccount { .. } if self.registers.contains_key(&register) => return refused(409),
            Op::CreateAccount { .. } => drop(self.registers.insert(register, 1)),
            Op::DeleteFunction { .. } | Op::DeleteAccount { .. } | Op::RevokeGrant { .. } => {
                if self.registers.remove(&register).is_none() {
                    return refused(404);
                }
            }
            Op::ReadFunction { .. } | Op::ReadAccount { .. } | Op::ReadGrant { .. } => {
                return done.value(self.registers.get(&register).copied());
            }
            Op::CreateKey { label, account } => {
                self.keys.insert(label.clone(), account.clone());
                self.made.insert(label.clone());
                return Outcome { key_id: Some(label.clone()), ..done };
            }
            Op::RevokeKey { label, .. } => drop(self.keys.remove(label)),
            Op::Invoke { function, caller, .. } => {
                if caller.starts_with("key-") || caller.starts_with("guest-") {
                    return Outcome { invocation_id: Some("x".into()), ..refused(401) };
                }
                *self.usage.entry((caller.clone(), function.clone())).or_default() += 1;
                self.executions.insert(id, 1);
                let (host, invocation_id) = (Some(1), Some("x".into()));
                return Outcome { host, invocation_id, applied: None, ..done };
            }
            Op::Dismiss { account } => self.keys.retain(|_, owner| owner != account),
            // As in a real run, where nobody asks with a key that it was never told.
            Op::Administer { caller, .. } if !self.made.contains(caller) => {
                return Outcome::new(Verdict::Skipped);
            }
            Op::Administer { caller, .. } if !self.keys.contains_key(caller) => return refused(401),
            Op::ReadUsage { .. } | Op::Deploy { .. } | Op::Appoint { .. } | Op::Administer { .. } => {}
        }
        done
    }
}

fn made_up(operations: u64) -> Evidence {
    let workers = 6;
    let seconds = operations * OPERATION_US / workers / 1_000_000 + 1;
    let mut run = Evidence { plan: Plan::new(1, 10, 3, Engine::Process, &[]), ..evidence() };
    let mut steps: Vec<_> = (0..workers).map(|worker| run.plan.steps(worker)).collect();
    let mut model = Model::default();
    for id in 0..operations {
        let worker = id % workers;
        let step = steps[usize::try_from(worker).unwrap()].next().unwrap();
        let (op, node) = (step.op, step.node);
        if let Op::Invoke { mode, work_ms, .. } = &op
            && (*mode != super::op::Mode::Answer || *work_ms > 0)
        {
            continue;
        }
        // They overlap: each begins while the others' last ones are still under way.
        let begin_us = id * OPERATION_US / workers;
        let outcome = match model.perform(run.entries.len() as u64, &op) {
            _ if id % LOST_EVERY == 0 && op.is_write() => Outcome::new(Verdict::Unknown).status(503),
            outcome => Outcome { state: Some(muster_api::InvocationState::NotStarted), ..outcome },
        };
        let end = Some((begin_us + OPERATION_US - 1, outcome));
        run.entries.push(Entry { id: run.entries.len() as u64, worker, node, op, begin_us, end });
        if id % 100 == 0 {
            let digest = Some((model.index, format!("{:032x}", model.index)));
            run.samples.push(Sample {
                at_us: begin_us,
                node,
                leader: Some(1),
                term: 1,
                start: 1,
                ready: None,
                digest,
            });
        }
    }
    run.windows =
        (0..seconds / 3).map(|turn| window(&[turn % 3 + 1], turn * 3_000, turn * 3_000 + 1_500)).collect();
    run.finals.executions = Some(model.executions);
    let row =
        |((account, function), invocations)| Usage { account, function, invocations, ..Usage::default() };
    run.finals.usage = model.usage.into_iter().map(row).collect();
    let end_us = (seconds + 10) * 1_000_000;
    let keys = model.keys.into_keys().collect();
    let view = FinalView { begin_us: end_us, end_us: end_us + 1_000, registers: model.registers, keys };
    run.finals.views = (1..=3).map(|node| (node, view.clone())).collect();
    run.busy_until_us = end_us;
    run
}

/// What a judgement of `operations` took, by invariant.
fn judge(operations: u64) -> Vec<(&'static str, Duration)> {
    let run = made_up(operations);
    let mut took = Vec::new();
    for invariant in invariants::all() {
        // Nothing was set up for these.
        if ["replicas", "liveness", "leaks"].contains(&invariant.name()) {
            continue;
        }
        let began = Instant::now();
        let finding = invariant.check(&run);
        took.push((invariant.name(), began.elapsed()));
        assert!(finding.holds(), "{}: {:?}", invariant.name(), finding.violations);
        assert!(finding.untested.is_empty(), "{}: {:?}", invariant.name(), finding.untested);
    }
    took
}

#[test]
fn a_long_run_without_a_fault_of_its_own_is_found_good() {
    judge(20_000);
}

#[test]
#[ignore = "takes ten seconds and a gigabyte; for who changes an invariant: `--run-ignored only --no-capture`"]
fn a_million_operations_are_judged_in_seconds_each() {
    for (name, took) in judge(1_000_000) {
        eprintln!("{name}: {took:.1?}");
        assert!(took < Duration::from_secs(60), "{name} took {took:?}");
    }
}
