//! Data goes to stdout, as text or as JSON; talk goes to stderr.

use crate::Done;
use serde_json::Value;
use sitefs_base::Error;
use std::io::Write;

/// Writes results in the form that was asked for.
pub(crate) struct Output {
    json: bool,
}

impl Output {
    /// As text, or as JSON.
    pub(crate) fn new(json: bool) -> Self {
        Self { json }
    }

    /// Writes one result; `text` is only made where it is wanted.
    pub(crate) fn result(&self, json: &Value, text: impl FnOnce() -> String) -> Done {
        let line = if self.json { json.to_string() } else { text() };
        let mut stdout = std::io::stdout().lock();
        let written = writeln!(stdout, "{line}").and_then(|()| stdout.flush());
        Ok(written.map_err(|error| Error::io("writing the result to stdout", error))?)
    }

    /// Tells the user something that is no result.
    pub(crate) fn say(&self, text: &str) {
        if !self.json {
            // Nobody is left to tell when stderr is closed.
            let _ = writeln!(std::io::stderr(), "{text}");
        }
    }
}

/// Columns as wide as their widest cell, two spaces between them.
pub(crate) fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width =
        |column| rows.iter().filter_map(|row| row.get(column)).map(|c: &String| c.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let row = |a: &str, b: &str| vec![a.to_owned(), b.to_owned()];
        assert_eq!(table(&[row("name", "id"), row("x", "12345")]), "name  id\nx     12345");
    }
}
