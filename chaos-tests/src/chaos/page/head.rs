//! What a reader wants to know first: the verdict, what was run on what, and the figures in large.

use std::fmt::{Result, Write};

use super::super::evidence::Evidence;
use super::super::figures;
use super::super::gather;
use super::super::op::Verdict;
use super::super::report::Report;
use super::{Escaped, count, span};

pub(super) fn section(to: &mut String, run: &Evidence, report: &Report) -> Result {
    let plan = &run.plan;
    let class = report.verdict_class();
    let faults = if plan.faults.is_empty() { "no faults".to_owned() } else { plan.faults.join(", ") };
    writeln!(
        to,
        "<header class=head><span class='verdict {class}'>{}</span><h1>Chaos run, seed {}</h1></header>\
         <p class=lead>{} nodes for {} with {}</p><pre>{}</pre>",
        report.verdict(),
        plan.seed,
        plan.nodes,
        span(plan.seconds * 1_000_000),
        Escaped(&faults),
        Escaped(&plan.command())
    )?;
    tiles(to, run, report)?;
    let engine = if plan.docker { "containers (Docker)" } else { "processes" };
    write!(to, "<div class=card><dl>")?;
    let machine = &run.machine;
    for (name, text) in [
        ("Muster", run.version.as_str()),
        ("Instances", engine),
        ("Began", &machine.began_at),
        ("Machine", &machine.describe()),
        ("Kernel", &machine.kernel),
        ("Bounds", &gather::describe(&run.bounds)),
    ] {
        if !text.is_empty() {
            write!(to, "<dt>{name}<dd>{}", Escaped(text))?;
        }
    }
    writeln!(to, "</dl></div>")?;
    if !report.too_little.is_empty() {
        write!(to, "<div class='card caution'><b>Too little was tried to prove anything</b><ul>")?;
        for text in &report.too_little {
            write!(to, "<li>{}", Escaped(text))?;
        }
        writeln!(to, "</ul></div>")?;
    }
    Ok(())
}

fn tiles(to: &mut String, run: &Evidence, report: &Report) -> Result {
    let held = report.findings.iter().filter(|judged| judged.finding.holds()).count();
    let facts: u64 = report.findings.iter().map(|judged| judged.finding.examined).sum();
    let done = |verdicts: &std::collections::BTreeMap<Verdict, u64>| verdicts.get(&Verdict::Done).copied();
    let acknowledged: u64 = figures::operations(run).values().filter_map(done).sum();
    let faults = figures::faults(run);
    let felt: u64 = faults.values().map(|of| of.felt).sum();
    let took = report.took_us;
    let gap = figures::failovers(run).iter().map(|failover| failover.gap_us).max();
    write!(to, "<div class=tiles>")?;
    for (figure, what) in [
        (format!("{held} of {}", report.findings.len()), "invariants held".to_owned()),
        (count(facts), "facts examined".to_owned()),
        (count(acknowledged), format!("operations acknowledged, of {}", count(run.entries.len() as u64))),
        (count(felt), format!("faults felt, of {} kinds", faults.len())),
        (gap.map_or("–".to_owned(), span), "longest failover of writes".to_owned()),
        (span(took.1), format!("p99 of acknowledged; p50 {}", span(took.0))),
    ] {
        write!(to, "<div class=tile><b>{}</b><span>{}</span></div>", Escaped(&figure), Escaped(&what))?;
    }
    writeln!(to, "</div>")
}
