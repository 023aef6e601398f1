//! The report as one page that needs nothing else: no script, no network. Light and dark follow the
//! reader. One file per section; [`svg`] draws.

mod faults;
mod head;
mod index;
mod instances;
mod invariants;
mod leaders;
mod ledger;
mod operations;
mod svg;

use std::fmt;

use super::evidence::Evidence;
use super::report::Report;
use super::summary::Summary;

const STYLE: &str = include_str!("page/style.css");
/// Slices of time in one chart: as many as a screen can show.
const SLICES_MAX: u64 = 360;

/// The whole page.
pub fn render(run: &Evidence, report: &Report) -> String {
    let title = format!("{}: seed {}", report.verdict(), run.plan.seed);
    let mut body = String::new();
    let sections = [
        head::section,
        faults::timeline,
        operations::over_time,
        leaders::section,
        instances::section,
        invariants::section,
        faults::failovers,
        faults::table,
        operations::table,
        ledger::section,
        invariants::untested,
    ];
    for section in sections {
        section(&mut body, run, report).expect("writing to a String cannot fail");
    }
    document(&title, &body)
}

/// The page over many runs.
pub fn index(runs: &[Summary]) -> String {
    index::render(runs)
}

/// A page of its own with the style of reports.
pub(super) fn document(title: &str, body: &str) -> String {
    format!(
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>\
         <title>{}</title><style>{STYLE}</style>{body}</html>\n",
        Escaped(title)
    )
}

/// A text that cannot become markup.
pub(super) struct Escaped<'a>(pub(super) &'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use fmt::Write;
        for c in self.0.chars() {
            match c {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                // SVG in HTML takes no other control characters.
                c if c.is_control() && c != '\n' && c != '\t' => f.write_char('\u{fffd}')?,
                c => f.write_char(c)?,
            }
        }
        Ok(())
    }
}

/// Until when charts go: the last that was seen of the faults and of the load.
fn span_us(run: &Evidence) -> u64 {
    let windows = run.windows.iter().map(|window| window.end_us).max().unwrap_or(0);
    let samples = run.samples.last().map_or(0, |sample| sample.at_us);
    windows.max(samples).max(run.plan.seconds * 1_000_000)
}

/// How many seconds one slice of a chart has.
fn slice_s(run: &Evidence) -> u64 {
    (span_us(run) / 1_000_000).div_ceil(SLICES_MAX).max(1)
}

/// A span of time as people say it.
pub(super) fn span(us: u64) -> String {
    let ms = us / 1_000;
    match ms {
        0..1_000 => format!("{ms} ms"),
        1_000..60_000 if ms % 1_000 < 100 => format!("{} s", ms / 1_000),
        1_000..60_000 => format!("{}.{} s", ms / 1_000, ms / 100 % 10),
        60_000..3_600_000 => format!("{} min {} s", ms / 60_000, ms / 1_000 % 60),
        _ => format!("{} h {} min", ms / 3_600_000, ms / 60_000 % 60),
    }
}

/// A count with its thousands apart.
pub(super) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push('\u{202f}');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::evidence::tests::*;
    use super::*;

    #[test]
    fn texts_cannot_become_markup() {
        let mut run = evidence();
        run.version = "<script>".into();
        run.windows.push(window(&[1], 1, 2));
        run.windows[0].fault = "'><script>".into();
        let page = render(&run, &Report::new(&run));
        assert!(page.contains("&lt;script&gt;") && !page.contains("<script>"));
    }

    #[test]
    fn a_page_needs_nothing_else_and_charts_have_numbers_only() {
        let mut run = evidence();
        for at in 0..50 {
            push(&mut run, 10 * at, Some((10 * at + at, done())), put("f", at + 1));
        }
        run.windows.push(window(&[1, 2], 100, 300));
        let page = render(&run, &Report::new(&run));
        assert!(!page.contains("src=") && !page.contains("http://") && !page.contains("https://"));
        assert!(!page.contains("NaN") && !page.contains("inf,") && !page.contains("'inf"));
        assert!(page.contains(&run.plan.command()));
        assert_eq!(page.matches("<svg").count(), page.matches("</svg>").count());
    }

    #[test]
    fn numbers_are_told_as_people_say_them() {
        assert_eq!(count(7), "7");
        assert_eq!(count(1_234_567), "1\u{202f}234\u{202f}567");
        assert_eq!((span(999_000), span(1_250_000)), ("999 ms".to_owned(), "1.2 s".to_owned()));
        assert_eq!((span(61_000_000), span(7_260_000_000)), ("1 min 1 s".to_owned(), "2 h 1 min".to_owned()));
    }
}
