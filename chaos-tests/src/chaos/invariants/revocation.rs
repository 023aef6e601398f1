//! After a revocation was acknowledged, and a bound has passed, no node admits what was revoked.
//!
//! A node that suffered a fault counts from when it was ready again: the bound on how soon a node
//! *without a quorum* stops admitting is not promised yet, and what was admitted there is counted
//! apart.

use std::collections::BTreeMap;

use super::super::evidence::Evidence;
use super::super::history::Entry;
use super::super::op::{Op, Verdict};
use super::{Finding, Invariant};

pub(super) struct Revocation;

impl Invariant for Revocation {
    fn name(&self) -> &'static str {
        "revocation"
    }

    fn statement(&self) -> &'static str {
        "nobody is admitted on the strength of a grant or key whose revocation was acknowledged a bound ago"
    }

    fn check(&self, run: &Evidence) -> Finding {
        let mut finding = Finding::needing(10);
        let changes = changes(run);
        let bound_us = run.bounds.revocation_ms * 1_000;
        let mut excused = 0;
        let mut latest_us = 0;
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
            if !admitted {
                continue;
            }
            latest_us = latest_us.max(entry.begin_us - revoked_us);
            if entry.begin_us < revoked_us + bound_us {
                continue;
            }
            let until_us = entry.end_us().unwrap_or(entry.begin_us);
            if run.disturbed(entry.node, revoked_us, until_us, bound_us) {
                excused += 1;
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
        finding.notes.push(format!(
            "the latest admission began {} ms after an acknowledged revocation",
            latest_us / 1_000
        ));
        finding.notes.push(format!("{excused} admitted late by nodes that had suffered a fault since"));
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
/// still have had one.
fn revoked_at(changes: &[(bool, &Entry)], entry: &Entry) -> Option<u64> {
    let verdict = |entry: &Entry| entry.outcome().map_or(Verdict::Unknown, |outcome| outcome.verdict);
    let acknowledged = |(gives, change): &&(bool, &Entry)| !gives && verdict(change) == Verdict::Done;
    let before = |(_, change): &&(bool, &Entry)| change.end_us().is_some_and(|end| end < entry.begin_us);
    let (_, revocation) =
        changes.iter().filter(acknowledged).filter(before).max_by_key(|(_, c)| c.begin_us)?;
    let given_since = changes.iter().any(|(gives, change)| {
        let lasts = match verdict(change) {
            Verdict::Done => change.end_us().is_none_or(|end| end >= revocation.begin_us),
            Verdict::Unknown => true,
            _ => false,
        };
        *gives && lasts && change.begin_us <= entry.end_us().unwrap_or(u64::MAX)
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
        for (name, changes, at_ms, outcome, faulty, good) in [
            ("refused", revoked.clone(), 5_000, refused(), false, true),
            ("admitted within the bound", revoked.clone(), 2_000, done(), false, true),
            ("admitted after it", revoked.clone(), 5_000, done(), false, false),
            ("after a fault", revoked.clone(), 5_000, done(), true, true),
            ("granted again", with((20, 21, grant(3), done())), 5_000, done(), false, true),
            ("perhaps granted again", with((20, 21, grant(1), unknown())), 5_000, done(), false, true),
            ("manage is no invoke", with((20, 21, grant(2), done())), 5_000, done(), false, false),
            (
                "perhaps revoked",
                vec![(0, 1, grant(1), done()), (10, 11, revoke(), unknown())],
                5_000,
                done(),
                false,
                true,
            ),
            (
                "an old grant in doubt",
                vec![(0, 1, grant(1), unknown()), (10, 11, revoke(), done())],
                5_000,
                done(),
                false,
                true,
            ),
        ] {
            let mut run = evidence();
            for (begin, end, op, outcome) in changes {
                push(&mut run, begin, Some((end, outcome)), op);
            }
            if faulty {
                run.windows.push(window(&[1], 4_000, 4_500));
            }
            push(&mut run, at_ms, Some((at_ms + 5, outcome)), invoke("interval", "guest-0"));
            assert_eq!(Revocation.check(&run).holds(), good, "{name}");
        }
    }
}
