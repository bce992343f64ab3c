//! Sessions and what they used, as a person asks for them.

use std::fs;

use serde_json::Value;
use stratavore_core::Timestamp;
use stratavore_core::message::{Message, Place, Role};
use stratavore_core::observation::{Observation, SessionSeen};
use stratavore_core::usage::{Priced, Purpose, Quality, Tokens, UsageRecord};
use stratavore_store::{Database, Observed, PoolSettings, Settings, Store};
use stratavore_testkit::wire::on_runtime;
use stratavore_testkit::world::{World, until};

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn record(session: &str, key: &str, model: &str, when: &str) -> Observation {
    Observation::Usage(UsageRecord {
        key: key.into(),
        session: session.into(),
        request_id: Some(key.into()),
        message_id: Some(format!("msg-{key}")),
        model: model.into(),
        purpose: Purpose::Main,
        tokens: Tokens { input: 1000, output: 234, cache_read: 50_000, ..Tokens::default() },
        reported_cost: Some(5_000),
        quality: Quality::Exact,
        at: at(when),
        place: Place { file: "/t/\u{1b}[31mtranscript.jsonl".into(), offset: 77 },
    })
}

fn conversation(session: &str, prompt: &str) -> Vec<Observation> {
    let told = SessionSeen {
        session: session.into(),
        title: Some(format!("\u{1b}]0;owned\u{7}{prompt}")),
        is_current: true,
        ..SessionSeen::default()
    };
    let said = Message {
        id: "1".into(),
        session: session.into(),
        role: Role::User,
        at: at("2026-01-30T22:00:00Z"),
        model: None,
        text: prompt.into(),
        place: Place { file: "/t".into(), offset: 0 },
    };
    vec![
        Observation::Session(told),
        Observation::Message(said),
        record(session, &format!("{session}-1"), "large", "2026-01-30T22:30:00Z"),
        record(session, &format!("{session}-2"), "unknown", "2026-01-30T23:30:00Z"),
        record(session, &format!("{session}-1"), "large", "2026-01-30T22:30:00Z"),
    ]
}

fn price(model: &str, _: &Tokens, _: Timestamp) -> Option<Priced> {
    (model == "large").then(|| Priced { cost: 12_345, version: "test".into() })
}

/// Has what an adapter would have read of a runner taken in, while no daemon runs.
fn take_in(world: &World, runner: &Value, observations: &[Observation]) {
    world.run(["daemon", "stop"]).ok();
    on_runtime(async {
        let database = Database::Sqlite { path: world.path("state/stratavore.db") };
        let settings = Settings { database, pool: PoolSettings::default() };
        let store = Store::open(settings).await.unwrap();
        let id = |field: &str| runner[field].as_str().unwrap();
        let batch = Observed {
            assistant: &id("assistant").parse().unwrap(),
            node: id("node_id").parse().unwrap(),
            project: Some(id("project_id").parse().unwrap()),
            runner: Some(id("id").parse().unwrap()),
            epoch: None,
            follow: None,
            observations,
            price: &price,
            now: at("2026-01-31T12:00:00Z"),
        };
        store.observed(&batch, "test").await.unwrap();
        store.close().await;
    });
    world.run(["daemon", "start"]).ok();
}

#[test]
fn sessions_and_their_usage_are_shown_explained_and_forgotten() {
    let world = World::new();
    world.project("demo");
    for (name, session) in [("one", "c1"), ("two", "c2")] {
        let runner = world.launch("demo", name, &["cat"]);
        let runner = world.runner(&runner);
        take_in(&world, &runner, &conversation(session, &format!("mend the {name}")));
    }
    let one = world.runner("one");

    let sessions = world.json(&["sessions"]);
    assert_eq!(sessions.as_array().unwrap().len(), 2, "{sessions}");
    let shown = world.json(&["sessions", "show", "c1"]);
    assert_eq!(shown["id"], one["session_id"]);
    assert_eq!(shown["first_prompt"], "mend the one");
    assert_eq!(shown["runner"], "one");
    assert_eq!(shown["messages"]["user"], 1);
    assert_eq!(shown["held"][0]["runner"], "one");
    assert_eq!(shown["usage"]["tokens"]["total"], 2 * 51_234);
    let found = world.json(&["sessions", "list", "--text", "THE TWO", "--live"]);
    assert_eq!(found[0]["external_id"], "c2");
    assert_eq!(world.json(&["sessions", "list", "--ended"]).as_array().unwrap().len(), 0);
    for command in [&["sessions"][..], &["sessions", "show", "c1"], &["usage", "--by", "session"]] {
        let text = world.run(command).ok().stdout();
        assert!(!text.contains(['\u{1b}', '\u{7}']), "{text:?}");
    }

    let report = world.json(&["usage", "--zone", "UTC"]);
    assert_eq!(report["total"]["messages"], 4);
    assert_eq!(report["total"]["cost_usd"], 0.02469);
    assert_eq!(report["total"]["unpriced"], 2);
    assert_eq!(report["groups"][0]["of"], "large");
    // Half past eleven at night is the next day in Berlin.
    let days = |zone: &str| {
        let report = world.json(&["usage", "--by", "day", "--since", "2026-01-01", "--zone", zone]);
        let groups = report["groups"].as_array().unwrap().clone();
        let day = |group: &Value| (group["of"].to_string(), group["messages"].clone());
        groups.iter().map(day).collect::<Vec<_>>()
    };
    assert_eq!(days("UTC"), [("\"2026-01-30\"".into(), 4.into())]);
    let berlin = [("\"2026-01-30\"".into(), 2.into()), ("\"2026-01-31\"".into(), 2.into())];
    assert_eq!(days("Europe/Berlin"), berlin);
    let before = ["usage", "--until", "2026-01-30T22:30:00.000001Z", "--project", "demo"];
    assert_eq!(world.json(&before)["total"]["messages"], 2);
    let chart = world.run(["usage", "--by", "runner"]).ok().stdout();
    assert!(chart.contains("one") && chart.contains("####") && chart.contains("$0.02"), "{chart}");

    for about in ["one", "c1", one["id"].as_str().unwrap(), one["session_id"].as_str().unwrap()] {
        let explained = world.json(&["usage", "explain", about]);
        assert_eq!(explained["rows"].as_array().unwrap().len(), 2, "{about}");
        let row = &explained["rows"][1];
        assert_eq!((&row["request_id"], &row["offset"]), (&"c1-1".into(), &77.into()));
        assert_eq!((&row["cost_usd"], &row["reported_usd"]), (&0.012345.into(), &0.005.into()));
        assert!(!explained["not_covered"][0]["what"].as_array().unwrap().is_empty());
    }
    let first = world.json(&["usage", "explain", "demo", "--limit", "3"]);
    let page = first["next"].as_str().unwrap();
    let second = world.json(&["usage", "explain", "demo", "--limit", "3", "--page", page]);
    assert_eq!(second["rows"].as_array().unwrap().len(), 1);
    assert_eq!(second["total"]["messages"], 4);

    assert!(world.run(["sessions", "rm", "c1"]).fails(5).stderr().contains("open in"));
    world.run(["kill", "one", "--force"]).ok();
    world.run(["sessions", "rm", "c1"]).ok();
    world.run(["sessions", "show", "c1"]).fails(3);
    assert_eq!(world.json(&["sessions"]).as_array().unwrap().len(), 1);
    assert_eq!(world.json(&["usage"])["total"]["messages"], 4, "bills do not shrink");
    let events = until("it is told", || {
        let events = world.json(&["events", "--kind", "session."]);
        if events.as_array().unwrap().len() == 3 { Ok(events) } else { Err(events) }
    });
    assert!(!events.to_string().contains("mend the"), "what was said is not on the record");
    world.run(["kill", "--all", "--force"]).ok();
}

