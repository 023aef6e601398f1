//! From the acknowledgement of a revocation on no node admits what was revoked: not one that is cut off,
//! asleep or just back. An invocation counts that was sent after the acknowledgement had arrived.

use std::collections::BTreeMap;

use super::super::disturbance::Disturbances;
use super::super::evidence::Evidence;
use super::super::history::Entry;
use super::super::op::{LATE_US, Op, Verdict};
use super::{Finding, Invariant};

pub(super) struct Revocation;

impl Invariant for Revocation {
    fn name(&self) -> &'static str {
        "revocation"
    }

    fn statement(&self) -> &'static str {
        "nobody is admitted on the strength of a grant or key whose revocation was acknowledged"
    }

    fn check(&self, run: &Evidence) -> Finding {
        let mut finding = Finding::needing(10);
        let changes = changes(run);
        let mut disturbed = 0;
        let disturbances = Disturbances::of(run);
        for entry in &run.entries {
            let (Op::Invoke { caller, .. }, Some(outcome)) = (&entry.op, entry.outcome()) else { continue };
            let Some(changes) = changes.get(caller.as_str()) else { continue };
            let Some(revoked_us) = revoked_at(changes, entry) else { continue };
            finding.examined += 1;
            let admitted = match outcome.verdict {
                Verdict::Done | Verdict::Failed => true,
                Verdict::Unknown => run.finals.executions.as_ref().is_some_and(|e| e.contains_key(&entry.id)),
                Verdict::Refused | Verdict::Skipped => false,
            };
            let until_us = entry.end_us().unwrap_or(entry.begin_us);
            disturbed += u64::from(disturbances.on(entry.node, revoked_us, until_us, 0));
            if !admitted {
                continue;
            }
            finding.violate(format!(
                "invocation {} by {caller} through node {} was admitted {:.3} s after the revocation \
                 was acknowledged ({:?} {})",
                entry.id,
                entry.node,
                std::time::Duration::from_micros(entry.begin_us - revoked_us).as_secs_f64(),
                outcome.status,
                outcome.detail
            ));
        }
        finding.notes.push(format!("{disturbed} of them through nodes that had suffered a fault since"));
        finding
    }
}

/// What changed a caller's right, by caller.
fn changes(run: &Evidence) -> BTreeMap<&str, Vec<(bool, &Entry)>> {
    let mut changes: BTreeMap<&str, Vec<(bool, &Entry)>> = BTreeMap::new();
    for entry in &run.entries {
        let (caller, gives) = match &entry.op {
            // Of the two actions only the first lets invoke.
            Op::Grant { account, actions } => (account, actions & 1 == 1),
            Op::RevokeGrant { account } => (account, false),
            Op::CreateKey { label, .. } => (label, true),
            Op::RevokeKey { label, .. } => (label, false),
            _ => continue,
        };
        changes.entry(caller).or_default().push((gives, entry));
    }
    changes
}

/// When the last right that `entry`'s caller may have had was certainly revoked; `None` if it may
/// still have had one. `changes` are in the order in which they began.
fn revoked_at(changes: &[(bool, &Entry)], entry: &Entry) -> Option<u64> {
    let verdict = |entry: &Entry| entry.outcome().map_or(Verdict::Unknown, |outcome| outcome.verdict);
    let begun_before = |at_us: u64| changes.partition_point(|(_, change)| change.begin_us < at_us);
    let acknowledged = |(gives, change): &&(bool, &Entry)| !gives && verdict(change) == Verdict::Done;
    let before = |(_, change): &&(bool, &Entry)| change.end_us().is_some_and(|end| end < entry.begin_us);
    let earlier = changes[..begun_before(entry.begin_us)].iter().rev();
    let (_, revocation) = earlier.filter(acknowledged).find(before)?;
    // One that was sent into a cut, and given up, may arrive when the link is mended.
    let late_us = if verdict(entry) == Verdict::Unknown { LATE_US } else { 0 };
    let until_us = entry.end_us().map_or(u64::MAX, |end| end.saturating_add(late_us + 1));
    let since = begun_before(revocation.begin_us.saturating_sub(LATE_US));
    let given_since = changes[since..begun_before(until_us)].iter().any(|(gives, change)| {
        let lasts = match verdict(change) {
            Verdict::Done => change.end_us().is_none_or(|end| end >= revocation.begin_us),
            Verdict::Unknown => true,
            _ => false,
        };
        *gives && lasts
    });
    if given_since { None } else { revocation.end_us() }
}

#[cfg(test)]
mod tests {
    use super::super::super::evidence::tests::*;
    use super::super::super::op::Outcome;
    use super::*;

    fn grant(actions: u64) -> Op {
        Op::Grant { account: "guest-0".into(), actions }
    }

    fn revoke() -> Op {
        Op::RevokeGrant { account: "guest-0".into() }
    }

    #[test]
    fn admissions_after_a_revocation() {
        let refused = || Outcome::new(Verdict::Refused).status(403);
        type Change = (u64, u64, Op, Outcome);
        let revoked: Vec<Change> = vec![(0, 1, grant(1), done()), (10, 11, revoke(), done())];
        let with = |more: Change| revoked.iter().cloned().chain([more]).collect::<Vec<_>>();
        for (name, changes, at_ms, outcome, good) in [
            ("refused", revoked.clone(), 5_000, refused(), true),
            ("sent before the acknowledgement", revoked.clone(), 11, done(), true),
            ("sent after it", revoked.clone(), 12, done(), false),
            ("failed once admitted", revoked.clone(), 12, Outcome::new(Verdict::Failed), false),
            ("granted again", with((20, 21, grant(3), done())), 5_000, done(), true),
            ("perhaps granted again", with((20, 21, grant(1), unknown())), 5_000, done(), true),
            ("given up, and then carried out", revoked.clone(), 12, unknown(), false),
            ("granted when it was given up", with((4_000, 4_001, grant(1), done())), 12, unknown(), true),
            ("granted when it had ended", with((4_000, 4_001, grant(1), done())), 12, done(), false),
            ("manage is no invoke", with((20, 21, grant(2), done())), 5_000, done(), false),
            (
                "perhaps revoked",
                vec![(0, 1, grant(1), done()), (10, 11, revoke(), unknown())],
                5_000,
                done(),
                true,
            ),
            (
                "an old grant in doubt",
                vec![(0, 1, grant(1), unknown()), (10, 11, revoke(), done())],
                5_000,
                done(),
                true,
            ),
        ] {
            let mut run = evidence();
            let late = changes.len() as u64;
            for (begin, end, op, outcome) in changes {
                push(&mut run, begin, Some((end, outcome)), op);
            }
            run.finals.executions = Some(BTreeMap::from([(late, 1)]));
            // A fault excuses nothing.
            run.windows.push(window(&[1], 4_000, 4_500));
            push(&mut run, at_ms, Some((at_ms + 5, outcome)), invoke("interval", "guest-0"));
            assert_eq!(Revocation.check(&run).holds(), good, "{name}");
        }
    }
}
