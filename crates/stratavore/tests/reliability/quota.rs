//! T-QUOTA on one daemon: a quota holds at every moment, and every place comes back.
//!
//! The observer is the kernel: it counts the runners whose assistants have a process, whatever the
//! daemon believes. The check of what it saw also runs over a record with one runner too many.

use std::collections::BTreeSet;
use std::fs;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use stratavore_proto::client::Client;
use stratavore_proto::v1::{LaunchRunners, Problem};
use stratavore_testkit::world::{World, processes, until};

use stratavore_testkit::wire::{
    all_runners, client, fresh_key, kill, new_runner, on_runtime, wait,
};

const QUOTA: usize = 5;
const CLIENTS: usize = 40;
const ROUNDS: usize = 4;
/// How often the observer looks.
const LOOK: Duration = Duration::from_millis(2);

/// The runners that have a process of their own at one moment, by their mark.
type Seen = BTreeSet<String>;

/// Runners of this world with a process of `sleep`, which is what each of them runs.
fn look(world: &World) -> Seen {
    let home = world.path("").display().to_string();
    let mut seen = Seen::new();
    for pid in processes() {
        let environ = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        let mut entries = environ.split(|&byte| byte == 0).map(String::from_utf8_lossy);
        let (mut mark, mut here) = (None, false);
        for entry in &mut entries {
            if let Some(runner) = entry.strip_prefix("STRATAVORE_RUNNER_ID=") {
                mark = Some(runner.to_owned());
            }
            here |= entry.strip_prefix("QUOTA_TEST=").is_some_and(|of| of == home);
        }
        // A process that is dead and not yet reaped has no environment.
        if let (Some(mark), true) = (mark, here) {
            seen.insert(mark);
        }
    }
    seen
}

/// Whether no moment has more runners than the quota, and the quota was reached at all.
fn held(moments: &[Seen], quota: usize) -> Result<(), String> {
    let most = moments.iter().max_by_key(|seen| seen.len()).ok_or("nothing was looked at")?;
    match most.len() {
        n if n > quota => Err(format!("{n} runners at once, of at most {quota}: {most:?}")),
        n if n < quota => Err(format!("only {n} of {quota} places were ever used")),
        _ => Ok(()),
    }
}

/// Launches, and answers the runner, or why there is none.
async fn launch(client: &Client, world: &World) -> Result<String, Problem> {
    let request = LaunchRunners {
        env: vec![format!("QUOTA_TEST={}", world.path("").display())],
        ..new_runner("demo", fresh_key("quota"))
    };
    match client.runners().launch(request).await {
        Ok(list) => Ok(list.into_inner().runners.remove(0).id),
        Err(status) => Err(stratavore_proto::client::problem(&status)),
    }
}

/// One client: launches and kills, and keeps trying where it is refused.
async fn one_client(world: &World, refused: &AtomicU64) {
    let client = client(world).await;
    for _ in 0..ROUNDS {
        match launch(&client, world).await {
            Ok(runner) => {
                let reached = wait(&client, &runner, &["running"]).await;
                assert_eq!(reached.state, "running", "{reached:?}");
                kill(&client, &runner).await;
            }
            Err(problem) => {
                assert_eq!(problem.code, "quota_exceeded", "{problem:?}");
                assert!(problem.message.contains("quota of runners is 5, 5 in use"), "{problem:?}");
                assert_eq!(problem.related.len(), QUOTA, "the holders are named: {problem:?}");
                refused.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

#[test]
fn t_quota_never_more_runners_than_the_quota_whatever_the_clients_do() {
    let world = World::new();
    world.project("demo");
    world.run(["projects", "edit", "demo", "--quota-runners", "5"]).ok();
    let (done, refused) = (AtomicBool::new(false), AtomicU64::new(0));
    let moments = std::thread::scope(|scope| {
        let observer = scope.spawn(|| {
            let mut moments = vec![look(&world)];
            while !done.load(Ordering::Relaxed) {
                std::thread::sleep(LOOK);
                moments.push(look(&world));
            }
            moments
        });
        on_runtime(join_all((0..CLIENTS).map(|_| one_client(&world, &refused))));
        done.store(true, Ordering::Relaxed);
        observer.join().expect("the observer does not fail")
    });
    held(&moments, QUOTA).unwrap();
    assert!(refused.load(Ordering::Relaxed) > 0, "the quota was pressed against");

    on_runtime(async {
        let client = client(&world).await;
        let known = all_runners(&client).await;
        let live = known.iter().filter(|runner| runner.ended_at_us == 0).count();
        assert_eq!((live, look(&world).len()), (0, 0), "all is quiet");
        let launched = known.len() as u64;
        let all = (CLIENTS * ROUNDS) as u64;
        assert_eq!(launched + refused.load(Ordering::Relaxed), all, "each attempt had one end");
        // Every place is free again, and there is not one more.
        let request = LaunchRunners { count: 5, ..new_runner("demo", fresh_key("quota")) };
        client.runners().launch(request).await.expect("five places are free");
        assert_eq!(launch(&client, &world).await.unwrap_err().code, "quota_exceeded");
    });
}

/// The control: the check fails on a record in which a sixth runner lives for a moment, and on one
/// that shows nothing.
#[test]
fn the_check_of_the_observer_notices_one_runner_too_many() {
    let of = |n: usize| (0..n).map(|i| format!("run_{i}")).collect::<Seen>();
    held(&[of(0), of(5), of(3)], QUOTA).unwrap();
    let found = held(&[of(0), of(5), of(6), of(2)], QUOTA).unwrap_err();
    assert!(found.contains("6 runners at once"), "{found}");
    held(&[of(1), of(4)], QUOTA).unwrap_err();
    held(&[], QUOTA).unwrap_err();
}

/// The observer sees runners at all: the control of the other half.
#[test]
fn the_observer_sees_what_runs() {
    let world = World::new();
    world.project("demo");
    on_runtime(async {
        let client = client(&world).await;
        let runner = launch(&client, &world).await.unwrap();
        wait(&client, &runner, &["running"]).await;
        assert_eq!(look(&world), Seen::from([runner.clone()]));
        kill(&client, &runner).await;
        assert_eq!(look(&world), Seen::new());
    });
}

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
