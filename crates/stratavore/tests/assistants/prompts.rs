//! T-PROMPT: every prompt is one that the model was asked, once, and is said to be.
//!
//! What the model was asked is the stand-in's own record. Daemons are killed meanwhile, and every request
//! is repeated with its key until the assistant has said that it has the prompt.

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use stratavore_proto::client::{Client, problem};
use stratavore_proto::v1::PromptRunner;
use stratavore_testkit::model::{Asked, Hold, Place, Purpose, Reply};
use stratavore_testkit::programs::Program;
use stratavore_testkit::trial::{Trial, is_long, scale};
use stratavore_testkit::wire::on_runtime;
use stratavore_testkit::world::World;

use crate::scene::{Scene, refusal};

/// How often a prompt is asked about at most until somebody confirms it, some seconds each time.
const TRIES: usize = 20;

/// What the model was asked by its user, and how often.
fn all_asked(scene: &Scene) -> BTreeMap<String, usize> {
    let mut all = BTreeMap::new();
    let is_prompt = |asked: &Arc<Asked>| asked.purpose == Purpose::Main && asked.rounds == 0;
    for asked in scene.model.asked().into_iter().filter(is_prompt) {
        *all.entry(asked.prompt.trim().to_owned()).or_default() += 1;
    }
    all
}

/// How often the model was asked just this by its user.
fn times_asked(scene: &Scene, prompt: &str) -> usize {
    all_asked(scene).remove(prompt).unwrap_or_default()
}

/// Waits until the model was asked all of these: an assistant says that it has a prompt before it asks.
fn until_asked(scene: &Scene, prompts: &[String]) {
    scene.until("the model is asked what was taken", || {
        let asked = all_asked(scene);
        let missing: Vec<_> =
            prompts.iter().filter(|prompt| !asked.contains_key(*prompt)).collect();
        if missing.is_empty() { Ok(()) } else { Err(format!("{missing:?}")) }
    });
}

/// Nothing is typed into a turn; who waits for its end is served then.
fn is_delivered_between_turns(program: Program) {
    let scene = Scene::new(program);
    let hold = Hold::new();
    let held = Reply::text("at last").held(Place::Start, &hold);
    scene.model.on_prompt("take your time", [held]);
    let runner = scene.launch("one", &["--prompt", "say something"]);
    scene.until_activity(&runner, "idle");

    let sent = scene.send(&runner, "take your time", &[]);
    assert_eq!(sent["state"], "taken", "{sent}");
    assert_eq!(times_asked(&scene, "take your time"), usize::from(hold.is_reached()));
    hold.until_reached();
    scene.until_activity(&runner, "working");
    let busy = scene.world.run(["send", &runner, "in between", "--format", "json"]);
    assert_eq!(refusal(&busy)["code"], "busy", "{}", busy.everything());

    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| scene.send(&runner, "then this", &["--wait", "2m"]));
        // It has come as far as waiting: a sent prompt is kept before anything else.
        scene.until("it is queued", || {
            let queued = scene.prompts("queued");
            if queued == 1 { Ok(()) } else { Err(queued) }
        });
        assert_eq!(times_asked(&scene, "then this"), 0);
        hold.release();
        assert_eq!(waiting.join().unwrap()["state"], "taken");
    });
    until_asked(&scene, &["then this".into()]);
    scene.until_activity(&runner, "idle");
    let asked = ["take your time", "in between", "then this"].map(|text| times_asked(&scene, text));
    assert_eq!(asked, [1, 0, 1]);
    scene.until_ledger_is_the_bill();
}

#[test]
fn claude_is_sent_prompts_between_its_turns() {
    is_delivered_between_turns(Program::Claude);
}

#[test]
fn codex_is_sent_prompts_between_its_turns() {
    is_delivered_between_turns(Program::Codex);
}

#[test]
fn opencode_is_sent_prompts_between_its_turns() {
    is_delivered_between_turns(Program::Opencode);
}

