//! Tables for people, JSON for programs.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use clap::ValueEnum;
use comfy_table::{Attribute, Cell, CellAlignment, ContentArrangement, Table, presets};
use indicatif::{ProgressBar, ProgressStyle};
use meridian_types::TimestampMs;
use serde_json::Value;

use crate::error::CliError;

/// The form of the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Text for people
    Table,
    /// One document, or one object per line where the output streams
    Json,
}

/// Where results go.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    format: Format,
}

/// Rows under a header; columns of numbers stand right.
#[derive(Debug)]
pub(crate) struct Rows {
    header: Vec<&'static str>,
    rows: Vec<Vec<String>>,
}

impl Output {
    pub(crate) fn new(format: Format) -> Self {
        Self { format }
    }

    pub(crate) fn is_json(self) -> bool {
        self.format == Format::Json
    }

    /// Prints a result: `fields` (an object) with the schema `meridian.NAME/1` put in, or the text.
    pub(crate) fn document(
        self,
        name: &str,
        fields: Value,
        text: impl FnOnce() -> String,
    ) -> Result<(), CliError> {
        let mut out = std::io::stdout().lock();
        match self.format {
            Format::Json => {
                let document = with_schema(name, fields);
                serde_json::to_writer_pretty(&mut out, &document).map_err(std::io::Error::from)?;
                writeln!(out)?;
            }
            Format::Table => {
                let text = text();
                if !text.is_empty() {
                    writeln!(out, "{}", text.trim_end())?;
                }
            }
        }
        out.flush()?;
        Ok(())
    }

    /// A progress bar on standard error, or none where nobody looks.
    pub(crate) fn progress(self, length: Option<u64>, unit: &str) -> ProgressBar {
        if !std::io::stderr().is_terminal() {
            return ProgressBar::hidden();
        }
        let bar = match length {
            Some(length) => ProgressBar::new(length).with_style(
                ProgressStyle::with_template(&format!("{{bar:30}} {{pos}}/{{len}} {unit}  {{eta}}  {{msg}}"))
                    .expect("the template is a constant"),
            ),
            None => ProgressBar::new_spinner().with_style(
                ProgressStyle::with_template(&format!("{{spinner}} {{pos}} {unit}  {{elapsed}}  {{msg}}"))
                    .expect("the template is a constant"),
            ),
        };
        bar.enable_steady_tick(Duration::from_millis(200));
        bar
    }
}

/// An object with its schema in front.
pub(crate) fn with_schema(name: &str, fields: Value) -> Value {
    let mut document = serde_json::Map::new();
    document.insert("schema".to_owned(), format!("meridian.{name}/1").into());
    match fields {
        Value::Object(fields) => document.extend(fields),
        other => {
            document.insert("value".to_owned(), other);
        }
    }
    Value::Object(document)
}

impl Rows {
    pub(crate) fn new(header: &[&'static str]) -> Self {
        Self {
            header: header.to_vec(),
            rows: Vec::new(),
        }
    }

    pub(crate) fn push(&mut self, row: impl IntoIterator<Item = String>) {
        self.rows.push(row.into_iter().collect());
    }

    /// The table as text; bold headers on a terminal only.
    pub(crate) fn render(&self) -> String {
        let is_terminal = std::io::stdout().is_terminal();
        let mut table = Table::new();
        table
            .load_preset(presets::NOTHING)
            .set_content_arrangement(ContentArrangement::Disabled);
        table.set_header(self.header.iter().map(|title| {
            let cell = Cell::new(title);
            if is_terminal {
                cell.add_attribute(Attribute::Bold)
            } else {
                cell
            }
        }));
        for row in &self.rows {
            table.add_row(row);
        }
        for (index, column) in table.column_iter_mut().enumerate() {
            let is_numeric = !self.rows.is_empty()
                && self
                    .rows
                    .iter()
                    .filter_map(|row| row.get(index))
                    .all(|cell| cell == "-" || cell.parse::<f64>().is_ok());
            if is_numeric {
                column.set_cell_alignment(CellAlignment::Right);
            }
            column.set_padding((0, 2));
        }
        let text = table.to_string();
        let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
        lines.join("\n")
    }
}

/// `1 thing`, `2 things`.
pub(crate) fn count(number: usize, thing: &str) -> String {
    let s = if number == 1 { "" } else { "s" };
    format!("{number} {thing}{s}")
}

/// A value, or a hyphen.
pub(crate) fn or_dash<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

/// Bytes as people read them, in powers of 1024.
pub(crate) fn bytes_text(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 {
        format!("{bytes} B")
    } else {
        format!("{value:.1} {}", UNITS[unit])
    }
}

/// A time as people read it, with three digits at most.
pub(crate) fn time_text(time: Duration) -> String {
    let ms = time.as_secs_f64() * 1e3;
    match ms {
        ms if ms < 10.0 => format!("{ms:.1} ms"),
        ms if ms < 1e3 => format!("{ms:.0} ms"),
        ms if ms < 1e5 => format!("{:.1} s", ms / 1e3),
        ms => format!("{:.0} s", ms / 1e3),
    }
}

/// A moment in UTC, as RFC 3339 writes it.
pub(crate) fn moment_text(time: TimestampMs) -> String {
    let (days, ms) = (time.0.div_euclid(86_400_000), time.0.rem_euclid(86_400_000));
    // Years begin in March, so that the leap day ends one; 146,097 days are 400 years.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let (seconds, ms) = (ms / 1000, ms % 1000);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{ms:03}Z",
        seconds / 3600,
        seconds / 60 % 60,
        seconds % 60
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_written_as_they_are_read() {
        assert_eq!(moment_text(TimestampMs(0)), "1970-01-01T00:00:00.000Z");
        assert_eq!(
            moment_text(TimestampMs(1_709_210_096_789)),
            "2024-02-29T12:34:56.789Z"
        );
        assert_eq!(moment_text(TimestampMs(-1)), "1969-12-31T23:59:59.999Z");
        for day in (0..40_000).step_by(97) {
            let time = TimestampMs(day * 86_400_000 + 3_600_007);
            assert_eq!(crate::parse::parse_time(&moment_text(time)), Ok(time));
        }
    }

    #[test]
    fn numbers_stand_right_and_lines_have_no_trailing_space() {
        let mut rows = Rows::new(&["TOPIC", "PARTITIONS"]);
        rows.push(["orders".to_owned(), "7".to_owned()]);
        rows.push(["a".to_owned(), "1000".to_owned()]);
        assert_eq!(
            rows.render(),
            "TOPIC   PARTITIONS\norders           7\na             1000"
        );
    }

    #[test]
    fn sizes_are_readable() {
        assert_eq!(bytes_text(1023), "1023 B");
        assert_eq!(bytes_text(1536), "1.5 KiB");
        assert_eq!(bytes_text(3 << 40), "3.0 TiB");
    }

    #[test]
    fn times_are_readable() {
        let text = |us| time_text(Duration::from_micros(us));
        assert_eq!(text(340), "0.3 ms");
        assert_eq!(text(81_400), "81 ms");
        assert_eq!(text(2_500_000), "2.5 s");
        assert_eq!(text(600_000_000), "600 s");
    }
}
