//! The lines that trials leave, and what becomes of several that are of one promise.

use std::collections::BTreeMap;

use anyhow::Context;
use serde::{Deserialize, Serialize};

/// One line of a trial's.
#[derive(Debug, Clone, Deserialize, Serialize)]
pub(super) struct Line {
    /// Of a full run that is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) commit: Option<String>,
    pub(super) test: String,
    pub(super) promise: String,
    pub(super) seed: Option<String>,
    pub(super) n: u64,
    pub(super) violations: u64,
    pub(super) words: Vec<String>,
    pub(super) measured: BTreeMap<String, Measured>,
    pub(super) counted: BTreeMap<String, u64>,
    /// Numbers of which the greatest counts.
    #[serde(default)]
    pub(super) most: BTreeMap<String, u64>,
    pub(super) controls: Vec<Control>,
}

#[derive(Debug, Clone, Deserialize, Serialize)]
pub(super) struct Measured {
    pub(super) n: u64,
    pub(super) p50_us: u64,
    pub(super) p99_us: u64,
    pub(super) max_us: u64,
}

#[derive(Debug, Clone, Deserialize, Serialize)]
pub(super) struct Control {
    pub(super) what: String,
    pub(super) caught: bool,
}

/// The latest full run of each promise: of `before`, and of `lines`, which are of this `commit`.
pub(super) fn kept(before: Vec<Line>, lines: &[Line], commit: &str) -> Vec<Line> {
    let new = merged(lines).into_iter().map(|line| Line { commit: Some(commit.into()), ..line });
    let all = before.into_iter().chain(new);
    let latest: BTreeMap<_, _> =
        all.map(|line| ((line.test.clone(), line.promise.clone()), line)).collect();
    latest.into_values().collect()
}

pub(super) fn read(text: &str) -> anyhow::Result<Vec<Line>> {
    text.lines()
        .map(|line| {
            serde_json::from_str(line).with_context(|| format!("not a trial's line: {line}"))
        })
        .collect()
}

/// The lines of one promise in one.
pub(super) fn merged(lines: &[Line]) -> Vec<Line> {
    let mut all: BTreeMap<(String, String), Line> = BTreeMap::new();
    for line in lines {
        let key = (line.test.clone(), line.promise.clone());
        match all.get_mut(&key) {
            None => {
                all.insert(key, line.clone());
            }
            Some(whole) => {
                whole.n += line.n;
                whole.seed = seeds(whole, line);
                whole.violations += line.violations;
                whole.words.extend(line.words.iter().cloned());
                whole.controls.extend(line.controls.iter().cloned());
                for (what, number) in &line.counted {
                    *whole.counted.entry(what.clone()).or_default() += number;
                }
                for (what, number) in &line.most {
                    let most = whole.most.entry(what.clone()).or_default();
                    *most = (*most).max(*number);
                }
                for (what, more) in &line.measured {
                    // Percentiles of several runs cannot be added: the worse one stands.
                    let entry = whole.measured.entry(what.clone()).or_insert_with(|| Measured {
                        n: 0,
                        p50_us: 0,
                        p99_us: 0,
                        max_us: 0,
                    });
                    entry.n += more.n;
                    entry.p50_us = entry.p50_us.max(more.p50_us);
                    entry.p99_us = entry.p99_us.max(more.p99_us);
                    entry.max_us = entry.max_us.max(more.max_us);
                }
            }
        }
    }
    all.into_values().collect()
}

/// What repeats the failures of both: the seeds of those that failed, or of the first one if none did.
fn seeds(whole: &Line, line: &Line) -> Option<String> {
    match (&whole.seed, &line.seed) {
        (before, _) if line.violations == 0 => before.clone(),
        (_, after) if whole.violations == 0 => after.clone(),
        (Some(before), Some(after)) => Some(format!("{before}, {after}")),
        (before, after) => before.clone().or_else(|| after.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(seed: &str, violations: u64, signals: u64, peak: u64) -> Line {
        let text = format!(
            r#"{{"test":"T-X","promise":"p","seed":{seed},"n":1,"violations":{violations},"words":[],
            "measured":{{}},"counted":{{"signals":{signals}}},"most":{{"peak":{peak}}},"controls":[]}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    fn seed_of(lines: &[Line]) -> Option<String> {
        merged(lines).remove(0).seed
    }

    #[test]
    fn the_seed_that_is_told_is_that_of_the_failure() {
        let good = |seed: &str| line(seed, 0, 0, 0);
        let bad = |seed: &str| line(seed, 1, 0, 0);
        let told = |seed: &str| Some(seed.to_owned());
        assert_eq!(seed_of(&[good(r#""1""#), bad(r#""2""#), good(r#""3""#)]), told("2"));
        assert_eq!(seed_of(&[bad(r#""1""#), good(r#""2""#), bad(r#""3""#)]), told("1, 3"));
        assert_eq!(seed_of(&[good(r#""1""#), good(r#""2""#)]), told("1"));
        // One that failed and has no seed is not given that of another one.
        assert_eq!(seed_of(&[good(r#""1""#), bad("null")]), None);
        assert_eq!(seed_of(&[bad("null"), bad(r#""2""#)]), told("2"));
    }

    #[test]
    fn what_is_counted_is_added_up_and_of_what_is_most_the_greatest_counts() {
        let whole = merged(&[line("null", 0, 3, 70), line("null", 0, 4, 50)]).remove(0);
        assert_eq!((whole.n, whole.counted["signals"], whole.most["peak"]), (2, 7, 70));
    }
}