#[test]
fn gemini_is_sent_prompts_between_its_turns() {
    is_delivered_between_turns(Program::Gemini);
}

/// Claude tells that its turn is over before it is through with it: here a hook of its user runs on. What is entered
/// at the end of that it may take, and leave in its box, so that the next prompt is put behind it: 2 of 160 that were
/// typed without this wait (2.1.197).
#[test]
fn claude_is_sent_a_prompt_once_its_screen_is_through_with_the_turn() {
    let scene = Scene::new(Program::Claude);
    let through = scene.world.path("through");
    let wait = format!("until [ -e '{}' ]; do sleep 0.02; done", through.display());
    let hook = json!([{ "hooks": [{ "type": "command", "command": wait }] }]);
    let settings = scene.home.home().join(".claude/settings.json");
    fs::create_dir_all(settings.parent().unwrap()).unwrap();
    fs::write(settings, json!({ "hooks": { "Stop": hook } }).to_string()).unwrap();
    let runner = scene.launch("one", &["--prompt", "be ready"]);
    scene.until_activity(&runner, "idle");
    std::thread::scope(|scope| {
        let sent = scope.spawn(|| scene.send(&runner, "and this", &[]));
        scene.until("it is kept", || {
            let kept = ["queued", "written", "taken"].map(|state| scene.prompts(state));
            if kept.iter().sum::<i64>() == 1 { Ok(()) } else { Err(kept) }
        });
        fs::write(&through, "").unwrap();
        assert_eq!(sent.join().unwrap()["state"], "taken");
    });
    scene.until_activity(&runner, "idle");
    assert_eq!(times_asked(&scene, "and this"), 1);
    let told = scene.world.run(["explain", &runner]).stdout();
    let typed = told.lines().take_while(|line| !line.starts_with("typed"));
    let title = typed.filter(|line| line.starts_with("title")).last();
    assert!(title.is_some_and(|title| title.starts_with("title ✳")), "{title:?} in\n{told}");
}

/// A daemon that dies after it has said that it will type, and before it types, loses nothing.
fn is_typed_by_the_next_daemon(program: Program) {
    let scene = Scene::new(program);
    let runner = scene.launch("one", &["--prompt", "be ready"]);
    scene.until_activity(&runner, "idle");
    scene.world.kill_daemon();
    scene.start_doomed("prompt_written");
    // Its command asks the next daemon, with the same key.
    let sent = scene.send(&runner, "say it once", &[]);
    assert_eq!(sent["state"], "taken", "{sent}");
    until_asked(&scene, &["say it once".to_owned()]);
    scene.until_activity(&runner, "idle");
    assert_eq!(times_asked(&scene, "say it once"), 1);
    scene.until_ledger_is_the_bill();
}

#[test]
fn claude_is_typed_to_by_the_next_daemon() {
    is_typed_by_the_next_daemon(Program::Claude);
}

#[test]
fn codex_is_typed_to_by_the_next_daemon() {
    is_typed_by_the_next_daemon(Program::Codex);
}

/// Without a daemon nobody knows what an assistant does: one is started, or nothing is typed.
#[test]
fn claude_is_typed_to_by_nobody_who_does_not_know_what_it_does() {
    let scene = Scene::new(Program::Claude);
    let hold = Hold::new();
    let held = Reply::text("at last").held(Place::Start, &hold);
    scene.model.on_prompt("take your time", [held]);
    let runner = scene.launch("one", &["--prompt", "be ready"]);
    scene.until_activity(&runner, "idle");
    scene.send(&runner, "take your time", &[]);
    hold.until_reached();
    scene.until_activity(&runner, "working");

    let send = ["send", &runner, "in between", "--format", "json"];
    scene.world.kill_daemon();
    let alone = scene.world.run([&["--no-start"], &send[..]].concat());
    let told = refusal(&alone);
    assert_eq!(told["code"], "unavailable", "{}", alone.everything());
    assert!(told["next"].as_str().unwrap().contains("send --raw"), "{told}");
    let busy = scene.world.run(send);
    assert_eq!(refusal(&busy)["code"], "busy", "{}", busy.everything());

    // The control: what is typed all the same comes through.
    scene.world.kill_daemon();
    scene.world.run(["--no-start", "send", &runner, "--raw", "whatever you do"]).ok();
    hold.release();
    scene.until("the model is asked what was typed into the turn", || {
        let asked = scene.model.asked();
        if asked.iter().any(|asked| asked.says("whatever you do")) {
            Ok(())
        } else {
            Err(asked.len())
        }
    });
    scene.until_activity(&runner, "idle");
    assert!(!scene.model.asked().iter().any(|asked| asked.says("in between")));
}

