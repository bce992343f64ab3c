//! What a project and its runners may use: how a refusal is told, and how what was granted is kept.

use stratavore_testkit::world::{World, until};

#[test]
fn a_refusal_names_the_limit_its_use_and_the_holders() {
    let world = World::new();
    world.project("demo");
    world.run(["projects", "edit", "demo", "--quota-runners", "2"]).ok();
    world.launch("demo", "first", &["sleep", "1000"]);
    world.launch("demo", "second", &["sleep", "1000"]);
    let launch = ["launch", "--project", "demo", "--", "sleep", "1000"];
    let refused = world.run(launch).fails(4);
    let said = refused.stderr();
    assert_eq!(refused.stdout(), "");
    assert!(said.contains("quota of runners is 2, 2 in use, 1 asked for"), "{said}");
    assert!(said.contains("held by first, second"), "{said}");
    assert!(said.contains("next: "), "{said}");
    assert_eq!(said.lines().count(), 2, "one line, and the next step: {said}");

    let refused = world.run(launch.iter().chain(&["--format", "json"])).code();
    assert_eq!(refused, 4, "options after -- are the runner's");
    let mut json = vec!["--format", "json"];
    json.extend(launch);
    let problem = world.run(json).fails(4).stderr();
    let problem: serde_json::Value = serde_json::from_str(&problem).unwrap();
    assert_eq!((&problem["code"], &problem["exit"]), (&"quota_exceeded".into(), &4.into()));
    assert_eq!(problem["related"].as_array().unwrap().len(), 2, "{problem}");

    // All or none: of three that would not fit beside one, none is launched.
    world.run(["kill", "second", "--force"]).ok();
    let said = world.run(["launch", "--project", "demo", "--count", "3", "--", "sleep", "1"]);
    said.fails(4);
    let listed = world.json(&["runners"]);
    assert_eq!(listed.as_array().unwrap().len(), 1, "{listed}");
    world.run(["launch", "--project", "demo", "--name", "third", "--", "sleep", "1000"]).ok();
}

#[test]
fn memory_cores_and_processes_are_shared_out_and_refused_when_they_are_used_up() {
    let cases = [
        (
            "--quota-memory",
            "1GiB",
            "--memory",
            "600MiB",
            "quota of memory is 1024 MiB, 600 MiB in use, 600 MiB asked for",
        ),
        (
            "--quota-cpu",
            "2",
            "--cpu",
            "1.5",
            "quota of cpu is 2.000 cores, 1.500 cores in use, 1.500 cores asked for",
        ),
        (
            "--quota-pids",
            "100",
            "--pids",
            "60",
            "quota of processes is 100, 60 in use, 60 asked for",
        ),
    ];
    let world = World::new();
    world.project("demo");
    for (quota, limit, option, share, refusal) in cases {
        world.run(["projects", "edit", "demo", quota, limit]).ok();
        // A runner that does not say what it needs would have it all.
        let said = world.run(["launch", "--project", "demo", "--", "sleep", "1000"]).fails(4);
        assert!(said.stderr().contains("must say its own limit"), "{}", said.stderr());

        let launch = [
            "launch",
            "--project",
            "demo",
            "--name",
            "holder",
            option,
            share,
            "--",
            "sleep",
            "1000",
        ];
        world.run(launch).ok();
        let launch = ["launch", "--project", "demo", option, share, "--", "sleep", "1000"];
        let said = world.run(launch).fails(4).stderr();
        assert!(said.contains(refusal), "{said}");
        assert!(said.contains("held by holder"), "{said}");

        world.run(["kill", "holder", "--force"]).ok();
        world
            .run(["launch", "--project", "demo", "--name", "next", option, share, "--", "true"])
            .ok();
        until("the next has ended", || match world.runner("next") {
            shown if shown["ended_at"].is_null() => Err(shown),
            _ => Ok(()),
        });
        world.run(["projects", "edit", "demo", quota, "none"]).ok();
    }
}

#[test]
fn wall_time_is_granted_where_it_is_not_asked_for_and_refused_above_the_quota() {
    let world = World::new();
    world.project("demo");
    world.run(["projects", "edit", "demo", "--quota-wall", "2h"]).ok();
    let runner = world.launch("demo", "silent", &["sleep", "1000"]);
    assert_eq!(world.runner(&runner)["limits"]["wall_seconds"], 7200);
    let runner = world.launch_with("demo", "modest", &["--wall", "1h"], &["sleep", "1000"]);
    assert_eq!(world.runner(&runner)["limits"]["wall_seconds"], 3600);
    let launch = ["launch", "--project", "demo", "--wall", "3h", "--", "sleep", "1000"];
    let said = world.run(launch).fails(4).stderr();
    assert!(said.contains("7200 s of wall time, 10800 s asked for"), "{said}");
    assert_eq!(world.json(&["runners"]).as_array().unwrap().len(), 2);
}

#[test]
fn a_runner_that_has_had_its_time_is_ended_and_says_so() {
    let world = World::new();
    world.project("demo");
    let runner = world.launch_with("demo", "brief", &["--wall", "1s"], &["sleep", "1000"]);
    let shown = world.until_state(&runner, &["exited", "failed", "lost"]);
    assert_eq!(shown["state"], "failed", "{shown}");
    assert!(shown["cause"].as_str().unwrap().contains("wall"), "{shown}");
    assert!(world.processes_of(&runner).is_empty());
}

/// Row 11.
#[test]
fn a_quota_that_is_lowered_ends_nothing_and_lets_nothing_new_in() {
    let world = World::new();
    world.project("demo");
    let quota =
        |limit: &str| world.run(["projects", "edit", "demo", "--quota-runners", limit]).ok();
    let names = ["one", "two", "three"];
    quota("3");
    let ids = names.map(|name| world.launch("demo", name, &["sleep", "1000"]));
    let processes = ids.each_ref().map(|id| world.process_of(id));
    quota("1");
    world.run(["reconcile"]).ok();
    let launch = ["launch", "--project", "demo", "--", "sleep", "1000"];
    let refused = world.run(launch).fails(4).stderr();
    assert!(refused.contains("quota of runners is 1, 3 in use"), "{refused}");
    for (id, process) in ids.iter().zip(processes) {
        assert_eq!(world.runner(id)["state"], "running");
        assert!(process.is_alive(), "{id} goes on as the same process");
    }
    // There is room only once fewer run than the new quota.
    for name in &names[..2] {
        world.run(["kill", name, "--force"]).ok();
        world.run(launch).fails(4);
    }
    world.run(["kill", "three", "--force"]).ok();
    world.run(launch).ok();
    quota("2");
    world.run(launch).ok();
}
