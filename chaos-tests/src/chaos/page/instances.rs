//! How many instances there were: as nodes listed them, by function, and as really ran.

use std::collections::BTreeMap;
use std::fmt::{Result, Write};

use super::super::evidence::{Evidence, Population};
use super::super::report::Report;
use super::svg::{Plot, Scale, nice};
use super::{Escaped, SLICES_MAX, span_us};

const HEIGHT: f64 = 150.0;
/// Colours there are; functions beyond them share the last one.
const COLORS: usize = 9;

pub(super) fn section(to: &mut String, run: &Evidence, _: &Report) -> Result {
    // As many looks as fit, evenly: this is a picture, no proof.
    let every = run.population.len().div_ceil(usize::try_from(SLICES_MAX).unwrap_or(usize::MAX)).max(1);
    let looks: Vec<&Population> = run.population.iter().step_by(every).collect();
    if looks.is_empty() {
        return Ok(());
    }
    let mut sums: BTreeMap<&str, u64> = BTreeMap::new();
    for (function, number) in looks.iter().flat_map(|look| &look.listed) {
        *sums.entry(function).or_default() += number;
    }
    let mut functions: Vec<&str> = sums.keys().copied().collect();
    functions.sort_by_key(|function| std::cmp::Reverse(sums[function]));

    let listed = |look: &&Population| look.listed.values().sum::<u64>();
    let most = looks.iter().map(|look| listed(look).max(look.running.unwrap_or(0))).max().unwrap_or(0);
    let mut plot = Plot::new(span_us(run), HEIGHT, Scale::Linear(nice(most.max(1) as f64)));
    plot.shades(&run.windows);
    plot.grid("");
    // Where nobody could tell is a hole.
    for looks in looks.split(|look| look.listed.is_empty()) {
        let mut base = vec![0_u64; looks.len()];
        for (place, function) in functions.iter().enumerate() {
            let mut band = Vec::with_capacity(looks.len());
            for (look, base) in looks.iter().zip(&mut base) {
                let low = *base;
                *base += look.listed.get(*function).copied().unwrap_or(0);
                band.push((look.at_us, low as f64, *base as f64));
            }
            plot.band(&format!("c{}", place.min(COLORS - 1)), function, &band);
        }
    }
    let running: Vec<_> =
        looks.iter().map(|look| (look.at_us, look.running.map(|number| number as f64))).collect();
    plot.line("runs", &running);
    write!(to, "<div class=card><h3>Instances by function</h3><div class=legend>")?;
    for (place, function) in functions.iter().enumerate() {
        write!(to, "<span><i class=c{}></i>{}</span>", place.min(COLORS - 1), Escaped(function))?;
    }
    let what = if run.plan.docker { "containers" } else { "processes" };
    writeln!(
        to,
        "<span>dashed: {what} that really run</span></div>{}</div>",
        plot.finish("Instances by function over time")
    )
}
