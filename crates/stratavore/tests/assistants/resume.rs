//! A conversation goes on after its runner: by a restart, by a launch that names it, or in a fork.

use std::sync::Arc;

use serde_json::{Value, json};
use stratavore_store::testing::sqlite_number;
use stratavore_testkit::model::{Asked, Hold, Outcome, Place, Purpose, Reply};
use stratavore_testkit::programs::Program;
use stratavore_testkit::reboot::{host_dies, of_another_boot};
use stratavore_testkit::wire::on_runtime;
use stratavore_testkit::world::rows;

use crate::again::read_again;
use crate::booked::{Row, is_the_bill};
use crate::ledger::until_billed;
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

/// Waits until it has done all that its first turn brings, and that is taken in: what is killed in the second
/// after an answer takes the answer's figures with it.
pub(crate) fn until_rests(scene: &Scene, runner: &str) {
    scene.until_activity(runner, "idle");
    if scene.program == Program::Codex {
        // It asks for a title once the turn is over, in each conversation.
        let conversations = rows(&scene.world.json(&["sessions"])).len();
        until_billed(scene, Purpose::Title, conversations);
    }
    scene.until_ledger_is_the_bill();
    scene.until_begun(runner);
}

fn goes_on(program: Program) {
    let scene = Scene::new(program);
    scene.model.on_prompt("the word is walnut", [Reply::text("I shall keep it")]);
    let first = scene.launch("one", &["--prompt", "the word is walnut"]);
    until_rests(&scene, &first);
    let conversation = session(&scene, &first);
    if program == Program::Claude {
        // Once it went on without its answer, and why is not known: its words are there at least.
        let file = scene.world.path("state/stratavore.db");
        let sql = "SELECT count(*) FROM messages WHERE text LIKE '%I shall keep it%'";
        scene.until("its words are kept", || match on_runtime(sqlite_number(&file, sql)) {
            0 => Err("none of them"),
            _ => Ok(()),
        });
    }
    scene.kill_assistant(&first);

    scene.world.run(["restart", &first]).ok();
    let second = successor(&scene, &first);
    let told = told_with(&scene, &second, "say the word");
    assert!(told.contains("walnut") && told.contains("I shall keep it"), "{told}");
    assert_eq!(session(&scene, &second), conversation);
    let is_first = |asked: &&Arc<Asked>| {
        asked.purpose == Purpose::Main && asked.rounds == 0 && asked.says("walnut")
    };
    let prompts = scene.model.asked().iter().filter(is_first).count();
    assert_eq!(prompts, 1, "the first prompt is not said again");

    // By its name, in another runner; and beside that one as another conversation.
    let ours = scene.world.runner(&second)["session_id"].as_str().unwrap().to_owned();
    scene.until_ledger_is_the_bill();
    scene.kill_assistant(&second);
    let third = scene.session_command(&["resume", &conversation, "--name", "three"]);
    let told = told_with(&scene, &third, "and say it once more");
    assert!(told.contains("walnut") && told.contains("say the word"), "{told}");
    assert_eq!(session(&scene, &third), conversation);

    let mut owners: Vec<(&str, &[&str])> = vec![
        (&first, &["the word is walnut"]),
        (&second, &["say the word"]),
        (&third, &["and say it once more", "and where it was"]),
    ];
    if program == Program::Gemini {
        let refused = scene.world.run(["sessions", "fork", &ours]);
        assert!(refused.stderr().contains("cannot fork"), "{}", refused.everything());
        scene.until_ledger_is_the_bill();
        is_read_again(&scene, &owners);
        is_told_of(&scene, &ours, &[&third, &second, &first], 3);
        return;
    }
    let fork = scene.session_command(&["fork", &ours, "--name", "fork"]);
    let told = told_with(&scene, &fork, "and in the fork");
    assert!(told.contains("walnut") && told.contains("and say it once more"), "{told}");
    assert_ne!(session(&scene, &fork), conversation);
    let told = told_with(&scene, &third, "and where it was");
    assert!(!told.contains("and in the fork"), "{told}");
    scene.until_ledger_is_the_bill();
    owners.push((&fork, &["and in the fork"]));
    is_read_again(&scene, &owners);
    is_told_of(&scene, &ours, &[&third, &second, &first], 4);
    let other = scene.world.runner(&fork)["session_id"].as_str().unwrap().to_owned();
    let shown = scene.world.json(&["sessions", "show", &other]);
    assert_eq!(
        (&shown["lineage"], &shown["parent"]["id"]),
        (&"forked".into(), &ours.as_str().into())
    );
    assert_eq!(held_by(&shown), [fork.as_str()], "{shown}");
    let shown = scene.world.json(&["sessions", "show", &ours]);
    assert_eq!(rows(&shown["children"])[0]["id"], other.as_str(), "{shown}");
}

