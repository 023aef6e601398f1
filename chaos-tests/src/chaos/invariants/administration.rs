//! As `revocation`, for those who rule: from the acknowledgement on that an admin's key is revoked, or its
//! account deleted, no node lets it do or see anything that is for admins; until either is asked for, none
//! refuses it. Reads that ask for what a node
//! happens to know are not made: they may be as old as what the node knows of its callers.

use std::collections::BTreeMap;
use std::time::Duration;

use super::super::disturbance::Disturbances;
use super::super::evidence::{Evidence, FinalView};
use super::super::history::Entry;
use super::super::op::{Op, Verdict};
use super::{Finding, Invariant};

pub(super) struct Administration;

impl Invariant for Administration {
    fn name(&self) -> &'static str {
        "administration"
    }

    fn statement(&self) -> &'static str {
        "admins rule until they are deprived, and from the acknowledgement of that on no more"
    }

    fn check(&self, run: &Evidence) -> Finding {
        let mut finding = Finding::needing(5);
        let ends = ends(run);
        let disturbances = Disturbances::of(run);
        let mut disturbed = 0;
        for entry in &run.entries {
            let Op::Administer { caller, .. } = &entry.op else { continue };
            let end = ends.get(caller.as_str()).copied().unwrap_or_default();
            let refused = entry.outcome().is_some_and(|outcome| matches!(outcome.status, Some(401 | 403)));
            let in_office = entry.end_us().is_some_and(|end_us| end.begun_us.is_none_or(|at| at > end_us));
            if refused && in_office {
                finding.violate(format!(
                    "request {} with {caller} through node {} was refused, though nobody had deprived it",
                    entry.id, entry.node
                ));
            }
            let Some(ended_us) = end.acknowledged_us.filter(|at| *at < entry.begin_us) else { continue };
            finding.examined += 1;
            let until_us = entry.end_us().unwrap_or(entry.begin_us);
            disturbed += u64::from(disturbances.on(entry.node, ended_us, until_us, 0));
            if let Some(what) = ruled(run, entry) {
                let later = Duration::from_micros(entry.begin_us - ended_us).as_secs_f64();
                finding.violate(format!(
                    "request {} with {caller} through node {} {what}, {later:.3} s after its end was acknowledged",
                    entry.id, entry.node
                ));
            }
        }
        finding.notes.push(format!("{disturbed} of them through nodes that had suffered a fault since"));
        finding
    }
}

/// How a key came to be worth nothing.
#[derive(Clone, Copy, Debug, Default)]
struct End {
    /// When it was first asked for.
    begun_us: Option<u64>,
    /// When it was first acknowledged.
    acknowledged_us: Option<u64>,
}

/// By label. Neither keys nor accounts of this kind come back.
fn ends(run: &Evidence) -> BTreeMap<&str, End> {
    let mut labels: BTreeMap<&str, &str> = BTreeMap::new();
    for entry in &run.entries {
        if let Op::CreateKey { account, label } = &entry.op {
            labels.insert(account, label);
        }
    }
    let mut ends: BTreeMap<&str, End> = BTreeMap::new();
    let sooner = |known: Option<u64>, at: u64| Some(known.map_or(at, |known| known.min(at)));
    for entry in &run.entries {
        let label = match &entry.op {
            Op::RevokeKey { label, .. } => Some(label.as_str()),
            // An admin has one key.
            Op::Dismiss { account } => labels.get(account.as_str()).copied(),
            _ => None,
        };
        let Some(label) = label else { continue };
        let end = ends.entry(label).or_default();
        end.begun_us = sooner(end.begun_us, entry.begin_us);
        let done = entry.outcome().is_some_and(|outcome| outcome.verdict == Verdict::Done);
        if let Some(end_us) = entry.end_us().filter(|_| done) {
            end.acknowledged_us = sooner(end.acknowledged_us, end_us);
        }
    }
    ends
}

/// What a request has brought about, if it has.
fn ruled(run: &Evidence, entry: &Entry) -> Option<String> {
    let outcome = entry.outcome();
    match outcome.map_or(Verdict::Unknown, |outcome| outcome.verdict) {
        Verdict::Done | Verdict::Failed => {
            Some(format!("was carried out ({:?})", outcome.and_then(|outcome| outcome.status)))
        }
        // Nobody has heard of it, but its change is there.
        Verdict::Unknown => {
            let Op::Administer { name, rev: Some(rev), .. } = &entry.op else { return None };
            let shown =
                |(_, view): (_, &FinalView)| view.registers.get(&format!("function:{name}")) == Some(rev);
            run.finals.views.iter().any(shown).then(|| "was not answered, and has changed it".to_owned())
        }
        Verdict::Refused | Verdict::Skipped => None,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::super::evidence::tests::*;
    use super::super::super::op::Outcome;
    use super::*;

    fn rule(rev: Option<u64>) -> Op {
        Op::Administer { caller: "admin-key".into(), name: "ruled".into(), rev }
    }

    #[test]
    fn what_an_admin_may_after_its_end() {
        let refused = || Outcome::new(Verdict::Refused).status(401);
        let revoke = || Op::RevokeKey { account: "deputy".into(), label: "admin-key".into() };
        let dismiss = || Op::Dismiss { account: "deputy".into() };
        for (name, end, acknowledged, at_ms, op, outcome, good) in [
            ("refused", revoke(), done(), 5_000, rule(None), refused(), true),
            ("refused while in office", revoke(), done(), 4, rule(None), refused(), false),
            ("refused while it is deprived", revoke(), done(), 8, rule(None), refused(), true),
            ("sent before the acknowledgement", revoke(), done(), 11, rule(None), done(), true),
            ("a read", revoke(), done(), 12, rule(None), done(), false),
            ("a change", revoke(), done(), 12, rule(Some(7)), done(), false),
            ("a read after the account's end", dismiss(), done(), 12, rule(None), done(), false),
            ("refused after the account's end", dismiss(), done(), 12, rule(None), refused(), true),
            ("perhaps revoked", revoke(), unknown(), 5_000, rule(None), done(), true),
            ("an unknown end", revoke(), done(), 12, rule(Some(8)), unknown(), true),
            ("an unknown end, and it has changed", revoke(), done(), 12, rule(Some(9)), unknown(), false),
        ] {
            let mut run = evidence();
            let key = Op::CreateKey { account: "deputy".into(), label: "admin-key".into() };
            push(&mut run, 1, Some((2, done())), key);
            push(&mut run, 10, Some((11, acknowledged)), end);
            // A fault excuses nothing.
            run.windows.push(window(&[1], 4_000, 4_500));
            push(&mut run, at_ms, Some((at_ms + 5, outcome)), op);
            let registers = BTreeMap::from([("function:ruled".to_owned(), 9)]);
            run.finals
                .views
                .insert(1, FinalView { begin_us: 0, end_us: 1, registers, keys: BTreeSet::new() });
            assert_eq!(Administration.check(&run).holds(), good, "{name}");
        }
    }
}
