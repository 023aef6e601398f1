//! Instances over time.

use super::MARKS;
use super::svg::{Anchor, Svg};
use crate::measure::{Measures, Step};
use crate::trace::Trace;

const LEFT: f64 = 170.0;
const WIDTH: f64 = 700.0;

/// When an instance of a trace's one function is there, under each of some policies, and how its
/// calls found it. `marks`: the places of the policies among all.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "pixels"
)]
pub fn warmth(title: &str, trace: &Trace, replays: &[(&str, &Measures)], marks: &[usize]) -> String {
    let x = |at_ms: u64| LEFT + WIDTH * at_ms.min(trace.end_ms) as f64 / trace.end_ms as f64;
    let height = 108.0 + 52.0 * replays.len() as f64;
    let mut svg = Svg::new((LEFT + WIDTH + 30.0) as u32, height as u32, title);
    svg.text(16.0, 46.0, 12, Anchor::Start, "Bars: an instance is there. Ticks: calls; full ones found it ready, hollow ones waited for a launch.");
    let bottom = 66.0 + 52.0 * replays.len() as f64;
    for hour in 0..=trace.end_ms / 3_600_000 {
        let at = x(hour * 3_600_000);
        svg.line((at, 60.0), (at, bottom), "#ddd", 1.0);
        svg.text(at, bottom + 16.0, 11, Anchor::Middle, &format!("{hour} h"));
    }
    for (row, ((name, measures), mark)) in replays.iter().zip(marks).enumerate() {
        let upper = 70.0 + 52.0 * row as f64;
        svg.text(LEFT - 12.0, upper + 22.0, 12, Anchor::End, name);
        for (from, to, count) in spans(&measures.steps, trace.end_ms) {
            if count > 0 {
                svg.rect(x(from), upper + 10.0, (x(to) - x(from)).max(0.8), 18.0, MARKS[*mark].0);
            }
        }
        for (invocation, served) in trace.invocations.iter().zip(&measures.served) {
            let at = x(invocation.at_ms);
            let cold = served.is_some_and(|(_, cold)| cold);
            svg.rect(at - 1.5, upper + 2.0, 3.0, 7.0, "#222");
            if cold {
                svg.rect(at - 0.7, upper + 2.8, 1.4, 5.4, "#fff");
            }
        }
    }
    svg.end()
}

/// How many instances there are through a burst, under each of some policies, above how many are called for.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "pixels"
)]
pub fn burst(title: &str, trace: &Trace, replays: &[(&str, &Measures)], marks: &[usize]) -> String {
    let (upper, tall) = (76.0, 250.0);
    let most = replays.iter().flat_map(|(_, m)| spans(&m.steps, trace.end_ms)).map(|s| s.2).max();
    let most = f64::from(most.unwrap_or(1)) * 1.05;
    let left = 62.0;
    let width = LEFT + WIDTH - left;
    let x = |at_ms: u64| left + width * at_ms.min(trace.end_ms) as f64 / trace.end_ms as f64;
    let y = |count: i32| upper + tall * (1.0 - f64::from(count) / most);
    let mut svg = Svg::new((LEFT + WIDTH + 30.0) as u32, (upper + tall + 52.0) as u32, title);
    let mut at = 22.0;
    for ((name, measures), mark) in replays.iter().zip(marks) {
        svg.line((at - 8.0, 48.0), (at + 14.0, 48.0), MARKS[*mark].0, 3.0);
        let text = format!("{name}: wait p99 {} ms", measures.wait_ms(990));
        svg.text(at + 20.0, 52.0, 12, Anchor::Start, &text);
        at += 46.0 + text.len() as f64 * 6.6;
    }
    for count in (0..=most as i32).step_by((most as usize / 5).max(1)) {
        svg.line((left, y(count)), (left + width, y(count)), "#e6e6e6", 1.0);
        svg.text(left - 6.0, y(count) + 4.0, 11, Anchor::End, &count.to_string());
    }
    for minute in (0..=trace.end_ms / 60_000).step_by(2) {
        svg.text(x(minute * 60_000), upper + tall + 18.0, 11, Anchor::Middle, &format!("{minute} min"));
    }
    for ((_, measures), mark) in replays.iter().zip(marks) {
        let mut points = Vec::new();
        for (from, to, count) in spans(&measures.steps, trace.end_ms) {
            points.extend([(x(from), y(count)), (x(to), y(count))]);
        }
        svg.path(&points, MARKS[*mark].0, 2.0);
    }
    svg.text_upwards(18.0, upper + tall / 2.0, "instances");
    svg.end()
}

/// From when to when there are how many, in all functions together.
fn spans(steps: &[Step], end_ms: u64) -> Vec<(u64, u64, i32)> {
    let mut steps: Vec<Step> = steps.to_vec();
    steps.sort_unstable_by_key(|(at, _, change)| (*at, -change));
    let mut spans: Vec<(u64, u64, i32)> = Vec::new();
    let (mut since, mut count) = (0, 0);
    for (at, _, change) in steps {
        if at > since {
            spans.push((since, at.min(end_ms), count));
            since = at;
        }
        count += change;
    }
    if since < end_ms {
        spans.push((since, end_ms, count));
    }
    spans
}
