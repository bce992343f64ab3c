//! `cargo xtask reliability`: puts every promise to the test and writes `RELIABILITY.md` of it.
//!
//! The tests are the ordinary ones; those that count trials leave a line for each
//! (`stratavore_testkit::trial`). Nothing here judges: a report is written of a failed run too.
//!
//! Full counts take hours, and may be run a part at a time. Each promise keeps the latest full run of
//! it, with the commit that it was of, and `RELIABILITY-FULL.md` is written of all of these.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};
use stratavore_testkit::postgres::newest_bin;
use stratavore_testkit::trial::REPORT_VARIABLE;

use crate::step::Steps;
use crate::test::{self, Length};
use crate::workspace::{Workspace, cargo};

const REPORT: &str = "RELIABILITY.md";
const FULL_REPORT: &str = "RELIABILITY-FULL.md";
/// What the full report is made of.
const FULL_COUNTS: &str = "docs/full-counts.json";
/// How long the soak goes on, in seconds; read by its test.
const SOAK_VARIABLE: &str = "STRATAVORE_TEST_SOAK_SECONDS";
/// The soak's test, by its name.
const SOAK: &str = "soak::";

/// One line of a trial's.
#[derive(Debug, Clone, Deserialize, Serialize)]
struct Line {
    /// Of a full run that is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    commit: Option<String>,
    test: String,
    promise: String,
    seed: Option<String>,
    n: u64,
    violations: u64,
    words: Vec<String>,
    measured: BTreeMap<String, Measured>,
    counted: BTreeMap<String, u64>,
    controls: Vec<Control>,
}

#[derive(Debug, Clone, Deserialize, Serialize)]
struct Measured {
    n: u64,
    p50_us: u64,
    p99_us: u64,
    max_us: u64,
}

#[derive(Debug, Clone, Deserialize, Serialize)]
struct Control {
    what: String,
    caught: bool,
}

/// What was asked for.
#[derive(Debug, PartialEq, Eq)]
struct Asked {
    length: Length,
    /// Goes to the tests as a filter.
    only: Option<String>,
    soak: Option<Duration>,
}

impl Asked {
    fn read(arguments: &[String]) -> anyhow::Result<Self> {
        let mut asked = Self { length: Length::Short, only: None, soak: None };
        let mut words = arguments.iter().map(String::as_str);
        while let Some(word) = words.next() {
            let mut value = || words.next().with_context(|| format!("{word} needs a value"));
            match word {
                "--tier" => {
                    asked.length = match value()? {
                        "commit" => Length::Short,
                        "full" => Length::Long,
                        other => bail!("the tier `{other}` is neither commit nor full"),
                    }
                }
                "--only" => asked.only = Some(value()?.to_lowercase().replace('-', "_")),
                "--soak" => asked.soak = Some(duration(value()?)?),
                other => bail!(
                    "`{other}` is not understood here; it takes --tier commit|full, --only T-NAME \
                     and --soak DURATION"
                ),
            }
        }
        Ok(asked)
    }
}

/// `90s`, `30m` or `12h`.
fn duration(text: &str) -> anyhow::Result<Duration> {
    let seconds = [("s", 1), ("m", 60), ("h", 3600)].into_iter().find_map(|(unit, seconds)| {
        let number: u64 = text.strip_suffix(unit)?.parse().ok()?;
        number.checked_mul(seconds).filter(|seconds| *seconds > 0)
    });
    seconds
        .map(Duration::from_secs)
        .with_context(|| format!("`{text}` is no duration; 90s, 30m and 12h are"))
}

