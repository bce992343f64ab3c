//! A conversation goes on after its runner: by a restart, by a launch that names it, or in a fork.

use serde_json::Value;
use stratavore_testkit::model::{Hold, Outcome, Place, Reply};
use stratavore_testkit::programs::Program;
use stratavore_testkit::reboot::{host_dies, of_another_boot};
use stratavore_testkit::world::rows;

use crate::scene::Scene;

/// The assistant's own id of the runner's conversation, by the database.
fn session(scene: &Scene, runner: &str) -> String {
    scene.until("its conversation is known", || {
        let shown = scene.world.runner(runner);
        scene.external_session(shown["session_id"].as_str().unwrap_or_default()).ok_or(shown)
    })
}

/// The runner that carries this one on.
fn successor(scene: &Scene, runner: &str) -> String {
    let live = scene.world.json(&["runners"]);
    let is_it = |row: &&Value| row["successor_of"] == runner;
    let found =
        rows(&live).iter().find(is_it).unwrap_or_else(|| panic!("it is carried on: {live}"));
    found["id"].as_str().unwrap().to_owned()
}

/// Sends it, and says what of the conversation the model was told with it.
pub(crate) fn told_with(scene: &Scene, runner: &str, prompt: &str) -> String {
    scene.until_activity(runner, "idle");
    scene.send(runner, prompt, &["--wait", "2m"]);
    let asked = scene.until("the model was asked it", || {
        let all = scene.model.asked();
        all.into_iter().find(|asked| asked.prompt.contains(prompt)).ok_or(())
    });
    scene.until_activity(runner, "idle");
    asked.conversation()
}

fn goes_on(program: Program) {
    let scene = Scene::new(program);
    scene.model.on_prompt("the word is walnut", [Reply::text("I shall keep it")]);
    let first = scene.launch("one", &["--prompt", "the word is walnut"]);
    scene.until_activity(&first, "idle");
    let conversation = session(&scene, &first);
    // What is killed in the second after an answer takes the answer's figures with it.
    scene.until_ledger_is_the_bill();
    scene.until_begun(&first);
    scene.kill_assistant(&first);

    scene.world.run(["restart", &first]).ok();
    let second = successor(&scene, &first);
    let told = told_with(&scene, &second, "say the word");
    assert!(told.contains("walnut") && told.contains("I shall keep it"), "{told}");
    assert_eq!(session(&scene, &second), conversation);
    let prompts = scene.model.asked().iter().filter(|a| a.prompt.contains("walnut")).count();
    assert!(prompts >= 1, "the first prompt is not said again");

    // By its name, in another runner; and beside that one as another conversation.
    let ours = scene.world.runner(&second)["session_id"].as_str().unwrap().to_owned();
    scene.until_ledger_is_the_bill();
    scene.kill_assistant(&second);
    let third = scene.session_command(&["resume", &conversation, "--name", "three"]);
    let told = told_with(&scene, &third, "and say it once more");
    assert!(told.contains("walnut") && told.contains("say the word"), "{told}");
    assert_eq!(session(&scene, &third), conversation);

    if program == Program::Gemini {
        let refused = scene.world.run(["sessions", "fork", &ours]);
        assert!(refused.stderr().contains("cannot fork"), "{}", refused.everything());
        scene.until_ledger_is_the_bill();
        return;
    }
    let fork = scene.session_command(&["fork", &ours, "--name", "fork"]);
    let told = told_with(&scene, &fork, "and in the fork");
    assert!(told.contains("walnut") && told.contains("and say it once more"), "{told}");
    assert_ne!(session(&scene, &fork), conversation);
    let told = told_with(&scene, &third, "and where it was");
    assert!(!told.contains("and in the fork"), "{told}");
    scene.until_ledger_is_the_bill();
}

#[test]
fn claude_s_conversation_goes_on() {
    goes_on(Program::Claude);
}

#[test]
fn codex_s_conversation_goes_on() {
    goes_on(Program::Codex);
}

#[test]
fn opencode_s_conversation_goes_on() {
    goes_on(Program::Opencode);
}

/// It has no way to fork one, and says so.
#[test]
fn gemini_s_conversation_goes_on() {
    goes_on(Program::Gemini);
}

