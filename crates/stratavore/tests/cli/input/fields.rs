//! Rows 73 to 75: statements, patterns and topics in every field of text are only text.

use std::fs;
use std::time::{Duration, Instant};

use stratavore_proto::client::Client;
use stratavore_proto::v1::{
    CreateProject, EditProject, EventFilter, GetProject, GetRunner, LaunchRunners, ListEvents,
    SendToRunner,
};
use stratavore_store::testing::sqlite_number;
use stratavore_testkit::world::{World, until};

use super::{corpus, tame};
use crate::bad_days::told;
use stratavore_testkit::wire::{client, fresh_key, new_project, on_runtime, refusal};

/// Row 73. Stored and told again as it was, or refused; and nothing else has changed.
#[test]
fn text_that_would_end_a_statement_is_text_in_every_field() {
    let world = World::new();
    world.project("demo");
    world.project("other");
    let sent = world.work().join("sent");
    let listener = ["sh", "-c", "stty raw -echo; echo ready; exec cat > sent"];
    let runner = world.launch("demo", "listener", &listener);
    until("it listens", || match world.recorded(&runner) {
        ready if ready.ends_with(b"ready\n") => Ok(()),
        other => Err(other),
    });
    let bystander = || {
        let project = world.json(&["projects", "show", "other"]);
        let events = world.json(&["events", "list", "--after", "0", "--project", "other"]);
        (project, events)
    };
    let (before, tables) = (bystander(), count(&world, "sqlite_master"));

    let mut typed = String::new();
    on_runtime(async {
        let client = client(&world).await;
        for text in corpus::SQL {
            refused_as_names(&client, &world, text).await;
            kept_as_texts(&client, text).await;
            let send = SendToRunner {
                runner: runner.clone(),
                data: text.as_bytes().to_vec().into(),
                ..SendToRunner::default()
            };
            client.runners().send(send).await.unwrap();
            typed.push_str(text);
        }
    });
    until("what was sent has arrived", || match fs::read_to_string(&sent).unwrap() {
        arrived if arrived == typed => Ok(()),
        other => Err(other),
    });

    assert_eq!(bystander(), before, "nothing else has changed");
    assert_eq!(count(&world, "sqlite_master"), tables);
    let projects = count(&world, "projects");
    assert_eq!(projects, world.json(&["projects"]).as_array().unwrap().len() as i64);
    let file = world.path("state/stratavore.db");
    on_runtime(async {
        let sound = "SELECT count(*) FROM pragma_integrity_check WHERE integrity_check = 'ok'";
        assert_eq!(sqlite_number(&file, sound).await, 1);
        // The control: the same text in a statement that was put together finds every project.
        let glued = format!("SELECT count(*) FROM projects WHERE id = '{}'", corpus::SQL[2]);
        assert_eq!(sqlite_number(&file, &glued).await, projects);
    });
}

fn count(world: &World, table: &str) -> i64 {
    let file = world.path("state/stratavore.db");
    let rows = format!("SELECT count(*) FROM {table}");
    on_runtime(async { sqlite_number(&file, &rows).await })
}

async fn refused_as_names(client: &Client, world: &World, text: &str) {
    let project = new_project(world, text, fresh_key("sql"));
    assert_eq!(refusal(client.projects().create(project).await).code, "invalid", "{text}");
    let launch = LaunchRunners {
        idempotency_key: fresh_key("sql"),
        project: "demo".into(),
        name: text.into(),
        args: vec!["true".into()],
        ..LaunchRunners::default()
    };
    assert_eq!(refusal(client.runners().launch(launch.clone()).await).code, "invalid", "{text}");
    let launch = LaunchRunners { name: String::new(), assistant: text.into(), ..launch };
    assert_eq!(refusal(client.runners().launch(launch).await).code, "invalid", "{text}");
    let get = GetProject { project: text.into() };
    assert_eq!(refusal(client.projects().get(get).await).code, "not_found", "{text}");
    for (runner, project) in [(text, ""), ("listener", text)] {
        let get = GetRunner { runner: runner.into(), project: project.into() };
        assert_eq!(refusal(client.runners().get(get).await).code, "not_found", "{text}");
    }
    for (kinds, runner, code) in [(text, "", None), ("", text, Some("not_found"))] {
        let filter = EventFilter {
            kinds: (!kinds.is_empty()).then(|| kinds.into()).into_iter().collect(),
            runner: runner.into(),
            ..EventFilter::default()
        };
        let list = ListEvents { filter: Some(filter), after: Some(0), limit: 10 };
        let listed = client.events().list(list).await;
        match code {
            None => assert!(listed.unwrap().into_inner().events.is_empty(), "{text}"),
            Some(code) => assert_eq!(refusal(listed).code, code, "{text}"),
        }
    }
}

async fn kept_as_texts(client: &Client, text: &str) {
    let edit = EditProject {
        idempotency_key: fresh_key("sql"),
        project: "demo".into(),
        description: Some(text.into()),
        ..EditProject::default()
    };
    let edited = client.projects().edit(edit).await.unwrap().into_inner();
    assert_eq!(edited.description, text);
    let launch = LaunchRunners {
        idempotency_key: fresh_key("sql"),
        project: "demo".into(),
        args: vec!["true".into(), text.into()],
        env: vec![format!("TEXT={text}")],
        ..LaunchRunners::default()
    };
    let launched = client.runners().launch(launch).await.unwrap().into_inner().runners.remove(0);
    let get = GetRunner { runner: launched.id, project: String::new() };
    let shown = client.runners().get(get).await.unwrap().into_inner();
    assert_eq!(shown.argv, ["true", text]);
    assert_eq!(shown.env[0].value, text);

    // A key is a key or none at all; with one, the second time has no effect.
    let visible: String = text.chars().filter(char::is_ascii_graphic).collect();
    for key in std::collections::BTreeSet::from([text, &visible]) {
        let create = CreateProject {
            idempotency_key: key.into(),
            name: fresh_key("by-key"),
            directory: "/".into(),
            ..CreateProject::default()
        };
        match client.projects().create(create.clone()).await {
            Ok(first) => {
                let again = client.projects().create(create).await.unwrap();
                assert_eq!(first.into_inner().id, again.into_inner().id, "{text}");
            }
            refused if key != visible => assert_eq!(refusal(refused).code, "invalid", "{text}"),
            refused => panic!("{key} is a key: {refused:?}"),
        }
    }
}

