//! Everything that starts a runner again: a person, its policy, another daemon, a recovery.
//!
//! Each start appends a line with its time to a file that only the assistant writes: that file, and
//! not Stratavore, says how often something ran.

use std::fs;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use rustix::process::Signal;
use serde_json::Value;
use stratavore_proto::v1::{RestartRunner, WaitRunner};
use stratavore_testkit::trace::Process;
use stratavore_testkit::wire::{client, fresh_key, on_runtime, refusal, wait};
use stratavore_testkit::world::{World, rows, signal, until};

/// A world that restarts soon, gives up after three restarts, and has the project `demo`.
fn world(backoff: &str) -> World {
    let world = World::with_config(&format!(
        "runner:\n  grace: 5s\n  restart_backoff: {backoff}\n  crash_loop_limit: 3\n"
    ));
    world.project("demo");
    world
}

/// A shell script that writes down its start, then does `then`.
fn script(then: &str) -> [String; 3] {
    let text = format!("date +%s%N >> starts; echo run $(wc -l < starts); {then}");
    ["sh".into(), "-c".into(), text]
}

/// When the assistant was started, in nanoseconds, by its own account.
fn starts(world: &World) -> Vec<u128> {
    let text = fs::read_to_string(world.work().join("starts")).unwrap_or_default();
    text.lines().map(|line| line.parse().expect("a number")).collect()
}

/// Waits until it was started so many times by its own account, and not more often. A runner is
/// running before its script has written anything.
fn until_started(world: &World, times: usize) {
    let started = || starts(world).len();
    until(&format!("{times} starts are written down"), || match started() {
        enough if enough >= times => Ok(()),
        few => Err(few),
    });
    assert_eq!(started(), times);
}

/// Launches it under a policy, and waits until it has written down that it runs: what is ended
/// before that has no start by its own account. Answers its id.
fn launch(world: &World, policy: &str, then: &str) -> String {
    let argv = script(then);
    let options = ["--restart", policy];
    let mut words = vec!["launch", "--project", "demo", "--name", "one"];
    words.extend(options);
    words.push("--");
    words.extend(argv.iter().map(String::as_str));
    world.run(words);
    until("it has started", || if starts(world).is_empty() { Err(()) } else { Ok(()) });
    world.runner("one")["id"].as_str().expect("it was admitted").into()
}

/// One that ends only when it is killed, after its grace.
fn launch_stubborn(world: &World) -> String {
    let id =
        launch(world, "never", "trap '' TERM HUP INT; echo stubborn; while :; do sleep 0.1; done");
    until("it minds no signal", || match String::from_utf8_lossy(&world.recorded(&id)) {
        printed if printed.contains("stubborn") => Ok(()),
        printed => Err(printed.into_owned()),
    });
    id
}

