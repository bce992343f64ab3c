//! Row 79: an argument is an argument of the runner's program, whatever it looks like, and never one
//! of ours nor a word for a shell.

use std::fs;

use stratavore_proto::v1::LaunchRunners;
use stratavore_testkit::world::{World, until};

use super::{corpus, tame};
use crate::bad_days::{runners, set_mode, told};
use stratavore_testkit::wire::{client, fresh_key, on_runtime, refusal};

/// What options, shells, and their quoting make something of.
const ARGUMENTS: [&str; 22] = [
    "--dangerously-skip-permissions",
    "--",
    "-",
    "--help",
    "--project=other",
    "-p",
    "--env=LD_PRELOAD=/x",
    "--format",
    "json",
    "",
    " ",
    "two words",
    "line\nbreak",
    "$(touch canary)",
    "`touch canary`",
    "; touch canary #",
    "| tee canary",
    "> canary",
    "'\"\\",
    "*",
    "~",
    "\u{1b}[2J\u{202e}",
];

/// A world whose `claude` is a program that writes down what it was called with.
fn world() -> World {
    let mut world = World::new();
    let program = world.path("recorder");
    fs::write(
        &program,
        "#!/bin/sh\nprintf '%s\\0' \"$0\" \"$@\" > called.new\nmv called.new called\n",
    )
    .unwrap();
    set_mode(&program, 0o755);
    let settings = format!(
        "assistants:\n  claude:\n    program: {}\n    args: [--configured]\n",
        program.display()
    );
    fs::write(world.path("stratavore.yaml"), settings).unwrap();
    set_mode(&world.path("stratavore.yaml"), 0o600);
    world.set_env("CANARY", "touch canary");
    world.project("demo");
    world.project("other");
    world
}

/// What the program was called with.
fn called(world: &World) -> Vec<String> {
    let file = world.work().join("called");
    let called = until("the program was called", || fs::read_to_string(&file));
    fs::remove_file(file).unwrap();
    called.split_terminator('\0').map(String::from).collect()
}

#[test]
fn every_argument_reaches_the_program_as_it_is_and_stands_in_the_record() {
    let world = world();
    let program = world.path("recorder").display().to_string();
    let sql = corpus::SQL.iter().chain(&ARGUMENTS).copied();
    let arguments: Vec<&str> = ARGUMENTS.iter().copied().chain(sql).collect();

    // An assistant: its program, what is configured, then ours.
    let launch = ["launch", "-p", "demo", "-a", "claude", "--name", "one", "--format=json", "--"];
    let launched = world.run(launch.iter().chain(&arguments)).ok();
    let recorded = called(&world);
    assert_eq!(recorded[..2], [program.as_str(), "--configured"]);
    // What is ours comes between: the conversation, and how it is observed.
    assert!(recorded.ends_with(&arguments.iter().map(ToString::to_string).collect::<Vec<_>>()));
    let shown = world.runner("one");
    let asked: Vec<&str> =
        [program.as_str(), "--configured"].into_iter().chain(arguments.iter().copied()).collect();
    assert_eq!(shown["argv"], serde_json::json!(asked), "what was asked for is on record");
    assert_eq!((&shown["name"], &shown["project"]), (&"one".into(), &"demo".into()));
    assert_eq!(shown["env"], serde_json::json!({}), "no argument has become an option of ours");
    tame(launched, "launch");

    // Any command: the first is the program, and a shell only if it is called.
    let launch = ["launch", "-p", "demo", "--name", "two", "--", &program];
    world.run(launch.iter().chain(&arguments)).ok();
    assert_eq!(called(&world)[1..], arguments);
    assert!(!world.work().join("canary").exists(), "no shell has read any of it");
    assert!(!world.path("canary").exists());

    // The control: a shell that is asked for does read it.
    let launch = ["launch", "-p", "demo", "--", "sh", "-c", "$(echo touch) canary"];
    world.run(launch).ok();
    until("a shell makes the canary", || match world.work().join("canary").exists() {
        true => Ok(()),
        false => Err(()),
    });
}

#[test]
fn without_the_separator_an_argument_is_an_option_of_ours_or_refused() {
    let world = world();
    let refused = |arguments: &[&str]| {
        let ran = tame(world.run(arguments), "a refusal").fails(2);
        assert!(ran.stderr().contains("error: "), "{}", ran.everything());
    };
    for option in ["--dangerously-skip-permissions", "--resume", "-x", "--configured=1"] {
        refused(&["launch", "-p", "demo", "-a", "claude", option]);
        refused(&["new", "third", option]);
        refused(&["kill", option]);
        refused(&["send", "one", option]);
    }
    // A name that looks like an option, or like more than a name.
    for name in
        ["--help", "-a", "claude --resume", "claude;id", "../recorder", "/bin/sh", "Claude\n"]
    {
        for field in ["--assistant", "--name"] {
            let given = format!("{field}={name}");
            told(world.run(["launch", "-p", "demo", &given, "--", "true"]), 2, &["name"]);
        }
        told(world.run(["projects", "edit", "demo", &format!("--assistant={name}")]), 2, &["name"]);
    }
    // What no argument can hold is refused before anybody is admitted.
    on_runtime(async {
        let client = client(&world).await;
        for args in [vec!["true".into(), "a\0b".into()], vec!["\0".into()], vec![String::new()]] {
            let launch = LaunchRunners {
                idempotency_key: fresh_key("argument"),
                project: "demo".into(),
                assistant: "generic".into(),
                args,
                ..LaunchRunners::default()
            };
            assert_eq!(refusal(client.runners().launch(launch).await).code, "invalid");
        }
    });
    assert!(runners(&world).is_empty());
    assert!(!world.work().join("called").exists());

    // The control: after the separator the same is the assistant's.
    world
        .run(["launch", "-p", "demo", "-a", "claude", "--", "--dangerously-skip-permissions"])
        .ok();
    let called = called(&world);
    let (first, last) = (called.get(1), called.last());
    assert_eq!(first.map(String::as_str), Some("--configured"));
    assert_eq!(last.map(String::as_str), Some("--dangerously-skip-permissions"));
}

/// What is sent is typed, and nothing of it is taken for an option or a key of ours.
#[test]
fn what_is_sent_is_typed_as_it_is() {
    let world = world();
    let listener = ["sh", "-c", "stty raw -echo; echo ready; exec cat > sent"];
    let runner = world.launch("demo", "one", &listener);
    until("it listens", || match world.recorded(&runner) {
        ready if ready.ends_with(b"ready\n") => Ok(()),
        other => Err(other),
    });
    let mut expected = String::new();
    for text in ARGUMENTS.iter().filter(|text| !text.is_empty()) {
        world.run(["send", "one", "--no-enter", "--", text]).ok();
        expected.push_str(text);
    }
    until("all of it has arrived", || match fs::read_to_string(world.work().join("sent")) {
        Ok(sent) if sent == expected => Ok(()),
        other => Err(other),
    });
}