#[test]
fn claude_gets_what_a_daemon_that_was_stopped_had_not_typed_yet() {
    let scene = Scene::new(Program::Claude);
    let hold = Hold::new();
    scene.model.on_prompt("take your time", [Reply::text("at last").held(Place::Start, &hold)]);
    let runner = scene.launch("one", &["--prompt", "be ready"]);
    scene.until_activity(&runner, "idle");
    scene.send(&runner, "take your time", &[]);
    hold.until_reached();
    scene.until_activity(&runner, "working");
    let request = PromptRunner {
        idempotency_key: "kept".into(),
        runner: runner.clone(),
        text: "prompt <kept>".into(),
        wait_ms: 60_000,
        ..PromptRunner::default()
    };
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| {
            on_runtime(async {
                let client = Client::connect(&scene.world.path("run/d.sock")).await.ok()?;
                client.inbox().prompt(request.clone()).await.ok()
            })
        });
        scene.until_activity(&runner, "working");
        scene.world.run(["daemon", "stop"]).ok();
        assert!(waits.join().unwrap().is_none(), "it has waited for the end of the turn");
    });
    hold.release();
    assert_eq!(on_runtime(prompt(&scene.world, &request)), Ok(true));
    let times = scene.until("it is asked", || match times_asked(&scene, "prompt <kept>") {
        0 => Err(0),
        times => Ok(times),
    });
    assert_eq!(times, 1);
}

/// Asks until somebody answers, with the same key each time. False: nobody has said that it was taken.
async fn prompt(world: &World, request: &PromptRunner) -> Result<bool, String> {
    for _ in 0..TRIES {
        // The one before may have been killed just now.
        world.run(["daemon", "start"]).ok();
        let Ok(client) = Client::connect(&world.path("run/d.sock")).await else { continue };
        match client.inbox().prompt(request.clone()).await {
            Ok(answer) if answer.get_ref().state == "taken" => return Ok(true),
            // Its assistant may say so later.
            Ok(_) => {}
            Err(status) if status.details().is_empty() => {}
            // A machine that has too much to do says so, and is asked again.
            Err(status) if problem(&status).code == "store_unavailable" => {}
            Err(status) => return Err(status.message().to_owned()),
        }
    }
    Ok(false)
}

/// Sends so many prompts to one runner, each twice with the same key. Answers each with what was said of it.
fn send_all(world: &World, runner: &str, count: usize) -> Vec<(String, Result<bool, String>)> {
    let send = |number: usize| {
        let text = format!("prompt <{runner}-{number}>");
        let request = PromptRunner {
            idempotency_key: format!("{runner}-{number}"),
            runner: runner.into(),
            text: text.clone(),
            wait_ms: 60_000,
            ..PromptRunner::default()
        };
        let once = on_runtime(prompt(world, &request));
        let again = once.and_then(|_| on_runtime(prompt(world, &request)));
        (text, again)
    };
    (0..count).map(send).collect()
}

/// Whether it was taken, and the model asked it once.
fn asked_once(asked: &BTreeMap<String, usize>, text: &str, taken: bool) -> Result<(), String> {
    match asked.get(text).copied().unwrap_or_default() {
        1 if taken => Ok(()),
        times => Err(format!("{text:?}, taken: {taken}, was asked {times} times")),
    }
}

