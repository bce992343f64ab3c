//! What an assistant does, and who waits for a person: a limit with its end, the inbox in its order, and
//! why it is said.

use std::time::Duration;

use serde_json::Value;
use stratavore_core::Timestamp;
use stratavore_testkit::model::{Asked, Hold, Place, Purpose, Reply};
use stratavore_testkit::programs::Program;
use stratavore_testkit::world::rows;

use crate::scene::Scene;

/// A limit of its maker's is told with its end, and why that is said.
fn tells_a_limit(program: Program) {
    let scene = Scene::new(program);
    #[expect(clippy::disallowed_methods, reason = "the assistant's clock is the system's")]
    let now = Timestamp::try_from(std::time::SystemTime::now()).unwrap();
    let until = now.as_second() + 3600;
    let is_met = |asked: &Asked| asked.purpose == Purpose::Main && asked.says("meet the limit");
    scene.model.answers(move |asked| is_met(asked).then(|| Reply::limited_until(until)));
    let runner = scene.launch("one", &["--prompt", "say something"]);
    scene.until_activity(&runner, "idle");
    scene.send(&runner, "meet the limit", &[]);
    let shown = scene.until_activity(&runner, "rate_limited");
    let resets = shown["doing"]["resets_at"].as_str();
    let resets: Timestamp = resets.unwrap_or_else(|| panic!("its end: {shown}")).parse().unwrap();
    // Some tell it by the minute, some in a time from now.
    assert!((resets.as_second() - until).abs() <= 60, "{shown}");

    let explained = scene.world.json(&["explain", &runner]);
    let signals = explained["signals"].as_array().unwrap();
    let means = |signal: &str, words: &str| {
        signals.iter().any(|told| {
            let text = |name: &str| told[name].as_str().unwrap_or_default().to_owned();
            text("signal").contains(signal) && text("meaning").contains(words)
        })
    };
    assert!(means("UserPromptSubmit", "working"), "{explained}");
    assert!(means("Stop", "idle"), "{explained}");
    assert_eq!(explained["observed"], true);
    if program == Program::Claude {
        // Codex itself takes no prompt before the limit ends.
        scene.send(&runner, "and go on", &["--into-turn"]);
        scene.until_activity(&runner, "idle");
    }
    scene.until_ledger_is_the_bill();
}

#[test]
fn claude_s_limit_is_told_with_its_end() {
    tells_a_limit(Program::Claude);
}

#[test]
fn codex_s_limit_is_told_with_its_end() {
    tells_a_limit(Program::Codex);
}

/// It tries again by itself once it may, and until then says when that is.
#[test]
fn opencode_s_limit_is_told_with_its_end() {
    is_limited_for_an_hour(Program::Opencode, true);
}

/// It says for how long, which its own server tells it in the refusal and in no header.
#[test]
fn gemini_s_limit_is_told_with_its_end() {
    is_limited_for_an_hour(Program::Gemini, true);
}

fn is_limited_for_an_hour(program: Program, tells_when: bool) {
    const HOUR: Duration = Duration::from_secs(3600);
    let scene = Scene::new(program);
    let is_met = |asked: &Asked| asked.purpose == Purpose::Main && asked.says("meet the limit");
    scene.model.answers(move |asked| is_met(asked).then(|| Reply::rate_limited(HOUR)));
    let runner = scene.launch("one", &["--prompt", "say something"]);
    scene.until_activity(&runner, "idle");
    scene.send(&runner, "meet the limit", &[]);
    let shown = scene.until_activity(&runner, "rate_limited");
    let told: Option<Timestamp> =
        shown["doing"]["resets_at"].as_str().map(|text| text.parse().unwrap());
    let since: Timestamp = shown["doing"]["since"].as_str().unwrap().parse().unwrap();
    let wait = told.map(|told| told.as_second() - since.as_second());
    assert_eq!(wait.is_some(), tells_when, "{shown}");
    assert!(wait.is_none_or(|wait| (wait - 3600).abs() <= 60), "{shown}");
    // What Gemini tells of it, its title must be able to take back.
    let known = match program {
        Program::Gemini => ["screen", "certain", "api_error"],
        Program::Claude | Program::Codex | Program::Opencode => {
            ["events", "certain", "session.status retry"]
        }
    };
    is_known_by(&scene, &runner, "rate_limited", known);
    scene.until_ledger_is_the_bill();
}

