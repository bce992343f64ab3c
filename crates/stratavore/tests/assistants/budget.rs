//! T-OVERSHOOT: by how much real assistants go beyond a step of a budget before it holds them.
//!
//! What was used is what the stand-in has billed, answers that nobody took in any more included.

use std::time::{Duration, Instant};

use serde_json::Value;
use stratavore_core::budget::Action;
use stratavore_testkit::model::{Outcome, Place, Purpose, Reply, Usage};
use stratavore_testkit::programs::Program;
use stratavore_testkit::trial::{Trial, scale};
use stratavore_testkit::world::rows;

use crate::scene::Scene;

/// What each answer costs, and how many there are of a turn that comes to its end.
const RESPONSE: u64 = 10_000;
const ROUNDS: usize = 4;
/// How long one takes. One of a real model takes some seconds as well.
const ANSWER: Duration = Duration::from_secs(3);
/// Where the step is: the sixth answer reaches it.
const AMOUNT: u64 = 5 * RESPONSE + RESPONSE / 2;

/// Assistants that use a tool again and again, each answer taking so long.
fn loops(action: Action, live: usize, answer: Duration) -> (Scene, Vec<String>) {
    let scene = Scene::new(Program::Claude);
    scene.model.answers(move |asked| {
        if asked.purpose != Purpose::Main {
            return None;
        }
        let ends = action == Action::StopAtTurnEnd && asked.rounds + 1 >= ROUNDS;
        let reply = if ends { Reply::text("done") } else { Reply::shell("true") };
        let usage = Usage { input: RESPONSE - 100, output: 100, ..Usage::default() };
        Some(reply.costing(usage).after(Place::Start, answer))
    });
    let (tokens, step) = (AMOUNT.to_string(), format!("100={}", action.as_str()));
    let set = ["budget", "set", "tight", "--project", "demo", "--reserve", "1"];
    scene.world.run(set.iter().chain(&["--tokens", &tokens, "--step", &step])).ok();
    let runners = (0..live).map(|number| {
        let options = ["--prompt", "go on until you are held", "--", "--allowedTools=Bash"];
        scene.launch(&format!("r{number}"), &options)
    });
    let runners = runners.collect();
    (scene, runners)
}

fn used(scene: &Scene) -> u64 {
    scene.model.bill().usage().total()
}

/// What was answered to its end.
fn reached(scene: &Scene) -> bool {
    scene.model.bill().complete().usage().total() >= AMOUNT
}

fn is_held(shown: &Value, action: Action) -> bool {
    match action {
        Action::Ask | Action::Pause => shown["desired"] == "paused",
        Action::StopAtTurnEnd | Action::StopNow => shown["state"] == "exited",
        Action::Notify => false,
    }
}

/// The most that may be used beyond the step by so many, of which each is answered so often before it is held.
fn bound(action: Action, live: usize, answers: u64) -> u64 {
    let turn = RESPONSE * ROUNDS as u64;
    action.overshoot(live as u64 * answers, RESPONSE, turn).expect("this step has a bound")
}

fn within(beyond: u64, bound: u64) -> Result<(), String> {
    if beyond <= bound { Ok(()) } else { Err(format!("{beyond} tokens beyond, of {bound}")) }
}

fn overshoots_at_most(action: Action) {
    let live = scale(3, 6);
    let promise = format!("{}: claude goes no further beyond it than is said", action.as_str());
    let mut trial = Trial::new("T-OVERSHOOT", &promise);
    let (scene, runners) = loops(action, live, ANSWER);
    scene.until("the step is reached", || if reached(&scene) { Ok(()) } else { Err(used(&scene)) });
    let began = Instant::now();
    scene.until("all are held", || {
        let shown: Vec<Value> = runners.iter().map(|runner| scene.world.runner(runner)).collect();
        if shown.iter().all(|shown| is_held(shown, action)) { Ok(()) } else { Err(shown) }
    });
    let took = began.elapsed();
    trial.measured("held after", took);
    // What was under way when they were held comes to its end.
    scene.until("nothing is under way", || {
        let open = scene.model.bill().only(|entry| entry.outcome == Outcome::Open);
        if open.entries.is_empty() { Ok(()) } else { Err(open.entries.len()) }
    });
    let beyond = used(&scene) - AMOUNT;
    trial.counted("tokens beyond the step", beyond);
    // On a machine that has too much to do for it they are held later, and answered more than once until then.
    let answers = match action {
        Action::StopAtTurnEnd => 1,
        Action::Notify | Action::Ask | Action::Pause | Action::StopNow => {
            1 + took.as_secs() / ANSWER.as_secs()
        }
    };
    let most = bound(action, live, answers);
    trial.counted("tokens that may be", most);
    trial.tried_times(live, within(beyond, most));
    let told = scene.world.json(&["events", "list", "--kind", "budget.exhausted"]);
    assert_eq!(rows(&told).len(), 1, "{told}");

    // The control: with a budget that holds nobody the same look sees more than that.
    let (scene, _) = loops(Action::Notify, live, Duration::from_millis(20));
    scene.until("more is used", || {
        let beyond = used(&scene).saturating_sub(AMOUNT);
        if within(beyond, most).is_err() { Ok(()) } else { Err(beyond) }
    });
    trial.control("a budget that holds nobody", true);
    trial.end();
}

#[test]
fn t_overshoot_of_ask() {
    overshoots_at_most(Action::Ask);
}

#[test]
fn t_overshoot_of_pause() {
    overshoots_at_most(Action::Pause);
}

#[test]
fn t_overshoot_of_stop_at_turn_end() {
    overshoots_at_most(Action::StopAtTurnEnd);
}

#[test]
fn t_overshoot_of_stop_now() {
    overshoots_at_most(Action::StopNow);
}
