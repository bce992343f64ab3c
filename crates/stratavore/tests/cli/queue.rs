//! Queues: each item has exactly one effect, whatever dies between its being queued and its end.
//!
//! The oracle is a file that the items themselves append to.

use std::collections::BTreeMap;
use std::fs;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use stratavore_core::Timestamp;
use stratavore_testkit::model::{Purpose, Reply};
use stratavore_testkit::world::{World, rows, signal, until};

use crate::run::ClaudeWorld;

#[expect(clippy::disallowed_methods, reason = "the daemon's clock is the system's")]
fn now() -> Timestamp {
    Timestamp::try_from(std::time::SystemTime::now()).unwrap()
}

fn item(world: &World, id: &str) -> Value {
    world.json(&["queue", "show", id])
}

fn until_item(world: &World, id: &str, state: &str) -> Value {
    until(&format!("{id} is {state}"), || {
        let shown = item(world, id);
        if shown["state"] == state { Ok(shown) } else { Err(shown) }
    })
}

/// Queues a shell command. Answers its id.
fn add(world: &World, options: &[&str], script: &str) -> String {
    let mut words = vec!["queue", "add", "demo", "--format", "json"];
    words.extend(options);
    words.extend(["--", "sh", "-c", script]);
    world.run(words).ok().json()["id"].as_str().unwrap().to_owned()
}

