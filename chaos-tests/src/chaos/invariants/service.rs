//! While nothing is wrong, nothing fails: an invocation of a sound function by a caller who may call
//! it is answered. New versions and instances that come and go are no excuse: scale-down costs no
//! request.
//!
//! A fault excuses what fails before its aftermath is over, and so does a machine that stood still. A function that
//! could not be launched, for a disk or an engine that was broken, waits for its next launch as long as
//! `docs/OPERATIONS.md` says.

use super::super::catalog::{ACCOUNTS, ACKNOWLEDGED, COLD, IDEMPOTENT, INTERVAL, REPLICATED};
use super::super::disturbance::Spans;
use super::super::evidence::{Evidence, Window};
use super::super::faults::Layer;
use super::super::op::{Mode, Op, Verdict};
use super::{Finding, Invariant};

/// They do what they are asked and neither break off nor hang.
const SOUND: [&str; 5] = [ACKNOWLEDGED, REPLICATED, INTERVAL, COLD, IDEMPOTENT];
/// After its nodes are ready again a cluster elects, adopts and launches for a while.
const AFTERMATH_US: u64 = 5_000_000;
/// The longest pause between two launches of what has failed to start, and what its callers are told then.
const LAUNCH_PAUSE_US: u64 = 60_000_000;
const FAILS_TO_START: &str = "Function fails to start";

pub(super) struct Service;

impl Invariant for Service {
    fn name(&self) -> &'static str {
        "service"
    }

    fn statement(&self) -> &'static str {
        "while no node suffers, every invocation of a sound function by a lasting caller is answered"
    }

    fn check(&self, run: &Evidence) -> Finding {
        let mut finding = Finding::needing(if run.plan.faults.is_empty() { 50 } else { 0 });
        let stops_launches = |window: &Window| matches!(window.layer, Layer::Disk | Layer::Engine);
        let (troubles, long_ago) = (
            troubles(run, |_| true, AFTERMATH_US),
            troubles(run, stops_launches, AFTERMATH_US + LAUNCH_PAUSE_US),
        );
        for entry in &run.entries {
            let Op::Invoke { function, caller, mode: Mode::Answer, .. } = &entry.op else { continue };
            let Some((end_us, outcome)) = &entry.end else { continue };
            let sound = SOUND.contains(&function.as_str()) && ACCOUNTS.contains(&caller.as_str());
            if !sound || troubles.touch(entry.begin_us, *end_us) {
                continue;
            }
            if outcome.detail.starts_with(FAILS_TO_START) && long_ago.touch(entry.begin_us, *end_us) {
                continue;
            }
            finding.examined += 1;
            if outcome.verdict != Verdict::Done {
                finding.violate(format!(
                    "invocation {} of {function} through node {} failed, though nothing was wrong: {:?} {}",
                    entry.id, entry.node, outcome.status, outcome.detail
                ));
            }
        }
        finding
    }
}

/// When something was wrong, or had just been.
fn troubles(run: &Evidence, counts: impl Fn(&Window) -> bool, aftermath_us: u64) -> Spans {
    let windows = run.windows.iter().filter(|window| counts(window));
    let windows = windows.map(|window| (window.begin_us, window.end_us));
    let all = windows.chain(run.stalls.iter().copied());
    Spans::new(all.map(|(begin, end)| (begin, end.saturating_add(aftermath_us))))
}

#[cfg(test)]
mod tests {
    use super::super::super::evidence::tests::*;
    use super::super::super::op::Outcome;
    use super::*;

    #[test]
    fn failures_by_circumstance() {
        let broken = || Outcome::new(Verdict::Failed).status(502);
        let refused = || Outcome::new(Verdict::Refused).status(503);
        for (name, function, caller, outcome, good) in [
            ("answered", "interval", "user-a", done(), true),
            ("broken off", "interval", "user-a", broken(), false),
            ("refused", "cold", "user-b", refused(), false),
            ("cut", "cold", "user-b", unknown(), false),
            ("a function that breaks off", "fragile", "user-a", broken(), true),
            ("a caller whose grant comes and goes", "interval", "guest-0", refused(), true),
        ] {
            let mut run = evidence();
            push(&mut run, 20_000, Some((20_100, outcome)), invoke(function, caller));
            assert_eq!(Service.check(&run).holds(), good, "{name}");
            run.windows.push(window(&[2], 10_000, 16_000));
            assert!(Service.check(&run).holds(), "{name}, in the aftermath of a fault");
            run.windows[0] = window(&[2], 10_000, 14_000);
            assert_eq!(Service.check(&run).holds(), good, "{name}, long after a fault");
            run.stalls.push((19_000_000, 20_001_000));
            assert!(Service.check(&run).holds(), "{name}, and the machine stood still");
        }
    }

    #[test]
    fn what_could_not_be_launched_waits_for_its_next_launch() {
        let broken = |detail: &str| Outcome::new(Verdict::Refused).status(502).detail(detail);
        let fails = "Function fails to start: disk full; next attempt in 1.6 s";
        for (detail, layer, mended_ms, good) in [
            (fails, Layer::Disk, 70_000, true),
            (fails, Layer::Engine, 70_000, true),
            (fails, Layer::Disk, 30_000, false),
            (fails, Layer::Process, 70_000, false),
            ("Function broke off", Layer::Disk, 70_000, false),
        ] {
            let mut run = evidence();
            push(&mut run, 100_000, Some((100_100, broken(detail))), invoke("interval", "user-a"));
            run.windows.push(Window { layer, ..window(&[2], 10_000, mended_ms) });
            assert_eq!(Service.check(&run).holds(), good, "{detail}, {layer:?} mended at {mended_ms} ms");
        }
    }
}