/// Their host reboots: all that were running go on, each with what it was told, and what had ended does not.
fn goes_on_after_a_reboot(program: Program) {
    const TOLD: [(&str, &str); 2] = [("one", "walnut"), ("two", "almond")];
    let scene = Scene::new(program);
    let begin = |name: &str, word: &str| {
        let prompt = format!("the word is {word}");
        scene.model.on_prompt(&prompt, [Reply::text("I shall keep it")]);
        let runner = scene.launch(name, &["--prompt", &prompt]);
        scene.until_activity(&runner, "idle");
        scene.until_ledger_is_the_bill();
        scene.until_begun(&runner);
        runner
    };
    let over = begin("over", "hazel");
    scene.kill_assistant(&over);
    let before = TOLD.map(|(name, word)| begin(name, word));
    let conversations = before.clone().map(|runner| session(&scene, &runner));
    for runner in &before {
        host_dies(&scene.world, runner);
        of_another_boot(&scene.world, runner);
    }
    for runner in &before {
        let lost = scene.world.until_state(runner, &["lost"]);
        assert_eq!(lost["cause"], "host_reboot", "{lost}");
    }

    let told = scene.world.run(["recover"]).ok().stdout();
    assert!(!told.contains("recovered over"), "{told}");
    for (((name, word), runner), conversation) in TOLD.iter().zip(&before).zip(&conversations) {
        assert!(told.contains(&format!("recovered {name} in demo")), "{told}");
        let next = successor(&scene, runner);
        let told = told_with(&scene, &next, &format!("say the word, {name}"));
        assert!(told.contains(word) && told.contains("I shall keep it"), "{told}");
        assert_eq!(session(&scene, &next), *conversation);
    }
    scene.until_ledger_is_the_bill();
}

#[test]
fn claude_goes_on_after_its_host_has_rebooted() {
    goes_on_after_a_reboot(Program::Claude);
}

#[test]
fn codex_goes_on_after_its_host_has_rebooted() {
    goes_on_after_a_reboot(Program::Codex);
}

#[test]
fn opencode_goes_on_after_its_host_has_rebooted() {
    goes_on_after_a_reboot(Program::Opencode);
}

#[test]
fn gemini_goes_on_after_its_host_has_rebooted() {
    goes_on_after_a_reboot(Program::Gemini);
}

/// Killed in the middle of an answer: what that has cost nobody knows, so it is not in the ledger as a
/// figure that somebody counted.
fn is_killed_in_a_turn(program: Program) {
    let scene = Scene::new(program);
    let hold = Hold::new();
    scene.model.on_prompt("begin with almond", [Reply::text("begun")]);
    let held = Reply::text("a long answer that never ends").held(Place::Middle, &hold);
    scene.model.on_prompt("then the long one", [held]);
    let first = scene.launch("one", &["--prompt", "begin with almond"]);
    scene.until_activity(&first, "idle");
    scene.until_ledger_is_the_bill();
    scene.send(&first, "then the long one", &[]);
    hold.until_reached();
    scene.kill_assistant(&first);
    hold.release();
    scene.until("its request is over", || {
        let bill = scene.model.bill();
        let open = bill.only(|entry| entry.outcome == Outcome::Open).entries.len();
        if open == 0 { Ok(()) } else { Err(open) }
    });

    scene.world.run(["recover", &first]).ok();
    let second = successor(&scene, &first);
    let told = told_with(&scene, &second, "go on");
    assert!(told.contains("almond"), "{told}");
    let bill = scene.model.bill();
    assert_eq!(bill.only(|entry| entry.outcome == Outcome::Dropped).entries.len(), 1, "{bill}");
    // A title may be asked for still.
    scene.until_ledger_is_the_bill();
}

#[test]
fn claude_goes_on_after_it_was_killed_in_a_turn() {
    is_killed_in_a_turn(Program::Claude);
}

#[test]
fn codex_goes_on_after_it_was_killed_in_a_turn() {
    is_killed_in_a_turn(Program::Codex);
}

#[test]
fn opencode_goes_on_after_it_was_killed_in_a_turn() {
    is_killed_in_a_turn(Program::Opencode);
}

#[test]
fn gemini_goes_on_after_it_was_killed_in_a_turn() {
    is_killed_in_a_turn(Program::Gemini);
}