/// What runs now, by its own pid: the shell has others beside it while it writes down its start.
fn assistant(world: &World, runner: &str) -> Process {
    let shown = world.runner(runner);
    let pid = shown["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok());
    pid.and_then(Process::of).unwrap_or_else(|| panic!("it runs: {shown}"))
}

fn until_epoch(world: &World, runner: &str, epoch: i64, state: &str) -> Value {
    until(&format!("{runner} is {state} in epoch {epoch}"), || match world.runner(runner) {
        shown if shown["epoch"] == epoch && shown["state"] == state => Ok(shown),
        shown => Err(shown),
    })
}

/// The lines `run 1`, `run 2`, … of its recorded output.
fn runs(world: &World, runner: &str) -> Vec<String> {
    let text = String::from_utf8_lossy(&world.recorded(runner)).into_owned();
    text.lines().filter(|line| line.starts_with("run ")).map(str::to_owned).collect()
}

fn all(world: &World) -> Vec<Value> {
    rows(&world.json(&["runners", "--all"])).clone()
}

#[test]
fn a_restart_by_hand_is_the_next_epoch_of_the_same_runner_and_its_log_goes_on() {
    let world = world("1h");
    let id = launch(&world, "never", "exec sleep 1000");
    until("it has printed", || if runs(&world, &id).len() == 1 { Ok(()) } else { Err(()) });
    let before = assistant(&world, &id);

    let told = world.run(["restart", "one"]).ok().stdout();
    assert!(told.contains(&id) && told.contains("running"), "{told}");
    let shown = world.runner("one");
    assert_eq!((&shown["id"], &shown["epoch"]), (&Value::from(id.as_str()), &2.into()));
    assert_eq!(shown["restarts"], 0, "what was asked for counts towards no crash loop");
    assert!(!before.is_alive() && assistant(&world, &id) != before);
    until("the second run stands after the first", || match runs(&world, &id) {
        runs if runs == ["run 1", "run 2"] => Ok(()),
        runs => Err(runs),
    });
    until_started(&world, 2);
    assert_eq!(all(&world).len(), 1);
}

#[test]
fn a_policy_restarts_what_it_is_for_until_it_is_a_crash_loop() {
    for (policy, then, state, cause, ran) in [
        ("never", "exit 3", "failed", "exit 3", 1),
        ("on-failure", "exit 0", "exited", "exit 0", 1),
        ("on-failure", "exit 3", "failed", "crash_loop: exit 3", 4),
        ("on-failure", "kill -9 $$", "failed", "crash_loop: signal 9", 4),
        ("on-failure", "test $(wc -l < starts) -gt 2", "exited", "exit 0", 3),
        ("always", "exit 0", "failed", "crash_loop: exit 0", 4),
    ] {
        let world = world("20ms");
        let id = launch(&world, policy, then);
        let shown = world.until_state(&id, &["exited", "failed", "lost"]);
        let told = (&shown["state"], &shown["cause"], &shown["epoch"], &shown["restarts"]);
        let wanted = (state.into(), cause.into(), ran.into(), (ran - 1).into());
        assert_eq!(told, (&wanted.0, &wanted.1, &wanted.2, &wanted.3), "{policy}, {then}");
        assert_eq!(starts(&world).len(), ran, "{policy}, {then}");
        assert_eq!(runs(&world, &id).len(), ran, "{policy}, {then}");
    }
}

/// Whether each wait was at least twice the one before, from `first` on.
fn backed_off(starts: &[u128], first: Duration) -> Result<(), String> {
    for (n, pair) in starts.windows(2).enumerate() {
        let waited = Duration::from_nanos((pair[1] - pair[0]) as u64);
        if waited < first * (1 << n) {
            return Err(format!("restart {} came after {waited:?}", n + 1));
        }
    }
    Ok(())
}

#[test]
fn the_waits_between_restarts_grow() {
    let first = Duration::from_millis(150);
    let world = world("150ms");
    let id = launch(&world, "on-failure", "exit 3");
    world.until_state(&id, &["failed"]);
    let starts = starts(&world);
    assert_eq!(starts.len(), 4);
    backed_off(&starts, first).unwrap();
    let events = world.json(&["events", "--runner", &id, "--kind", "runner.restarting"]);
    let counts: Vec<_> = rows(&events).iter().map(|e| e["data"]["restarts"].clone()).collect();
    assert_eq!(counts, [1, 2, 3]);
    // The control: starts that come at an even pace, as without any backoff, are noticed.
    let even: Vec<u128> = (0..4).map(|n| n * first.as_nanos()).collect();
    backed_off(&even, first).expect_err("the second wait is no longer than the first");
}

#[test]
fn a_runner_killed_while_it_waits_for_its_restart_stays_ended() {
    let world = world("700ms");
    let id = launch(&world, "always", "exit 3");
    let shown = world.runner("one");
    assert_eq!((&shown["state"], &shown["last_cause"]), (&"pending".into(), &"exit 3".into()));
    world.run(["kill", "one"]).ok();
    let ran = starts(&world).len();
    // A later one restarts after the time at which this one would have.
    let other = ["launch", "--project", "demo", "--name", "two", "--restart", "always"];
    world.run(other.iter().chain(&["--", "false"]));
    until("it is restarted twice", || match world.runner("two") {
        shown if shown["epoch"].as_i64() >= Some(3) => Ok(()),
        shown => Err(shown),
    });
    let ended = world.runner(&id);
    assert_eq!(ended["state"], "exited");
    assert!(ended["cause"].as_str().unwrap().starts_with("stopped by "), "{ended}");
    assert_eq!(starts(&world).len(), ran);
    assert!(world.left_of(&id).is_empty());
}

#[test]
fn a_restart_by_hand_does_not_wait_for_the_planned_one() {
    let world = world("1h");
    let id = launch(&world, "on-failure", "test $(wc -l < starts) -gt 1 && exec sleep 1000");
    assert_eq!(world.runner(&id)["state"], "pending");
    let began = Instant::now();
    world.run(["restart", "one"]).ok();
    assert!(began.elapsed() < Duration::from_secs(60));
    assert_eq!(world.runner(&id)["epoch"], 2);
    until_started(&world, 2);
}

#[test]
fn a_planned_restart_outlives_the_daemon_that_planned_it() {
    let world = world("1s");
    let id = launch(&world, "on-failure", "test $(wc -l < starts) -gt 1 && exec sleep 1000");
    world.kill_daemon();
    let shown = until_epoch(&world, &id, 2, "running");
    assert_eq!(shown["restarts"], 1);
    until_started(&world, 2);
}

#[test]
fn a_restart_goes_on_when_its_daemon_dies_between_the_stop_and_the_start() {
    let world = world("1h");
    let id = launch_stubborn(&world);
    std::thread::scope(|scope| {
        let asked = scope.spawn(|| world.run(["restart", "one"]));
        world.until_state(&id, &["stopping"]);
        world.kill_daemon();
        asked.join().expect("it does not panic").ok();
    });
    assert_eq!(world.runner(&id)["epoch"], 2);
    until_started(&world, 2);
}

#[test]
fn a_restart_that_is_repeated_with_its_key_happens_once() {
    let world = world("1h");
    let id = launch(&world, "never", "exec sleep 1000");
    on_runtime(async {
        let client = client(&world).await;
        let ask = |key: String| RestartRunner {
            idempotency_key: key,
            runner: id.clone(),
            ..RestartRunner::default()
        };
        let runs_in = async |epoch: i64| {
            let states = vec!["running".into()];
            let wait = WaitRunner { runner: id.clone(), states, timeout_ms: 20_000, epoch };
            client.runners().wait(wait).await.expect("it is answered").into_inner().epoch
        };
        let first = client.runners().restart(ask("key".into())).await.unwrap().into_inner();
        assert_eq!((first.state.as_str(), first.epoch), ("stopping", 1));
        assert_eq!(runs_in(2).await, 2);
        let again = client.runners().restart(ask("key".into())).await.unwrap().into_inner();
        assert_eq!((again.state.as_str(), again.epoch), ("stopping", 1), "the first answer");
        assert_eq!(runs_in(2).await, 2);
        until_started(&world, 2);
        // The control: with a key of its own it is another restart.
        client.runners().restart(ask(fresh_key("other"))).await.unwrap();
        assert_eq!(runs_in(3).await, 3);
    });
    until_started(&world, 3);
}

#[test]
fn two_restarts_at_the_same_time_are_one() {
    let world = world("1h");
    let id = launch_stubborn(&world);
    on_runtime(async {
        let client = client(&world).await;
        let ask = || RestartRunner {
            idempotency_key: fresh_key("restart"),
            runner: id.clone(),
            ..RestartRunner::default()
        };
        let asked = join_all((0..8).map(async |_| client.runners().restart(ask()).await)).await;
        for answer in asked {
            let runner = answer.expect("all are granted").into_inner();
            assert_eq!((runner.state.as_str(), runner.epoch), ("stopping", 1));
        }
        let states = vec!["running".into()];
        let request = WaitRunner { runner: id.clone(), states, timeout_ms: 20_000, epoch: 2 };
        assert_eq!(client.runners().wait(request).await.unwrap().into_inner().epoch, 2);
        until_started(&world, 2);

        // Of one that has ended there is one successor, and the others are told which it is.
        world.run(["kill", "one", "--force"]).ok();
        let asked = join_all((0..8).map(async |_| client.runners().restart(ask()).await)).await;
        let (granted, refused): (Vec<_>, Vec<_>) = asked.into_iter().partition(Result::is_ok);
        assert_eq!((granted.len(), refused.len()), (1, 7));
        let successor = granted.into_iter().next().unwrap().unwrap().into_inner();
        assert_eq!((&successor.successor_of, &successor.name[..]), (&id, "one"));
        for answer in refused {
            assert!(refusal(answer).message.contains(&successor.id));
        }
        wait(&client, &successor.id, &["running"]).await;
    });
    assert_eq!(all(&world).len(), 2);
}

/// One that is paused when it is killed stays paused: nobody has let it go on.
#[test]
fn a_paused_runner_that_is_restarted_by_its_policy_is_paused_again() {
    let world = world("20ms");
    let id = launch(&world, "on-failure", "exec sleep 1000");
    world.run(["pause", "one"]).ok();
    signal(assistant(&world, &id).pid, Signal::KILL);
    // Where the kernel freezes a cgroup in the old way, a signal waits for its thaw.
    for agent in world.agents_of(&id) {
        signal(agent, Signal::KILL);
    }
    let shown = until_epoch(&world, &id, 2, "running");
    assert_eq!((&shown["desired"], &shown["restarts"]), (&"paused".into(), &1.into()));
    let process = assistant(&world, &id);
    until("its process is held", || match process.is_held() {
        true => Ok(()),
        false => Err(fs::read_to_string(format!("/proc/{}/stat", process.pid))),
    });
    // Let go, it goes on, and whoever restarts it by hand wants it to run.
    world.run(["unpause", "one"]).ok();
    until("its process goes on", || if process.is_held() { Err(()) } else { Ok(()) });
    world.run(["pause", "one"]).ok();
    world.run(["restart", "one", "--force"]).ok();
    assert_eq!(world.runner(&id)["desired"], "running");
    assert!(!assistant(&world, &id).is_held());
}
