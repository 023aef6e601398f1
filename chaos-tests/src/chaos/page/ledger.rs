//! The ledger beside what clients saw.

use std::collections::BTreeMap;
use std::fmt::{Result, Write};

use super::super::evidence::Evidence;
use super::super::invariants::{Reconciled, reconcile};
use super::super::report::Report;
use super::{Escaped, count, span};

/// Rows shown of the long table; wrong ones come first.
const ROWS_MAX: usize = 500;
const HEAD: &str = "<table><tr><th><th>function<th>account<th class=num>acknowledged<th class=num>at least\
                    <th class=num>ledger<th class=num>at most<th class=num>busy";

pub(super) fn section(to: &mut String, run: &Evidence, _: &Report) -> Result {
    let mut rows = reconcile(run);
    let right = rows.iter().filter(|row| row.holds()).count();
    writeln!(
        to,
        "<h2>The ledger, reconciled</h2><p class=lead>Invocations by function and account. The ledger must count at \
         least what was acknowledged and no crash may have lost, and at most what may have run. \
         {right} of {} accounts × functions are right.</p><div class=card>{HEAD}",
        rows.len()
    )?;
    let mut sums: BTreeMap<&str, Vec<&Reconciled>> = BTreeMap::new();
    for row in &rows {
        sums.entry(&row.function).or_default().push(row);
    }
    for (function, parts) in sums {
        let sum = |pick: fn(&Reconciled) -> u64| parts.iter().map(|row| pick(row)).sum();
        let all = Reconciled {
            account: format!("all {}", parts.len()),
            function: function.to_owned(),
            acknowledged: sum(|row| row.acknowledged),
            least: sum(|row| row.least),
            most: parts.iter().map(|row| row.most).sum(),
            counted: sum(|row| row.counted),
            busy_ms: sum(|row| row.busy_ms),
            busy_least_ms: sum(|row| row.busy_least_ms),
        };
        line(to, &all, parts.iter().all(|row| row.holds()))?;
    }
    write!(to, "</table>")?;
    rows.sort_by_key(Reconciled::holds);
    let told = |row: &&Reconciled| !row.holds() || row.counted + row.most.unwrap_or(0) > 0;
    let open = if right < rows.len() { " open" } else { "" };
    write!(to, "<details{open}><summary>by account</summary>{HEAD}")?;
    for row in rows.iter().filter(told).take(ROWS_MAX) {
        line(to, row, row.holds())?;
    }
    writeln!(to, "</table></details></div>")
}

fn line(to: &mut String, row: &Reconciled, holds: bool) -> Result {
    let (class, mark) = if holds { ("good", "✓") } else { ("bad", "✗") };
    writeln!(
        to,
        "<tr><td class='mark {class}'>{mark}<td>{}<td>{}<td class=num>{}<td class=num>{}<td class='num {class}'>{}\
         <td class=num>{}<td class=num>{}",
        Escaped(&row.function),
        Escaped(&row.account),
        count(row.acknowledged),
        count(row.least),
        count(row.counted),
        row.most.map_or("any".to_owned(), count),
        span(row.busy_ms * 1_000)
    )
}
