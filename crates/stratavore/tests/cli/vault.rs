//! Conversations of before, taken in; searched; given out and taken in elsewhere.

use std::fs;
use std::path::{Path, PathBuf};

use stratavore_store::testing::sqlite_execute;
use stratavore_testkit::wire::on_runtime;
use stratavore_testkit::world::{World, rows, until};

/// A world whose user has a home of their own.
pub(crate) fn world() -> World {
    with_home(World::new())
}

fn with_home(mut world: World) -> World {
    let home = world.path("home");
    fs::create_dir_all(&home).unwrap();
    world.set_env("HOME", &home.display().to_string());
    world
}

fn with_project() -> World {
    let world = world();
    world.project("demo");
    world
}

/// A transcript as Claude Code writes it: a question, an answer, and a file that it looked at.
pub(crate) fn transcript(session: &str, directory: &Path, words: &str) -> String {
    let line = |kind: &str, number: u32, content: serde_json::Value| {
        let mut message = serde_json::json!({ "role": kind, "content": content });
        if kind == "assistant" {
            message["id"] = format!("msg_{session}_{number}").into();
            message["model"] = "claude-large".into();
            message["usage"] = serde_json::json!({ "input_tokens": 10, "output_tokens": 20 });
        }
        serde_json::json!({
            "type": kind, "uuid": format!("{session}-{number}"), "sessionId": session,
            "timestamp": format!("2026-10-01T10:00:{number:02}Z"), "cwd": directory,
            "version": "2.1.197", "message": message,
        })
        .to_string()
    };
    let text = |text: String| serde_json::json!([{ "type": "text", "text": text }]);
    [
        line("user", 1, format!("please mend the {words}").into()),
        line("assistant", 2, text(format!("I have mended the {words} in the relay"))),
    ]
    .map(|line| line + "\n")
    .concat()
}

/// Puts a transcript where the daemon's user has those of Claude Code.
pub(crate) fn put(world: &World, session: &str, text: &str) -> PathBuf {
    let directory = world.path("home").join(".claude/projects/-work");
    fs::create_dir_all(&directory).unwrap();
    let path = directory.join(format!("{session}.jsonl"));
    fs::write(&path, text).unwrap();
    path
}

pub(crate) const ONE: &str = "11111111-1111-4111-8111-111111111111";
pub(crate) const TWO: &str = "22222222-2222-4222-8222-222222222222";

#[test]
fn conversations_of_before_are_taken_in_found_and_handed_over() {
    let world = with_project();
    let inside = transcript(ONE, &world.work().join("deep"), "flaky heartbeat");
    let path = put(&world, ONE, &inside);
    put(&world, TWO, &transcript(TWO, Path::new("/somewhere/else"), "crooked picture"));

    let dry = world.run(["import", "--dry-run"]).ok().stdout();
    assert!(dry.contains("demo") && dry.contains("imported"), "{dry}");
    assert!(world.json(&["search", "heartbeat"]).as_array().is_none_or(Vec::is_empty));
    let taken = world.run(["import"]).ok().stdout();
    assert!(
        taken.contains("demo claude ses_") && taken.contains("imported claude ses_"),
        "{taken}"
    );
    let again = world.run(["import"]).ok().stdout();
    assert!(again.contains("(0 messages, 0 B)"), "{again}");

    let found = world.json(&["search", "flaky heartbeat", "--by", "words"]);
    let found = found.as_array().unwrap();
    assert_eq!(found.len(), 2, "{found:?}");
    for hit in found {
        assert_eq!((&hit["project"], &hit["external_id"]), (&"demo".into(), &ONE.into()));
        assert_eq!(hit["file"], path.display().to_string());
        let session = hit["session"].as_str().unwrap();
        assert_eq!(hit["resume"], format!("stratavore sessions resume {session}"));
        let message = hit["message"].as_str().unwrap();
        let open = format!("stratavore sessions messages {session} --from {message}");
        assert_eq!(hit["open"], open);
        // It begins there, and it is what is shown.
        let words: Vec<&str> = open.split(' ').skip(1).collect();
        let opened = world.json(&words);
        assert_eq!(opened[0]["id"], message);
        assert!(world.run(["search", "flaky heartbeat"]).ok().stdout().contains(&open));
    }
    let session = found[0]["session"].as_str().unwrap().to_owned();
    let of = |filter: &[&str]| {
        let asked = [&["search", "mend*", "--by", "words"], filter].concat();
        world.json(&asked).as_array().map_or(0, Vec::len)
    };
    assert_eq!((of(&[]), of(&["--project", "imported"])), (4, 2));
    assert_eq!((of(&["--role", "user"]), of(&["--session", &session])), (2, 2));
    assert_eq!((of(&["--since", "2026-11-01T00:00:00Z"]), of(&["--assistant", "codex"])), (0, 0));
    let shown = world.run(["search", "flaky"]).ok().stdout();
    assert!(shown.contains("flaky") && shown.contains("sessions resume"), "{shown}");
    assert!(world.run(["search", "nothingofthekind", "--by", "words"]).ok().stdout().is_empty());
    world.run(["search", "-", "--by", "words"]).fails(2);
    let messages = world.run(["sessions", "messages", ONE]).ok().stdout();
    assert!(messages.contains("please mend the flaky heartbeat"), "{messages}");

    // It comes out as it was, and goes in elsewhere.
    let out = world.path("handover");
    world.run(["sessions", "export", ONE, &out.display().to_string()]).ok().stdout();
    let given = out.join("transcripts").join(format!("001-{ONE}.jsonl"));
    assert_eq!(fs::read_to_string(&given).unwrap(), inside);
    world.run(["sessions", "export", ONE, &out.display().to_string()]).fails(5);
    let other = with_project();
    let out_text = out.display().to_string();
    let import = ["sessions", "import", &out_text];
    assert!(other.run(import).ok().stdout().contains("1 new files"));
    assert!(other.run(import).ok().stdout().contains("0 new files"));
    assert_eq!(
        other.json(&["search", "flaky heartbeat", "--by", "words"]).as_array().unwrap().len(),
        2
    );
    let once_more = other.path("once-more");
    other.run(["sessions", "export", ONE, &once_more.display().to_string()]).ok().stdout();
    let given_again = fs::read_dir(once_more.join("transcripts")).unwrap().next().unwrap().unwrap();
    assert_eq!(fs::read_to_string(given_again.path()).unwrap(), inside);

    // The control: one byte is another one.
    let third = with_project();
    fs::write(&given, inside.replace("flaky", "fluky")).unwrap();
    let refused = third.run(import).fails(2);
    assert!(refused.stderr().contains("is not the"));
    assert!(third.run(["sessions", "messages", ONE]).ok().stdout().is_empty());
}