/// Why it is said to do this: by which source, how surely, and by which signal; and since when, which is after
/// it was launched and not after now.
pub(crate) fn is_known_by(scene: &Scene, runner: &str, activity: &str, known: [&str; 3]) {
    let explained = scene.world.json(&["explain", runner]);
    let told = &explained["runner"];
    assert_eq!(told["activity"], activity, "{explained}");
    let by = ["source", "confidence", "signal"].map(|name| told["doing"][name].as_str().unwrap());
    assert_eq!(by, known, "{explained}");
    let time = |value: &Value| value.as_str().unwrap().parse::<Timestamp>().unwrap();
    let since = time(&told["doing"]["since"]);
    #[expect(clippy::disallowed_methods, reason = "the assistant's clock is the system's")]
    let now = Timestamp::try_from(std::time::SystemTime::now()).unwrap();
    assert!(time(&told["started_at"]) <= since && since <= now, "{explained}");
}

#[test]
fn who_has_waited_longest_is_first_in_the_inbox() {
    let scene = Scene::new(Program::Claude);
    let asks = |name: &str| [Reply::escalated(&format!("echo 1 > {name}.txt")), Reply::text("so")];
    for name in ["early", "late"] {
        scene.model.on_prompt(&format!("make the {name} one"), asks(name));
    }
    let late = scene.launch("late", &["--prompt", "say something"]);
    scene.until_activity(&late, "idle");
    let early = scene.launch("early", &["--prompt", "make the early one"]);
    scene.until_asks(&early);
    scene.send(&late, "make the late one", &[]);
    scene.until_asks(&late);
    let inbox = scene.world.json(&["inbox"]);
    let order: Vec<&Value> = rows(&inbox).iter().map(|row| &row["runner"]["name"]).collect();
    assert_eq!(order, ["early", "late"], "{inbox}");
    // Each is answered by its runner's name, in whatever order.
    scene.world.run(["approve", "late"]).ok();
    scene.until_activity(&late, "idle");
    assert_eq!((scene.made("early.txt"), scene.made("late.txt").as_deref()), (None, Some("1\n")));
    scene.world.run(["approve", "early"]).ok();
    scene.until_activity(&early, "idle");
    assert_eq!(scene.made("early.txt").as_deref(), Some("1\n"));
    scene.until_ledger_is_the_bill();
}

/// What is typed into a turn on purpose waits in the assistant, and is its next prompt.
#[test]
fn who_wants_to_types_into_a_turn() {
    let scene = Scene::new(Program::Claude);
    let hold = Hold::new();
    let held = Reply::text("at last").held(Place::Start, &hold);
    scene.model.on_prompt("take your time", [held]);
    let runner = scene.launch("one", &["--prompt", "say something"]);
    scene.until_activity(&runner, "idle");
    scene.send(&runner, "take your time", &[]);
    hold.until_reached();
    scene.until_activity(&runner, "working");
    // It is typed, and the turn goes on: nobody says that it was taken.
    scene.world.run(["send", &runner, "in between", "--into-turn"]).fails(9);
    let was_asked = |asked: &Asked| asked.conversation().contains("in between");
    assert!(!scene.model.asked().iter().any(|asked| was_asked(asked)));
    hold.release();
    scene.until("it was asked, and has said so", || {
        let written = scene.prompts("written");
        let asked = scene.model.asked().iter().any(|asked| was_asked(asked));
        if asked && written == 0 { Ok(()) } else { Err((asked, written)) }
    });
    scene.until_activity(&runner, "idle");
    scene.until_ledger_is_the_bill();
}