/// Texts that select more than themselves wherever they are taken for patterns.
const PATTERNS: [&str; 20] = [
    "%",
    "_",
    "a%",
    "a_b",
    "*",
    "?",
    "a*",
    "a?b",
    "[a-z]*",
    "{a.b,aXb}",
    ".*",
    "a.*",
    "^a",
    "a$",
    "(a+)+$",
    "a\\.b",
    "|",
    "a.b|aXb",
    "!a",
    "**",
];

/// Row 74. A filter finds what it names, or nothing.
#[test]
fn a_pattern_in_a_filter_is_a_name_and_finds_nothing_else() {
    let world = World::new();
    for name in ["a.b", "aXb", "a-b"] {
        world.project(name);
        world.launch(name, &name.replace('a', "r"), &["sleep", "1000"]);
    }
    let live = || world.json(&["runners"]).as_array().unwrap().len();
    let own = |pattern: &str| pattern.replace('a', "r");
    for pattern in PATTERNS {
        told(tame(world.run(["projects", "show", pattern]), pattern), 3, &["no project"]);
        told(world.run(["runners", "--project", pattern]), 3, &["no project"]);
        told(world.run(["events", "--project", pattern]), 3, &["no project"]);
        let runner = own(pattern);
        told(world.run(["runners", "show", &runner]), 3, &["no runner"]);
        told(world.run(["events", "--runner", &runner]), 3, &["no runner"]);
        told(world.run(["kill", &runner, "--force"]), 3, &["no runner"]);
        let events = world.json(&["events", "--kind", &format!("runner.{pattern}")]);
        assert_eq!(events.as_array().unwrap().len(), 0, "{pattern}");
    }
    for prefix in ["run_%", "run__", "run_*", "run_[0-9]", "prj_%"] {
        told(world.run(["runners", "show", prefix]), 3, &["no runner"]);
        told(world.run(["kill", prefix, "--force"]), 3, &["no runner"]);
    }
    assert_eq!(live(), 3, "nobody was meant");

    // One on which an expression would work for a very long time.
    let evil = format!("{}!", "a".repeat(60_000));
    let began = Instant::now();
    let refused = world.run(["events", "--kind", &evil, "--kind", "(a+)+$"]).fails(2);
    assert!(refused.stderr().contains("over the limit of 100"), "{}", refused.stderr());
    let long = format!("{}!", "a".repeat(90));
    world.run(["events", "--kind", &long, "--kind", "(a+)+$"]).ok();
    world.run(["runners", "show", &evil]).fails(3);
    assert!(began.elapsed() < Duration::from_secs(10));

    // The control: the names themselves find themselves, and only that.
    for name in ["a.b", "aXb", "a-b"] {
        let found = world.json(&["runners", "--project", name]);
        assert_eq!(found.as_array().unwrap().len(), 1, "{name}");
        assert_eq!(found[0]["name"], own(name));
        world.run(["kill", &own(name), "--force"]).ok();
    }
    assert_eq!(live(), 0);
}

/// Row 75. What an event is filed under is its kind and its entity's id, and no name is part of it.
#[test]
fn no_name_is_part_of_what_an_event_is_filed_under() {
    let world = World::new();
    for name in ["a.#", "*.b", "a b", "#", "runner.*", "a/b", &"x".repeat(300)] {
        told(world.run(["new", name]), 2, &["name"]);
    }
    // The worst of those that are names.
    let long = "runner.exited.".repeat(5)[..63].trim_end_matches('.').to_owned();
    let names = ["runner.exited", "project.created", "a..b", "1.-_.", &long];
    for name in names {
        world.project(name);
        world.launch(name, name, &["true"]);
        world.run(["runners", "--all", "--project", name]).ok();
    }
    let ended = || world.json(&["events", "--kind", "runner.exited"]).as_array().unwrap().len();
    until("all have ended and it was published", || match ended() {
        5 => Ok(()),
        other => Err(other),
    });
    let all = world.json(&["events", "list", "--after", "0", "--limit", "1000"]);
    let word = |text: &str| text.chars().all(|c| c.is_ascii_lowercase() || c == '_');
    for event in all.as_array().unwrap() {
        let text = |field: &str| event[field].as_str().unwrap();
        let (entity, deed) = text("kind").split_once('.').unwrap();
        assert!(word(entity) && word(deed) && entity == text("entity"), "{event}");
        let id = text("entity_id");
        assert_eq!((id.len(), &id[3..4]), (24, "_"), "{event}");
        assert!(id[4..].bytes().all(|byte| byte.is_ascii_alphanumeric()), "{event}");
        assert!(text("kind").len() + id.len() < 255);
    }
    // A project that is called like a kind is none.
    for name in names {
        let own = world.json(&["events", "list", "--after", "0", "--project", name]);
        let own = own.as_array().unwrap();
        assert!(own.iter().filter(|event| event["kind"] == "project.created").count() == 1);
        let of_kind =
            world.json(&["events", "list", "--after", "0", "--project", name, "--kind", "runner."]);
        assert_eq!(of_kind.as_array().unwrap().len(), own.len() - 1, "{name}");
    }
}
