//! Row 82: nobody writes a line of the logs but those whose logs they are.

use std::fs;
use std::path::PathBuf;

use stratavore_testkit::world::{World, until};

use super::{corpus, untamed};
use crate::bad_days::set_mode;

/// A name for a directory that, written as it is, would be an entry of the log, an order to a
/// terminal, and a lie.
const NAME: &str = "h\n2026-11-21T00:00:00Z ERROR no\n{}\r\u{1b}[2J\u{9b}1m\u{202e}";

/// The logs of the daemon and of all agents.
fn logs(world: &World) -> Vec<(PathBuf, Vec<u8>)> {
    let mut paths = vec![world.path("state/daemon.log")];
    let runners = fs::read_dir(world.path("state/runners")).unwrap().flatten();
    paths.extend(runners.map(|runner| runner.path().join("agent.log")));
    let read = |path: PathBuf| fs::read(&path).map(|bytes| (path, bytes)).ok();
    paths.into_iter().filter_map(read).collect()
}

/// Whether each line is an entry of the program's own: an object, or a time and what happened.
fn are_entries(text: &[u8], json: bool) -> Result<(), String> {
    untamed(text)?;
    for line in String::from_utf8_lossy(text).lines() {
        let begins_with_a_time = || line.split(' ').next()?.parse::<jiff::Timestamp>().ok();
        let entry = match json {
            true => serde_json::from_str::<serde_json::Value>(line).is_ok_and(|v| v.is_object()),
            false => begins_with_a_time().is_some_and(|at| at.subsec_nanosecond() != 0),
        };
        if !entry {
            return Err(line.to_owned());
        }
    }
    Ok(())
}

/// A life in which hostile text meets every place that logs, at the most talkative level.
fn told_by_a_hostile_home(format: &str) {
    let world = World::named(NAME);
    let settings =
        format!("daemon:\n  log: {format}\n  log_level: trace\nrunner:\n  launch_timeout: 2s\n");
    fs::write(world.path("stratavore.yaml"), settings).unwrap();
    set_mode(&world.path("stratavore.yaml"), 0o600);
    world.project("demo");
    let texts: Vec<String> = corpus::terminal().into_iter().map(|case| case.text).collect();
    let print = ["sh", "-c", "printf '%s\\n' \"$@\"; exec cat", "sh"];
    let argv: Vec<&str> = print.into_iter().chain(texts.iter().map(String::as_str)).collect();
    let runner = world.launch("demo", "one", &argv);
    for text in texts.iter().step_by(40) {
        world.run(["runners", "show", text]).fails(3);
        world.run(["projects", "edit", "demo", "--description", text]).ok();
        world.run(["send", "one", text]).ok();
    }
    // The agent dials in vain, and says where.
    world.kill_daemon();
    let own = world.path(&format!("state/runners/{runner}/agent.log"));
    until("the agent has said that nobody answers", || match fs::read_to_string(&own) {
        Ok(said) if !said.is_empty() => Ok(()),
        other => Err(other),
    });
    world.run(["daemon", "start"]).ok();
    // What a start that fails says goes to the same log.
    let mut second = world.command("stratavored");
    second
        .stderr(fs::OpenOptions::new().append(true).open(world.path("state/daemon.log")).unwrap());
    assert_eq!(second.status().unwrap().code(), Some(5));

    let found = logs(&world);
    assert_eq!(found.len(), 2);
    for (path, text) in found {
        assert!(!text.is_empty(), "{}", path.display());
        untamed(&text).unwrap_or_else(|found| panic!("{}: {found}", path.display()));
        let own = String::from_utf8_lossy(&text).into_owned();
        // The two last lines of a daemon that did not start are words for people.
        let own: String =
            own.lines().filter(|line| !refusal(line)).map(|line| format!("{line}\n")).collect();
        let json = format == "json" && path.ends_with("daemon.log");
        are_entries(own.as_bytes(), json)
            .unwrap_or_else(|line| panic!("{}: {line}", path.display()));
    }
}

fn refusal(line: &str) -> bool {
    line.starts_with("stratavored: ") || line.starts_with("next: ")
}

#[test]
fn hostile_text_makes_no_line_of_a_log_for_people() {
    told_by_a_hostile_home("human");
}

#[test]
fn hostile_text_makes_no_line_of_a_log_for_programs() {
    told_by_a_hostile_home("json");
}

/// The control: the check notices a line that was forged, and what a terminal would obey.
#[test]
fn the_check_of_logs_notices_what_is_no_entry() {
    let human = "2026-11-21T15:41:18.668691Z  INFO ready socket=/x\n";
    let json = "{\"timestamp\":\"2026-11-21T15:41:18Z\",\"message\":\"ready\"}\n";
    are_entries(human.as_bytes(), false).unwrap();
    are_entries(json.as_bytes(), true).unwrap();
    for (text, is_json) in [(human, false), (json, true)] {
        for harm in [NAME, "forged\n", "\u{1b}[2J", "\u{202e}"] {
            are_entries(format!("{text}{harm}").as_bytes(), is_json).unwrap_err();
        }
    }
}
