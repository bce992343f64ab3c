//! What an assistant asks is in the inbox; from there it is let go on, or not, once.

use serde_json::Value;
use stratavore_testkit::model::{Reply, Said};
use stratavore_testkit::programs::Program;
use stratavore_testkit::world::rows;

use crate::scene::{Scene, refusal};

/// That it works before and after may be read together with its question and its end, and is no event of its
/// own then.
const TURN: [&str; 2] = ["needs_permission", "idle"];

/// One thing is approved, a second time to no avail, and the next thing is denied.
fn is_asked_and_answered(program: Program) {
    let scene = Scene::new(program);
    scene.model.on_prompt(
        "make the first",
        [Reply::escalated("echo one > first.txt"), Reply::text("the first is made")],
    );
    scene.model.on_prompt(
        "make the second",
        [Reply::escalated("echo two > second.txt"), Reply::text("it is not made")],
    );
    let runner = scene.launch("one", &["--prompt", "make the first, please"]);

    let ask = scene.until_asks(&runner);
    let id = ask["id"].as_str().unwrap();
    assert_eq!(ask["answerable"], true, "{ask}");
    assert!(ask["text"].as_str().unwrap().contains("first.txt"), "{ask}");
    scene.until_activity(&runner, "needs_permission");
    assert_eq!(scene.made("first.txt"), None, "nobody has allowed it");

    // The daemon that took the question in is not the one that takes the answer.
    scene.world.kill_daemon();
    let approved = scene.world.json(&["approve", id]);
    assert_eq!((&approved["state"], &approved["allowed"]), (&"answered".into(), &true.into()));
    let again = scene.world.run(["deny", id]);
    assert_ne!(again.code(), 0, "an answer counts once: {}", again.everything());
    scene.until_activity(&runner, "idle");
    assert_eq!(scene.made("first.txt").as_deref(), Some("one\n"));
    scene.until_did(&runner, &TURN);

    scene.send(&runner, "make the second, please", &[]);
    let ask = scene.until_asks(&runner);
    assert_ne!(ask["id"], id);
    let busy = scene.world.run(["send", &runner, "and a third", "--format", "json"]);
    assert_eq!(refusal(&busy)["code"], "busy", "{}", busy.everything());
    denied(&scene, &runner);
    assert_eq!(scene.made("second.txt"), None);
    assert!(!scene.model.asked().iter().any(|asked| asked.says("and a third")));

    on_the_record(&scene, id);
    scene.until_ledger_is_the_bill();
}

/// Denies what the runner asks, with words for the model where its assistant takes some.
fn denied(scene: &Scene, runner: &str) {
    let with_words = scene.world.run(["deny", "one", "--message", "leave it as it is"]);
    if matches!(scene.program, Program::Codex | Program::Gemini) {
        // Their dialogs take keys only, and nothing was answered with what they cannot take.
        with_words.fails(2);
        scene.world.run(["deny", "one"]).ok();
        scene.until_activity(runner, "idle");
        return;
    }
    with_words.ok();
    scene.until_activity(runner, "idle");
    let said = scene.model.asked().last().unwrap().said.clone();
    let was_told =
        |said: &Said| matches!(said, Said::Tool(text) if text.contains("leave it as it is"));
    assert!(said.iter().any(was_told), "the model is told why: {said:?}");
}

/// Each answer is in the audit's record, with who gave it.
fn on_the_record(scene: &Scene, first: &str) {
    let record = scene.world.json(&["audit", "list", "--limit", "500"]);
    let answers: Vec<&Value> = rows(&record)
        .iter()
        .filter(|entry| entry["kind"].as_str().unwrap_or_default().contains("answer"))
        .collect();
    let of_first: Vec<_> =
        answers.iter().filter(|entry| entry.to_string().contains(first)).collect();
    assert!(!of_first.is_empty(), "{record}");
    assert!(answers.len() >= 2, "{answers:?}");
}

#[test]
fn claude_is_answered_from_the_inbox() {
    is_asked_and_answered(Program::Claude);
}

#[test]
fn codex_is_answered_from_the_inbox() {
    is_asked_and_answered(Program::Codex);
}

#[test]
fn opencode_is_answered_from_the_inbox() {
    is_asked_and_answered(Program::Opencode);
}

/// No hook of its tells what it asks here, so it is read off its screen.
#[test]
fn gemini_is_answered_from_the_inbox() {
    is_asked_and_answered(Program::Gemini);
}
