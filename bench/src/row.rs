//! One measured figure against its goal.

use serde::{Deserialize, Serialize};
use std::fmt;

/// What a value is held against.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Goal {
    /// Good when the value is this or less.
    AtMost(f64),
    /// Good when the value is this or more.
    AtLeast(f64),
    /// Good when the value is exactly this: counts of what must not happen.
    Exactly(f64),
    /// Reported for its own sake.
    None,
}

impl Goal {
    fn judge(self, value: f64) -> Verdict {
        let met = match self {
            Self::None => return Verdict::Reported,
            Self::AtMost(bound) => value <= bound,
            Self::AtLeast(bound) => value >= bound,
            Self::Exactly(bound) => value.total_cmp(&bound).is_eq(),
        };
        if met { Verdict::Met } else { Verdict::Missed }
    }
}

impl fmt::Display for Goal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Self::AtMost(bound) => format!("<= {bound}"),
            Self::AtLeast(bound) => format!(">= {bound}"),
            Self::Exactly(bound) => format!("= {bound}"),
            Self::None => "-".into(),
        };
        f.pad(&text)
    }
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The goal is met.
    Met,
    /// It is not.
    Missed,
    /// There is no goal.
    Reported,
    /// Measured in the short form, which says that the row runs and no more.
    Short,
    /// What it needs is not on this machine.
    NotMeasured,
    /// The row could not be measured.
    Failed,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Met => "met",
            Self::Missed => "MISSED",
            Self::Reported => "reported",
            Self::Short => "short",
            Self::NotMeasured => "not measured",
            Self::Failed => "FAILED",
        })
    }
}

/// A measured figure.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// `ROW` or `ROW.PART`.
    pub name: String,
    /// What was measured; none when it could not be.
    pub value: Option<f64>,
    /// Of the value.
    pub unit: String,
    /// What it is held against.
    pub goal: Goal,
    /// What came of it.
    pub verdict: Verdict,
    /// The regime it was measured in, and what else a reader needs.
    pub notes: Vec<String>,
}

impl Row {
    /// A measured value. One that is not finite misses every goal.
    pub fn new(name: &str, value: f64, unit: &str, goal: Goal) -> Self {
        let verdict = if value.is_finite() { goal.judge(value) } else { Verdict::Failed };
        let value = value.is_finite().then_some(value);
        Self { name: name.into(), value, unit: unit.into(), goal, verdict, notes: Vec::new() }
    }

    /// A value of the short form: its goal is shown, but holds for the whole form only. What must
    /// never happen must not happen in the short form either.
    pub fn short(name: &str, value: f64, unit: &str, goal: Goal) -> Self {
        let row = Self::new(name, value, unit, goal);
        let verdict = match (row.value, goal) {
            (None, _) => Verdict::Failed,
            (Some(_), Goal::Exactly(_)) => row.verdict,
            (Some(_), _) => Verdict::Short,
        };
        Self { verdict, ..row }
    }

    /// A row whose needs are not on this machine, and how to bring them there.
    pub fn not_measured(name: &str, goal: Goal, why: impl Into<String>) -> Self {
        let row = Self::new(name, f64::NAN, "", goal).note(why);
        Self { verdict: Verdict::NotMeasured, ..row }
    }

    /// Adds a remark.
    #[must_use]
    pub fn note(mut self, text: impl Into<String>) -> Self {
        self.notes.push(text.into());
        self
    }

    /// A row that could not be measured.
    pub fn failed(name: &str, error: &anyhow::Error) -> Self {
        Self::new(name, f64::NAN, "", Goal::None).note(format!("{error:#}"))
    }
}

/// The line above the rows.
pub(crate) fn heading() -> String {
    format!("{:<24} {:>12} {:<10} {:<12} {:<9}", "row", "value", "unit", "goal", "verdict")
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = self.value.map_or_else(|| "-".into(), plain);
        let (name, unit, goal, verdict) = (&self.name, &self.unit, self.goal, self.verdict);
        write!(f, "{name:<24} {value:>12} {unit:<10} {goal:<12} {verdict:<9}")?;
        let notes = self.notes.join("; ");
        if notes.is_empty() { Ok(()) } else { write!(f, " {notes}") }
    }
}

/// Digits enough to compare two runs, no more.
fn plain(value: f64) -> String {
    match value.abs() {
        0.0 => "0".into(),
        big if big >= 100.0 => format!("{value:.0}"),
        middle if middle >= 0.1 => format!("{value:.3}"),
        _ => format!("{value:.3e}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_verdict_follows_the_goal() {
        for (value, goal, verdict) in [
            (299.0, Goal::AtMost(300.0), Verdict::Met),
            (301.0, Goal::AtMost(300.0), Verdict::Missed),
            (226.0, Goal::AtLeast(200.0), Verdict::Met),
            (199.0, Goal::AtLeast(200.0), Verdict::Missed),
            (0.0, Goal::Exactly(0.0), Verdict::Met),
            (1.0, Goal::Exactly(0.0), Verdict::Missed),
            (7.0, Goal::None, Verdict::Reported),
            (f64::NAN, Goal::AtMost(1.0), Verdict::Failed),
            (f64::INFINITY, Goal::AtLeast(1.0), Verdict::Failed),
        ] {
            assert_eq!(Row::new("x", value, "s", goal).verdict, verdict, "{value} {goal}");
        }
    }

    #[test]
    fn the_short_form_neither_meets_nor_misses_but_what_must_never_happen() {
        let goal = Goal::AtMost(1.0);
        assert_eq!(Row::short("x", 9.0, "%", goal).verdict, Verdict::Short);
        assert_eq!(Row::short("x", f64::NAN, "%", goal).verdict, Verdict::Failed);
        let never = Goal::Exactly(0.0);
        assert_eq!(Row::short("x", 1.0, "lost", never).verdict, Verdict::Missed);
        assert_eq!(Row::short("x", 0.0, "lost", never).verdict, Verdict::Met);
    }

    #[test]
    fn a_row_prints_name_value_unit_goal_and_verdict_on_one_line() {
        let row = Row::new("build", 123.4, "s", Goal::AtMost(300.0)).note("2 cores");
        let line = row.to_string();
        let words: Vec<&str> = line.split_whitespace().collect();
        assert_eq!(words, ["build", "123", "s", "<=", "300", "met", "2", "cores"]);
    }

    #[test]
    fn rows_survive_json() {
        let row = Row::new("build", 0.25, "s", Goal::AtMost(1.0));
        let text = serde_json::to_string(&row).unwrap();
        assert_eq!(serde_json::from_str::<Row>(&text).unwrap(), row);
    }
}
