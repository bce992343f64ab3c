//! Events reach whoever asks: all of them, once, in order, whatever dies in between.
//!
//! [`whole`] is the check; the last test shows that it notices what it is there to notice.

use std::collections::BTreeMap;
use std::fs::File;
use std::process::{Child, Stdio};

use futures_util::future::join_all;
use serde_json::Value;
use stratavore_proto::v1::{EditProject, EventFilter, SubscribeEvents};
use stratavore_testkit::world::{World, until};

use stratavore_testkit::wire::{client, fresh_key, new_runner, on_runtime, wait};

/// Whether these are all events from the first on: positions 1, 2, 3, …, and for each entity the
/// sequence 1, 2, 3, ….
fn whole(events: &[Value]) -> Result<(), String> {
    let mut last: BTreeMap<String, i64> = BTreeMap::new();
    for (index, event) in events.iter().enumerate() {
        let (position, seq) = (event["position"].as_i64(), event["seq"].as_i64());
        let expected = index as i64 + 1;
        if position != Some(expected) {
            return Err(format!("at place {expected} stands {event}"));
        }
        let entity = event["entity_id"].as_str().unwrap_or_default().to_owned();
        let before = last.entry(entity).or_default();
        *before += 1;
        if seq != Some(*before) {
            return Err(format!("number {before} of its entity should be {event}"));
        }
    }
    if events.is_empty() { Err("there are none".into()) } else { Ok(()) }
}

/// `stratavore events subscribe` from the beginning, in the background, writing to a file.
struct Subscriber {
    child: Child,
    file: std::path::PathBuf,
}

impl Subscriber {
    fn start(world: &World, name: &str, options: &[&str]) -> Self {
        let file = world.path(name);
        let mut command = world.command("stratavore");
        command.args(["events", "subscribe", "--format", "json"]).args(options);
        command.stdin(Stdio::null()).stdout(File::create(&file).expect("a file of the test's"));
        command.stderr(Stdio::null());
        Self { child: command.spawn().expect("stratavore runs"), file }
    }

    /// What it has printed by now, one event a line.
    fn heard(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(&self.file).expect("the file is there");
        // The last line may be half written.
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        whole.lines().map(|line| serde_json::from_str(line).expect("each line is JSON")).collect()
    }

