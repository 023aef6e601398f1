//! Who led, and what each node believed of it.

use std::fmt::{Result, Write};

use super::super::evidence::{Evidence, Sample};
use super::super::figures;
use super::super::report::Report;
use super::svg::{Plot, Scale};
use super::{span, span_us};

const ROW: f64 = 22.0;
const TERM_HEIGHT: f64 = 70.0;
/// A node that was not heard from for as long said nothing: several looks in a row found no answer.
const SILENCE_US: u64 = 1_200_000;
/// Stretches drawn per node; more would be thinner than a point.
const STRETCHES_MAX: usize = 2_000;
/// A bar as wide as this share of the chart has room for its term.
const ROOM: u64 = 40;

pub(super) fn section(to: &mut String, run: &Evidence, _: &Report) -> Result {
    let span_us = span_us(run);
    let mut rows = Plot::new(span_us, ROW * run.plan.nodes as f64, Scale::Rows(ROW));
    rows.shades(&run.windows);
    rows.grid("");
    let newest = run.samples.iter().map(|sample| sample.term).max().unwrap_or(0);
    let mut terms = Plot::new(span_us, TERM_HEIGHT, Scale::Linear(newest.max(1) as f64));
    terms.shades(&run.windows);
    terms.grid("");
    for node in 1..=run.plan.nodes {
        let top = rows.y((node - 1) as f64);
        rows.row_name(top + ROW / 2.0 + 4.0, &format!("node {node}"));
        let samples: Vec<&Sample> = run.samples.iter().filter(|sample| sample.node == node).collect();
        for stretch in stretches(&samples).into_iter().take(STRETCHES_MAX) {
            let (class, what) = match stretch.leader {
                Some(leader) if leader == node => ("leads", "leads".to_owned()),
                Some(leader) => ("follows", format!("follows node {leader}")),
                None => ("lost", "knows no leader".to_owned()),
            };
            let title = format!("node {node} {what} in term {} from {}", stretch.term, span(stretch.from_us));
            let place = (top + 3.0, ROW - 6.0);
            rows.bar(class, (stretch.from_us, stretch.to_us), place, &title);
            if class == "leads" && (stretch.to_us - stretch.from_us) * ROOM > span_us {
                let middle = (rows.x(stretch.from_us) + rows.x(stretch.to_us)) / 2.0;
                rows.text(
                    "inside middle",
                    middle,
                    top + ROW / 2.0 + 4.0,
                    &format_args!("term {}", stretch.term),
                );
            }
        }
        terms.line(&format!("term c{}", (node - 1) % 9), &term_steps(&samples));
    }
    writeln!(
        to,
        "<div class=card><h3>Who leads, by each node's own word</h3><div class=legend>\
         <span><i style='background:var(--engine)'></i>leads</span>\
         <span><i style='background:var(--line)'></i>follows</span>\
         <span><i style='background:var(--doubt)'></i>knows no leader</span><span>blank: does not answer</span>\
         <span>{} reigns, up to term {newest}</span></div>{}",
        figures::reigns(run).len(),
        rows.finish("Leader by node over time")
    )?;
    write!(to, "<h3>Term, as each node knows it</h3><div class=legend>")?;
    for node in 1..=run.plan.nodes {
        write!(to, "<span><i class=c{}></i>node {node}</span>", (node - 1) % 9)?;
    }
    writeln!(to, "</div>{}</div>", terms.finish("Term by node over time"))
}

/// A time in which a node believed the same.
struct Stretch {
    from_us: u64,
    to_us: u64,
    leader: Option<u64>,
    term: u64,
}

fn stretches(samples: &[&Sample]) -> Vec<Stretch> {
    let mut all: Vec<Stretch> = Vec::new();
    for sample in samples {
        let (at_us, leader, term) = (sample.at_us, sample.leader, sample.term);
        if let Some(last) = all.last_mut().filter(|last| at_us - last.to_us < SILENCE_US) {
            // Until something else is seen it holds.
            last.to_us = at_us;
            if (last.leader, last.term) == (leader, term) {
                continue;
            }
        }
        all.push(Stretch { from_us: at_us, to_us: at_us, leader, term });
    }
    all
}

/// A step at each change, and a hole where a node was silent.
fn term_steps(samples: &[&Sample]) -> Vec<(u64, Option<f64>)> {
    let mut points: Vec<(u64, Option<f64>)> = Vec::new();
    let stretches = stretches(samples);
    let mut last_us = 0;
    for stretch in stretches.iter().take(STRETCHES_MAX) {
        if stretch.from_us > last_us {
            points.push((last_us, None));
        }
        points.push((stretch.from_us, Some(stretch.term as f64)));
        points.push((stretch.to_us, Some(stretch.term as f64)));
        last_us = stretch.to_us;
    }
    points
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beliefs_last_until_something_else_is_seen() {
        let sample = |at_ms: u64, leader, term| {
            let (at_us, node) = (at_ms * 1_000, 1);
            Sample { at_us, node, leader, term, start: 1, ready: None, digest: None }
        };
        let all =
            [sample(0, Some(1), 1), sample(500, Some(1), 1), sample(900, None, 2), sample(5_000, Some(2), 2)];
        let stretches = stretches(&all.iter().collect::<Vec<_>>());
        let seen: Vec<_> = stretches.iter().map(|s| (s.from_us / 1_000, s.to_us / 1_000, s.leader)).collect();
        assert_eq!(seen, [(0, 900, Some(1)), (900, 900, None), (5_000, 5_000, Some(2))]);
    }
}