fn lines(world: &World, name: &str) -> Vec<String> {
    let text = fs::read_to_string(world.work().join(name)).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

fn world() -> World {
    let world = World::new();
    world.project("demo");
    world
}

#[test]
fn items_run_one_after_the_other_highest_priority_first() {
    let world = world();
    world.run(["queue", "set", "demo", "--pause"]).ok();
    for (name, priority) in [("low", "-1"), ("first", "0"), ("second", "0"), ("high", "5")] {
        // Whoever is not alone says so.
        let script = format!(
            "test -e busy && echo not-alone >> order; touch busy; echo {name} >> order; rm busy"
        );
        add(&world, &[&format!("--priority={priority}")], &script);
    }
    let shown = world.json(&["queue"]);
    assert_eq!(rows(&shown).len(), 4);
    assert!(rows(&shown).iter().all(|item| item["state"] == "queued"), "{shown}");
    world.run(["queue", "set", "demo", "--resume"]).ok();
    until("all have run", || match lines(&world, "order") {
        order if order.len() == 4 => Ok(()),
        order => Err(order),
    });
    assert_eq!(lines(&world, "order"), ["high", "first", "second", "low"]);
    until("the queue is empty", || match world.json(&["queue"]) {
        left if rows(&left).is_empty() => Ok(()),
        left => Err(left),
    });
    let all = world.json(&["queue", "list", "--all"]);
    assert!(rows(&all).iter().all(|item| item["state"] == "done"), "{all}");
}

#[test]
fn what_fails_is_tried_again_as_often_as_it_may_and_can_be_queued_again() {
    let world = world();
    let script = "echo try >> tries; test $(wc -l < tries) -ge 3 && echo at last";
    let id = add(&world, &["--attempts", "3", "--backoff", "50ms"], script);
    let done = until_item(&world, &id, "done");
    assert_eq!((&done["attempts"], &done["text"]), (&3.into(), &"at last".into()), "{done}");
    assert_eq!(lines(&world, "tries").len(), 3);

    let id = add(&world, &["--backoff", "50ms"], "echo bad >> bad; exit 4");
    let failed = until_item(&world, &id, "failed");
    assert!(failed["why"].as_str().unwrap().contains("exit 4"), "{failed}");
    assert_eq!(lines(&world, "bad").len(), 1, "once, unless it is asked for more");
    world.run(["queue", "retry", &id]).ok();
    until("it is tried again", || match lines(&world, "bad").len() {
        2 => Ok(()),
        other => Err(other),
    });
    until_item(&world, &id, "failed");
    world.run(["queue", "cancel", &id]).fails(4);
    world.run(["queue", "show", "item_zzz"]).fails(3);
}

#[test]
fn what_is_cancelled_does_not_run_or_is_stopped() {
    let world = world();
    let runs = add(&world, &[], "echo begun >> begun; sleep 1000");
    until("it runs", || match lines(&world, "begun").len() {
        1 => Ok(()),
        other => Err(other),
    });
    let waits = add(&world, &["--priority", "9"], "echo never >> never");
    let later = add(&world, &["--not-before", "1h"], "echo never >> never");
    assert_eq!(item(&world, &waits)["state"], "queued", "one at once");
    world.run(["queue", "cancel", &waits, &later, &runs]).ok();
    let cancelled = until_item(&world, &runs, "cancelled");
    let runner = cancelled["runner"].as_str().unwrap();
    assert!(world.processes_of(runner).is_empty());
    let last = add(&world, &[], "echo last >> last");
    until_item(&world, &last, "done");
    assert_eq!(lines(&world, "never"), [""; 0]);
    for id in [&waits, &later] {
        assert_eq!(item(&world, id)["state"], "cancelled");
    }
}

/// Appends its own number, and nothing else.
fn numbered(world: &World, number: usize) -> String {
    add(world, &["--attempts", "1"], &format!("echo {number} >> effects"))
}

fn each_once(world: &World, count: usize) -> Result<(), BTreeMap<String, usize>> {
    let mut effects: BTreeMap<String, usize> = BTreeMap::new();
    for line in lines(world, "effects") {
        *effects.entry(line).or_default() += 1;
    }
    let whole = effects.len() == count && effects.values().all(|times| *times == 1);
    if whole { Ok(()) } else { Err(effects) }
}

#[test]
fn an_item_has_one_effect_wherever_the_daemon_dies() {
    let places = [
        "item_added",
        "item_begin",
        "item_begun",
        "L8",
        "item_settle",
        "item_write",
        "item_settled",
    ];
    for place in places {
        let mut world = world();
        world.run(["daemon", "stop"]).ok();
        let passed = world.path("passed");
        world.set_env("STRATAVORE_FAILPOINTS", &format!("{place}=abort"));
        world.set_env("STRATAVORE_TEST_HOOKS", passed.to_str().unwrap());
        let mut adding = world.command("stratavore");
        adding.args(["queue", "add", "demo", "--", "sh", "-c", "echo 0 >> effects"]);
        adding.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut adding = adding.spawn().unwrap();
        // Whoever passes there dies there; the request is sent again, with its key, to the next one.
        until(&format!("a daemon has died at {place}"), || {
            let passed = fs::read_to_string(&passed).unwrap_or_default();
            if passed.lines().any(|line| line == place) { Ok(()) } else { Err(passed) }
        });
        adding.kill().ok();
        adding.wait().unwrap();
        world.set_env("STRATAVORE_FAILPOINTS", "");
        if let Some(pid) = world.daemon_pid() {
            signal(pid, Signal::KILL);
        }
        until("no daemon is left", || world.daemon_pid().map_or(Ok(()), Err));
        world.run(["daemon", "start"]).ok();
        let listed = world.json(&["queue", "list", "--all"]);
        let [first] = &rows(&listed)[..] else { panic!("{place}: it is queued once: {listed}") };
        until_item(&world, first["id"].as_str().unwrap(), "done");
        // All that could run a second time has run once the next one is done.
        let next = numbered(&world, 1);
        until_item(&world, &next, "done");
        assert_eq!(each_once(&world, 2), Ok(()), "{place}");
        let runners = world.json(&["runners", "list", "--all"]);
        assert_eq!(rows(&runners).len(), 2, "one runner each: {place}: {runners}");
    }
}

#[test]
fn a_daemon_that_is_killed_again_and_again_loses_no_item_and_does_none_twice() {
    const ITEMS: usize = 12;
    let world = world();
    world.run(["queue", "set", "demo", "--concurrency", "3"]).ok();
    let ids: Vec<String> = (0..ITEMS).map(|number| numbered(&world, number)).collect();
    for done in [1, 4, 8] {
        until("some are done", || match lines(&world, "effects").len() {
            found if found >= done => Ok(()),
            found => Err(found),
        });
        world.kill_daemon();
        world.run(["daemon", "start"]).ok();
    }
    for id in &ids {
        until_item(&world, id, "done");
    }
    assert_eq!(each_once(&world, ITEMS), Ok(()));

    // The control: an item that is done twice is noticed.
    let twice = add(&world, &["--attempts", "2", "--backoff", "1ms"], "echo 0 >> effects; exit 1");
    until_item(&world, &twice, "failed");
    assert!(each_once(&world, ITEMS).is_err());
}

#[test]
fn an_item_of_claude_waits_for_the_end_of_a_rate_limit_and_goes_on_in_its_session() {
    let claude = ClaudeWorld::new();
    let (world, model) = (&claude.world, &claude.model);
    // When each request came; the second one is told that there is a limit, and until when.
    let (asked_at, reset) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(0)));
    let (asked, told) = (asked_at.clone(), reset.clone());
    model.answers(move |request| {
        if request.purpose != Purpose::Main || !request.says("marker-one") {
            return None;
        }
        let mut asked = asked.lock().unwrap();
        asked.push(now());
        Some(match asked.len() {
            1 => Reply::shell("echo once >> effects"),
            2 => {
                // Long enough for a daemon to die and another one to start.
                let until = (now() + Duration::from_secs(8)).as_second();
                *told.lock().unwrap() = until;
                Reply::limited(&format!("Claude AI usage limit reached|{until}"))
            }
            _ => Reply::text("done after the limit"),
        })
    });
    let options = claude.options();
    let mut words: Vec<&str> =
        vec!["queue", "add", "demo", "marker-one: do it", "--format", "json"];
    words.extend(options.iter().map(String::as_str));
    words.extend(["--", "--allowedTools", "Bash"]);
    let id = world.run(words).ok().json()["id"].as_str().unwrap().to_owned();
    let waits = until("it waits", || {
        let shown = item(world, &id);
        if shown["why"].is_string() { Ok(shown) } else { Err(shown) }
    });
    assert_eq!((&waits["state"], &waits["attempts"]), (&"queued".into(), &0.into()), "{waits}");
    assert!(waits["why"].as_str().unwrap().contains("rate limit"), "{waits}");
    let until: Timestamp = waits["not_before"].as_str().unwrap().parse().unwrap();
    let reset = *reset.lock().unwrap();
    assert!(until.as_second() >= reset, "{waits}");
    // Who dies while it waits changes nothing.
    world.kill_daemon();
    world.run(["daemon", "start"]).ok();
    let done = until_item(world, &id, "done");
    assert_eq!(done["text"], "done after the limit", "{done}");
    assert_eq!(done["session"], waits["session"]);
    assert_ne!(done["runner"], waits["runner"]);
    assert_eq!(lines(world, "effects"), ["once"]);
    let asked_at = asked_at.lock().unwrap();
    assert_eq!(asked_at.len(), 3, "{asked_at:?}");
    assert!(asked_at[2].as_second() >= reset, "not before the limit is over: {asked_at:?} {reset}");
    // It was told so in the same conversation, and knows what it has done.
    let asked = model.asked();
    let last = asked.last().unwrap();
    assert!(last.says("interrupted") && last.says("marker-one"), "{:?}", last.prompt);
    let runners = world.json(&["runners", "list", "--all"]);
    assert_eq!(rows(&runners).len(), 2, "{runners}");
}
