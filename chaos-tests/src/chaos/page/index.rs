//! The page over many runs.

use std::fmt::{Result, Write};

use super::super::soak::folder_name;
use super::super::summary::{FAILED, Summary, Total};
use super::svg::layer_class;
use super::{Escaped, count, document, span};

/// Runs that did not pass, listed with what was wrong.
const SHOWN_MAX: usize = 200;

pub(super) fn render(runs: &[Summary]) -> String {
    let mut body = String::new();
    write_all(&mut body, runs).expect("writing to a String cannot fail");
    document("Chaos: many runs", &body)
}

fn write_all(to: &mut String, runs: &[Summary]) -> Result {
    let total = Total::of(runs);
    let (class, verdict) = match (total.is_good(), total.count("PASSED") > 0) {
        (false, _) => ("bad", "PROBLEMS FOUND"),
        (true, true) => ("good", "NOTHING FOUND"),
        (true, false) => ("doubt", "NOTHING SHOWN YET"),
    };
    writeln!(
        to,
        "<header class=head><span class='verdict {class}'>{verdict}</span><h1>Chaos, {} runs</h1></header>\
         <p class=lead>Each run has its own seed, nodes, length and mix of faults.</p><div class=tiles>",
        count(total.all())
    )?;
    let felt: u64 = total.faults.values().map(|(_, of)| of.felt).sum();
    let longest = total.failovers_ms.last().copied();
    for (figure, what) in [
        (span(total.ms * 1_000), "under load and faults".to_owned()),
        (count(total.count("PASSED")), "runs passed".to_owned()),
        (count(total.count("VIOLATED")), "runs violated an invariant".to_owned()),
        (
            count(total.count("INCONCLUSIVE") + total.count(FAILED)),
            format!("runs proved nothing; {} did not end", total.count(FAILED)),
        ),
        (count(felt), format!("faults felt, of {} kinds", total.faults.len())),
        (count(total.acknowledged), format!("operations acknowledged, of {}", count(total.operations))),
        (count(total.facts), "facts examined".to_owned()),
        (longest.map_or("–".to_owned(), |ms| span(ms * 1_000)), "longest failover of writes".to_owned()),
    ] {
        write!(to, "<div class=tile><b>{}</b><span>{}</span></div>", Escaped(&figure), Escaped(&what))?;
    }
    writeln!(to, "</div>")?;
    problems(to, runs)?;
    faults(to, &total)
}

fn problems(to: &mut String, runs: &[Summary]) -> Result {
    let mut bad: Vec<&Summary> = runs.iter().filter(|run| run.verdict != "PASSED").collect();
    // The worst first.
    let rank = |run: &&Summary| match run.verdict.as_str() {
        "VIOLATED" => 0,
        FAILED => 1,
        _ => 2,
    };
    bad.sort_by_key(rank);
    writeln!(to, "<h2>Runs that did not pass</h2>")?;
    if bad.is_empty() {
        return writeln!(to, "<div class=card>None.</div>");
    }
    for run in bad.iter().take(SHOWN_MAX) {
        let (class, mark) = if rank(run) < 2 { ("alarm", "bad") } else { ("caution", "doubt") };
        // A run that failed has no report, but its output.
        let page = if run.verdict == FAILED { "output.txt" } else { "report.html" };
        write!(
            to,
            "<div class='card {class}'><b class={mark}>{}</b> <a href='{}/{page}'>seed {}</a><pre>{}</pre><ul>",
            Escaped(&run.verdict),
            folder_name(run.seed),
            run.seed,
            Escaped(&run.command)
        )?;
        for problem in &run.problems {
            write!(to, "<li>{}", Escaped(problem))?;
        }
        writeln!(to, "</ul></div>")?;
    }
    match bad.len().saturating_sub(SHOWN_MAX) {
        0 => Ok(()),
        more => writeln!(to, "<p>And {more} more, in runs.jsonl.</p>"),
    }
}

fn faults(to: &mut String, total: &Total) -> Result {
    writeln!(
        to,
        "<h2>Faults by kind</h2><div class=card><table><tr><th>fault<th>breaks<th class=num>runs<th class=num>strikes\
         <th class=num>nodes hit<th class=num>felt<th class=num>node time"
    )?;
    for (fault, (runs, of)) in &total.faults {
        writeln!(
            to,
            "<tr><td>{}<td>{}<td class=num>{}<td class=num>{}<td class=num>{}<td class=num>{}<td class=num>{}",
            Escaped(fault),
            layer_class(fault),
            count(*runs),
            count(of.struck),
            count(of.nodes),
            count(of.felt),
            span(of.ms * 1_000)
        )?;
    }
    writeln!(to, "</table></div>")
}
