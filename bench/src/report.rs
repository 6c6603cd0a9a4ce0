//! The results: medians side by side, as a table or as JSON.

use crate::{
    machine::{FileSystem, Machine, Memory},
    place::Plan,
    state::Measured,
    stats::{Sample, Unit, median},
};
use serde::Serialize;
use sitefs_base::display_bytes;
use std::path::PathBuf;

/// Everything that one run found.
#[derive(Serialize)]
pub(crate) struct Report {
    pub(crate) machine: Machine,
    /// Whether this program was built without optimization; says nothing about the target.
    pub(crate) debug_build: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) comparison: Option<Comparison>,
    /// What commands and questions cost a cell.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) state: Vec<Measured>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) processes: Vec<Memory>,
}

/// What was measured at two places.
#[derive(Serialize)]
pub(crate) struct Comparison {
    pub(crate) target: Where,
    pub(crate) native: Where,
    pub(crate) repetitions: usize,
    pub(crate) files: usize,
    pub(crate) big_file_bytes: usize,
    pub(crate) results: Vec<Row>,
    /// What could not be measured, and why.
    pub(crate) notes: Vec<String>,
}

/// A place and what holds it.
#[derive(Serialize)]
pub(crate) struct Where {
    pub(crate) path: PathBuf,
    pub(crate) file_system: FileSystem,
}

/// One number, at both places, from all repetitions.
#[derive(Serialize)]
pub(crate) struct Row {
    case: &'static str,
    what: &'static str,
    unit: Unit,
    target: Values,
    native: Values,
}

/// The values of all repetitions in the order in which they were taken.
#[derive(Default, Serialize)]
#[serde(transparent)]
struct Values(Vec<f64>);

/// Which of the two places.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Side {
    Target,
    Native,
}

impl Comparison {
    /// Nothing measured yet.
    pub(crate) fn new(target: Where, native: Where, plan: &Plan, notes: Vec<String>) -> Self {
        Self {
            target,
            native,
            repetitions: plan.repetitions,
            files: plan.files,
            big_file_bytes: plan.big,
            results: Vec::new(),
            notes,
        }
    }

    /// Takes the numbers of one repetition at one place.
    pub(crate) fn take(&mut self, case: &'static str, side: Side, samples: Vec<Sample>) {
        for Sample { what, unit, value } in samples {
            let row = self.row(case, what, unit);
            match side {
                Side::Target => row.target.0.push(value),
                Side::Native => row.native.0.push(value),
            }
        }
    }

    fn row(&mut self, case: &'static str, what: &'static str, unit: Unit) -> &mut Row {
        let known = self.results.iter().position(|row| (row.case, row.what) == (case, what));
        let at = known.unwrap_or_else(|| {
            let (target, native) = Default::default();
            self.results.push(Row { case, what, unit, target, native });
            self.results.len() - 1
        });
        &mut self.results[at]
    }

    fn text(&self) -> String {
        let place = |name: &str, place: &Where| {
            let FileSystem { kind, source, .. } = &place.file_system;
            format!("{name}   {} ({kind}, {source})\n", place.path.display())
        };
        let mut text = place("target", &self.target) + &place("native", &self.native);
        text += &format!(
            "medians of {} repetitions, target and native in turns; {} files of 8 KiB, a big file of {}\n\n{}",
            self.repetitions,
            self.files,
            display_bytes(self.big_file_bytes as u64),
            table(&self.results)
        );
        for note in &self.notes {
            text += &format!("\nnote: {note}");
        }
        text + "\n"
    }
}

impl Report {
    /// For people.
    pub(crate) fn text(&self) -> String {
        let Machine { cores, processor, memory_bytes, kernel, load } = &self.machine;
        let memory = display_bytes(*memory_bytes);
        let mut text =
            format!("machine  {cores} cores, {processor}, {memory}, Linux {kernel}, load {load}\n");
        if self.debug_build {
            text += "         this program is a debug build\n";
        }
        if let Some(comparison) = &self.comparison {
            text += &comparison.text();
        }
        for measured in &self.state {
            text += &format!("{}\n", measured.line());
        }
        for process in &self.processes {
            text += &format!("process  {}\n", process.line());
        }
        text
    }
}

/// Names to the left, numbers to the right, columns as wide as their widest cell.
fn table(rows: &[Row]) -> String {
    let heading = ["case", "", "unit", "target", "native", "times slower"].map(str::to_owned);
    let lines: Vec<_> = std::iter::once(heading).chain(rows.iter().map(Row::cells)).collect();
    let width = |column: usize| lines.iter().map(|cells| cells[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; 6] = std::array::from_fn(width);
    let line = |cells: &[String; 6]| {
        let cells = cells.iter().zip(widths).enumerate().map(|(column, (cell, width))| match column {
            0..3 => format!("{cell:width$}"),
            _ => format!("{cell:>width$}"),
        });
        cells.collect::<Vec<_>>().join("  ") + "\n"
    };
    lines.iter().map(line).collect()
}

impl Row {
    fn cells(&self) -> [String; 6] {
        let (target, native) = (median(&self.target.0), median(&self.native.0));
        let slower = target.zip(native).map(|(target, native)| self.unit.times_slower(target, native));
        [
            self.case.to_owned(),
            self.what.to_owned(),
            self.unit.short().to_owned(),
            number(target),
            number(native),
            number(slower),
        ]
    }
}

/// With three digits that count, or all there are before the point.
fn number(value: Option<f64>) -> String {
    match value {
        None => "-".to_owned(),
        Some(value) if value >= 100.0 => format!("{value:.0}"),
        Some(value) if value >= 10.0 => format!("{value:.1}"),
        Some(value) => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn somewhere() -> Where {
        let file_system = FileSystem { kind: "ext4".into(), source: "disk".into(), mountpoint: "/".into() };
        Where { path: "/x".into(), file_system }
    }

    #[test]
    fn a_row_shows_both_medians_and_how_many_times_slower_the_target_is() {
        let plan = Plan { repetitions: 3, files: 10, big: 1 << 20, tar: None, cold: false };
        let mut comparison = Comparison::new(somewhere(), somewhere(), &plan, vec!["no tar".into()]);
        for (target, native) in [(50.0, 100.0), (40.0, 90.0), (60.0, 1100.0)] {
            let sample = |value| vec![Sample { what: "rate", unit: Unit::PerSecond, value }];
            comparison.take("stat", Side::Target, sample(target));
            comparison.take("stat", Side::Native, sample(native));
        }
        let text = comparison.text();
        let row = text.lines().find(|line| line.starts_with("stat"));
        let cells: Vec<_> = row.into_iter().flat_map(str::split_whitespace).collect();
        assert_eq!(cells, ["stat", "rate", "/s", "50.0", "100", "2.00"]);
        assert!(text.contains("note: no tar"), "{text}");
        let json = serde_json::to_value(&comparison).unwrap();
        assert_eq!(json["results"][0]["target"], serde_json::json!([50.0, 40.0, 60.0]));
    }
}
