//! docs/operations/runbooks.md has a heading for each problem that the sources can tell.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use stratavore_core::destination::Health;

const PAGE: &str = include_str!("../../../../docs/operations/runbooks.md");

/// The sources of a crate, or of a part of it.
fn sources(below: &str) -> String {
    let mut left = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(below)];
    let mut all = String::new();
    while let Some(path) = left.pop() {
        match fs::read_dir(&path) {
            Ok(entries) => left.extend(entries.map(|entry| entry.unwrap().path())),
            Err(_) => all.push_str(&fs::read_to_string(&path).unwrap()),
        }
    }
    all
}

/// The first text that is given to each call of this.
fn given_to<'a>(sources: &'a str, call: &str) -> BTreeSet<&'a str> {
    let calls = sources.split(call).skip(1);
    calls.filter_map(|rest| rest.trim_start().strip_prefix('"')?.split('"').next()).collect()
}

/// What the product tells, each as it stands in a heading.
fn told() -> BTreeSet<String> {
    let control = sources("stratavore-control/src");
    let doctor = sources("stratavore/src/cmd/doctor") + &sources("stratavore/src/cmd/doctor.rs");
    let mut told: BTreeSet<String> = BTreeSet::new();
    told.extend(given_to(&control, "spawn_task(").into_iter().map(|name| format!("task {name}")));
    told.extend(given_to(&control, "note(").into_iter().map(str::to_owned));
    for call in ["Finding::warning(", "Finding::broken("] {
        told.extend(given_to(&doctor, call).into_iter().map(|check| format!("doctor: `{check}")));
    }
    for health in [Health::Waiting, Health::Blocked, Health::Misconfigured, Health::Stopped] {
        told.insert(format!("rabbitmq is {}", health.as_str()));
    }
    // Whole sentences, of which a part stands in the heading.
    for sentence in [
        "the record is no longer sealed",
        "the key that signs it is gone",
        "nothing was signed after",
        "a queue that they are for is full",
        "consumers have failed on",
        "does not take",
        "a join token was used by two hosts",
        "what is deleted is not tidied up",
        "the record did not stand",
        "the record is not what this host has written",
        "a program inside",
    ] {
        assert!(control.contains(sentence), "the sources do not tell any more: {sentence}");
        told.insert(sentence.into());
    }
    told
}

fn without_heading(page: &str) -> Vec<String> {
    let headings: Vec<&str> = page.lines().filter(|line| line.starts_with("### ")).collect();
    let mut told = told();
    // `doctor: \`a\`, \`b\`` is one heading for several.
    let is_there = |what: &String| {
        headings.iter().any(|heading| match what.strip_prefix("doctor: `") {
            Some(check) => heading.contains("doctor: ") && heading.contains(&format!("`{check}`")),
            None => heading.contains(&format!("`{what}")),
        })
    };
    told.retain(|what| !is_there(what));
    told.into_iter().collect()
}

#[test]
fn each_problem_has_a_heading() {
    let missing = without_heading(PAGE);
    assert_eq!(missing, Vec::<String>::new(), "say in docs/operations/runbooks.md what to do");
    assert!(told().len() > 25, "{:?}", told());
    // The control: a heading that is taken out is missed.
    for heading in ["`task relay`", "doctor: `disk`", "`the store does not answer`"] {
        assert_eq!(without_heading(&PAGE.replace(heading, "x")).len(), 1, "{heading}");
    }
}
