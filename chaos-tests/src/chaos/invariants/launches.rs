//! Launches are bounded: a version of a function has no more wanted instances than its maximum, no instance runs
//! twice at the same time, and what never works is launched ever more rarely.

use muster_api::Instance;

use super::super::catalog::{CRASH, INSTANCES_MAX, NEVER_READY};
use super::super::evidence::Evidence;
use super::{Finding, Invariant};

/// What the documentation says of a function that fails: the pause after the first failure, which
/// doubles up to the longest.
const PAUSE_FIRST_MS: i64 = 500;
const PAUSE_MAX_MS: i64 = 60_000;
/// The node lists so many ended instances; with more, some launches are not known.
const ENDED_LISTED_MAX: usize = 512;

pub(super) struct Launches;

impl Invariant for Launches {
    fn name(&self) -> &'static str {
        "launches"
    }

    fn statement(&self) -> &'static str {
        "never more wanted instances of a version than the maximum, no instance twice at a time, ever rarer launches of what fails"
    }

    fn check(&self, run: &Evidence) -> Finding {
        let mut finding = Finding::needing(run.plan.seconds);
        finding.examined = run.census.asked.min(run.census.looked);
        for (function, (count, at_us)) in &run.census.most {
            if *count > INSTANCES_MAX {
                let at_ms = at_us / 1_000;
                finding.violate(format!("{count} instances of {function} were wanted at {at_ms} ms"));
            }
        }
        for (instance, at_us) in &run.census.doubles {
            finding.violate(format!("{instance} ran twice at {} ms", at_us / 1_000));
        }
        let more = run.census.most_running.iter().filter(|(_, (count, _))| *count > INSTANCES_MAX);
        for (function, (count, at_us)) in more {
            let at_ms = at_us / 1_000;
            finding
                .notes
                .push(format!("{count} of {function} really ran at {at_ms} ms, draining ones among them"));
        }
        for function in [CRASH, NEVER_READY] {
            failures(run, function, &mut finding);
        }
        finding
    }
}

fn failures(run: &Evidence, function: &str, finding: &mut Finding) {
    let ended = run.finals.instances.iter().filter(|instance| instance.ended_at.is_some()).count();
    if ended >= ENDED_LISTED_MAX {
        finding.untested.push(format!("launches of {function}: too many instances have ended"));
        return;
    }
    // Those that were lost with their node say nothing of the function.
    let failed: Vec<&Instance> =
        run.finals.instances.iter().filter(|i| i.function == function && i.phase == "failed").collect();
    let times = failed.iter().filter_map(|instance| millis(&instance.launched_at));
    let span_ms = times.clone().max().unwrap_or(0) - times.min().unwrap_or(0);
    let most = launches_within(span_ms);
    finding.notes.push(format!("{function} was launched in vain {} times in {span_ms} ms", failed.len()));
    if failed.len() > most {
        let count = failed.len();
        finding
            .violate(format!("{function} was launched {count} times in {span_ms} ms, and failed each time"));
    }
}

/// The most launches that the pauses between failures leave room for: at first as many as are asked
/// for, then one at a time.
fn launches_within(span_ms: i64) -> usize {
    let mut launches = usize::try_from(INSTANCES_MAX).expect("a small number");
    let (mut at_ms, mut pause_ms) = (0, PAUSE_FIRST_MS);
    while at_ms + pause_ms <= span_ms {
        at_ms += pause_ms;
        launches += 1;
        pause_ms = (pause_ms * 2).min(PAUSE_MAX_MS);
    }
    launches
}

fn millis(time: &str) -> Option<i64> {
    time.parse::<jiff::Timestamp>().ok().map(jiff::Timestamp::as_millisecond)
}

#[cfg(test)]
mod tests {
    use super::super::super::evidence::tests::evidence;
    use super::*;

    #[test]
    fn too_many_and_doubled_instances_are_told() {
        let mut run = evidence();
        run.census.asked = 100;
        run.census.looked = 100;
        run.census.most.insert("cold v1".into(), (3, 1));
        run.census.most_running.insert("cold".into(), (5, 1));
        assert!(Launches.check(&run).holds() && Launches.check(&run).saw_enough());
        run.census.doubles.push(("i-1".into(), 5));
        assert!(!Launches.check(&run).holds());
        run.census.doubles.clear();
        run.census.most.insert("herd v1".into(), (4, 9));
        assert!(!Launches.check(&run).holds());
        assert!(!Launches.check(&evidence()).saw_enough(), "without a look nothing is known");
    }

    #[test]
    fn launches_in_vain_become_rarer() {
        for (span_ms, most) in [(0, 3), (499, 3), (500, 4), (1_500, 5), (60_000, 9), (180_000, 11)] {
            assert_eq!(launches_within(span_ms), most, "{span_ms} ms");
        }
        let failed = |second: u64| -> Instance {
            let row = serde_json::json!({
                "id": format!("i-{second}"), "function": "crash", "version": 1, "node": 1, "generation": 1,
                "phase": "failed", "memory_mb": 16, "cause": "queued",
                "launched_at": format!("2026-11-23T00:00:{second:02}Z"),
            });
            serde_json::from_value(row).unwrap()
        };
        let mut run = evidence();
        run.finals.instances = [0, 1, 2, 4, 8, 16].into_iter().map(failed).collect();
        assert!(Launches.check(&run).holds());
        run.finals.instances = (0..16).map(failed).collect();
        assert!(!Launches.check(&run).holds());
    }
}
