//! Counts of what the gateway does, as plain atomics, rendered in Prometheus' text format.

use std::fmt::Write;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::failure::Kind;

/// Upper bounds of the latency buckets in microseconds: 1-2-5 steps from 100 µs to 60 s.
const BUCKETS_US: [u64; 18] = [
    100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 200_000, 500_000, 1_000_000,
    2_000_000, 5_000_000, 10_000_000, 30_000_000, 60_000_000,
];

/// What the gateway of one node did and does.
#[derive(Debug, Default)]
pub struct Metrics {
    answered: AtomicU64,
    failed: [AtomicU64; Kind::ALL.len()],
    durations: Histogram,
    waits: Histogram,
    pub(crate) waiting: AtomicI64,
    pub(crate) in_flight: AtomicI64,
    pub(crate) cold_starts: AtomicU64,
    pub(crate) forwarded: AtomicU64,
    pub(crate) retries: AtomicU64,
    pub(crate) tokens_expired: AtomicU64,
    pub(crate) answers_cut: AtomicU64,
    paused: AtomicU64,
    resumed: AtomicU64,
}

impl Metrics {
    /// Appends everything in Prometheus' text format.
    pub fn render(&self, out: &mut String) {
        head(
            out,
            "muster_invocations_total",
            "counter",
            "Invocations that entered at this node, by outcome.",
        );
        line(out, "muster_invocations_total{outcome=\"answered\"}", self.answered.load(Relaxed));
        for kind in Kind::ALL {
            let name = format!("muster_invocations_total{{outcome=\"{}\"}}", kind.label());
            line(out, &name, self.failed[kind.index()].load(Relaxed));
        }
        let durations = "Time from an invocation's arrival to the end of its answer.";
        self.durations.render(out, "muster_invocation_duration_seconds", durations);
        self.waits.render(out, "muster_queue_wait_seconds", "Time invocations waited for a slot.");
        for (name, help, value) in [
            ("muster_requests_waiting", "Requests waiting for a slot at this node.", &self.waiting),
            ("muster_slots_in_use", "Slots of this node's instances that are taken.", &self.in_flight),
        ] {
            head(out, name, "gauge", help);
            line(out, name, value.load(Relaxed));
        }
        for (name, help, value) in [
            ("muster_cold_starts_total", "Invocations run here that waited for a launch.", &self.cold_starts),
            (
                "muster_forwarded_invocations_total",
                "Attempts sent to an instance on another node.",
                &self.forwarded,
            ),
            ("muster_retries_total", "Attempts made again after one failed.", &self.retries),
            ("muster_slot_tokens_expired_total", "Slot tokens that nobody used.", &self.tokens_expired),
            ("muster_answers_cut_total", "Answers that broke off after they had begun.", &self.answers_cut),
            ("muster_instances_paused_total", "Instances paused here: they served nobody.", &self.paused),
            ("muster_instances_resumed_total", "Paused instances that went on for a request.", &self.resumed),
        ] {
            head(out, name, "counter", help);
            line(out, name, value.load(Relaxed));
        }
    }

    pub(crate) fn answered(&self) {
        self.answered.fetch_add(1, Relaxed);
    }

    pub(crate) fn failed(&self, kind: Kind) {
        self.failed[kind.index()].fetch_add(1, Relaxed);
    }

    pub(crate) fn paused(&self) {
        self.paused.fetch_add(1, Relaxed);
    }

    pub(crate) fn resumed(&self) {
        self.resumed.fetch_add(1, Relaxed);
    }

    pub(crate) fn lasted(&self, span: Duration) {
        self.durations.observe(span);
    }

    pub(crate) fn waited(&self, span: Duration) {
        self.waits.observe(span);
    }
}

#[derive(Debug, Default)]
struct Histogram {
    /// One per bound, and one for what is above the last.
    buckets: [AtomicU64; BUCKETS_US.len() + 1],
    sum_us: AtomicU64,
}

impl Histogram {
    fn observe(&self, span: Duration) {
        let us = u64::try_from(span.as_micros()).unwrap_or(u64::MAX);
        let bucket = BUCKETS_US.partition_point(|bound| *bound < us);
        self.buckets[bucket].fetch_add(1, Relaxed);
        self.sum_us.fetch_add(us, Relaxed);
    }

    fn render(&self, out: &mut String, name: &str, help: &str) {
        head(out, name, "histogram", help);
        let mut count = 0;
        for (index, bucket) in self.buckets.iter().enumerate() {
            count += bucket.load(Relaxed);
            let bound = BUCKETS_US.get(index).map_or("+Inf".to_owned(), |us| seconds(*us));
            line(out, &format!("{name}_bucket{{le=\"{bound}\"}}"), count);
        }
        line(out, &format!("{name}_sum"), seconds(self.sum_us.load(Relaxed)));
        line(out, &format!("{name}_count"), count);
    }
}

/// Microseconds as decimal seconds, without floats: `1500` is `0.0015`.
fn seconds(us: u64) -> String {
    let text = format!("{}.{:06}", us / 1_000_000, us % 1_000_000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn head(out: &mut String, name: &str, kind: &str, help: &str) {
    writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}").expect("writing to a String cannot fail");
}

fn line(out: &mut String, name: &str, value: impl std::fmt::Display) {
    writeln!(out, "{name} {value}").expect("writing to a String cannot fail");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn histograms_are_cumulative() {
        let metrics = Metrics::default();
        for us in [50, 100, 101, 70_000_000] {
            metrics.lasted(Duration::from_micros(us));
        }
        metrics.failed(Kind::Deadline);
        let mut text = String::new();
        metrics.render(&mut text);
        for want in [
            "muster_invocation_duration_seconds_bucket{le=\"0.0001\"} 2\n",
            "muster_invocation_duration_seconds_bucket{le=\"0.0002\"} 3\n",
            "muster_invocation_duration_seconds_bucket{le=\"60\"} 3\n",
            "muster_invocation_duration_seconds_bucket{le=\"+Inf\"} 4\n",
            "muster_invocation_duration_seconds_sum 70.000251\n",
            "muster_invocation_duration_seconds_count 4\n",
            "muster_invocations_total{outcome=\"deadline\"} 1\n",
        ] {
            assert!(text.contains(want), "{want} in\n{text}");
        }
    }
}