    #[track_caller]
    fn until_heard(&self, count: usize) -> Vec<Value> {
        until(&format!("{count} events were heard"), || match self.heard() {
            heard if heard.len() >= count => Ok(heard),
            heard => Err((heard.len(), heard.last().cloned())),
        })
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// All events by `events list`, page after page.
fn listed(world: &World) -> Vec<Value> {
    let mut all: Vec<Value> = Vec::new();
    loop {
        let after = all.last().map_or(0, |event| event["position"].as_i64().unwrap()).to_string();
        let page = world.json(&["events", "list", "--after", &after, "--limit", "50"]);
        let page = page.as_array().expect("a list").clone();
        if page.is_empty() {
            return all;
        }
        assert!(page.len() <= 50);
        all.extend(page);
    }
}

/// Waits until everything that was committed has its position.
fn settled(world: &World) {
    until("the outbox is empty", || {
        match world.json(&["status"])["daemon"]["outbox_pending"].clone() {
            pending if pending == 0 => Ok(()),
            pending => Err(pending),
        }
    });
}

/// Launches so many runners at the same time, each of which ends by itself.
fn launch_many(world: &World, count: usize) {
    let launches = (0..count).map(|n| {
        let name = format!("--name=r{n}");
        let mut command = world.command("stratavore");
        command.args([
            "launch",
            "--project",
            "demo",
            "--assistant",
            "generic",
            &name,
            "--",
            "true",
        ]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().expect("stratavore runs")
    });
    for mut launch in launches.collect::<Vec<_>>() {
        // It may be told by a daemon that died that its answer is lost; what counts is the events.
        launch.wait().expect("it ends");
    }
}

#[test]
fn a_subscriber_misses_nothing_and_hears_nothing_twice_while_daemons_die() {
    let world = World::new();
    world.project("demo");
    let subscriber = Subscriber::start(&world, "heard", &["--after", "0"]);
    subscriber.until_heard(1);
    std::thread::scope(|scope| {
        let launching = scope.spawn(|| launch_many(&world, 12));
        for round in 0..3 {
            // Each death comes at some other point of what is going on.
            subscriber.until_heard(3 + 8 * round);
            if world.daemon_pid().is_some() {
                world.kill_daemon();
            }
            world.run(["daemon", "start"]).ok();
        }
        launching.join().expect("all launches end");
    });
    until("every runner has ended", || match world.json(&["runners"]) {
        live if live.as_array().is_some_and(Vec::is_empty) => Ok(()),
        live => Err(live),
    });
    settled(&world);
    let truth = listed(&world);
    whole(&truth).unwrap();
    let heard = subscriber.until_heard(truth.len());
    assert_eq!(heard, truth, "what is subscribed to is what is listed");
    let accepted = truth.iter().filter(|event| event["kind"] == "runner.accepted").count();
    let ended = truth.iter().filter(|event| event["kind"] == "runner.exited").count();
    assert_eq!((accepted, ended), (12, 12));
}

/// The relay's two points: before an event has a position, and after it has one and nobody was
/// told.
#[test]
fn what_was_committed_is_published_by_the_next_daemon() {
    for point in ["relay_before_publish", "relay_before_bus"] {
        let world = World::new();
        world.project("demo");
        settled(&world);
        let subscriber = Subscriber::start(&world, "heard", &["--after", "0"]);
        subscriber.until_heard(1);
        world.kill_daemon();

        let mut doomed = world.command("stratavore");
        doomed.args(["daemon", "start"]).env("STRATAVORE_FAILPOINTS", format!("{point}=abort"));
        assert!(doomed.output().expect("stratavore runs").status.success());
        on_runtime(async {
            let client = client(&world).await;
            let edit = EditProject {
                idempotency_key: fresh_key("edit"),
                project: "demo".into(),
                description: Some("told late".into()),
                ..EditProject::default()
            };
            // The relay may die before this is answered.
            client.projects().edit(edit).await.ok();
        });
        until("the relay has killed its daemon", || match world.daemon_pid() {
            None => Ok(()),
            Some(pid) => Err(pid),
        });
        world.run(["daemon", "start"]).ok();
        settled(&world);
        let heard = subscriber.until_heard(2);
        whole(&heard).unwrap();
        assert_eq!(heard[1]["kind"], "project.edited", "{point}: {heard:?}");
        assert_eq!(heard, listed(&world), "{point}");
    }
}

#[test]
fn filters_choose_what_is_told() {
    let world = World::new();
    world.project("demo");
    world.project("other");
    let one = world.launch("demo", "one", &["true"]);
    world.launch("other", "two", &["true"]);
    world.until_state(&one, &["exited"]);
    world.until_state("two", &["exited"]);
    settled(&world);
    let all = listed(&world);
    whole(&all).unwrap();

    type Wanted<'a> = &'a dyn Fn(&Value) -> bool;
    let cases: [(&[&str], Wanted<'_>); 6] = [
        (&["--project", "demo"], &|e| e["project_id"] == all[0]["project_id"]),
        (&["--runner", "one"], &|e| e["entity_id"] == one.as_str()),
        (&["--kind", "runner."], &|e| e["kind"].as_str().unwrap().starts_with("runner.")),
        (&["--kind", "runner.exited"], &|e| e["kind"] == "runner.exited"),
        (&["--kind", "runner.started", "--kind", "project."], &|e| {
            e["kind"] == "runner.started" || e["entity"] == "project"
        }),
        (&["--project", "other", "--kind", "runner.accepted"], &|e| {
            e["kind"] == "runner.accepted" && e["project_id"] != all[0]["project_id"]
        }),
    ];
    for (number, (options, wanted)) in cases.into_iter().enumerate() {
        let expected: Vec<_> = all.iter().filter(|event| wanted(event)).cloned().collect();
        assert!(!expected.is_empty() && expected.len() < all.len(), "{options:?}");
        let mut list = vec!["events", "list", "--after", "0"];
        list.extend(options);
        assert_eq!(world.json(&list).as_array(), Some(&expected), "{options:?}");

        let limit = expected.len().to_string();
        let mut options = options.to_vec();
        options.extend(["--after", "0", "--limit", &limit]);
        let mut subscriber = Subscriber::start(&world, &format!("heard-{number}"), &options);
        assert!(subscriber.child.wait().unwrap().success(), "it ends after its limit");
        assert_eq!(subscriber.heard(), expected, "{options:?}");
    }
    // A beginning that is not a whole word, and one that matches by wildcards only.
    for kind in ["runner", "run", "%", "runner.%", "_unner.exited", "*", "runner.*", "."] {
        let found = world.json(&["events", "list", "--after", "0", "--kind", kind]);
        assert_eq!(found.as_array().map(Vec::len), Some(0), "{kind}");
    }
}

#[test]
fn the_list_goes_forward_from_a_position_and_is_the_latest_without_one() {
    let world = World::new();
    world.project("demo");
    for n in 0..6 {
        world.run(["projects", "edit", "demo", "--description", &format!("edit {n}")]).ok();
    }
    settled(&world);
    let positions = |arguments: &[&str]| -> Vec<i64> {
        let list = world.json(arguments);
        list.as_array().unwrap().iter().map(|e| e["position"].as_i64().unwrap()).collect()
    };
    assert_eq!(positions(&["events", "list", "--after", "0", "--limit", "3"]), [1, 2, 3]);
    assert_eq!(positions(&["events", "list", "--after", "3", "--limit", "3"]), [4, 5, 6]);
    assert_eq!(positions(&["events", "list", "--after", "6"]), [7]);
    assert_eq!(positions(&["events", "list", "--after", "7"]), [0; 0]);
    assert_eq!(positions(&["events", "list", "--limit", "2"]), [6, 7], "the latest");
    assert_eq!(positions(&["events", "--limit", "1"]), [7]);
    assert_eq!(positions(&["events", "list", "--after", "9000"]), [0; 0]);
    assert_eq!(positions(&["events", "list", "--after=-5", "--limit", "1"]), [1]);
}

/// The bus keeps some 1,000 events for a subscriber; one that does not read for longer is sent back
/// to the store and hears all of them.
#[test]
fn a_subscriber_that_reads_slowly_loses_nothing() {
    const PROJECTS: usize = 8;
    const EDITS: usize = 140;
    let world = World::new();
    for n in 0..PROJECTS {
        world.project(&format!("p{n}"));
    }
    on_runtime(async {
        let client = client(&world).await;
        let request = SubscribeEvents { after: Some(0), ..SubscribeEvents::default() };
        let mut slow = client.events().subscribe(request).await.unwrap().into_inner();
        let edits = (0..PROJECTS).map(async |project| {
            for n in 0..EDITS {
                let edit = EditProject {
                    idempotency_key: fresh_key("edit"),
                    project: format!("p{project}"),
                    // Long, so that it does not all fit into the buffers on the way.
                    description: Some(format!("{n:0>900}")),
                    ..EditProject::default()
                };
                client.projects().edit(edit).await.unwrap();
            }
        });
        join_all(edits).await;
        let mut heard = Vec::new();
        while heard.len() < PROJECTS * (EDITS + 1) {
            let event = slow.message().await.unwrap().expect("the subscription goes on");
            heard.push(serde_json::json!({
                "position": event.position, "entity_id": event.entity_id, "seq": event.seq,
            }));
        }
        whole(&heard).unwrap();
    });
}

/// One that asks for what is to come hears that and nothing else.
#[test]
fn a_subscriber_without_a_position_hears_what_comes() {
    let world = World::new();
    world.project("demo");
    settled(&world);
    on_runtime(async {
        let client = client(&world).await;
        let filter = EventFilter { kinds: vec!["runner.".into()], ..EventFilter::default() };
        let request = SubscribeEvents { filter: Some(filter), ..SubscribeEvents::default() };
        let mut live = client.events().subscribe(request).await.unwrap().into_inner();
        let launches = (0..8).map(async |_| {
            let list = client.runners().launch(new_runner("demo", fresh_key("event"))).await;
            let id = list.unwrap().into_inner().runners.remove(0).id;
            wait(&client, &id, &["running"]).await;
        });
        join_all(launches).await;
        let mut heard = BTreeMap::new();
        let mut position = 1;
        while heard.values().filter(|kind| *kind == "runner.started").count() < 8 {
            let event = live.message().await.unwrap().expect("the subscription goes on");
            assert!(event.position > position, "{event:?} after {position}");
            position = event.position;
            heard.insert((event.entity_id, event.seq), event.kind);
        }
        let accepted =
            heard.iter().filter(|((_, seq), kind)| *seq == 1 && *kind == "runner.accepted");
        assert_eq!(accepted.count(), 8, "{heard:?}");
    });
}

/// The control: the check notices an event that is missing, one that comes twice, one out of order.
#[test]
fn the_check_notices_gaps_and_duplicates() {
    let event = |position: i64, entity: &str, seq: i64| serde_json::json!({ "position": position, "entity_id": entity, "seq": seq });
    let right = [event(1, "a", 1), event(2, "b", 1), event(3, "a", 2), event(4, "b", 2)];
    whole(&right).unwrap();
    let changed = |change: &dyn Fn(&mut Vec<Value>)| {
        let mut events = right.to_vec();
        change(&mut events);
        whole(&events)
    };
    changed(&|events| drop(events.remove(1))).unwrap_err();
    changed(&|events| events.insert(2, right[1].clone())).unwrap_err();
    changed(&|events| events.swap(1, 2)).unwrap_err();
    changed(&|events| events.clear()).unwrap_err();
    // Positions without a gap do not hide a gap of one entity.
    changed(&|events| events[2]["seq"] = 3.into()).unwrap_err();
}
