//! What was measured, as a table for people and as JSON for programs.

use serde_json::{Value, json};

use crate::machine::Facts;
use crate::sample::Samples;

/// How a row is judged.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Target {
    /// At most so many times the other side.
    AtMost(f64),
    /// At most so many times the other side, and so much more.
    AtMostPlus(f64, f64),
    /// At least so many times the other side.
    AtLeast(f64),
    /// At most this.
    Below(f64),
    /// At least this.
    Above(f64),
    /// For comparison only.
    Shown,
}

/// What of the samples counts.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Of {
    Median,
    P99,
}

/// One comparison.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    pub what: String,
    pub unit: &'static str,
    pub of: Of,
    pub ours: Samples,
    /// What it is held against, in words, and its samples.
    pub against: Option<(String, Samples)>,
    /// What it would be held against, and why that is not here.
    pub absent: Option<String>,
    pub target: Target,
}

impl Row {
    pub(crate) fn new(what: impl Into<String>, unit: &'static str, ours: &Samples) -> Self {
        let (what, ours) = (what.into(), ours.clone());
        Self {
            what,
            unit,
            of: Of::Median,
            ours,
            against: None,
            absent: None,
            target: Target::Shown,
        }
    }

    pub(crate) fn against(mut self, what: impl Into<String>, samples: &Samples) -> Self {
        self.against = Some((what.into(), samples.clone()));
        self
    }

    /// A row without its other side.
    pub(crate) fn without(what: impl Into<String>, unit: &'static str, why: String) -> Self {
        Self { absent: Some(why), ..Self::new(what, unit, &Samples::default()) }
    }

    pub(crate) fn target(mut self, target: Target) -> Self {
        self.target = target;
        self
    }

    pub(crate) fn p99(mut self) -> Self {
        self.of = Of::P99;
        self
    }

    fn value(&self, samples: &Samples) -> f64 {
        match self.of {
            Of::Median => samples.median(),
            Of::P99 => samples.percentile(99.0),
        }
    }

    fn ours(&self) -> f64 {
        self.value(&self.ours)
    }

    fn theirs(&self) -> Option<f64> {
        self.against.as_ref().map(|(_, samples)| self.value(samples))
    }

    fn ratio(&self) -> Option<f64> {
        self.theirs().map(|theirs| self.ours() / theirs)
    }

    /// `None`: there is nothing to meet.
    pub(crate) fn met(&self) -> Option<bool> {
        let ours = self.ours();
        Some(match self.target {
            Target::AtMost(times) => ours <= times * self.theirs()?,
            Target::AtMostPlus(times, more) => ours <= times * self.theirs()? + more,
            Target::AtLeast(times) => ours >= times * self.theirs()?,
            Target::Below(limit) => ours <= limit,
            Target::Above(limit) => ours >= limit,
            Target::Shown => return None,
        })
    }

    fn target_in_words(&self) -> String {
        let unit = self.unit;
        match self.target {
            Target::AtMost(times) => format!("at most {times} x"),
            Target::AtMostPlus(times, more) => format!("at most {times} x + {more} {unit}"),
            Target::AtLeast(times) => format!("at least {times} x"),
            Target::Below(limit) => format!("at most {limit} {unit}"),
            Target::Above(limit) => format!("at least {limit} {unit}"),
            Target::Shown => "-".into(),
        }
    }

    fn figure(&self, samples: &Samples) -> String {
        let (least, most) = (shown(samples.least()), shown(samples.most()));
        let value = shown(self.value(samples));
        let of = match self.of {
            Of::Median => "",
            Of::P99 => "p99 ",
        };
        let unit = self.unit;
        if samples.0.len() < 2 {
            return format!("{value} {unit}");
        }
        format!("{of}{value} {unit} ({least}..{most}, n={})", samples.0.len())
    }

    fn line(&self) -> String {
        if let Some(why) = &self.absent {
            let why = why.replace(['\n', '|'], " ");
            return format!("| {} | - | not measured: {why} | - | - | - |\n", self.what);
        }
        let against = match &self.against {
            Some((what, samples)) => format!("{what}: {}", self.figure(samples)),
            None => "-".into(),
        };
        let ratio = self.ratio().map_or("-".into(), |ratio| format!("{ratio:.2}"));
        let verdict = match self.met() {
            Some(true) => "met",
            Some(false) => "**MISSED**",
            None => "-",
        };
        let (ours, target) = (self.figure(&self.ours), self.target_in_words());
        format!("| {} | {ours} | {against} | {ratio} | {target} | {verdict} |\n", self.what)
    }

    fn json(&self) -> Value {
        if let Some(why) = &self.absent {
            return json!({ "what": self.what, "not_measured": why });
        }
        let figures = |samples: &Samples| {
            json!({
                "median": samples.median(), "p99": samples.percentile(99.0),
                "min": samples.least(), "max": samples.most(), "n": samples.0.len(),
            })
        };
        json!({
            "what": self.what, "unit": self.unit, "measured": figures(&self.ours),
            "against": self.against.as_ref().map(|(what, samples)| json!({
                "what": what, "measured": figures(samples),
            })),
            "ratio": self.ratio(), "target": self.target_in_words(), "met": self.met(),
        })
    }
}

/// Three digits that count.
fn shown(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

/// All that a run has to say.
pub(crate) struct Report {
    machine: Facts,
    pub load_after: String,
    pub rows: Vec<Row>,
    /// Rows that could not be measured, and why.
    pub failed: Vec<String>,
}

impl Report {
    pub(crate) fn new(machine: Facts) -> Self {
        Self { machine, load_after: String::new(), rows: Vec::new(), failed: Vec::new() }
    }

    pub(crate) fn table(&self) -> String {
        let mut table = "| what | measured | against | ratio | target | |\n\
                         |---|---|---|---|---|---|\n"
            .to_owned();
        table.extend(self.rows.iter().map(Row::line));
        let missed: Vec<&str> = self
            .rows
            .iter()
            .filter(|row| row.met() == Some(false))
            .map(|row| row.what.as_str())
            .collect();
        table.push('\n');
        match missed.as_slice() {
            [] => table.push_str("Every target that was measured is met.\n"),
            missed => table.push_str(&format!("Missed: {}.\n", missed.join("; "))),
        }
        for failed in &self.failed {
            table.push_str(&format!("Not measured: {failed}\n"));
        }
        table
    }

    pub(crate) fn document(&self) -> String {
        let Facts { machine, versions, commit, load } = &self.machine;
        format!(
            "# What was measured\n\n\
             Written by `make bench`, on commit {commit}. An absolute figure holds only on this machine and \
             day; what counts is the ratio, whose two sides took turns in one run. Figures are medians \
             unless they say p99, with the least and the most in brackets.\n\n\
             - machine: {machine}\n- programs: {versions}\n\
             - load averages (1, 5, 15 minutes): {load} before, {} after\n\n\
             {}",
            self.load_after,
            self.table(),
        )
    }

    pub(crate) fn json(&self) -> anyhow::Result<String> {
        let Facts { machine, versions, commit, load } = &self.machine;
        let all = json!({
            "commit": commit, "machine": machine, "programs": versions,
            "load_before": load, "load_after": self.load_after,
            "rows": self.rows.iter().map(Row::json).collect::<Vec<_>>(),
            "not_measured": self.failed,
        });
        Ok(serde_json::to_string_pretty(&all)? + "\n")
    }
}
