//! What a user's assistant was told without us: taken in once, with what it has used; found; given out as it
//! is written; and gone on with.

use std::fs;

use stratavore_testkit::model::Reply;
use stratavore_testkit::programs::Program;
use stratavore_testkit::world::rows;

use crate::resume::told_with;
use crate::scene::Scene;

fn is_taken_in(program: Program) {
    let scene = Scene::new(program);
    let said = [Reply::shell("echo seen"), Reply::text("I shall keep it")];
    scene.model.on_prompt("the word is walnut", said);
    scene.outside("the word is walnut", &[]);
    assert_eq!(rows(&scene.world.json(&["sessions"])).len(), 0);

    let import = ["import", "--assistant", program.name()];
    let taken = scene.world.run(import).ok().stdout();
    assert!(taken.contains(&format!("demo {} ses_", program.name())), "{taken}");
    scene.until_ledger_is_the_bill();
    let again = scene.world.run(import).ok().stdout();
    assert!(again.contains("(0 messages, 0 B)"), "{again}");
    scene.until_ledger_is_the_bill();

    let sessions = scene.world.json(&["sessions"]);
    let [session] = &rows(&sessions)[..] else { panic!("one conversation: {sessions}") };
    let session = session["id"].as_str().unwrap();
    let found = scene.world.json(&["search", "walnut", "--by", "words", "--role", "user"]);
    let hit = &rows(&found)[0];
    assert_eq!((&hit["session"], &hit["project"]), (&session.into(), &"demo".into()), "{found}");
    let file = fs::read_to_string(hit["file"].as_str().unwrap()).unwrap();
    let given = scene.given_back(session, "out");
    assert!(given.iter().any(|(_, text)| *text == file), "{given:?}");

    let runner = scene.launch("one", &["--resume", session]);
    let told = told_with(&scene, &runner, "say the word");
    assert!(told.contains("walnut") && told.contains("I shall keep it"), "{told}");
    assert_eq!(scene.world.runner(&runner)["session_id"], session);
    scene.until_ledger_is_the_bill();
}

#[test]
fn what_claude_was_told_without_us_is_taken_in_and_goes_on() {
    is_taken_in(Program::Claude);
}

#[test]
fn what_codex_was_told_without_us_is_taken_in_and_goes_on() {
    is_taken_in(Program::Codex);
}

#[test]
fn what_gemini_was_told_without_us_is_taken_in_and_goes_on() {
    is_taken_in(Program::Gemini);
}
