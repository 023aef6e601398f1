//! What must hold, what was looked at, and what contradicts it; and what nobody looked at.

use std::fmt::{Result, Write};

use super::super::evidence::Evidence;
use super::super::invariants::Finding;
use super::super::report::Report;
use super::{Escaped, count};

/// Notes that are shown at once; more are folded away.
const NOTES_SHOWN: usize = 3;

pub(super) fn section(to: &mut String, _: &Evidence, report: &Report) -> Result {
    writeln!(
        to,
        "<h2>Invariants</h2><p class=lead>Each has an oracle of its own, which shares no code with the node.</p>\
         <div class=card><table><tr><th><th>invariant<th>what it says<th class=num>facts"
    )?;
    for judged in &report.findings {
        let finding = &judged.finding;
        let (class, mark) = match (finding.holds(), finding.saw_enough()) {
            (false, _) => ("bad", "✗ violated"),
            (true, false) => ("doubt", "? too few facts"),
            (true, true) if finding.examined == 0 => ("doubt", "– not judged"),
            (true, true) => ("good", "✓ held"),
        };
        write!(
            to,
            "<tr><td class='mark {class}'>{mark}<td><b>{}</b><td>{}",
            judged.name,
            Escaped(judged.statement)
        )?;
        details(to, finding)?;
        writeln!(to, "<td class=num>{}", count(finding.examined))?;
    }
    writeln!(to, "</table></div>")
}

fn details(to: &mut String, finding: &Finding) -> Result {
    if !finding.violations.is_empty() {
        write!(to, "<ul class=bad>")?;
        for violation in &finding.violations {
            write!(to, "<li>{}", Escaped(violation))?;
        }
        if finding.more > 0 {
            write!(to, "<li>and {} more", count(finding.more as u64))?;
        }
        write!(to, "</ul>")?;
    }
    let list = |to: &mut String, notes: &[String]| -> Result {
        write!(to, "<ul class=soft>")?;
        for note in notes {
            write!(to, "<li>{}", Escaped(note))?;
        }
        write!(to, "</ul>")
    };
    match finding.notes.len() {
        0 => Ok(()),
        1..=NOTES_SHOWN => list(to, &finding.notes),
        number => {
            write!(to, "<details><summary>{number} notes</summary>")?;
            list(to, &finding.notes)?;
            write!(to, "</details>")
        }
    }
}

pub(super) fn untested(to: &mut String, _: &Evidence, report: &Report) -> Result {
    writeln!(to, "<h2>What was not tested</h2><div class='card caution'><ul>")?;
    for text in &report.untested {
        write!(to, "<li>{}", Escaped(text))?;
    }
    writeln!(to, "</ul></div>")
}
