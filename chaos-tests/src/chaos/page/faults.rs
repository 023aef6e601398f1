//! What was broken: when, on whom, whether it was felt, and how soon writes went on.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{Result, Write};

use super::super::evidence::Evidence;
use super::super::figures;
use super::super::report::Report;
use super::svg::{Plot, Scale, layer_class};
use super::{Escaped, count, span, span_us};

/// Height of the bars of one layer on one node.
const BAR: f64 = 9.0;
/// Upper ends of the histogram's classes, in milliseconds; the last one is open.
const CLASSES_MS: [u64; 9] = [100, 200, 500, 1_000, 1_500, 2_000, 3_000, 5_000, 10_000];
/// Strikes that found nobody, shown one by one.
const MISSED_MAX: usize = 20;

/// A row for each node, with a bar for each fault.
pub(super) fn timeline(to: &mut String, run: &Evidence, _: &Report) -> Result {
    writeln!(
        to,
        "<h2>What was broken, and what came of it</h2><p class=lead>All charts share one time axis. A fault's bar \
         is solid while it lasts and pale until its node is ready again; behind the other charts it is a shade.</p>"
    )?;
    let layers: BTreeSet<String> = run.windows.iter().map(|window| layer_class(&window.fault)).collect();
    if layers.is_empty() {
        return writeln!(to, "<div class=card>Nothing was broken.</div>");
    }
    write!(to, "<div class=card><div class=legend>")?;
    for layer in &layers {
        let kinds: BTreeSet<&str> =
            run.windows.iter().map(|w| w.fault.as_str()).filter(|f| layer_class(f) == *layer).collect();
        let kinds = kinds.into_iter().collect::<Vec<_>>().join(", ");
        write!(to, "<span><i class={layer}></i>{layer}: {}</span>", Escaped(&kinds))?;
    }
    writeln!(to, "</div>{}</div>", bars(run, &layers))
}

fn bars(run: &Evidence, layers: &BTreeSet<String>) -> String {
    let row = BAR * layers.len() as f64 + 8.0;
    let mut plot = Plot::new(span_us(run), row * run.plan.nodes as f64, Scale::Rows(row));
    plot.grid("");
    for node in 1..=run.plan.nodes {
        let top = plot.y((node - 1) as f64);
        plot.row_name(top + row / 2.0 + 3.0, &format!("node {node}"));
        for (place, layer) in layers.iter().enumerate() {
            let place = (top + 3.0 + BAR * place as f64, BAR - 1.5);
            let hit =
                run.windows.iter().filter(|w| w.nodes.contains(&node) && layer_class(&w.fault) == *layer);
            for window in hit {
                let title = format!(
                    "{} as {:?} at {}, for {}; ready again after {}",
                    window.fault,
                    window.role,
                    span(window.begin_us),
                    span(window.mended_us - window.begin_us),
                    span(window.end_us - window.mended_us)
                );
                plot.bar(&format!("after {layer}"), (window.mended_us, window.end_us), place, &title);
                plot.bar(&format!("fault {layer}"), (window.begin_us, window.mended_us), place, &title);
                if !window.felt.contains(&node) {
                    plot.bar(
                        "unfelt",
                        (window.begin_us, window.mended_us),
                        place,
                        &format!("{title}; not felt"),
                    );
                }
            }
        }
    }
    plot.finish("Faults by node over time")
}

/// How long writes stood still when the leader was hit.
pub(super) fn failovers(to: &mut String, run: &Evidence, _: &Report) -> Result {
    writeln!(
        to,
        "<h2>Failover of writes</h2><p class=lead>The longest time without an acknowledged write while a fault lasted \
         that hit the leader, where a majority was spared all the while.</p>"
    )?;
    let failovers = figures::failovers(run);
    if failovers.is_empty() {
        return writeln!(to, "<div class=card>No fault hit a leader while a majority was spared.</div>");
    }
    let mut gaps: Vec<u64> = failovers.iter().map(|failover| failover.gap_us).collect();
    gaps.sort_unstable();
    let mut counts = [0_u64; CLASSES_MS.len() + 1];
    for gap in &gaps {
        counts[CLASSES_MS.partition_point(|end_ms| end_ms * 1_000 < *gap)] += 1;
    }
    let half = gaps[gaps.len() / 2];
    let most = gaps[gaps.len() - 1];
    writeln!(
        to,
        "<div class=card>{}<p class=soft>{} strikes on a leader; median {}, longest {}.</p></div>",
        histogram(&counts),
        count(gaps.len() as u64),
        span(half),
        span(most)
    )
}

fn histogram(counts: &[u64]) -> String {
    const HEIGHT: f64 = 120.0;
    let most = counts.iter().copied().max().unwrap_or(0).max(1) as f64;
    let mut body = String::new();
    for (place, number) in counts.iter().enumerate() {
        let (x, height) = (20.0 + 104.0 * place as f64, *number as f64 / most * HEIGHT);
        let y = 18.0 + HEIGHT - height;
        let label = match (place.checked_sub(1).map(|before| CLASSES_MS[before]), CLASSES_MS.get(place)) {
            (None, Some(end)) => format!("up to {end} ms"),
            (Some(from), Some(end)) => format!("{}–{} s", from as f64 / 1_000.0, *end as f64 / 1_000.0),
            (from, None) => format!("over {} s", from.unwrap_or(0) as f64 / 1_000.0),
        };
        write!(
            body,
            "<rect class=bin x='{x:.1}' y='{y:.1}' width='92' height='{height:.1}' rx='2'/>\
             <text class=middle x='{m:.1}' y='{above:.1}'>{number}</text>\
             <text class=middle x='{m:.1}' y='{under}'>{label}</text>",
            m = x + 46.0,
            above = y - 5.0,
            under = HEIGHT + 34.0
        )
        .expect("writing to a String cannot fail");
    }
    format!(
        "<svg viewBox='0 0 1080 {}' role=img aria-label='Failovers by length'>{body}</svg>",
        HEIGHT + 42.0
    )
}

/// By kind: planned, struck, felt.
pub(super) fn table(to: &mut String, run: &Evidence, _: &Report) -> Result {
    writeln!(
        to,
        "<h2>Faults by kind</h2><p class=lead>A fault that was not felt has tested nothing, so the run fails on it.</p>\
         <div class=card><table><tr><th>fault<th>breaks<th class=num>planned<th class=num>struck<th class=num>nodes hit\
         <th class=num>felt<th class=num>node time"
    )?;
    let figures: BTreeMap<_, _> = figures::faults(run);
    for (fault, of) in &figures {
        let class = if of.felt == of.nodes { "" } else { "bad" };
        writeln!(
            to,
            "<tr><td>{}<td>{}<td class=num>{}<td class=num>{}<td class=num>{}<td class='num {class}'>{}<td class=num>{}",
            Escaped(fault),
            layer_class(fault),
            of.planned,
            of.struck,
            of.nodes,
            of.felt,
            span(of.ms * 1_000)
        )?;
    }
    write!(to, "</table>")?;
    if !run.missed.is_empty() {
        write!(to, "<details><summary>{} strikes found no node to hit</summary><ul>", run.missed.len())?;
        for text in run.missed.iter().take(MISSED_MAX) {
            write!(to, "<li>{}", Escaped(text))?;
        }
        write!(to, "</ul></details>")?;
    }
    writeln!(to, "</div>")
}
