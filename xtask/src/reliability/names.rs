//! The names of trials and of the tests that make them: `--only T-NAME` finds a test by its name, and
//! docs/reliability.md names the tests of each fault.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use super::filter;
use crate::workspace::Workspace;

/// The Rust files below a directory.
fn files(below: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(below).unwrap().map(|entry| entry.unwrap().path());
    let found = entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] });
    found.filter(|path| path.extension().is_some_and(|extension| extension == "rs")).collect()
}

/// Every file of the crates, with what is in it. The testkit tests how trials are counted, and makes up
/// some for that.
fn sources() -> Vec<(PathBuf, String)> {
    let root = Workspace::read().unwrap().root;
    let all = files(&root.join("crates")).into_iter();
    let all =
        all.filter(|path| !path.components().any(|part| part.as_os_str() == "stratavore-testkit"));
    all.map(|path| (path.clone(), fs::read_to_string(&path).unwrap())).collect()
}

/// The names that trials are given in a file: each with what stands before it.
fn trials(text: &str) -> Vec<(&str, &str)> {
    let made = text.match_indices("Trial::new(").filter_map(|(at, call)| {
        let name = text[at + call.len()..].trim_start().strip_prefix('"')?.split('"').next()?;
        Some((name, &text[..at]))
    });
    made.collect()
}

/// What is wrong with how the trials of a file can be found.
fn hidden(text: &str) -> Vec<String> {
    let of_one = |(name, before): (&str, &str)| {
        let wanted = filter(name);
        let function = before.rsplit("fn ").next()?;
        let head = before[..before.len() - function.len()].trim_end();
        let is_test = |head: &str| {
            let above = head.lines().rev().skip(1).take(2).collect::<Vec<_>>().join(" ");
            above.contains("test") || function.contains("db: TestStore")
        };
        let function = function.split('(').next()?;
        // One that tests share is found by their names.
        let found = match is_test(head) {
            true => function.starts_with(&wanted),
            false => text.contains(&format!("fn {wanted}")),
        };
        (!found).then(|| format!("`{function}` makes a trial of {name}: call it `{wanted}_…`"))
    };
    trials(text).into_iter().filter_map(of_one).collect()
}

#[test]
fn every_trial_is_found_by_its_name() {
    let sources = sources();
    let all: usize = sources.iter().map(|(_, text)| trials(text).len()).sum();
    assert!(all > 60, "trials are made in ways that this test does not see: {all}");
    let wrong: Vec<String> = sources
        .iter()
        .flat_map(|(path, text)| {
            hidden(text).into_iter().map(move |wrong| format!("{}: {wrong}", path.display()))
        })
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn a_trial_that_no_name_finds_is_noticed() {
    let test = |name: &str| {
        format!(
            "#[test]\nfn {name}() {{\n    let trial =\n        Trial::new(\n\"T-X\", \"p\");\n}}\n"
        )
    };
    assert_eq!(hidden(&test("t_x_holds")), Vec::<String>::new());
    assert_eq!(hidden(&test("it_holds")).len(), 1);
    // One of several that share the work is enough, for one that is no test itself.
    let shared = "fn work() {\n    Trial::new(\"T-X\", \"p\");\n}\n";
    assert_eq!(hidden(&format!("{shared}#[test]\nfn t_x_one() {{}}\n")), Vec::<String>::new());
    assert_eq!(hidden(shared).len(), 1);
}

/// The rows of the fault catalogue.
const ROWS: std::ops::RangeInclusive<u32> = 1..=88;

/// What is wrong with the map of the fault catalogue in the document, where these functions exist.
fn lost(document: &str, functions: &BTreeSet<&str>) -> Vec<String> {
    let rows = document.lines().filter_map(|line| {
        let mut cells = line.strip_prefix("| ")?.split(" | ");
        let row: u32 = cells.next()?.parse().ok()?;
        Some((row, cells.nth(1)?.trim_end_matches(" |")))
    });
    let rows: BTreeMap<u32, &str> = rows.collect();
    let missing = ROWS.filter(|row| !rows.contains_key(row)).map(|row| format!("no row {row}"));
    let named =
        rows.iter().filter(|(_, tests)| !tests.starts_with("not ")).flat_map(|(row, tests)| {
            let names = tests.split(", ").map(|name| name.trim_matches('`'));
            let gone = names.filter(|name| !functions.contains(name));
            gone.map(move |name| format!("row {row}: there is no test `{name}`"))
        });
    missing.chain(named).collect()
}

#[test]
fn every_fault_of_the_catalogue_has_tests_that_are_there() {
    let root = Workspace::read().unwrap().root;
    let own = files(&root.join("xtask")).into_iter().map(|path| {
        let text = fs::read_to_string(&path).unwrap();
        (path, text)
    });
    let sources: Vec<(PathBuf, String)> = sources().into_iter().chain(own).collect();
    let functions: BTreeSet<&str> = sources
        .iter()
        .flat_map(|(_, text)| {
            text.split("fn ").skip(1).filter_map(|rest| rest.split(['(', '<']).next())
        })
        .collect();
    let document = fs::read_to_string(root.join("docs/reliability.md")).unwrap();
    assert_eq!(lost(&document, &functions), Vec::<String>::new());
    // The control: a test that was renamed, and a row that is missing.
    let renamed = document.replace("`the_units_end_the_daemon_alone`", "`the_units_end`");
    assert_eq!(lost(&renamed, &functions), ["row 16: there is no test `the_units_end`"]);
    let shorter: Vec<&str> = document.lines().filter(|line| !line.starts_with("| 69 |")).collect();
    assert_eq!(lost(&shorter.join("\n"), &functions), ["no row 69"]);
}