#[test]
fn a_program_inside_a_runner_sees_its_own_sessions_and_usage_only() {
    let world = World::new();
    world.project("demo");
    let program = World::program("stratavore").display().to_string();
    let home = world.path("").display().to_string();
    let looks = [
        ("own", "sessions", 0),
        ("foreign", "sessions show c2", 8),
        ("unknown", "sessions show nothing", 8),
        ("mine", "sessions show c1", 0),
        ("report", "usage --by runner", 0),
        ("all", "usage --by project", 0),
        ("explain", "usage explain mine", 0),
        ("explain-other", "usage explain other", 8),
        ("explain-project", "usage explain demo", 8),
        ("filter", "usage --runner other", 8),
        ("rm", "sessions rm c1", 8),
    ];
    let mut script = "while ! test -e go; do sleep 0.1; done\n".to_owned();
    for (file, look, _) in looks {
        script.push_str(&format!(
            "{program} --home {home} --format json {look} > {file} 2>&1 </dev/null; echo \"[{file}: $?]\"\n"
        ));
    }
    fs::write(world.work().join("inside.sh"), script + "echo over; exec cat\n").unwrap();
    let mine = world.launch("demo", "mine", &["sh", "inside.sh"]);
    let other = world.launch("demo", "other", &["cat"]);
    take_in(&world, &world.runner(&mine), &conversation("c1", "mine to see"));
    take_in(&world, &world.runner(&other), &conversation("c2", "canary of others"));
    fs::write(world.work().join("go"), "").unwrap();
    let printed = until("the script has come to its end", || {
        let printed = String::from_utf8_lossy(&world.recorded(&mine)).into_owned();
        if printed.contains("over\r\n") { Ok(printed) } else { Err(printed) }
    });
    let seen = |file: &str| fs::read_to_string(world.work().join(file)).unwrap();
    for (file, look, code) in looks {
        assert!(
            printed.contains(&format!("[{file}: {code}]")),
            "{look}: {}\n{printed}",
            seen(file)
        );
        let text = seen(file);
        assert!(!text.contains("canary") && !text.contains("c2-"), "{look}: {text}");
    }
    let json = |file: &str| -> Value { serde_json::from_str(&seen(file)).unwrap() };
    assert_eq!(json("own").as_array().unwrap().len(), 1);
    assert_eq!(json("mine")["first_prompt"], "mine to see");
    for report in ["report", "all"] {
        assert_eq!(json(report)["total"]["messages"], 2, "{report}");
    }
    assert_eq!(json("explain")["rows"].as_array().unwrap().len(), 2);
    // The control: a person sees both.
    assert_eq!(world.json(&["usage"])["total"]["messages"], 4);
    let refused = until("the refusals are on the record", || {
        let records = world.json(&["audit", "list", "--refused", "--limit", "1000"]);
        let all = records.as_array().unwrap().clone();
        let of = |what: &str| all.iter().any(|record| record["data"]["what"] == what);
        let whats = ["sessions.get", "sessions.remove", "ledger.explain", "ledger.report"];
        if whats.iter().all(|what| of(what)) { Ok(all.len()) } else { Err(records) }
    });
    assert!(refused >= 4);
    world.run(["kill", "--all", "--force"]).ok();
}
