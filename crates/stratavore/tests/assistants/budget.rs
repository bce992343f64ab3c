//! T-OVERSHOOT: by how much real assistants go beyond a step of a budget before it holds them.
//!
//! What was used is what the stand-in has billed, answers that nobody took in any more included.

use std::time::{Duration, Instant};

use serde_json::Value;
use stratavore_core::Timestamp;
use stratavore_core::budget::Action;
use stratavore_core::price::Prices;
use stratavore_core::usage::Tokens;
use stratavore_testkit::model::{Bill, Entry, Outcome, Place, Purpose, Reply, Usage};
use stratavore_testkit::programs::Program;
use stratavore_testkit::trial::{Trial, scale};
use stratavore_testkit::world::{World, rows, until_within};

use crate::scene::Scene;

/// What each answer costs in tokens, and how many there are of a turn that comes to its end.
const RESPONSE: Usage = Usage {
    input: 9_900,
    output: 100,
    cache_read: 0,
    cache_write_5m: 0,
    cache_write_1h: 0,
    reasoning: 0,
};
const ROUNDS: usize = 4;
/// How long one takes. One of a real model takes some seconds as well.
const ANSWER: Duration = Duration::from_secs(3);
/// The longest that they may be held after, on a machine that has much else to do: a step is looked for every five
/// seconds, and who is stopped has its grace.
const HELD_WITHIN: Duration = Duration::from_secs(15);

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unit {
    Tokens,
    Money,
}

impl Unit {
    /// What an answer of this model comes to, in tokens or in millionths of a dollar.
    fn of(self, model: &str, used: &Usage) -> u64 {
        let tokens = Tokens {
            input: used.input,
            output: used.output,
            cache_read: used.cache_read,
            cache_write: used.cache_write_5m,
            cache_write_1h: used.cache_write_1h,
            reasoning: used.reasoning,
        };
        match self {
            Self::Tokens => tokens.total(),
            Self::Money => {
                Prices::default().cost(model, &tokens).expect("it has a price").unsigned_abs()
            }
        }
    }

    fn response(self, scene: &Scene) -> u64 {
        self.of(scene.home.model(), &RESPONSE)
    }

    /// Where the step is: the sixth answer reaches it.
    fn amount(self, scene: &Scene) -> u64 {
        self.response(scene) * 11 / 2
    }

    /// The option of a budget of so much.
    fn option(self, amount: u64) -> [String; 2] {
        match self {
            Self::Tokens => ["--tokens".into(), amount.to_string()],
            Self::Money => {
                ["--money".into(), format!("{}.{:06}", amount / 1_000_000, amount % 1_000_000)]
            }
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Tokens => "tokens",
            Self::Money => "millionths of a dollar",
        }
    }

    fn billed(self, bill: &Bill) -> u64 {
        let each = |entry: &Entry| self.of(&entry.model, &entry.usage);
        bill.entries.iter().map(each).sum()
    }
}

/// Assistants that use a tool again and again, each answer taking so long.
fn loops(unit: Unit, action: Action, live: usize, answer: Duration) -> (Scene, Vec<String>) {
    let scene = Scene::new(Program::Claude);
    scene.model.answers(move |asked| {
        if asked.purpose != Purpose::Main {
            return None;
        }
        let ends = action == Action::StopAtTurnEnd && asked.rounds + 1 >= ROUNDS;
        let reply = if ends { Reply::text("done") } else { Reply::shell("true") };
        Some(reply.costing(RESPONSE).after(Place::Start, answer))
    });
    let ([option, amount], step) =
        (unit.option(unit.amount(&scene)), format!("100={}", action.as_str()));
    let [_, least] = unit.option(1);
    let set = ["budget", "set", "tight", "--project", "demo", "--reserve", &least];
    scene.world.run(set.iter().chain(&[&*option, &amount, "--step", &step])).ok();
    let runners = (0..live).map(|number| {
        let options = ["--prompt", "go on until you are held", "--", "--allowedTools=Bash"];
        scene.launch(&format!("r{number}"), &options)
    });
    let runners = runners.collect();
    (scene, runners)
}

fn is_held(shown: &Value, action: Action) -> bool {
    match action {
        Action::Ask | Action::Pause => shown["desired"] == "paused",
        Action::StopAtTurnEnd | Action::StopNow => shown["state"] == "exited",
        Action::Notify => false,
    }
}

/// The most that may be used beyond the step by so many, of which each is answered so often before it is held.
fn bound(action: Action, live: usize, answers: u64, response: u64) -> u64 {
    let turn = response * ROUNDS as u64;
    action.overshoot(live as u64 * answers, response, turn).expect("this step has a bound")
}

fn within(beyond: u64, bound: u64) -> Result<(), String> {
    if beyond <= bound { Ok(()) } else { Err(format!("{beyond} beyond, of {bound}")) }
}

/// That they are held late is no reason to let them use more without end.
fn in_time(took: Duration, longest: Duration) -> Result<(), String> {
    if took <= longest { Ok(()) } else { Err(format!("held after {took:?}, of {longest:?}")) }
}

