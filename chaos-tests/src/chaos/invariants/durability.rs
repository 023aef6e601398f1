//! Acknowledged writes survive: at the end every node answers, for each register, the value of a
//! write that no later acknowledged write has replaced. The oracle knows intervals only: a write is
//! certainly replaced if another one began after it had ended and was acknowledged.

use std::collections::BTreeMap;

use super::super::evidence::Evidence;
use super::super::history::Entry;
use super::super::op::{Op, Verdict};
use super::{Finding, Invariant};

pub(super) struct Durability;

impl Invariant for Durability {
    fn name(&self) -> &'static str {
        "durability"
    }

    fn statement(&self) -> &'static str {
        "acknowledged writes survive; at the end every node answers what the history allows"
    }

    fn check(&self, run: &Evidence) -> Finding {
        let mut finding = Finding::needing(20);
        registers(run, &mut finding);
        keys(run, &mut finding);
        finding
    }
}

/// What a write leaves behind, and whether it certainly did.
struct Write<'a> {
    entry: &'a Entry,
    leaves: Option<u64>,
    certain: bool,
}

fn registers(run: &Evidence, finding: &mut Finding) {
    let mut writes: BTreeMap<String, Vec<Write<'_>>> = BTreeMap::new();
    for entry in &run.entries {
        let (Some(register), true) = (entry.op.register(), entry.op.is_write()) else { continue };
        let verdict = entry.outcome().map_or(Verdict::Unknown, |outcome| outcome.verdict);
        if matches!(verdict, Verdict::Done | Verdict::Unknown) {
            let write = Write { entry, leaves: entry.op.leaves(), certain: verdict == Verdict::Done };
            writes.entry(register).or_default().push(write);
        }
    }
    for (register, writes) in &writes {
        let allowed = allowed(writes);
        for (node, view) in &run.finals.views {
            finding.examined += 1;
            let value = view.registers.get(register).copied();
            if !allowed.contains(&value) {
                finding.violate(format!(
                    "{register} is {} at node {node}, which no surviving write left; allowed: {}",
                    show(value),
                    allowed.iter().map(|value| show(*value)).collect::<Vec<_>>().join(", ")
                ));
            }
        }
    }
    if run.finals.views.len() as u64 != run.plan.nodes {
        finding.violate(format!(
            "only {} of {} nodes answered at the end",
            run.finals.views.len(),
            run.plan.nodes
        ));
    }
}

/// The values a register may end with.
fn allowed(writes: &[Write<'_>]) -> Vec<Option<u64>> {
    // Whatever ended before this began is replaced by a certain write.
    let last_certain = writes.iter().filter(|w| w.certain).map(|w| w.entry.begin_us).max();
    let survives = |write: &&Write<'_>| {
        let ended = write.entry.end_us().filter(|_| write.certain);
        ended.is_none_or(|ended| last_certain.is_none_or(|began| ended >= began))
    };
    let mut values: Vec<Option<u64>> = writes.iter().filter(survives).map(|write| write.leaves).collect();
    if last_certain.is_none() {
        // Nothing was ever acknowledged: it may still be as it began.
        values.push(None);
    }
    values.sort_unstable();
    values.dedup();
    values
}

/// A key that was made and never revoked is there; one whose revocation was acknowledged is not.
fn keys(run: &Evidence, finding: &mut Finding) {
    // By label, or by account where all of an account's keys went with it.
    let mut revoked: BTreeMap<&str, Verdict> = BTreeMap::new();
    for entry in &run.entries {
        let (Op::RevokeKey { label: gone, .. } | Op::Dismiss { account: gone }) = &entry.op else { continue };
        if let Some(outcome) = entry.outcome().filter(|outcome| outcome.verdict != Verdict::Skipped) {
            revoked.insert(gone, outcome.verdict);
        }
    }
    for entry in &run.entries {
        let Op::CreateKey { account, label } = &entry.op else { continue };
        let Some(id) = entry.outcome().and_then(|outcome| outcome.key_id.as_ref()) else { continue };
        let must = match revoked.get(label.as_str()).or_else(|| revoked.get(account.as_str())) {
            None => true,
            Some(Verdict::Done) => false,
            Some(_) => continue,
        };
        for (node, view) in &run.finals.views {
            finding.examined += 1;
            if view.keys.contains(id) != must {
                let what = if must { "is lost" } else { "was revoked and is still there" };
                finding.violate(format!("the key {label} ({id}) {what} at node {node}"));
            }
        }
    }
}

