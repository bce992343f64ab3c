//! Budgets as a person meets them: set, looked at, refused by, held by, and let go.

use serde_json::Value;
use stratavore_testkit::world::{World, rows, until};

fn events(world: &World, kind: &str) -> Vec<Value> {
    let listed = world.json(&["events", "list", "--kind", kind]);
    rows(&listed).clone()
}

#[test]
fn a_budget_is_set_shown_changed_and_removed() {
    let world = World::new();
    world.project("api");
    let daily = ["budget", "set", "daily", "--money", "50", "--zone", "Europe/Berlin"];
    let said = world.run(daily).ok().stdout();
    assert!(
        said.contains("50.00 USD a day") && said.contains("75=notify 90=notify 100=notify"),
        "{said}"
    );
    world
        .run([
            "budget", "set", "week", "-p", "api", "--every", "week", "--tokens", "2M", "--step",
            "90=pause",
        ])
        .ok();

    let listed = world.json(&["budget"]);
    let names: Vec<&str> = rows(&listed).iter().map(|b| b["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["daily", "week"]);
    let week = &rows(&listed)[1];
    assert_eq!(
        (&week["project"], &week["amount"], &week["unit"]),
        (&"api".into(), &2_000_000.into(), &"tokens".into())
    );
    assert_eq!(week["reserve"], 20_000);
    let shown = world.run(["budget"]).ok().stdout();
    assert!(
        shown.contains("[....................]") && shown.contains("2,000,000 tokens a week"),
        "{shown}"
    );
    let none = world.run(["budget", "history", "daily"]).ok();
    assert!(none.stderr().contains("nothing was used yet"), "{}", none.everything());

    // Only what is given changes, and what a budget counts does not.
    world.run(["budget", "set", "daily", "--amount", "80", "--step", "100=stop-now"]).ok();
    let shown = world.json(&["budget", "show", "daily"]);
    let daily = &shown["budget"];
    assert_eq!((&daily["amount"], &daily["zone"]), (&80_000_000.into(), &"Europe/Berlin".into()));
    assert_eq!(
        (&daily["reserve"], &daily["steps"][0]["action"]),
        (&800_000.into(), &"stop_now".into())
    );
    let said = world.run(["budget", "set", "daily", "--tokens", "5"]).fails(2).stderr();
    assert!(
        said.contains("the unit of the budget daily stays") && said.contains("budget rm daily"),
        "{said}"
    );

    for (arguments, code, words) in [
        (["set", "x", "--money", "5,5"], 2, "money is written in dollars"),
        (["set", "daily", "--zone", "Mars"], 2, "is no time zone"),
        (["set", "daily", "--every", "year"], 2, "hour, day, week, month, run"),
        (["set", "x", "--amount", "5"], 2, "--tokens, --money or --time"),
        (["set", "daily", "--step", "100=sing"], 2, "90=pause"),
        (["set", "daily", "--reserve", "90"], 2, "would reserve"),
        (["show", "dayly", "--format", "table"], 3, "did you mean daily?"),
        (["allow", "nobody", "--budget", "daily"], 3, "there is no runner"),
    ] {
        let said = world.run(["budget"].iter().chain(&arguments)).fails(code).stderr();
        assert!(said.contains(words), "{arguments:?}: {said}");
    }

    world.run(["budget", "rm", "daily"]).ok();
    assert_eq!(rows(&world.json(&["budget", "list", "--project", "api"])).len(), 1);
    assert!(!world.json(&["budget", "show", "daily"])["budget"]["removed_at"].is_null());
    let kinds: Vec<String> = ["budget.created", "budget.changed", "budget.removed"]
        .iter()
        .map(|kind| format!("{kind} {}", events(&world, kind).len()))
        .collect();
    assert_eq!(kinds, ["budget.created 2", "budget.changed 1", "budget.removed 1"]);
}

#[test]
fn a_launch_that_does_not_fit_is_refused_with_what_would_lift_it() {
    let world = World::new();
    world.project("api");
    world.run(["budget", "set", "small", "--tokens", "100", "--reserve", "60"]).ok();
    let one = world.launch("api", "one", &["cat"]);
    let refused = world.run(["launch", "-p", "api", "--name", "two", "--", "cat"]).fails(4);
    let said = refused.stderr();
    for words in [
        "`small`",
        "100 tokens a day",
        "60 tokens reserved",
        "one (60 tokens)",
        "budget set small --amount",
    ] {
        assert!(said.contains(words), "{words}: {said}");
    }
    let shares = world.json(&["budget", "show", "small"])["shares"].clone();
    assert_eq!((&shares[0]["runner"], &shares[0]["reserved"]), (&"one".into(), &60.into()));
    until("the refusal is on the record", || {
        let refused = world.json(&["audit", "list", "--refused"]);
        match refused.to_string().contains("the budget `small`") {
            true => Ok(()),
            false => Err(refused),
        }
    });

    world.run(["kill", "one", "--force"]).ok();
    world.until_state(&one, &["exited"]);
    world.launch("api", "two", &["cat"]);
}

/// Running time is the one thing that a runner of any kind uses.
#[test]
fn runners_are_stopped_held_and_let_go_as_their_budgets_say() {
    let world = World::new();
    world.project("api");
    let name = |step: &str| step.replace('_', "-");
    let steps = ["stop_now", "stop_at_turn_end", "pause", "ask"];
    let runners = steps.map(|step| world.launch("api", &name(step), &["cat"]));
    for (step, runner) in steps.iter().zip(&runners) {
        world.until_state(runner, &["running"]);
        let at = format!("100={step}");
        world
            .run(["budget", "set", &name(step), "--runner", runner, "--time", "1s", "--step", &at])
            .ok();
    }
    for (step, runner) in steps.iter().zip(&runners).take(2) {
        let ended = world.until_state(runner, &["exited"]);
        let cause = ended["cause"].as_str().unwrap();
        let budget = format!("stopped by budget {}: ", name(step));
        assert!(
            cause.starts_with(&budget) && cause.contains("used of 1 s for each runner; raise it: "),
            "{cause}"
        );
    }
    let [_, _, paused, asks] = &runners;
    let until_desired = |runner: &str, desired: &str| {
        until(&format!("{runner} is to be {desired}"), || match world.runner(runner) {
            shown if shown["desired"] == desired => Ok(()),
            shown => Err(shown),
        });
    };
    for runner in [paused, asks] {
        until_desired(runner, "paused");
    }
    // Who lets it go without a budget's leave has it paused again.
    world.run(["unpause", "pause"]).ok();
    until_desired(paused, "paused");

    world.run(["budget", "set", "pause", "--amount", "1h"]).ok();
    until_desired(paused, "running");
    let asked = events(&world, "budget.ask");
    assert_eq!(asked.len(), 1, "{asked:?}");
    assert_eq!(
        (&asked[0]["name"], &asked[0]["data"]["runner"]),
        (&"ask".into(), &asks.as_str().into())
    );
    let lift = format!("budget allow {asks} --budget ask, or raise it: stratavore budget set ask");
    assert!(asked[0]["data"]["lift"].as_str().unwrap().contains(&lift), "{asked:?}");
    let used_up = events(&world, "budget.exhausted");
    let lifts = |event: &Value| event["data"]["lift"].as_str().unwrap().starts_with("raise it: ");
    assert!(used_up.iter().all(lifts), "{used_up:?}");

    // It waits for a person, in the inbox, and is let go on from there; the one that is only held is not.
    let inbox = world.json(&["inbox"]);
    let [waiting] = rows(&inbox).as_slice() else { panic!("one waits: {inbox}") };
    assert_eq!(
        (&waiting["runner"]["id"], &waiting["ask"]["kind"]),
        (&asks.as_str().into(), &"budget".into())
    );
    assert!(waiting["ask"]["text"].as_str().unwrap().contains(&lift), "{waiting}");
    let shown = world.run(["inbox"]).ok().everything();
    assert!(shown.contains("budget ask: ") && shown.contains("approve ask"), "{shown}");
    let denied = world.run(["deny", "ask"]).fails(2).stderr();
    assert!(denied.contains("held by the budget ask"), "{denied}");
    world.run(["approve", "ask"]).ok();
    until_desired(asks, "running");
    assert!(rows(&world.json(&["inbox"])).is_empty());
    let said =
        world.run(["budget", "allow", "ask", "--budget", "ask", "--amount", "1h"]).ok().stdout();
    assert!(said.contains("ask may use 1 h 00 min more beyond ask"), "{said}");
    let nobody = world.run(["budget", "allow", "pause"]).fails(2).stderr();
    assert!(nobody.contains("no budget holds pause"), "{nobody}");
    for kind in ["budget.exhausted", "budget.allowed"] {
        let count = events(&world, kind).len();
        assert_eq!(count, if kind == "budget.allowed" { 2 } else { 4 }, "{kind}");
    }

    // One that a person has paused stays so, whatever becomes of the budget.
    world.run(["pause", "pause"]).ok();
    world.run(["budget", "set", "pause", "--amount", "1s"]).ok();
    let holds = || world.json(&["events", "list", "--kind", "budget.exhausted"]);
    until("it is used up again", || match rows(&holds()).len() {
        5 => Ok(()),
        found => Err(found),
    });
    world.run(["budget", "rm", "pause"]).ok();
    world.run(["kill", "ask", "--force"]).ok();
    world.until_state(asks, &["exited"]);
    assert_eq!(world.runner(paused)["desired"], "paused");
}
