//! What commands print on stdout: tables for people, JSON for programs.

use crate::clean;
use comfy_table::{ColumnConstraint, ContentArrangement, Table, Width, presets};
use model::api::Agent;
use serde::Serialize;
use std::io::{IsTerminal, Write};
use time::OffsetDateTime;

/// The form of the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Format {
    /// Aligned columns.
    #[default]
    Table,
    /// What the API answered.
    Json,
}

/// Prints a line on stdout. A reader who left is an error, not a panic.
pub fn line(text: impl std::fmt::Display) -> anyhow::Result<()> {
    writeln!(std::io::stdout().lock(), "{text}")?;
    Ok(())
}

/// Prints JSON, indented.
pub fn json(value: &impl Serialize) -> anyhow::Result<()> {
    line(serde_json::to_string_pretty(value)?)
}

/// Prints JSON as one line, for those who read it line by line.
pub fn json_line(value: &impl Serialize) -> anyhow::Result<()> {
    line(serde_json::to_string(value)?)
}

/// Between two columns.
const GAP: u16 = 2;
/// The narrowest that a column of words is worth breaking for.
const LEAST: u16 = 16;

/// Says on stderr what everybody who sees these agents is to know.
pub fn warnings<'a>(agents: impl IntoIterator<Item = &'a Agent>) {
    for agent in agents {
        for warning in &agent.warnings {
            eprintln!("cofferdam: warning: {}: {}", agent.name, clean::text(warning));
        }
    }
}

/// Prints rows below their headings. Cells are cleaned here, so that no command can forget it.
pub fn table<const N: usize>(
    headings: [&str; N],
    rows: impl IntoIterator<Item = [String; N]>,
) -> anyhow::Result<()> {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(headings);
    for row in rows {
        table.add_row(row.map(|cell| clean::text(&cell)));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, GAP));
    }
    // Only a terminal has a width to fit into, and only the last column's words may be broken for it: a name or an id
    // in pieces is of use to nobody.
    if let Some(left) = table.width().filter(|_| std::io::stdout().is_terminal()).and_then(|width| {
        let widths = table.column_max_content_widths();
        width.checked_sub(widths.iter().rev().skip(1).map(|width| width + GAP).sum())
    }) && left >= LEAST
        && let Some(last) = table.column_mut(N - 1)
    {
        last.set_constraint(ColumnConstraint::UpperBoundary(Width::Fixed(left)));
        table.set_content_arrangement(ContentArrangement::Dynamic);
    }
    for row in table.lines() {
        line(row.trim_end())?;
    }
    Ok(())
}

