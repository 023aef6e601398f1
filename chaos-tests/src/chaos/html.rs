//! The report as one page that needs nothing else: the text, and throughput and latency over time
//! with the faults behind them.

use std::fmt::Write;

use super::evidence::Evidence;
use super::report::{Report, slices};

const WIDTH: u64 = 1_000;
const HEIGHT: u64 = 160;

/// The whole page.
pub fn page(run: &Evidence, report: &Report) -> String {
    let verdict = report.verdict();
    let color = if report.passed() { "#176d2c" } else { "#a11" };
    let slices = slices(run, 1);
    let done: Vec<(u64, u64)> = slices.iter().map(|slice| (slice.from_s, slice.done)).collect();
    let p99: Vec<(u64, u64)> = slices.iter().map(|slice| (slice.from_s, slice.p99_ms)).collect();
    format!(
        "<!doctype html><meta charset=utf-8><title>{verdict}: seed {seed}</title>\
         <style>body{{font:14px sans-serif;margin:2em;max-width:1100px}}pre{{white-space:pre-wrap}}\
         svg{{background:#f6f6f6;display:block;margin-bottom:1em}}h1{{color:{color}}}</style>\
         <h1>{verdict}</h1><h2>Acknowledged operations a second</h2>{}\
         <h2>99 of 100 took at most (ms)</h2>{}<h2>Report</h2><pre>{}</pre>",
        chart(run, &done),
        chart(run, &p99),
        escape(&report.text(run)),
        seed = run.plan.seed,
    )
}

/// A line over time; each fault is a shade from its begin to the time its nodes were ready again.
fn chart(run: &Evidence, points: &[(u64, u64)]) -> String {
    let last = points.iter().map(|(at, _)| *at).max().unwrap_or(0).max(run.plan.seconds).max(1);
    let most = points.iter().map(|(_, value)| *value).max().unwrap_or(0).max(1);
    let x = |seconds_thousandth: u64| seconds_thousandth * WIDTH / (last * 1_000);
    let mut svg = format!("<svg width={WIDTH} height={HEIGHT}>");
    for window in &run.windows {
        let (from, to) = (x(window.begin_us / 1_000), x(window.end_us / 1_000));
        let color = if window.fault == "kill" { "#d66" } else { "#dc6" };
        let title = escape(&format!("{} {:?} {:?}", window.fault, window.role, window.nodes));
        write!(
            svg,
            "<rect x={from} y=0 width={} height={HEIGHT} fill=\"{color}\" opacity=0.35><title>{title}</title></rect>",
            (to - from).max(1)
        )
        .expect("writing to a String cannot fail");
    }
    let line: Vec<String> = points
        .iter()
        .map(|(at, value)| format!("{},{}", x(at * 1_000), HEIGHT - value * (HEIGHT - 10) / most))
        .collect();
    write!(
        svg,
        "<polyline fill=none stroke=\"#246\" points=\"{}\"/><text x=4 y=12>{most}</text></svg>",
        line.join(" ")
    )
    .expect("writing to a String cannot fail");
    svg
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::super::evidence::tests::evidence;
    use super::*;

    #[test]
    fn texts_cannot_become_markup() {
        let mut run = evidence();
        run.version = "<script>".into();
        let page = page(&run, &Report::new(&run));
        assert!(page.contains("&lt;script&gt;") && !page.contains("<script>"));
    }
}
