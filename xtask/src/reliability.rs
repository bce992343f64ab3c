//! `cargo xtask reliability`: puts every promise to the test and writes `RELIABILITY.md` of it.
//!
//! The tests are the ordinary ones; those that count trials leave a line for each
//! (`stratavore_testkit::trial`). Nothing here judges: a report is written of a failed run too.
//!
//! Full counts take hours, and may be run a part at a time. Each promise keeps the latest full run of
//! it, with the commit that it was of, and `RELIABILITY-FULL.md` is written of all of these.

mod lines;
#[cfg(test)]
mod names;
mod report;

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use stratavore_testkit::postgres::newest_bin;
use stratavore_testkit::programs::Program;
use stratavore_testkit::rabbit;
use stratavore_testkit::trial::REPORT_VARIABLE;

use self::lines::{kept, read};
use self::report::report;
use crate::step::Steps;
use crate::test::{self, Length};
use crate::workspace::{Workspace, cargo};

const REPORT: &str = "RELIABILITY.md";
const SOAK_REPORT: &str = "RELIABILITY-SOAK.md";
const FULL_REPORT: &str = "RELIABILITY-FULL.md";
/// What the full report is made of.
const FULL_COUNTS: &str = "docs/full-counts.json";
/// How long the soak goes on, in seconds; read by its test.
const SOAK_VARIABLE: &str = "STRATAVORE_TEST_SOAK_SECONDS";
/// The soak's test, by its name.
const SOAK: &str = "soak::";

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
                "--only" => asked.only = Some(filter(value()?)),
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

/// What finds the tests of a trial, given its name as it stands in the report: they are called so
/// (a test in `names` checks it).
fn filter(trial: &str) -> String {
    let of = trial.to_lowercase();
    // `T-FUZZ frames` is one of several of `T-FUZZ`.
    let of = if of.starts_with("t-") { of.split(' ').next().unwrap_or(&of) } else { &of };
    of.replace(['-', ' '], "_")
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
        (_, Some(_), None) => write(SOAK_REPORT, &report(&asked, &facts, &lines))?,
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
    let broker = rabbit::version().unwrap_or_else(|| "none".into());
    let assistants =
        Program::ALL.map(|program| format!("{} {}", program.name(), program.version()));
    let cpus = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    Ok(vec![
        ("commit", format!("{}{changes}", said("git", &["rev-parse", "--short=12", "HEAD"])?)),
        ("kernel", format!("{}, {cpus} CPUs", said("uname", &["-sr"])?)),
        ("compiler", format!("{}, debug builds", said("cargo", &["--version"])?)),
        ("database", format!("SQLite (embedded); {postgres}")),
        ("broker", format!("RabbitMQ {broker}")),
        ("assistants", assistants.join(", ")),
        ("took", format!("{} s", took.as_secs())),
    ])
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
        for (trial, found_by) in [
            ("T-AGENTKILL", "t_agentkill"),
            ("t-fuzz frames", "t_fuzz"),
            ("row 29", "row_29"),
            ("t_soak", "t_soak"),
        ] {
            assert_eq!(asked(&["--only", trial]).unwrap().only.as_deref(), Some(found_by));
        }
        let soak = asked(&["--soak", "12h"]).unwrap().soak;
        assert_eq!(soak, Some(Duration::from_secs(12 * 3600)));
        for wrong in [&["--tier", "huge"][..], &["--soak", "12"], &["--soak"], &["T-SURV"]] {
            asked(wrong).unwrap_err();
        }
    }

    #[test]
    fn the_facts_name_all_that_was_tested_with() {
        let facts = facts(Duration::from_secs(1)).unwrap();
        let fact = |name: &str| &facts.iter().find(|(what, _)| *what == name).unwrap().1;
        assert_eq!(fact("broker").starts_with("RabbitMQ 3"), rabbit::is_installed());
        for program in Program::ALL {
            let told = format!("{} {}", program.name(), program.version());
            assert!(fact("assistants").contains(&told), "{facts:?}");
        }
        assert!(fact("database").contains("SQLite"), "{facts:?}");
    }
}