fn none_is_lost_and_none_comes_twice(program: Program, runners: usize, each: usize, faults: usize) {
    let mut trial = Trial::new(
        "T-PROMPT",
        &format!("{}: a prompt is delivered and asked once", program.name()),
    );
    let mut dice = trial.dice();
    let scene = Scene::new(program);
    let ids: Vec<String> = (0..runners)
        .map(|number| scene.launch(&format!("r{number}"), &["--prompt", "be ready"]))
        .collect();
    for id in &ids {
        scene.until_activity(id, "idle");
    }
    let total = runners * each;
    let (mut kills, mut upgrades) = (0, 0);
    let told = std::thread::scope(|scope| {
        let senders: Vec<_> =
            ids.iter().map(|id| scope.spawn(|| send_all(&scene.world, id, each))).collect();
        for fault in 0..faults {
            // Somewhere in the course of the prompts, and in the course of one of them.
            let from = total * (fault + 1) / (faults + 1);
            scene.until("so many were asked", || {
                let asked = scene.model.asked().len();
                let over = senders.iter().all(|sender| sender.is_finished());
                if over || asked >= from { Ok(()) } else { Err(asked) }
            });
            std::thread::sleep(Duration::from_millis(dice.below(700) as u64));
            // Every third time it is an agent that makes way for the next program.
            if fault % 3 == 1 {
                let one = &ids[dice.below(ids.len())];
                // A daemon that was killed just now may not hear of it.
                upgrades += usize::from(scene.world.run(["upgrade", one]).code() == 0);
            } else if scene.world.daemon_pid().is_some() {
                scene.world.kill_daemon();
                kills += 1;
            }
        }
        senders.into_iter().flat_map(|sender| sender.join().unwrap()).collect::<Vec<_>>()
    });
    let taken: Vec<String> =
        told.iter().filter(|(_, told)| *told == Ok(true)).map(|(text, _)| text.clone()).collect();
    until_asked(&scene, &taken);
    for id in &ids {
        scene.until_activity(id, "idle");
    }
    scene.until_ledger_is_the_bill();
    let asked = all_asked(&scene);
    for (text, told) in told {
        trial.tried(told.and_then(|taken| asked_once(&asked, &text, taken)));
    }
    trial.counted("daemons killed", kills as u64);
    trial.counted("agents upgraded", upgrades as u64);
    // The control: without its key the same prompt is asked again, and the check says so.
    for key in ["first", "second"] {
        let request = PromptRunner {
            idempotency_key: key.into(),
            runner: ids[0].clone(),
            text: "prompt <twice>".into(),
            wait_ms: 60_000,
            ..PromptRunner::default()
        };
        assert_eq!(on_runtime(prompt(&scene.world, &request)), Ok(true));
    }
    scene.until("it is asked once more", || match times_asked(&scene, "prompt <twice>") {
        times @ 0..2 => Err(times),
        _ => Ok(()),
    });
    let asked = all_asked(&scene);
    let judged = |text| asked_once(&asked, text, true);
    trial.control("a prompt that is sent twice", judged("prompt <twice>").is_err());
    trial.control("a prompt that is lost", judged("prompt <none>").is_err());
    scene.until_ledger_is_the_bill();
    trial.end();
}

#[test]
fn t_prompt_claude_gets_every_prompt_once() {
    none_is_lost_and_none_comes_twice(Program::Claude, scale(2, 4), scale(20, 250), scale(3, 40));
}

#[test]
fn t_prompt_opencode_gets_every_prompt_once() {
    none_is_lost_and_none_comes_twice(Program::Opencode, 1, scale(5, 50), scale(1, 5));
}

#[test]
fn t_prompt_gemini_gets_every_prompt_once() {
    none_is_lost_and_none_comes_twice(Program::Gemini, 1, scale(5, 50), scale(1, 5));
}

#[test]
fn t_prompt_codex_gets_every_prompt_once() {
    let each = if is_long() { 100 } else { 10 };
    none_is_lost_and_none_comes_twice(Program::Codex, 1, each, scale(1, 10));
}