/// As aider itself has written it, in the directory that it worked in.
const AIDER: &str =
    include_str!("../../../stratavore-assistants/tests/samples/aider/chat_history.md");

#[test]
fn what_aider_has_kept_in_a_project_is_taken_in_found_and_given_out() {
    let world = with_project();
    fs::write(world.work().join(".aider.chat.history.md"), AIDER).unwrap();
    // What is in no project is not looked for.
    fs::write(world.path("home").join(".aider.chat.history.md"), AIDER).unwrap();
    let import = ["import", "--assistant", "aider"];
    let taken = world.run(import).ok().stdout();
    assert_eq!(taken.matches("demo aider ses_").count(), 1, "{taken}");
    assert!(world.run(import).ok().stdout().contains("(0 messages, 0 B)"));

    let found = world.json(&["search", "hello from aider", "--by", "words", "--role", "assistant"]);
    let hit = &rows(&found)[0];
    assert_eq!((&hit["assistant"], &hit["project"]), (&"aider".into(), &"demo".into()), "{found}");
    let session = hit["session"].as_str().unwrap();
    assert!(said_in(&world, session).contains("hello from aider"));
    // It rounds what it has used, so that is no bill.
    assert_eq!(world.json(&["usage"])["total"]["messages"], 0);
    let out = world.path("out");
    world.run(["sessions", "export", session, &out.display().to_string()]).ok();
    let given = fs::read_dir(out.join("transcripts")).unwrap().next().unwrap().unwrap();
    assert_eq!(fs::read_to_string(given.path()).unwrap(), AIDER);
}

const THREE: &str = "33333333-3333-4333-8333-333333333333";

/// The session was last used so many days ago.
fn ages(world: &World, session: &str, days: i64) {
    let sql = format!(
        "UPDATE sessions SET updated_at = unixepoch() * 1000000 - {} WHERE external_id = '{session}'",
        days * 24 * 3600 * 1_000_000
    );
    let file = world.path("state/stratavore.db");
    assert_eq!(on_runtime(sqlite_execute(&file, &sql)), 1, "{session}");
}

fn said_in(world: &World, session: &str) -> String {
    world.run(["sessions", "messages", session]).stdout()
}

#[test]
fn each_project_s_conversations_are_kept_for_as_long_as_is_said() {
    let world = with_home(World::with_config("vault:\n  keep_projects: [demo=2d]\n"));
    world.project("demo");
    put(&world, ONE, &transcript(ONE, &world.work(), "old heartbeat"));
    put(&world, TWO, &transcript(TWO, Path::new("/somewhere/else"), "crooked picture"));
    put(&world, THREE, &transcript(THREE, &world.work(), "young heartbeat"));
    world.run(["import"]).ok();
    for session in [ONE, TWO, THREE] {
        assert!(said_in(&world, session).contains("please mend"), "{session}");
    }
    world.kill_daemon();
    ages(&world, ONE, 3);
    ages(&world, TWO, 300);
    ages(&world, THREE, 1);
    world.run(["daemon", "start"]).ok();
    until("the old one of the project is forgotten", || match said_in(&world, ONE) {
        said if said.is_empty() => Ok(()),
        said => Err(said),
    });
    // Of the other project nobody has said how long.
    for session in [TWO, THREE] {
        assert!(said_in(&world, session).contains("please mend"), "{session}");
    }
    let found = world.json(&["search", "old heartbeat", "--by", "words"]);
    assert!(found.as_array().is_none_or(Vec::is_empty), "{found}");
    let record = world.json(&["audit", "list", "--limit", "500"]);
    let of_it = |row: &&serde_json::Value| row["kind"] == "session.expired";
    assert_eq!(rows(&record).iter().filter(of_it).count(), 1, "{record}");
}
