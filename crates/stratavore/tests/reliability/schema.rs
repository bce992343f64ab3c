//! What is published fits the schema of its kind, and every kind has one.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use stratavore_testkit::rabbit::{validate, vhost};
use stratavore_testkit::world::until;

use crate::outbox::Outlet;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn schemas() -> PathBuf {
    root().join("docs/events")
}

/// Every text `"noun.deed"` in the sources of the crates that make events.
fn emitted() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for name in ["core", "control", "store"] {
        let mut directories = vec![root().join(format!("crates/stratavore-{name}/src"))];
        while let Some(directory) = directories.pop() {
            for entry in std::fs::read_dir(directory).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    directories.push(path);
                } else if path.extension().is_some_and(|extension| extension == "rs") {
                    let text = std::fs::read_to_string(&path).unwrap();
                    found.extend(text.split('"').filter(|word| is_kind(word)).map(str::to_owned));
                }
            }
        }
    }
    found
}

fn is_kind(word: &str) -> bool {
    let nouns = ["project.", "runner.", "session.", "node.", "budget.", "request.", "system."];
    let deed = nouns.iter().find_map(|noun| word.strip_prefix(noun));
    deed.is_some_and(|deed| {
        !deed.is_empty() && deed.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')
    })
}

#[test]
fn every_kind_of_event_has_a_schema_and_no_other_is_described() {
    let files = std::fs::read_dir(schemas()).unwrap().map(|entry| entry.unwrap().path());
    let described: BTreeSet<String> =
        files.map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned()).collect();
    let emitted = emitted();
    assert!(emitted.len() > 20, "{emitted:?}");
    assert_eq!(emitted, described);
}

#[test]
fn whoever_asks_for_runners_that_have_stopped_gets_every_end() {
    let outlet = Outlet::bound(vhost(), &["runner.stopped.*"]);
    let world = outlet.world(&[]);
    world.project("alpha");
    world.launch("alpha", "ends", &["true"]);
    world.launch("alpha", "fails", &["false"]);
    let ends = until("both ends have arrived", || {
        let received = outlet.consumer.received();
        let kinds = received.iter().map(|one| one.envelope()["type"].as_str().unwrap().to_owned());
        let kinds: BTreeSet<String> = kinds.collect();
        if kinds.len() == 2 { Ok(kinds) } else { Err(kinds) }
    });
    let expected = ["stratavore.runner.exited", "stratavore.runner.failed"].map(str::to_owned);
    assert_eq!(ends, BTreeSet::from(expected), "and nothing else of a runner");
}

#[test]
fn what_is_published_fits_its_schema() {
    let outlet = Outlet::new(vhost());
    let world = outlet.world(&[]);
    world.project("alpha");
    world.run(["projects", "edit", "alpha", "--description", "a\u{1b}[31m \"one\""]).ok();
    world.launch("alpha", "ends", &["true"]);
    let stays = world.launch_with("alpha", "stays", &["--restart", "on-failure"], &["cat"]);
    for command in ["pause", "unpause", "restart"] {
        world.run([command, "stays"]).ok();
    }
    world.until_state(&stays, &["running"]);
    world.run(["budget", "set", "small", "--runner", &stays, "--time", "1s"]).ok();
    world.run(["budget", "set", "small", "--amount", "2s", "--step", "1=notify,100=ask"]).ok();
    until("it is used up", || match world.runner(&stays) {
        shown if shown["desired"] == "paused" => Ok(()),
        shown => Err(shown),
    });
    world.run(["budget", "allow", "stays"]).ok();
    world.run(["budget", "rm", "small"]).ok();
    world.run(["kill", "stays", "--force"]).ok();
    for command in ["archive", "delete"] {
        world.run(["projects", command, "alpha"]).ok();
    }
    let received = outlet.drained(Duration::from_secs(20)).unwrap();
    let kinds: BTreeSet<String> =
        received.iter().map(|one| one.envelope()["type"].to_string()).collect();
    assert!(kinds.len() > 10, "{kinds:?}");
    assert_eq!(outlet.consumer.validate(&schemas()), Ok(received.len()));
    for one in &received {
        let (of, line) = (one.envelope(), &one.line);
        let kind = of["type"].as_str().unwrap().strip_prefix("stratavore.").unwrap();
        let about = match kind {
            "system.alert" => of["data"]["severity"].as_str().unwrap(),
            _ => of["projectid"].as_str().unwrap_or(of["subject"].as_str().unwrap()),
        };
        assert_eq!(line["routing_key"], format!("{kind}.{about}"));
        assert_eq!(one.id, of["id"].as_str().unwrap());
        assert_eq!(line["properties"]["type"], of["type"]);
        assert_eq!(line["properties"]["app_id"], "stratavore");
        assert_eq!(line["properties"]["delivery_mode"], 2);
        assert_eq!(line["properties"]["content_type"], "application/cloudevents+json");
    }

    // The control: without a field, or of an unknown kind, it does not fit.
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("wrong");
    let mut wrong = received[0].line.clone();
    wrong["envelope"].as_object_mut().unwrap().remove("entityseq");
    let mut unknown = received[0].line.clone();
    unknown["envelope"]["type"] = "stratavore.runner.flown".into();
    std::fs::write(&file, format!("{wrong}\n{unknown}\n")).unwrap();
    let said = validate(&file, &schemas()).unwrap_err();
    assert!(said.contains("entityseq") && said.contains("no schema"), "{said}");
}