fn overshoots_at_most(unit: Unit, action: Action) {
    let live = scale(3, 6);
    let what = match unit {
        Unit::Tokens => action.as_str().to_owned(),
        Unit::Money => format!("money, {}", action.as_str()),
    };
    let mut trial = Trial::new(
        "T-OVERSHOOT",
        &format!("{what}: claude goes no further beyond it than is said"),
    );
    let (scene, runners) = loops(unit, action, live, ANSWER);
    let (amount, response) = (unit.amount(&scene), unit.response(&scene));
    scene.until("the step is reached", || match unit.billed(&scene.model.bill().complete()) {
        used if used >= amount => Ok(()),
        used => Err(used),
    });
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
    let beyond = unit.billed(&scene.model.bill()) - amount;
    trial.counted(&format!("{} beyond the step", unit.name()), beyond);
    // On a machine that has too much to do for it they are held later, and answered more than once until then.
    let (answers, longest) = match action {
        Action::StopAtTurnEnd => (1, HELD_WITHIN + ANSWER * ROUNDS as u32),
        Action::Notify | Action::Ask | Action::Pause | Action::StopNow => {
            (1 + took.as_secs() / ANSWER.as_secs(), HELD_WITHIN)
        }
    };
    let most = bound(action, live, answers, response);
    trial.counted(&format!("{} that may be", unit.name()), most);
    trial.tried_times(live, in_time(took, longest).and_then(|()| within(beyond, most)));
    let told = scene.world.json(&["events", "list", "--kind", "budget.exhausted"]);
    assert_eq!(rows(&told).len(), 1, "{told}");

    // The control: with a budget that holds nobody the same look sees more than that.
    let (scene, _) = loops(unit, Action::Notify, live, Duration::from_millis(20));
    scene.until("more is used", || {
        let beyond = unit.billed(&scene.model.bill()).saturating_sub(amount);
        if within(beyond, most).is_err() { Ok(()) } else { Err(beyond) }
    });
    trial.control("a budget that holds nobody", true);
    trial.end();
}

#[test]
fn t_overshoot_of_ask() {
    overshoots_at_most(Unit::Tokens, Action::Ask);
}

#[test]
fn t_overshoot_of_pause() {
    overshoots_at_most(Unit::Tokens, Action::Pause);
}

#[test]
fn t_overshoot_of_stop_at_turn_end() {
    overshoots_at_most(Unit::Tokens, Action::StopAtTurnEnd);
}

#[test]
fn t_overshoot_of_stop_now() {
    overshoots_at_most(Unit::Tokens, Action::StopNow);
}

#[test]
fn t_overshoot_of_money() {
    overshoots_at_most(Unit::Money, Action::Pause);
}

/// How often running time is counted.
const COUNTED_EVERY: Duration = Duration::from_secs(10);
/// What a count may be late by, on a machine that has much else to do.
const LATE: Duration = Duration::from_secs(2);

/// Has some run under a budget of time with this step.
fn run_under(step: &str, live: usize, amount: Duration) -> (World, Vec<String>) {
    let world = World::new();
    world.project("demo");
    let (amount, step) = (format!("{}s", amount.as_secs()), format!("100={step}"));
    let set = ["budget", "set", "tight", "--project", "demo", "--reserve", "1s"];
    world.run(set.iter().copied().chain(["--time", &amount, "--step", &step])).ok();
    let launch = |number: usize| world.launch("demo", &format!("r{number}"), &["sleep", "1000"]);
    let runners = (0..live).map(launch).collect();
    (world, runners)
}

fn instant(value: &Value) -> Timestamp {
    let text = value.as_str().unwrap_or_else(|| panic!("a time: {value}"));
    text.parse().unwrap()
}

fn between(from: Timestamp, to: Timestamp) -> Duration {
    Duration::try_from(to.duration_since(from)).unwrap_or_default()
}

fn when_used_up(world: &World) -> Timestamp {
    until_within(COUNTED_EVERY * 6, "it is used up", || {
        let told = world.json(&["events", "list", "--kind", "budget.exhausted"]);
        rows(&told).first().map(|event| instant(&event["at"])).ok_or(told.to_string())
    })
}

/// Of time so much comes beyond the step: what was not counted yet of each, and what it takes to stop them.
#[test]
fn t_overshoot_of_time() {
    let (live, amount) = (scale(3, 6), Duration::from_secs(15));
    let promise = "time, stop_now: runners go no further beyond it than is said";
    let mut trial = Trial::new("T-OVERSHOOT", promise);
    let (world, runners) = run_under("stop_now", live, amount);
    let used_up = when_used_up(&world);
    let ended: Vec<Value> =
        runners.iter().map(|runner| world.until_state(runner, &["exited", "failed"])).collect();
    let ends =
        ended.iter().map(|shown| (instant(&shown["started_at"]), instant(&shown["ended_at"])));
    let (mut used, mut stops) = (Duration::ZERO, Duration::ZERO);
    for (start, end) in ends {
        used += between(start, end);
        stops += between(used_up, end);
        trial.measured("held after", between(used_up, end));
    }
    let most = (COUNTED_EVERY + LATE) * u32::try_from(live).unwrap() + stops;
    let beyond = used.saturating_sub(amount);
    trial.counted("milliseconds beyond the step", beyond.as_millis() as u64);
    trial.counted("milliseconds that may be", most.as_millis() as u64);
    trial.tried_times(
        live,
        match beyond <= most {
            true => Ok(()),
            false => Err(format!("{beyond:?} beyond, of {most:?}")),
        },
    );

    // The control: with a budget that holds nobody more than that is used.
    let (world, _) = run_under("notify", live, amount);
    when_used_up(&world);
    until_within(COUNTED_EVERY * 6, "more is used", || {
        let shown = world.json(&["budget", "show", "tight"]);
        let used = Duration::from_millis(
            shown["budget"]["periods"][0]["used"].as_u64().unwrap_or_default(),
        );
        if used > amount + most { Ok(()) } else { Err(shown["budget"].to_string()) }
    });
    trial.control("a budget that holds nobody", true);
    world.run(["kill", "--all", "--force"]).ok();
    trial.end();
}
