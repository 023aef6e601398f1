//! How data is printed: as a table for people, as JSON or YAML for programs.

use std::io::{self, Write};

use clap::ValueEnum;
use comfy_table::{CellAlignment, presets};
use serde::Serialize;

use super::failure::Failure;

/// How `-o` wants data.
#[derive(Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    #[default]
    Table,
    Json,
    Yaml,
}

pub(super) struct Output {
    format: Format,
}

impl Output {
    pub(super) fn new(format: Format) -> Self {
        Output { format }
    }

    pub(super) fn format(&self) -> Format {
        self.format
    }

    /// Whether people read it, rather than programs.
    pub(super) fn is_for_people(&self) -> bool {
        self.format == Format::Table
    }

    /// Prints one value; `text` is its form for people.
    pub(super) fn show<T: Serialize>(&self, value: &T, text: impl FnOnce() -> String) -> Result<(), Failure> {
        let text = match self.format {
            Format::Table => text(),
            Format::Json => serde_json::to_string_pretty(value).map_err(io::Error::from)?,
            Format::Yaml => serde_norway::to_string(value).map_err(io::Error::other)?,
        };
        let mut stdout = io::stdout().lock();
        writeln!(stdout, "{}", text.trim_end())?;
        Ok(stdout.flush()?)
    }

    /// Prints a list. For people, an empty one is a remark on standard error: "no functions".
    pub(super) fn list<T: Serialize>(
        &self,
        values: &[T],
        what: &str,
        table: impl FnOnce() -> Table,
    ) -> Result<(), Failure> {
        if values.is_empty() && self.is_for_people() {
            note(&format!("no {what}"));
            return Ok(());
        }
        self.show(&values, || table().to_string())
    }
}

/// Says something on standard error.
pub(super) fn note(message: &str) {
    // A remark nobody can read is no reason to fail.
    let _ = writeln!(io::stderr(), "{}", printable(message));
}

/// `text` without control characters, which could garble a terminal; lines stay.
pub(super) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' { ' ' } else { c }).collect()
}

/// Columns aligned by spaces. A header that begins with `>` is of a column of numbers, aligned right.
pub(super) struct Table(comfy_table::Table);

impl Table {
    pub(super) fn new(headers: &[&str]) -> Self {
        let mut table = comfy_table::Table::new();
        table.load_style(presets::NOTHING);
        table.set_header(headers.iter().map(|header| header.trim_start_matches('>')));
        for (column, header) in table.column_iter_mut().zip(headers) {
            column.set_padding((0, 2));
            if header.starts_with('>') {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        Table(table)
    }

    /// A table of one thing: names on the left, values on the right, those that are empty left away.
    pub(super) fn of_fields(fields: &[(&str, String)]) -> String {
        let shown: Vec<_> = fields.iter().filter(|(_, value)| !value.is_empty()).collect();
        let width = shown.iter().map(|(name, _)| name.len()).max().unwrap_or_default();
        let lines = shown.iter().map(|(name, value)| format!("{name:width$}  {}", one_line(value)));
        lines.collect::<Vec<_>>().join("\n")
    }

    pub(super) fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.0.add_row(cells.map(|cell| if cell.is_empty() { "-".to_owned() } else { one_line(&cell) }));
    }
}

impl std::fmt::Display for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0.trim_fmt())
    }
}

fn one_line(text: &str) -> String {
    printable(&text.replace('\n', " "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_aligned_and_harmless() {
        let mut table = Table::new(&["NAME", ">READY", "WHY"]);
        table.row(["alpha".into(), "2".into(), "a\nb\u{1b}[31m".into()]);
        table.row(["b".into(), "10".into(), String::new()]);
        assert_eq!(table.to_string(), "NAME   READY  WHY\nalpha      2  a b [31m\nb         10  -");
        let fields = [("Name", "a".into()), ("Gone", String::new()), ("Owner", "r\u{7}".into())];
        assert_eq!(Table::of_fields(&fields), "Name   a\nOwner  r ");
    }
}
