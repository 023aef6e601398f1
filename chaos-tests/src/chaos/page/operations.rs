//! What clients saw: throughput and latency over time, and outcomes by kind.

use std::fmt::{Result, Write};

use super::super::evidence::Evidence;
use super::super::figures;
use super::super::op::Verdict;
use super::super::report::Report;
use super::svg::{Plot, Scale, nice};
use super::{count, slice_s, span_us};

const VERDICTS: [(Verdict, &str, &str); 5] = [
    (Verdict::Done, "v-done", "acknowledged"),
    (Verdict::Refused, "v-refused", "refused, nothing done"),
    (Verdict::Failed, "v-failed", "failed with a typed error"),
    (Verdict::Unknown, "v-unknown", "unknown"),
    (Verdict::Skipped, "v-skipped", "not sent"),
];
const HEIGHT: f64 = 130.0;

pub(super) fn over_time(to: &mut String, run: &Evidence, _: &Report) -> Result {
    let slice_s = slice_s(run);
    let slices = figures::slices(run, slice_s);
    let middle = |slice: &figures::Slice| (slice.from_s * 1_000_000) + slice_s * 500_000;
    let rate = |number: u64| number as f64 / slice_s as f64;

    let most = slices.iter().map(|s| rate(s.done.max(s.other))).fold(1.0, f64::max);
    let mut plot = Plot::new(span_us(run), HEIGHT, Scale::Linear(nice(most)));
    plot.shades(&run.windows);
    plot.grid("/s");
    let bands: Vec<_> = slices.iter().map(|s| (middle(s), 0.0, rate(s.done))).collect();
    plot.band("done", "acknowledged", &bands);
    let done: Vec<_> = slices.iter().map(|s| (middle(s), Some(rate(s.done)))).collect();
    let other: Vec<_> = slices.iter().map(|s| (middle(s), Some(rate(s.other)))).collect();
    plot.line("done", &done);
    plot.line("other", &other);
    writeln!(
        to,
        "<div class=card><h3>Operations a second</h3><div class=legend><span><i style='background:var(--done)'></i>\
         acknowledged</span><span><i style='background:var(--other)'></i>refused, failed or unknown</span></div>{}",
        plot.finish("Operations a second over time")
    )?;

    let seen = slices.iter().filter(|slice| slice.done > 0);
    let (least, most) =
        seen.fold((1.0, 10.0), |(least, most): (f64, f64), s| (least.min(s.p50_ms), most.max(s.p99_ms)));
    let floor = 10_f64.powf(least.max(0.01).log10().floor());
    let mut plot = Plot::new(span_us(run), HEIGHT, Scale::Log(floor, most));
    plot.shades(&run.windows);
    plot.grid("ms");
    let of = |pick: fn(&figures::Slice) -> f64| -> Vec<_> {
        slices.iter().map(|s| (middle(s), (s.done > 0).then(|| pick(s)))).collect()
    };
    plot.line("most", &of(|slice| slice.p99_ms));
    plot.line("half", &of(|slice| slice.p50_ms));
    writeln!(
        to,
        "<h3>Latency of what was acknowledged</h3><div class=legend><span><i style='background:var(--half)'></i>p50</span>\
         <span><i style='background:var(--most)'></i>p99</span></div>{}</div>",
        plot.finish("Latency over time")
    )
}

pub(super) fn table(to: &mut String, run: &Evidence, _: &Report) -> Result {
    writeln!(to, "<h2>Operations by kind and outcome</h2><div class=card><div class=legend>")?;
    for (_, class, name) in VERDICTS {
        write!(to, "<span><i class={class}></i>{name}</span>")?;
    }
    write!(to, "</div><table><tr><th>kind<th class=num>all")?;
    for (_, _, name) in VERDICTS {
        write!(
            to,
            "<th class=num>{}",
            name.split(',').next().unwrap_or(name).split(" with").next().unwrap_or(name)
        )?;
    }
    write!(to, "<th>share")?;
    for (kind, verdicts) in figures::operations(run) {
        let all: u64 = verdicts.values().sum();
        write!(to, "<tr><td>{kind}<td class=num>{}", count(all))?;
        for (verdict, ..) in VERDICTS {
            let number = verdicts.get(&verdict).copied().unwrap_or(0);
            let text = if number == 0 { "·".to_owned() } else { count(number) };
            write!(to, "<td class=num>{text}")?;
        }
        write!(to, "<td><div class=bar>")?;
        for (verdict, class, _) in VERDICTS {
            let share = verdicts.get(&verdict).copied().unwrap_or(0) as f64 * 100.0 / all.max(1) as f64;
            write!(to, "<i class={class} style='width:{share:.2}%'></i>")?;
        }
        writeln!(to, "</div>")?;
    }
    writeln!(to, "</table></div>")
}