fn show(value: Option<u64>) -> String {
    value.map_or_else(|| "absent".to_owned(), |value| value.to_string())
}

#[cfg(test)]
mod tests {
    use super::super::super::evidence::tests::*;
    use super::super::super::op::Outcome;
    use super::*;

    fn violations(writes: &[(u64, Option<u64>, Op, Outcome)], last: &[(&str, u64)]) -> usize {
        let mut run = evidence();
        for (begin, end, op, outcome) in writes {
            push(&mut run, *begin, end.map(|end| (end, outcome.clone())), op.clone());
        }
        end_with(&mut run, last);
        Durability.check(&run).violations.len()
    }

    #[test]
    fn what_a_register_may_end_with() {
        let delete = || Op::DeleteFunction { name: "f".into() };
        let two = [(0, Some(1), put("f", 1), done()), (2, Some(3), put("f", 2), done())];
        let racing = [(0, Some(5), put("f", 1), done()), (2, Some(3), put("f", 2), done())];
        let unknown_first = [(0, Some(1), put("f", 1), unknown()), (2, Some(3), put("f", 2), done())];
        let never_ended = [(0, None, put("f", 1), unknown())];
        let deleted = [(0, Some(1), put("f", 1), done()), (2, Some(3), delete(), done())];
        let refused =
            [(0, Some(1), put("f", 1), done()), (2, Some(3), put("f", 2), Outcome::new(Verdict::Refused))];
        for (name, writes, last, good) in [
            ("the last", &two[..], Some(2), true),
            ("a lost write", &two, Some(1), false),
            ("lost altogether", &two, None, false),
            ("never written", &two, Some(9), false),
            ("either of two that overlap", &racing, Some(1), true),
            ("the other of two that overlap", &racing, Some(2), true),
            ("an unknown one may come late", &unknown_first, Some(1), true),
            ("or never", &unknown_first, Some(2), true),
            ("under way for ever: absent", &never_ended, None, true),
            ("under way for ever: there", &never_ended, Some(1), true),
            ("deleted", &deleted, None, true),
            ("back from the dead", &deleted, Some(1), false),
            ("refused, yet there", &refused, Some(2), false),
        ] {
            let last: Vec<(&str, u64)> = last.map(|value| ("function:f", value)).into_iter().collect();
            assert_eq!(violations(writes, &last) == 0, good, "{name}");
        }
    }

    #[test]
    fn keys_stay_and_go() {
        let create = Op::CreateKey { account: "a".into(), label: "k".into() };
        let revoke = Op::RevokeKey { account: "a".into(), label: "k".into() };
        for (revocation, there, good) in [
            (None, true, true),
            (None, false, false),
            (Some(done()), false, true),
            (Some(done()), true, false),
            (Some(unknown()), true, true),
            (Some(unknown()), false, true),
        ] {
            let mut run = evidence();
            end_with(&mut run, &[]);
            let made = Outcome { key_id: Some("0a".into()), ..done() };
            push(&mut run, 0, Some((1, made)), create.clone());
            if let Some(outcome) = revocation.clone() {
                push(&mut run, 2, Some((3, outcome)), revoke.clone());
            }
            for view in run.finals.views.values_mut() {
                view.keys.extend(there.then(|| "0a".to_owned()));
            }
            assert_eq!(Durability.check(&run).holds(), good, "{revocation:?} {there}");
        }
    }
}
