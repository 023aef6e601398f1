//! While a majority of the nodes suffers nothing, writes go on: the cluster is without an
//! acknowledged write for at most the bound. Times in which the machine itself stood still do not
//! count, nor those in which nobody wrote.

use super::super::disturbance::Spans;
use super::super::evidence::Evidence;
use super::super::figures::{longest_gap, writes};
use super::{Finding, Invariant};

pub(super) struct Recovery;

impl Invariant for Recovery {
    fn name(&self) -> &'static str {
        "recovery"
    }

    fn statement(&self) -> &'static str {
        "while a majority is undisturbed, no longer than the bound passes without an acknowledged write"
    }

    fn check(&self, run: &Evidence) -> Finding {
        let mut finding = Finding::needing(u64::from(!run.windows.is_empty()));
        let writes = writes(run);
        let bound_us = run.bounds.recovery_ms * 1_000;
        let mut lost = run.without_quorum();
        lost.extend(&run.stalls);
        lost.push((run.busy_until_us, u64::MAX));
        let lost = Spans::new(lost);
        for pair in writes.windows(2) {
            // The parts of the wait in which a majority was there.
            let waits = lost.gaps(pair[0], pair[1]);
            if let Some((begin, end)) = waits.iter().find(|(begin, end)| end - begin > bound_us) {
                finding.violate(format!(
                    "no write was acknowledged from {:.3} s to {:.3} s, though a majority was undisturbed",
                    seconds(*begin),
                    seconds(*end)
                ));
            }
        }
        let stalled_ms = run.stalls.iter().map(|(begin, end)| (end - begin) / 1_000).sum::<u64>();
        if stalled_ms > 0 {
            finding.notes.push(format!("the machine stood still for {stalled_ms} ms in all"));
        }
        for window in &run.windows {
            finding.examined += 1;
            let gap = longest_gap(&writes, window.begin_us, window.end_us);
            finding.notes.push(format!(
                "{:>7.3} s {} {:?} {:?} for {} ms: longest time without an acknowledged write {} ms",
                seconds(window.begin_us),
                window.fault,
                window.role,
                window.nodes,
                (window.mended_us - window.begin_us) / 1_000,
                gap / 1_000
            ));
        }
        finding
    }
}

fn seconds(us: u64) -> f64 {
    std::time::Duration::from_micros(us).as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::super::super::evidence::tests::*;
    use super::*;

    #[test]
    fn gaps_count_while_a_majority_is_there() {
        for (name, windows, good) in [
            ("no fault at all", vec![], false),
            ("a minority", vec![window(&[1], 1_000, 9_000)], false),
            (
                "a majority, most of the time",
                vec![window(&[1], 1_000, 9_000), window(&[2], 1_500, 8_000)],
                true,
            ),
            ("a majority, for a moment", vec![window(&[1, 2], 1_000, 1_500)], false),
        ] {
            let mut run = evidence();
            for at in [0, 500, 1_000, 10_000, 10_500] {
                push(&mut run, at, Some((at + 1, done())), put("f", at + 1));
            }
            // Their begin is early and proves nothing.
            push(&mut run, 3_000, Some((12_000, unknown())), put("f", 7));
            run.windows = windows;
            assert_eq!(Recovery.check(&run).holds(), good, "{name}");
            run.stalls.push((2_000_000, 6_000_000));
            assert!(Recovery.check(&run).holds(), "{name}, and the machine stood still");
            run.stalls.clear();
            run.busy_until_us = 1_000_000;
            assert!(Recovery.check(&run).holds(), "{name}, and nobody wrote");
        }
    }
}
