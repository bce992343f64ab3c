//! opencode and Gemini, each in one run of all that their adapters prove: they take long to start.

use serde_json::Value;
use stratavore_testkit::model::{Asked, Purpose, Reply, Said};
use stratavore_testkit::programs::Program;
use stratavore_testkit::world::rows;

use crate::scene::{Scene, comes_in_order};

/// That it works at first may be read together with its question, and is no event of its own then.
const TURN: [&str; 3] = ["needs_permission", "working", "idle"];

/// All that was said in the conversation of which the last thing was this prompt.
fn said_with(scene: &Scene, prompt: &str) -> String {
    let is_it = |asked: &Asked| asked.prompt.contains(prompt) && asked.purpose == Purpose::Main;
    let asked = scene
        .until("the model was asked it", || scene.model.asked().into_iter().find(is_it).ok_or(()));
    let words = asked.said.iter().map(|said| match said {
        Said::User(text) | Said::Model(text) | Said::Tool(text) => text.as_str(),
    });
    words.collect::<Vec<_>>().join("\n")
}

fn sent(scene: &Scene, runner: &str, prompt: &str) -> String {
    scene.until_activity(runner, "idle");
    scene.send(runner, prompt, &["--wait", "2m"]);
    let said = said_with(scene, prompt);
    scene.until_activity(runner, "idle");
    said
}

#[test]
fn opencode_is_proved() {
    let scene = Scene::new(Program::Opencode);
    let model = &scene.model;
    let agent = "[[agent:count the files [[text:there are three]]]] [[text:it has said so]]";
    model.on_prompt("make the first", [Reply::shell("echo one > first.txt"), Reply::text("made")]);
    model.on_prompt("make the second", [Reply::shell("echo two > second.txt"), Reply::text("not")]);
    let first = scene.launch("one", &["--prompt", "make the first, please"]);

    let ask = scene.until_asks(&first);
    let id = ask["id"].as_str().unwrap();
    scene.until_activity(&first, "needs_permission");
    assert_eq!(scene.made("first.txt"), None, "nobody has allowed it");
    // The daemon that took the question in is not the one that takes the answer.
    scene.world.kill_daemon();
    scene.world.run(["approve", id]).ok();
    assert_ne!(scene.world.run(["approve", id]).code(), 0, "an answer counts once");
    scene.until_activity(&first, "idle");
    assert_eq!(scene.made("first.txt").as_deref(), Some("one\n"));
    let activities = scene.activities(&first);
    assert!(comes_in_order(&activities, &TURN), "{activities:?}");

    scene.send(&first, "make the second, please", &[]);
    scene.until_asks(&first);
    scene.world.run(["deny", "one", "--message", "leave it as it is"]).ok();
    scene.until_activity(&first, "idle");
    assert_eq!(scene.made("second.txt"), None);

    sent(&scene, &first, &format!("ask another {agent}"));
    assert_eq!(model.bill().of(Purpose::Subagent).entries.len(), 1, "{}", model.bill());
    scene.until_ledger_is_the_bill();
    scene.world.run(["send", &first, "--raw", "/compact"]).ok();
    scene.until("it was compacted", || match model.bill().of(Purpose::Compaction).entries.len() {
        0 => Err(model.bill().to_string()),
        _ => Ok(()),
    });
    scene.until_activity(&first, "idle");
    scene.until_ledger_is_the_bill();

    scene.kill_assistant(&first);
    scene.world.run(["restart", &first]).ok();
    let live = scene.world.json(&["runners"]);
    let carries_on = |row: &&Value| row["successor_of"] == *first;
    let second = rows(&live).iter().find(carries_on).expect("it is carried on");
    let second = second["id"].as_str().unwrap();
    let said = sent(&scene, second, "go on with it");
    assert!(said.contains("What was said so far"), "its summary is there: {said}");
    scene.until_ledger_is_the_bill();
}

#[test]
fn gemini_is_proved() {
    let scene = Scene::new(Program::Gemini);
    let model = &scene.model;
    model.on_prompt("make the first", [Reply::shell("echo one > first.txt"), Reply::text("made")]);
    model.on_prompt("make the second", [Reply::shell("echo two > second.txt"), Reply::text("not")]);
    let first = scene.launch("one", &["--prompt", "make the first, please"]);

    scene.until_activity(&first, "needs_permission");
    assert_eq!(scene.made("first.txt"), None, "nobody has allowed it");
    let inbox = scene.world.json(&["inbox"]);
    assert!(rows(&inbox).iter().any(|row| row["runner"]["id"] == *first), "{inbox}");
    scene.until("it is allowed on its screen", || {
        let shown = scene.world.runner(&first);
        if shown["activity"] != "needs_permission" {
            return Ok(());
        }
        scene.world.run(["send", &first, "--raw", ""]).ok();
        std::thread::sleep(std::time::Duration::from_millis(300));
        Err(shown["activity"].to_string())
    });
    scene.until_activity(&first, "idle");
    assert_eq!(scene.made("first.txt").as_deref(), Some("one\n"));
    let activities = scene.activities(&first);
    assert!(comes_in_order(&activities, &TURN), "{activities:?}");
    scene.until_ledger_is_the_bill();

    scene.world.kill_daemon();
    scene.send(&first, "make the second, please", &["--wait", "2m"]);
    scene.until_activity(&first, "needs_permission");
    scene.until("it is denied on its screen", || {
        let shown = scene.world.runner(&first);
        if shown["activity"] != "needs_permission" {
            return Ok(());
        }
        scene.world.run(["send", &first, "--raw", "--no-enter", "\u{1b}"]).ok();
        std::thread::sleep(std::time::Duration::from_millis(300));
        Err(shown["activity"].to_string())
    });
    scene.until_activity(&first, "idle");
    assert_eq!(scene.made("second.txt"), None);
    sent(&scene, &first, "the word is walnut");
    scene.until_ledger_is_the_bill();

    scene.kill_assistant(&first);
    scene.world.run(["restart", &first]).ok();
    let live = scene.world.json(&["runners"]);
    let carries_on = |row: &&Value| row["successor_of"] == *first;
    let second = rows(&live).iter().find(carries_on).expect("it is carried on");
    let said = sent(&scene, second["id"].as_str().unwrap(), "say the word");
    assert!(said.contains("made") && said.contains("the word is walnut"), "{said}");
    scene.until_ledger_is_the_bill();
}