pub(crate) fn reliability(arguments: &[String]) -> anyhow::Result<()> {
    let asked = Asked::read(arguments)?;
    let scratch = tempfile::tempdir().context("cannot make a temporary directory")?;
    let lines = scratch.path().join("trials");
    let began = Instant::now();
    let mut environment = vec![(REPORT_VARIABLE, lines.display().to_string())];
    let mut forwarded = Vec::new();
    if let Some(soak) = asked.soak {
        environment.push((SOAK_VARIABLE, soak.as_secs().to_string()));
        forwarded.extend(["--package", "stratavore", "--test", "reliability", SOAK]);
    }
    if let Some(only) = &asked.only {
        forwarded.push(only);
    }
    let mut steps = Steps::default();
    test::tests(&mut steps, &forwarded, asked.length, &environment);
    let lines = read(&fs::read_to_string(&lines).unwrap_or_default())?;
    if lines.is_empty() {
        steps.finish()?;
        bail!("no trial was counted; is there a test of that name?");
    }
    let facts = facts(began.elapsed())?;
    let root = Workspace::read()?.root;
    let write = |name: &str, text: &str| {
        let path = root.join(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        println!("wrote {}", path.display());
        anyhow::Ok(())
    };
    match (asked.length, asked.soak, &asked.only) {
        (Length::Short, None, None) => write(REPORT, &report(&asked, &facts, &lines))?,
        (Length::Long, None, _) => {
            let before = fs::read_to_string(root.join(FULL_COUNTS)).unwrap_or_else(|_| "[]".into());
            let before = serde_json::from_str(&before).context(FULL_COUNTS)?;
            let all = kept(before, &lines, &facts[0].1);
            write(FULL_COUNTS, &(serde_json::to_string_pretty(&all)? + "\n"))?;
            let lasting = facts.iter().filter(|(what, _)| !["commit", "took"].contains(what));
            let lasting: Vec<_> = lasting.cloned().collect();
            write(FULL_REPORT, &report(&asked, &lasting, &all))?;
        }
        (Length::Short, _, _) | (Length::Long, Some(_), _) => {
            println!("{}", report(&asked, &facts, &lines));
        }
    }
    steps.finish()
}

/// The latest full run of each promise: of `before`, and of `lines`, which are of this `commit`.
fn kept(before: Vec<Line>, lines: &[Line], commit: &str) -> Vec<Line> {
    let new = merged(lines).into_iter().map(|line| Line { commit: Some(commit.into()), ..line });
    let all = before.into_iter().chain(new);
    let latest: BTreeMap<_, _> =
        all.map(|line| ((line.test.clone(), line.promise.clone()), line)).collect();
    latest.into_values().collect()
}

fn read(text: &str) -> anyhow::Result<Vec<Line>> {
    text.lines()
        .map(|line| {
            serde_json::from_str(line).with_context(|| format!("not a trial's line: {line}"))
        })
        .collect()
}

/// What was tested, with what and where.
fn facts(took: Duration) -> anyhow::Result<Vec<(&'static str, String)>> {
    let said = |program: &str, arguments: &[&str]| -> anyhow::Result<String> {
        let mut command = if program == "cargo" { cargo() } else { Command::new(program) };
        let output =
            command.args(arguments).output().with_context(|| format!("cannot run {program}"))?;
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let changed = said("git", &["status", "--porcelain", "--untracked-files=no"])?;
    let changes = if changed.is_empty() { "" } else { ", with changes that are not committed" };
    let postgres = match newest_bin() {
        Some(bin) => said(&bin.join("postgres").display().to_string(), &["--version"])?,
        None => "none".into(),
    };
    let cpus = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    Ok(vec![
        ("commit", format!("{}{changes}", said("git", &["rev-parse", "--short=12", "HEAD"])?)),
        ("kernel", format!("{}, {cpus} CPUs", said("uname", &["-sr"])?)),
        ("compiler", format!("{}, debug builds", said("cargo", &["--version"])?)),
        ("database", format!("SQLite (embedded); {postgres}")),
        ("took", format!("{} s", took.as_secs())),
    ])
}

/// The lines of one promise in one.
fn merged(lines: &[Line]) -> Vec<Line> {
    let mut all: BTreeMap<(String, String), Line> = BTreeMap::new();
    for line in lines {
        let key = (line.test.clone(), line.promise.clone());
        match all.get_mut(&key) {
            None => {
                all.insert(key, line.clone());
            }
            Some(whole) => {
                whole.n += line.n;
                whole.violations += line.violations;
                whole.words.extend(line.words.iter().cloned());
                whole.controls.extend(line.controls.iter().cloned());
                whole.counted.extend(line.counted.clone());
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

fn report(asked: &Asked, facts: &[(&str, String)], lines: &[Line]) -> String {
    let lines = merged(lines);
    let tests: BTreeSet<&str> = lines.iter().map(|line| line.test.as_str()).collect();
    let (violations, n) =
        lines.iter().fold((0, 0), |(v, n), line| (v + line.violations, n + line.n));
    let controls: Vec<&Control> = lines.iter().flat_map(|line| &line.controls).collect();
    let caught = controls.iter().filter(|control| control.caught).count();
    let tier = match asked.length {
        Length::Short => "commit (small counts, the ones of `make test`)",
        Length::Long => "full, each promise at the commit that it was last run in full at",
    };
    let mut text = format!(
        "# What was tried, and what broke\n\n\
         Made by `cargo xtask reliability`; not written by hand. The tests and their names are \
         explained in [docs/reliability.md](docs/reliability.md).\n\n\
         **{violations} violations in {n} trials of {} tests; {caught} of {} controls caught.** \
         Tier: {tier}.\n\n| | |\n|---|---|\n",
        tests.len(),
        controls.len(),
    );
    for (what, value) in facts {
        row(&mut text, &[what, value]);
    }
    text.push_str(
        "\nNo failure in n trials is no proof of none ever: the bound is what the rate of failures \
         is below with 95 % confidence, 3/n.\n\n\
         | test | what must hold | n | violations | bound | measured | controls |",
    );
    let with_commits = lines.iter().any(|line| line.commit.is_some());
    text.push_str(if with_commits { " commit |\n" } else { "\n" });
    text.push_str("|---|---|--:|--:|--:|---|---|");
    text.push_str(if with_commits { "---|\n" } else { "\n" });
    for line in &lines {
        let bound = match (line.violations, line.n) {
            (0, 1..) => format!("< {}", percent(3.0 / line.n as f64)),
            _ => "-".into(),
        };
        let mut measured: Vec<String> = line
            .measured
            .iter()
            .map(|(what, m)| {
                let [p50, p99, max] = [m.p50_us, m.p99_us, m.max_us].map(millis);
                format!("{what}: p50 {p50}, p99 {p99}, max {max} (n {})", m.n)
            })
            .collect();
        measured.extend(line.counted.iter().map(|(what, number)| format!("{what}: {number}")));
        let controls: Vec<String> = line
            .controls
            .iter()
            .map(|c| format!("{}: {}", c.what, if c.caught { "caught" } else { "**MISSED**" }))
            .collect();
        let (n, violations) = (line.n.to_string(), line.violations.to_string());
        let (measured, controls) = (measured.join("; "), controls.join("; "));
        let mut cells =
            vec![&*line.test, &line.promise, &n, &violations, &bound, &measured, &controls];
        cells.extend(line.commit.as_deref());
        row(&mut text, &cells);
    }
    let broken: Vec<&Line> = lines.iter().filter(|line| line.violations > 0).collect();
    if !broken.is_empty() {
        text.push_str("\n## Violations\n\n");
        for line in broken {
            let seed = line.seed.as_deref().unwrap_or("none");
            let words = line.words.join(" / ").replace('\n', " ");
            // Writing to a string does not fail.
            writeln!(text, "- {} ({}), seed {seed}: {words}", line.test, line.promise).ok();
        }
    }
    text
}

fn row(text: &mut String, cells: &[&str]) {
    let cells: Vec<String> =
        cells.iter().map(|cell| cell.replace('|', "\\|").replace('\n', " ")).collect();
    writeln!(text, "| {} |", cells.join(" | ")).ok();
}

fn millis(micros: u64) -> String {
    let millis = micros as f64 / 1000.0;
    if millis < 10.0 { format!("{millis:.1} ms") } else { format!("{millis:.0} ms") }
}

fn percent(share: f64) -> String {
    let percent = (share * 100.0).min(100.0);
    if percent < 1.0 { format!("{percent:.2} %") } else { format!("{percent:.0} %") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(words: &[&str]) -> anyhow::Result<Asked> {
        Asked::read(&words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn what_is_asked_for_is_read_or_refused() {
        let full = Asked { length: Length::Long, only: Some("t_surv".into()), soak: None };
        assert_eq!(asked(&["--tier", "full", "--only", "T-SURV"]).unwrap(), full);
        let soak = asked(&["--soak", "12h"]).unwrap().soak;
        assert_eq!(soak, Some(Duration::from_secs(12 * 3600)));
        for wrong in [&["--tier", "huge"][..], &["--soak", "12"], &["--soak"], &["T-SURV"]] {
            asked(wrong).unwrap_err();
        }
    }

    #[test]
    fn a_violation_and_a_missed_control_are_told() {
        let line = |n: u64, violations: u64, caught: bool| {
            format!(
                r#"{{"test":"T-SURV","promise":"a | b","long":false,"seed":"7","n":{n},
                "violations":{violations},"words":["it is gone"],"counted":{{}},
                "measured":{{"back":{{"n":2,"p50_us":1500,"p99_us":20000,"max_us":20000}}}},
                "controls":[{{"what":"a lost line","caught":{caught}}}]}}"#
            )
            .replace('\n', " ")
        };
        let asked = asked(&[]).unwrap();
        let good = report(&asked, &[], &read(&line(300, 0, true)).unwrap());
        assert!(
            good.contains("**0 violations in 300 trials of 1 tests; 1 of 1 controls caught.**")
        );
        assert!(good.contains("| T-SURV | a \\| b | 300 | 0 | < 1 % |"), "{good}");
        assert!(
            good.contains("p50 1.5 ms, p99 20 ms") && !good.contains("## Violations"),
            "{good}"
        );
        let both = format!("{}\n{}", line(10, 0, true), line(10, 1, false));
        let bad = report(&asked, &[], &read(&both).unwrap());
        assert!(bad.contains("**1 violations in 20 trials") && bad.contains("**MISSED**"), "{bad}");
        assert!(bad.contains("seed 7: it is gone"), "{bad}");
        read("not json").unwrap_err();
    }

    #[test]
    fn each_promise_keeps_its_latest_full_run() {
        let line = |promise: &str, n: u64| {
            format!(
                r#"{{"test":"T-SURV","promise":"{promise}","seed":null,"n":{n},"violations":0,
                "words":[],"counted":{{}},"measured":{{}},"controls":[]}}"#
            )
            .replace('\n', " ")
        };
        let first = read(&format!("{}\n{}", line("a", 1), line("b", 2))).unwrap();
        let first = kept(Vec::new(), &first, "one");
        let second = read(&format!("{}\n{}", line("b", 3), line("b", 4))).unwrap();
        let all = kept(first, &second, "two");
        let told = all.iter().map(|line| (&*line.promise, line.n, line.commit.as_deref()));
        assert_eq!(told.collect::<Vec<_>>(), [("a", 1, Some("one")), ("b", 7, Some("two"))]);
        let asked = asked(&["--tier", "full"]).unwrap();
        let text = report(&asked, &[], &all);
        assert!(
            text.contains("| controls | commit |\n|---|---|--:|--:|--:|---|---|---|\n"),
            "{text}"
        );
        assert!(text.contains("| T-SURV | b | 7 | 0 |") && text.contains("| two |"), "{text}");
    }
}
