//! What an assistant asks is in the inbox; from there it is let go on, or not, once.

use serde_json::{Value, json};
use stratavore_testkit::model::{Reply, Said, Tool};
use stratavore_testkit::programs::Program;
use stratavore_testkit::world::rows;

use crate::activity::is_known_by;
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
    let known = match program {
        Program::Claude | Program::Codex => ["events", "certain", "PermissionRequest"],
        Program::Opencode => ["events", "certain", "permission.asked"],
        Program::Gemini => ["screen", "likely", "title"],
    };
    is_known_by(&scene, &runner, "needs_permission", known);
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

/// What the runner's assistant has told its agent.
fn signals(scene: &Scene, runner: &str) -> String {
    let directory = scene.world.path(&format!("state/runners/{runner}/signals"));
    let files = std::fs::read_dir(directory).unwrap();
    files.map(|file| std::fs::read_to_string(file.unwrap().path()).unwrap_or_default()).collect()
}

/// A daemon dies after it has taken an ask in, and before it has moved on: the next one reads it again.
#[test]
fn codex_asks_once_whatever_is_read_twice() {
    let scene = Scene::new(Program::Codex);
    scene.model.on_prompt(
        "make the first",
        [Reply::escalated("echo one > first.txt"), Reply::text("the first is made")],
    );
    let runner = scene.launch("one", &["--prompt", "be ready"]);
    scene.until_activity(&runner, "idle");
    scene.world.kill_daemon();
    scene.world.run(["--no-start", "send", &runner, "--raw", "make the first, please"]).ok();
    scene.until("it has asked", || {
        let told = signals(&scene, &runner);
        if told.contains("PermissionRequest") { Ok(()) } else { Err(told) }
    });
    scene.start_doomed("heeded");
    scene.until("the daemon is gone", || match scene.world.daemon_pid() {
        None => Ok(()),
        Some(pid) => Err(pid),
    });
    assert_eq!(scene.asks("open"), 1, "it had come so far");

    scene.world.run(["daemon", "start"]).ok();
    scene.until_activity(&runner, "needs_permission");
    assert_eq!(scene.asks("open"), 1);
    // By its name, which is for one that asks one thing.
    scene.world.run(["approve", "one"]).ok();
    scene.until_activity(&runner, "idle");
    assert_eq!(scene.made("first.txt").as_deref(), Some("one\n"));
}

/// A daemon dies after it has written an answer down, and before it has handed it over.
#[test]
fn claude_has_its_answer_from_the_next_daemon() {
    let scene = Scene::new(Program::Claude);
    scene.model.on_prompt(
        "make the first",
        [Reply::escalated("echo one > first.txt"), Reply::text("the first is made")],
    );
    let runner = scene.launch("one", &["--prompt", "make the first, please"]);
    let ask = scene.until_asks(&runner);
    scene.world.kill_daemon();
    scene.start_doomed("answer_committed");
    let _lost = scene.world.run(["approve", ask["id"].as_str().unwrap()]);
    scene.world.run(["daemon", "start"]).ok();
    scene.until_activity(&runner, "idle");
    assert_eq!(scene.made("first.txt").as_deref(), Some("one\n"));
    assert_eq!((scene.asks("open"), scene.asks("answered")), (0, 1));
}

/// What is asked with answers to choose from is answered by what is sent, or from the inbox.
fn is_asked_a_question(program: Program, tool: &str) {
    let scene = Scene::new(program);
    let option = |label: &str| json!({"label": label, "description": "a colour"});
    let question = json!({"questions": [{
        "question": "Which colour?", "header": "Colour", "multiSelect": false,
        "options": [option("Red"), option("Blue")],
    }]});
    let call = || Reply::call(Tool::Named { name: tool.into(), arguments: question.clone() });
    scene.model.on_prompt("ask me first", [call(), Reply::text("so be it")]);
    scene.model.on_prompt("ask me again", [call(), Reply::text("so be it too")]);
    let runner = scene.launch("one", &["--prompt", "ask me first, please"]);

    let ask = scene.until_asks(&runner);
    assert_eq!((&ask["kind"], &ask["answerable"]), (&"question".into(), &true.into()), "{ask}");
    assert!(ask["text"].as_str().unwrap().contains("Which colour?"), "{ask}");
    scene.until_activity(&runner, "needs_input");
    assert_eq!(scene.send(&runner, "Blue", &[])["state"], "taken");
    scene.until_activity(&runner, "idle");
    was_told(&scene, "Blue");

    scene.send(&runner, "ask me again, please", &[]);
    scene.until_asks(&runner);
    let approved = scene.world.json(&["approve", "one", "--message", "Green"]);
    assert_eq!(approved["state"], "answered");
    scene.until_activity(&runner, "idle");
    was_told(&scene, "Green");
    scene.until_ledger_is_the_bill();
}

/// The model has this from its tool, and no prompt of it.
fn was_told(scene: &Scene, answer: &str) {
    let said = scene.model.asked().last().unwrap().said.clone();
    let told = |said: &&Said| matches!(said, Said::Tool(text) if text.contains(answer));
    assert_eq!(said.iter().filter(told).count(), 1, "{said:?}");
    assert!(!scene.model.asked().iter().any(|asked| asked.prompt.trim() == answer));
}

#[test]
fn claude_is_answered_its_question() {
    is_asked_a_question(Program::Claude, "AskUserQuestion");
}

#[test]
fn opencode_is_answered_its_question() {
    is_asked_a_question(Program::Opencode, "question");
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
