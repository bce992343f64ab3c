//! `stratavore run` of Codex, opencode and Gemini. What it does with Claude is in `cli/run.rs`.

use std::time::Duration;

use serde_json::Value;
use stratavore_testkit::model::{Asked, Hold, Place, Reply};
use stratavore_testkit::programs::Program;
use stratavore_testkit::running::{billed, used};

use crate::scene::Scene;

/// One run with a tool, a second one that goes on in its session while a daemon dies, and one that meets
/// a limit.
fn runs_without_a_screen(program: Program) {
    let scene = Scene::new(program);
    let model = &scene.model;
    model.on_prompt(
        "make the first",
        [Reply::shell("echo by-it >> made.txt"), Reply::text("all is done")],
    );
    let mut running = scene.run(&["--prompt", "make the first, please"]);
    let told = running.until("session")["text"].clone();
    let tool = running.until("tool");
    assert!(tool["text"].as_str().unwrap().contains("by-it"), "{tool}");
    let result = running.until("result");
    let (code, said) = running.end();
    assert_eq!((code, &result["outcome"]), (0, &"done".into()), "{result}\n{said}");
    assert_eq!(result["text"], "all is done");
    assert_eq!(scene.made("made.txt").as_deref(), Some("by-it\n"));
    assert_eq!(result["assistant_session"], told);
    let bill = model.bill();
    assert_eq!(used(&result), billed(&bill), "{result}\n{bill}");
    assert_eq!(result["usage"]["messages"], bill.complete().entries.len());

    let hold = Hold::new();
    model.on_prompt(
        "make the second",
        [
            Reply::shell("echo again >> made.txt"),
            Reply::text("after the daemon").held(Place::Start, &hold),
        ],
    );
    let session = result["session"].as_str().unwrap();
    let mut running = scene.run(&["--resume", session, "make the second, please"]);
    hold.until_reached();
    scene.world.kill_daemon();
    hold.release();
    let again = running.until("result");
    let (code, said) = running.end();
    assert_eq!((code, &again["text"]), (0, &"after the daemon".into()), "{again}\n{said}");
    assert_eq!(scene.made("made.txt").as_deref(), Some("by-it\nagain\n"));
    assert_eq!((&again["session"], &again["assistant_session"]), (&session.into(), &told));
    let knows = |asked: &Asked| {
        asked.conversation().contains("all is done") && asked.says("make the second")
    };
    assert!(model.asked().iter().any(|asked| knows(asked)), "it goes on with what was said");
    // It counts what it has used itself.
    let before = billed(&bill);
    let bill = model.bill();
    let own: Vec<u64> = billed(&bill).iter().zip(before).map(|(all, one)| all - one).collect();
    assert_eq!(used(&again).to_vec(), own, "{again}\n{bill}");

    model.answers(|asked| {
        asked.says("and the third").then(|| Reply::rate_limited(Duration::from_secs(1)))
    });
    let mut running = scene.run(&["and the third, please", "--timeout", "1m"]);
    let result = running.until("result");
    let (code, said) = running.end();
    assert_eq!((&result["outcome"], code), (&"rate_limited".into(), 6), "{result}\n{said}");
    scene.until_ledger_is_the_bill();
}

#[test]
fn codex_runs_without_a_screen() {
    runs_without_a_screen(Program::Codex);
}

#[test]
fn opencode_runs_without_a_screen() {
    runs_without_a_screen(Program::Opencode);
}

#[test]
fn gemini_runs_without_a_screen() {
    runs_without_a_screen(Program::Gemini);
}

/// What nobody knows the cost of is not let run on as if it cost nothing.
#[test]
fn codex_is_not_run_on_at_a_cost_that_nobody_knows() {
    let scene = Scene::new(Program::Codex);
    let tools = (0..20).map(|n| Reply::shell(&format!("echo {n} >> made.txt; sleep 1")));
    scene.model.on_prompt("go on and on", tools);
    let may = ["-s", "danger-full-access", "-m", "model-without-a-price"];
    let words = ["--max-cost", "100", "--prompt", "go on and on"];
    let mut running = scene.run_that_may(&words, &may);
    let result = running.until("result");
    let (code, said) = running.end();
    assert_eq!((&result["outcome"], code), (&"limit_reached".into(), 4), "{result}\n{said}");
    let why = result["why"].as_str().unwrap();
    assert!(why.contains("no price") && why.contains("under `prices`"), "{result}");
    let asked = scene.model.asked().iter().filter(|asked| asked.says("go on and on")).count();
    assert!(asked < 10, "{asked} of 20 answers were asked for");
    // The control: without that limit it may.
    let mut running = scene.run_that_may(&["--prompt", "a short one"], &may);
    let result = running.until("result");
    assert_eq!((&result["outcome"], running.end().0), (&"done".into(), 0), "{result}");
}

/// What nobody has allowed is refused there and then: these ask nobody without a screen, and say so as data.
fn is_refused_what_it_would_have_to_ask_for(program: Program, may: &[&str]) -> Value {
    let scene = Scene::new(program);
    scene.model.on_prompt(
        "make the first",
        [Reply::escalated("echo by-it > made.txt"), Reply::text("it is not made")],
    );
    let mut running = scene.run_that_may(&["--prompt", "make the first, please"], may);
    let result = running.until("result");
    running.end();
    assert_eq!(scene.made("made.txt"), None);
    assert_eq!(scene.asks("open"), 0, "nobody is waited for");
    let runner = result["runner"].as_str().unwrap();
    let explained = scene.world.json(&["explain", runner]);
    assert_eq!(explained["proves"]["headless_answers"], false, "{explained}");
    result
}

#[test]
fn codex_is_refused_by_its_sandbox_without_a_screen() {
    let result = is_refused_what_it_would_have_to_ask_for(Program::Codex, &["-s", "read-only"]);
    assert_eq!(result["text"], "it is not made", "its model is told, and goes on: {result}");
}

#[test]
fn opencode_refuses_itself_what_it_would_have_to_ask_for_without_a_screen() {
    let result = is_refused_what_it_would_have_to_ask_for(Program::Opencode, &[]);
    assert_eq!(result["outcome"], "failed", "it ends with that: {result}");
    assert!(result["why"].as_str().unwrap().contains("rejected permission"), "{result}");
}

#[test]
fn gemini_does_not_have_without_a_screen_what_it_would_have_to_ask_for() {
    let result = is_refused_what_it_would_have_to_ask_for(Program::Gemini, &[]);
    // The stand-in refuses to call what it was not offered.
    let why = result["why"].as_str().unwrap();
    let (_, offered) = why.split_once("on offer are").unwrap_or_else(|| panic!("{result}"));
    assert!(offered.contains("read_file") && !offered.contains("run_shell_command"), "{offered}");
}
