//! What the command line prints: tables for people, one JSON object a line for machines.
//!
//! Promises aligned columns, colours only where they are wanted, and that text from elsewhere cannot steer a
//! terminal: control characters are shown, not sent. A reader that went away ends the command quietly.

use std::io::{self, Write};

use serde_json::Value;

use crate::exit::{Exit, Failure};
use crate::shown::{shown, shown_json, shown_lines};

/// For whom a command prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Form {
    /// People: tables and sentences.
    Text,
    /// Machines: one JSON object a line.
    Json,
}

impl Form {
    /// Reads the flag `--json`.
    pub const fn from_flag(is_json: bool) -> Self {
        if is_json { Form::Json } else { Form::Text }
    }
}

/// Whether text is coloured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Colour {
    /// It is.
    On,
    /// It is not.
    Off,
}

/// Where a command prints.
pub struct Output<'a> {
    out: &'a mut dyn Write,
    form: Form,
    colour: Colour,
}

/// A column of a table: its head and the field that fills it, with dots into nested objects.
pub type Column = (&'static str, &'static str);

impl<'a> Output<'a> {
    /// Prints to a stream.
    pub fn new(out: &'a mut dyn Write, form: Form, colour: Colour) -> Self {
        Self { out, form, colour }
    }

    /// Tells for whom it prints.
    pub fn form(&self) -> Form {
        self.form
    }

    /// Prints a line for people.
    pub fn line(&mut self, text: &str) -> Result<(), Failure> {
        self.write(&shown_lines(text))
    }

    /// Prints a value for machines, on one line.
    pub fn json(&mut self, value: &Value) -> Result<(), Failure> {
        self.write(&shown_json(&value.to_string()))
    }

    /// Prints objects: as a table for people, each on a line for machines.
    pub fn rows(&mut self, columns: &[Column], rows: &[Value]) -> Result<(), Failure> {
        if self.form == Form::Json {
            return rows.iter().try_for_each(|row| self.json(row));
        }
        let heads: Vec<String> = columns.iter().map(|(head, _)| (*head).to_owned()).collect();
        let cells: Vec<Vec<String>> =
            rows.iter().map(|row| columns.iter().map(|(_, field)| cell(row, field)).collect()).collect();
        let widths: Vec<usize> = (0..columns.len())
            .map(|index| {
                let column = cells.iter().chain([&heads]).filter_map(|row| row.get(index));
                column.map(|cell| cell.chars().count()).max().unwrap_or_default()
            })
            .collect();
        self.write(&padded(&heads, &widths, |_| None))?;
        for row in &cells {
            let colour = self.colour;
            self.write(&padded(row, &widths, |cell| paint(colour, cell)))?;
        }
        Ok(())
    }

    fn write(&mut self, text: &str) -> Result<(), Failure> {
        match writeln!(self.out, "{text}").and_then(|()| self.out.flush()) {
            Ok(()) => Ok(()),
            // `horizons jobs list | head` is no failure.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(Failure::text(Exit::Done, "")),
            Err(error) => Err(Failure::new(Exit::Failed, &error)),
        }
    }
}

/// Two spaces keep columns apart.
const GAP: &str = "  ";

/// Joins cells, each filled up to its column's width, without blanks at the end.
fn padded(cells: &[String], widths: &[usize], paint: impl Fn(&str) -> Option<&'static str>) -> String {
    let mut line = String::new();
    for (index, (cell, width)) in cells.iter().zip(widths).enumerate() {
        if index > 0 {
            line.push_str(GAP);
        }
        let blanks = width.saturating_sub(cell.chars().count());
        match paint(cell) {
            Some(code) => line.push_str(&format!("{code}{cell}{RESET}")),
            None => line.push_str(cell),
        }
        line.push_str(&" ".repeat(blanks));
    }
    line.trim_end().to_owned()
}

const RESET: &str = "\u{1b}[0m";
const RED: &str = "\u{1b}[31m";
const GREEN: &str = "\u{1b}[32m";
const YELLOW: &str = "\u{1b}[33m";

/// Chooses a colour for words that tell how something is.
fn paint(colour: Colour, cell: &str) -> Option<&'static str> {
    if colour == Colour::Off {
        return None;
    }
    match cell.to_ascii_lowercase().as_str() {
        "completed" | "running" | "verified" | "released" => Some(GREEN),
        "failed" | "gap" | "stopped" | "dead" | "broken" => Some(RED),
        "cancelled" | "parked" | "waiting" | "paused" | "restarting" => Some(YELLOW),
        _ => None,
    }
}

/// Stands in an empty cell.
const ABSENT: &str = "-";

/// Writes an object's field for a table.
pub(super) fn cell(row: &Value, field: &str) -> String {
    let mut value = row;
    for name in field.split('.') {
        match value.get(name) {
            Some(inner) => value = inner,
            None => return ABSENT.to_owned(),
        }
    }
    match value {
        Value::Null => ABSENT.to_owned(),
        Value::String(text) if text.is_empty() => ABSENT.to_owned(),
        Value::String(text) => shown(text),
        // For people; machines get every digit.
        Value::Number(number) if number.is_f64() => {
            number.as_f64().map_or_else(|| ABSENT.to_owned(), |number| format!("{number:.3}"))
        }
        other => shown(&other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn printed(form: Form, colour: Colour, rows: &[Value]) -> String {
        let mut bytes = Vec::new();
        Output::new(&mut bytes, form, colour)
            .rows(&[("JOB", "job_id"), ("STATUS", "status"), ("NODE", "place.node")], rows)
            .unwrap();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn rows_text_aligns_columns() {
        let rows = [
            json!({"job_id": "j-1", "status": "completed", "place": {"node": 3}}),
            json!({"job_id": "job-22"}),
        ];

        let text = printed(Form::Text, Colour::Off, &rows);

        assert_eq!(text, "JOB     STATUS     NODE\nj-1     completed  3\njob-22  -          -\n");
    }

    #[test]
    fn rows_json_prints_an_object_a_line() {
        let rows = [json!({"job_id": "j-1"}), json!({"job_id": "j-2"})];

        let text = printed(Form::Json, Colour::On, &rows);

        assert_eq!(text, "{\"job_id\":\"j-1\"}\n{\"job_id\":\"j-2\"}\n");
    }

    #[test]
    fn rows_colour_paints_only_known_words() {
        let rows = [json!({"job_id": "j-1", "status": "failed"})];

        let text = printed(Form::Text, Colour::On, &rows);

        assert!(text.contains("\u{1b}[31mfailed\u{1b}[0m") && !text.contains("\u{1b}[31mj-1"), "{text:?}");
    }

    #[test]
    fn cell_control_characters_are_shown() {
        let row = json!({"name": "a\u{1b}[2Jb\u{7}\nc"});

        assert_eq!(cell(&row, "name"), "a\\u{1b}[2Jb\\u{7}\\nc");
    }

    #[test]
    fn cell_fractions_are_cut_for_people() {
        let row = json!({"mean": 42.623_895, "count": 7});

        assert_eq!((cell(&row, "mean"), cell(&row, "count")), ("42.624".to_owned(), "7".to_owned()));
    }

    #[test]
    fn line_reader_gone_ends_quietly() {
        struct Gone;
        impl Write for Gone {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }

        let failure = Output::new(&mut Gone, Form::Text, Colour::Off).line("hello").unwrap_err();

        assert_eq!(failure.exit, Exit::Done);
    }
}