/// Who has held a session, the last one first.
fn held_by(shown: &Value) -> Vec<&str> {
    rows(&shown["held"]).iter().map(|held| held["runner_id"].as_str().unwrap()).collect()
}

/// What is known of a conversation in which so much was asked and answered.
fn is_told_of(scene: &Scene, session: &str, held: &[&str], turns: u64) {
    let shown = scene.until("all that was said is counted", || {
        let shown = scene.world.json(&["sessions", "show", session]);
        let said = &shown["messages"];
        let is_all = said["user"] == turns && said["assistant"] == turns;
        if is_all { Ok(shown) } else { Err(shown) }
    });
    assert_eq!(held_by(&shown), held, "{shown}");
    assert_eq!(shown["runner_id"], held[0], "{shown}");
    assert_eq!(shown["first_prompt"], "the word is walnut", "{shown}");
    assert_eq!(shown["models"], json!([scene.home.model()]), "{shown}");
    assert_eq!(shown["parent_id"], Value::Null, "{shown}");
}

/// Whatever is read twice, each runner has what was asked in its name, and each row was read where it says.
fn is_read_again(scene: &Scene, owners: &[(&str, &[&str])]) {
    scene.until_booked_to(owners);
    scene.each_row_is_where_it_says();
    let before = scene.ledger().len();
    read_again(scene, None);
    assert_eq!(is_the_bill(&scene.ledger(), &scene.model.bill()), Ok(()));
    assert_eq!(scene.ledger().len(), before);
    scene.until_booked_to(owners);
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
        until_rests(&scene, &runner);
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

/// Has one begin, and kills it in the middle of its second answer.
pub(crate) fn killed_in_a_turn(scene: &Scene) -> String {
    let hold = Hold::new();
    scene.model.on_prompt("begin with almond", [Reply::text("begun")]);
    let held = Reply::text("a long answer that never ends").held(Place::Middle, &hold);
    scene.model.on_prompt("then the long one", [held]);
    let runner = scene.launch("one", &["--prompt", "begin with almond"]);
    until_rests(scene, &runner);
    scene.send(&runner, "then the long one", &[]);
    hold.until_reached();
    scene.kill_assistant(&runner);
    hold.release();
    scene.until("its request is over", || {
        let bill = scene.model.bill();
        let open = bill.only(|entry| entry.outcome == Outcome::Open).entries.len();
        if open == 0 { Ok(()) } else { Err(open) }
    });
    runner
}

/// What an answer that was cut off has cost nobody knows, so it is not in the ledger as a figure that somebody
/// counted.
fn is_killed_in_a_turn(program: Program) {
    let scene = Scene::new(program);
    let first = killed_in_a_turn(&scene);
    scene.world.run(["recover", &first]).ok();
    let second = successor(&scene, &first);
    let told = told_with(&scene, &second, "go on");
    assert!(told.contains("almond"), "{told}");
    let bill = scene.model.bill();
    assert_eq!(bill.only(|entry| entry.outcome == Outcome::Dropped).entries.len(), 1, "{bill}");
    // A title may be asked for still.
    scene.until_ledger_is_the_bill();
    is_owned_up_to(&scene, &first);
}

/// Of the answer that was cut off, a row says that it has no figures; or nobody knows of it, and that is said.
fn is_owned_up_to(scene: &Scene, runner: &str) {
    let ledger = scene.ledger();
    let rows: Vec<&Row> = ledger.iter().filter(|row| !row.is_exact()).collect();
    // It says that an answer has begun, if it still comes to that; the others only what one has cost.
    let most = usize::from(scene.program == Program::Opencode);
    assert!(rows.len() <= most, "{rows:?}");
    assert!(
        rows.iter().all(|row| row.0["quality"] == "lost" && row.0["runner"] == runner),
        "{rows:?}"
    );
    let explained = scene.world.json(&["usage", "explain", runner]);
    assert_eq!(explained["total"]["lost"], rows.len(), "{explained}");
    let told = explained["not_covered"].to_string();
    assert!(told.contains("answers that were cut off"), "{explained}");
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
