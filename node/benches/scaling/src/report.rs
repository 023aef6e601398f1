//! Results as tables.

use std::fmt::Write as _;

use crate::measure::Measures;
use crate::trace::Trace;

/// What one policy made of one trace.
#[derive(Clone, Debug)]
pub struct Row {
    pub policy: String,
    pub invocations: u64,
    pub cold_starts: u64,
    pub launches: u64,
    pub instance_ms: u64,
    pub memory_mb_ms: u64,
    pub wait_p50_ms: u64,
    pub wait_p99_ms: u64,
    /// Virtual time over real time.
    pub speed: f64,
}

#[derive(Clone, Debug)]
pub struct Results {
    pub workload: String,
    pub functions: usize,
    pub hours: f64,
    /// Slot time that the invocations took.
    pub busy_ms: u64,
    /// The first is what the others are compared with.
    pub rows: Vec<Row>,
}

impl Row {
    pub fn new(policy: &str, measures: &Measures, speed: f64) -> Row {
        Row {
            policy: policy.to_owned(),
            invocations: measures.served.len() as u64,
            cold_starts: measures.cold_starts(),
            launches: measures.launches,
            instance_ms: measures.instance_ms,
            memory_mb_ms: measures.memory_mb_ms,
            wait_p50_ms: measures.wait_ms(500),
            wait_p99_ms: measures.wait_ms(990),
            speed,
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "shown with few digits")]
pub fn ratio(part: u64, whole: u64) -> f64 {
    part as f64 / whole.max(1) as f64
}

impl Results {
    #[expect(clippy::cast_precision_loss, reason = "shown with few digits")]
    pub fn new(trace: &Trace, rows: Vec<Row>) -> Results {
        Results {
            workload: trace.name.clone(),
            functions: trace.functions.len(),
            hours: trace.end_ms as f64 / 3.6e6,
            busy_ms: trace.invocations.iter().map(|i| i.duration_ms).sum(),
            rows,
        }
    }

    /// As a table in Markdown.
    #[expect(clippy::cast_precision_loss, reason = "shown with few digits")]
    pub fn markdown(&self) -> String {
        let first = &self.rows[0];
        let mut text = format!(
            "`{}`: {} functions, {:.0} h, {} invocations, {:.1} h of work\n\n",
            self.workload,
            self.functions,
            self.hours,
            first.invocations,
            self.busy_ms as f64 / 3.6e6
        );
        text.push_str("| policy | cold starts | of all | against fixed | instance hours | against fixed | GB hours | launches | wait p50 | wait p99 |\n");
        text.push_str("|---|---|---|---|---|---|---|---|---|---|\n");
        for row in &self.rows {
            let cells = [
                row.policy.clone(),
                row.cold_starts.to_string(),
                format!("{:.2} %", 100.0 * ratio(row.cold_starts, row.invocations)),
                format!("{:.0} %", 100.0 * ratio(row.cold_starts, first.cold_starts)),
                format!("{:.1}", row.instance_ms as f64 / 3.6e6),
                format!("{:.0} %", 100.0 * ratio(row.instance_ms, first.instance_ms)),
                format!("{:.1}", row.memory_mb_ms as f64 / 3.6e6 / 1024.0),
                row.launches.to_string(),
                format!("{} ms", row.wait_p50_ms),
                format!("{} ms", row.wait_p99_ms),
            ];
            writeln!(text, "| {} |", cells.join(" | ")).expect("a string takes it");
        }
        text
    }
}
