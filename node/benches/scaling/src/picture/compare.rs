//! One panel for each workload: what each policy costs, and what callers feel, against the first.

use super::MARKS;
use super::svg::{Anchor, Svg};
use crate::report::{Results, ratio};

const PANEL: (f64, f64) = (250.0, 210.0);
const COLUMNS: usize = 3;
/// Both axes are logarithmic, in per cent of what the first policy has.
const X: (f64, f64) = (10.0, 1000.0);
const Y: (f64, f64) = (1.0, 400.0);

/// # Panics
/// Without results.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "pixels"
)]
pub fn compare(all: &[Results]) -> String {
    let (gap_x, gap_y, top) = (60.0, 62.0, 92.0);
    let rows = all.len().div_ceil(COLUMNS);
    let columns = all.len().min(COLUMNS);
    let width = (columns as f64 * (PANEL.0 + gap_x) + 24.0).max(880.0);
    let height = top + rows as f64 * (PANEL.1 + gap_y) + 30.0;
    let mut svg = Svg::new(
        width as u32,
        height as u32,
        "Cold starts and instance time, against a fixed keep-alive of 10 minutes",
    );
    let mut x = 22.0;
    for (row, mark) in all[0].rows.iter().zip(MARKS) {
        svg.mark(x, 50.0, mark);
        svg.text(x + 12.0, 54.0, 12, Anchor::Start, &row.policy);
        x += 34.0 + row.policy.len() as f64 * 7.0;
    }
    svg.rect(16.0, 66.0, 14.0, 12.0, AIM);
    svg.text(
        38.0,
        76.0,
        12,
        Anchor::Start,
        "the aim: no more instance time, and at most half of the cold starts",
    );
    for (place, results) in all.iter().enumerate() {
        let left = 56.0 + (place % COLUMNS) as f64 * (PANEL.0 + gap_x);
        let upper = top + 22.0 + (place / COLUMNS) as f64 * (PANEL.1 + gap_y);
        panel(&mut svg, left, upper, results);
    }
    svg.text(width / 2.0, height - 12.0, 12, Anchor::Middle, "instance time, % of fixed (logarithmic)");
    svg.text_upwards(16.0, height / 2.0 + 30.0, "cold starts, % of fixed (logarithmic)");
    svg.end()
}

const AIM: &str = "#e6f4ea";

fn panel(svg: &mut Svg, left: f64, upper: f64, results: &Results) {
    let x = |percent: f64| left + PANEL.0 * scale(percent, X);
    let y = |percent: f64| upper + PANEL.1 * (1.0 - scale(percent, Y));
    svg.rect(left, upper, PANEL.0, PANEL.1, "#fafafa");
    svg.rect(left, y(50.0), x(100.0) - left, upper + PANEL.1 - y(50.0), AIM);
    for percent in [10.0, 30.0, 100.0, 300.0, 1000.0] {
        let stroke = if percent == 100.0 { "#999" } else { "#e2e2e2" };
        svg.line((x(percent), upper), (x(percent), upper + PANEL.1), stroke, 1.0);
        svg.text(x(percent), upper + PANEL.1 + 15.0, 10, Anchor::Middle, &format!("{percent:.0}"));
    }
    for percent in [1.0, 10.0, 50.0, 100.0, 400.0] {
        let stroke = if percent == 100.0 { "#999" } else { "#e2e2e2" };
        svg.line((left, y(percent)), (left + PANEL.0, y(percent)), stroke, 1.0);
        svg.text(left - 5.0, y(percent) + 3.5, 10, Anchor::End, &format!("{percent:.0}"));
    }
    svg.text(left, upper - 7.0, 13, Anchor::Start, &results.workload);
    let first = &results.rows[0];
    for (row, mark) in results.rows.iter().zip(MARKS) {
        let (time, cold) =
            (ratio(row.instance_ms, first.instance_ms), ratio(row.cold_starts, first.cold_starts));
        svg.mark(x(100.0 * time), y(100.0 * cold), mark);
    }
}

/// From 0 at the least to 1 at the most; what is beyond lies on the edge.
fn scale(percent: f64, (least, most): (f64, f64)) -> f64 {
    (percent.clamp(least, most) / least).ln() / (most / least).ln()
}
