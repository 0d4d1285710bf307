//! What a run found: rows for the table, the JSON and the plot.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use comfy_table::{Table, presets::UTF8_FULL_CONDENSED};
use serde::{Deserialize, Serialize};

use crate::machine::Machine;
use crate::statistics::Samples;

/// All of a run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Report {
    /// Where, when and of what.
    pub(crate) machine: Machine,
    /// What was asked for, in words.
    pub(crate) run: String,
    /// The figures, in the order they were measured.
    pub(crate) rows: Vec<Row>,
}

/// One figure, with what it is compared to.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Row {
    /// The scenario's name.
    pub(crate) scenario: String,
    /// What was measured.
    pub(crate) case: String,
    /// Unit of the samples.
    pub(crate) unit: String,
    /// Postbound's samples.
    pub(crate) postbound: Samples,
    /// The other side's, taken alternately with Postbound's.
    #[serde(default)]
    pub(crate) other: Samples,
    /// What the other side is.
    #[serde(default)]
    pub(crate) other_name: String,
    /// The samples' ratios, pair by pair, in the direction the goal speaks of.
    #[serde(default)]
    pub(crate) ratio: Samples,
    /// What the issue demands, and whether it is so.
    #[serde(default)]
    pub(crate) goal: Option<Goal>,
    /// More of what was seen: medians over the samples.
    #[serde(default)]
    pub(crate) notes: BTreeMap<String, f64>,
}

/// A demand on a row.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Goal {
    /// In words: `≥ 1.6 ×`.
    pub(crate) text: String,
    /// Whether the median meets it.
    pub(crate) met: bool,
}

/// Which way a goal goes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

impl Row {
    /// A row of Postbound's figures alone.
    pub(crate) fn new(scenario: &str, case: &str, unit: &str, postbound: Vec<f64>) -> Self {
        Self {
            scenario: scenario.to_owned(),
            case: case.to_owned(),
            unit: unit.to_owned(),
            postbound: Samples(postbound),
            other: Samples::default(),
            other_name: String::new(),
            ratio: Samples::default(),
            goal: None,
            notes: BTreeMap::new(),
        }
    }

    /// Compares with samples that were taken alternately; the ratio is Postbound's by the other's.
    pub(crate) fn against(mut self, name: impl Into<String>, other: Vec<f64>) -> Self {
        self.other = Samples(other);
        self.other_name = name.into();
        self.ratio = self.postbound.paired_ratios(&self.other);
        self
    }

    /// Turns the ratio around: the other's by Postbound's, where less is better.
    pub(crate) fn inverted(mut self) -> Self {
        self.ratio = self.other.paired_ratios(&self.postbound);
        self
    }

    /// What the ratio is to be, if anything.
    pub(crate) fn ratio_goal(mut self, bound: impl Into<Option<Bound>>) -> Self {
        self.goal = bound.into().zip(self.ratio.median()).map(|(bound, ratio)| bound.judge(ratio, "×"));
        self
    }

    /// What Postbound's figure is to be.
    pub(crate) fn goal(mut self, bound: Bound) -> Self {
        self.goal = self.postbound.median().map(|value| bound.judge(value, &self.unit));
        self
    }

    /// Says more.
    pub(crate) fn note(mut self, name: impl Into<String>, value: f64) -> Self {
        self.notes.insert(name.into(), value);
        self
    }
}

impl Bound {
    fn judge(self, value: f64, unit: &str) -> Goal {
        match self {
            Self::AtLeast(bound) => Goal { text: format!("≥ {bound} {unit}"), met: value >= bound },
            Self::AtMost(bound) => Goal { text: format!("≤ {bound} {unit}"), met: value <= bound },
        }
    }
}

impl Report {
    /// The table for a terminal, and the notes.
    pub(crate) fn table(&self) -> String {
        let mut table = Table::new();
        table.load_preset(UTF8_FULL_CONDENSED).set_header(HEADER);
        for row in &self.rows {
            table.add_row(row.cells());
        }
        format!("{}\n{}\n{table}\n{NOTES}:\n{}", self.machine, self.run, self.notes())
    }

    /// The same for the docs.
    pub(crate) fn markdown(&self) -> String {
        let mut text = format!("{}\n\n{}\n\n", self.machine, self.run);
        let _ = writeln!(text, "| {} |\n|{}", HEADER.join(" | "), " --- |".repeat(HEADER.len()));
        for row in &self.rows {
            let _ = writeln!(text, "| {} |", row.cells().join(" | "));
        }
        format!("{text}\n{NOTES}:\n\n{}", self.notes())
    }

    fn notes(&self) -> String {
        let mut text = String::new();
        for row in self.rows.iter().filter(|row| !row.notes.is_empty()) {
            let notes: Vec<String> =
                row.notes.iter().map(|(name, value)| format!("{name} {}", figure(*value))).collect();
            let _ = writeln!(text, "- {}, {}: {}", row.scenario, row.case, notes.join(", "));
        }
        text
    }
}

const NOTES: &str = "What else was seen (cpu: µs per delivery, by process)";

const HEADER: [&str; 6] = ["scenario", "measured", "Postbound", "compared with", "ratio", "target"];

impl Row {
    fn cells(&self) -> Vec<String> {
        let other = match self.other_name.as_str() {
            "" => String::new(),
            name => format!("{name}: {}", told(&self.other)),
        };
        let goal = self.goal.as_ref().map_or(String::new(), |goal| {
            format!("{} {}", goal.text, if goal.met { "met" } else { "MISSED" })
        });
        let ratio = if self.ratio.0.is_empty() { String::new() } else { format!("{} ×", told(&self.ratio)) };
        vec![
            self.scenario.clone(),
            format!("{}, {}", self.case, self.unit),
            told(&self.postbound),
            other,
            ratio,
            goal,
        ]
    }
}

/// Median and spread.
fn told(samples: &Samples) -> String {
    match (samples.median(), samples.spread()) {
        (Some(median), Some((low, high))) if samples.0.len() > 1 => {
            format!("{} ({}–{})", figure(median), figure(low), figure(high))
        }
        (Some(only), _) => figure(only),
        _ => String::new(),
    }
}

/// A number with three or so digits that count.
pub(crate) fn figure(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        ..10.0 => format!("{value:.2}"),
        ..100.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_goal_goes_by_the_median_ratio() {
        let row = |postbound: [f64; 3]| {
            Row::new("s", "c", "events/s", postbound.to_vec()).against("bare loop", vec![10.0; 3])
        };
        let check = |row: Row, text: &str, met| {
            let goal = row.goal.unwrap();
            assert_eq!((goal.text.as_str(), goal.met), (text, met));
        };
        check(row([15.0, 16.0, 40.0]).ratio_goal(Bound::AtLeast(1.6)), "≥ 1.6 ×", true);
        check(row([15.0, 15.9, 40.0]).ratio_goal(Bound::AtLeast(1.6)), "≥ 1.6 ×", false);
        check(row([5.0, 4.0, 1.0]).inverted().ratio_goal(Bound::AtMost(2.0)), "≤ 2 ×", false);
        check(row([5.0, 5.0, 1.0]).inverted().ratio_goal(Bound::AtMost(2.0)), "≤ 2 ×", true);
    }

    #[test]
    fn figures_keep_three_digits_that_count() {
        let check = |value, told: &str| assert_eq!(figure(value), told);
        check(0.0, "0");
        check(1.234, "1.23");
        check(12.34, "12.3");
        check(12_345.6, "12346");
    }
}