/// A table that goes on: what comes later stands below what came first, in columns that grow when they have to.
pub struct Columns<const N: usize> {
    headings: Option<[&'static str; N]>,
    widths: [usize; N],
}

impl<const N: usize> Columns<N> {
    /// With these headings, which stand above the first rows.
    pub fn new(headings: [&'static str; N]) -> Self {
        Self { headings: Some(headings), widths: headings.map(str::len) }
    }

    /// Prints rows, cleaned.
    pub fn print(&mut self, rows: Vec<[String; N]>) -> anyhow::Result<()> {
        self.lines(rows).into_iter().try_for_each(line)
    }

    fn lines(&mut self, rows: Vec<[String; N]>) -> Vec<String> {
        let headings = self.headings.take().map(|headings| headings.map(str::to_owned));
        let rows: Vec<[String; N]> =
            headings.into_iter().chain(rows).map(|row| row.map(|cell| clean::text(&cell))).collect();
        for row in &rows {
            for (width, cell) in self.widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        let gap = usize::from(GAP);
        let joined = |row: &[String; N]| {
            let cells = row.iter().zip(self.widths);
            let text: String = cells.map(|(cell, width)| format!("{cell:<0$}", width + gap)).collect();
            text.trim_end().to_owned()
        };
        rows.iter().map(joined).collect()
    }
}

/// Prints `key  value` lines.
pub fn fields(fields: &[(&str, String)]) -> anyhow::Result<()> {
    let width = fields.iter().map(|(key, _)| key.len()).max().unwrap_or(0);
    for (key, value) in fields {
        line(format_args!("{key:width$}  {}", clean::text(value)))?;
    }
    Ok(())
}

/// Bytes as people read them: three digits and a binary unit.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 999.5 && unit < UNITS.len() - 1 {
        value /= 1024.0;
        unit += 1;
    }
    match unit {
        0 => format!("{bytes} B"),
        _ if value < 9.95 => format!("{value:.1} {}", UNITS[unit]),
        _ => format!("{value:.0} {}", UNITS[unit]),
    }
}

/// A span of time in its largest whole unit.
pub fn span(seconds: i64) -> String {
    match seconds.max(0) {
        s if s < 120 => format!("{s}s"),
        s if s < 7_200 => format!("{}m", s / 60),
        s if s < 172_800 => format!("{}h", s / 3_600),
        s => format!("{}d", s / 86_400),
    }
}

/// How long something lasted.
pub fn duration(milliseconds: u64) -> String {
    match milliseconds {
        ms if ms < 1000 => format!("{ms}ms"),
        ms if ms < 120_000 => format!("{}.{}s", ms / 1000, ms % 1000 / 100),
        ms => span(i64::try_from(ms / 1000).unwrap_or(i64::MAX)),
    }
}

/// How long ago.
pub fn age(since: OffsetDateTime) -> String {
    span((OffsetDateTime::now_utc() - since).whole_seconds())
}

/// A time, in UTC, to the second.
pub fn time(at: OffsetDateTime) -> String {
    let format = time::macros::format_description!("[year]-[month]-[day] [hour]:[minute]:[second]Z");
    at.to_offset(time::UtcOffset::UTC).format(format).unwrap_or_default()
}

/// Words as a shell would need them, for showing a command.
pub fn command(argv: &[String]) -> String {
    let quoted = |word: &String| {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,+@%".contains(c);
        if !word.is_empty() && word.chars().all(plain) {
            word.clone()
        } else {
            format!("'{}'", word.replace('\'', r"'\''"))
        }
    };
    argv.iter().map(quoted).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_spans_are_short() {
        for (bytes, expected) in [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.0 KiB"),
            (1 << 20, "1.0 MiB"),
            (1023 << 20, "1.0 GiB"),
            (512 << 20, "512 MiB"),
            (5 << 30, "5.0 GiB"),
        ] {
            assert_eq!(size(bytes), expected);
        }
        for (seconds, expected) in [(-5, "0s"), (119, "119s"), (120, "2m"), (7200, "2h"), (172_800, "2d")] {
            assert_eq!(span(seconds), expected);
        }
    }

    #[test]
    fn durations_are_short() {
        for (milliseconds, expected) in [
            (0, "0ms"),
            (999, "999ms"),
            (1000, "1.0s"),
            (119_999, "119.9s"),
            (120_000, "2m"),
            (7_200_000, "2h"),
        ] {
            assert_eq!(duration(milliseconds), expected);
        }
    }

    #[test]
    fn a_table_that_goes_on_keeps_its_columns() {
        let mut columns = Columns::new(["A", "BEE"]);
        let rows = |rows: &[[&str; 2]]| rows.iter().map(|row| row.map(str::to_owned)).collect::<Vec<_>>();
        assert_eq!(columns.lines(rows(&[["xyz", "1"]])), ["A    BEE", "xyz  1"]);
        assert_eq!(columns.lines(rows(&[])), [""; 0]);
        assert_eq!(columns.lines(rows(&[["x\x1b", ""], ["y", "2"]])), ["x\\u{1b}", "y        2"]);
        assert_eq!(columns.lines(rows(&[["z", "3"]])), ["z        3"]);
    }

    #[test]
    fn commands_can_be_pasted() {
        let argv = ["sh", "-c", "echo 'a b'", ""].map(str::to_owned);
        assert_eq!(command(&argv), r"sh -c 'echo '\''a b'\''' ''");
    }
}
