//! The lines that trials leave, and what becomes of several that are of one promise.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context;
use serde::{Deserialize, Serialize};
use stratavore_testkit::trial::percentile;

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
    /// By the host's clock, in milliseconds.
    #[serde(default, skip_serializing)]
    pub(super) began_ms: u64,
    #[serde(default, skip_serializing)]
    pub(super) ended_ms: u64,
}

#[derive(Debug, Clone, Deserialize, Serialize)]
pub(super) struct Measured {
    pub(super) n: u64,
    pub(super) p50_us: u64,
    pub(super) p99_us: u64,
    pub(super) max_us: u64,
    /// Each of them, in order of size. What is kept of a full run has none.
    #[serde(default, skip_serializing)]
    pub(super) all_us: Vec<u64>,
}

impl Measured {
    fn of(mut all: Vec<u64>) -> Self {
        all.sort_unstable();
        let [p50_us, p99_us, max_us] = [50, 99, 100].map(|percent| percentile(&all, percent));
        Self { n: all.len() as u64, p50_us, p99_us, max_us, all_us: all }
    }
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
                    let before = whole.measured.remove(what).map_or_else(Vec::new, |m| m.all_us);
                    let all = [before, more.all_us.clone()].concat();
                    whole.measured.insert(what.clone(), Measured::of(all));
                }
            }
        }
    }
    all.into_values().collect()
}

/// For how long at least one of these was under way: several may be at the same time.
pub(super) fn under_way(lines: &[Line]) -> Duration {
    let mut spans: Vec<_> = lines.iter().map(|line| (line.began_ms, line.ended_ms)).collect();
    spans.sort_unstable();
    let (mut until, mut all) = (0, 0);
    for (began, ended) in spans {
        all += ended.saturating_sub(began.max(until));
        until = until.max(ended);
    }
    Duration::from_millis(all)
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
    fn what_was_measured_by_several_is_taken_together() {
        let measured = |all: &str| {
            let mut line = line("null", 0, 0, 0);
            let text = format!(r#"{{"n":0,"p50_us":0,"p99_us":0,"max_us":0,"all_us":{all}}}"#);
            line.measured.insert("back".into(), serde_json::from_str(&text).unwrap());
            line
        };
        let whole = merged(&[measured("[1,2,9]"), measured("[3]"), measured("[4]")]).remove(0);
        let Measured { n, p50_us, max_us, .. } = whole.measured["back"];
        assert_eq!((n, p50_us, max_us), (5, 3, 9));
    }

    #[test]
    fn time_in_which_several_were_under_way_counts_once() {
        let span = |began_ms, ended_ms| Line { began_ms, ended_ms, ..line("null", 0, 0, 0) };
        let lines = [span(5, 9), span(0, 4), span(1, 2), span(3, 6), span(20, 21)];
        assert_eq!(under_way(&lines), Duration::from_millis(10));
    }

    #[test]
    fn what_is_counted_is_added_up_and_of_what_is_most_the_greatest_counts() {
        let whole = merged(&[line("null", 0, 3, 70), line("null", 0, 4, 50)]).remove(0);
        assert_eq!((whole.n, whole.counted["signals"], whole.most["peak"]), (2, 7, 70));
    }
}
