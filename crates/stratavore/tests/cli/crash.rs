//! A runner that ends before anybody could see it run: whoever waits for it is told so, at once.

use std::time::{Duration, Instant};

use stratavore_proto::v1::WaitRunner;
use stratavore_testkit::wire::{client, on_runtime};
use stratavore_testkit::world::World;

/// Soon enough to be no wait for the next restart, which is an hour away.
const AT_ONCE: Duration = Duration::from_secs(15);

fn world() -> World {
    let world = World::with_config("runner:\n  restart_backoff: 1h\n");
    world.project("demo");
    world
}

fn at_once<T>(act: impl FnOnce() -> T) -> T {
    let began = Instant::now();
    let done = act();
    assert!(began.elapsed() < AT_ONCE, "it took {:?}", began.elapsed());
    done
}

#[test]
fn a_launch_of_what_crashes_at_once_says_so_and_fails() {
    let world = world();
    for policy in ["on-failure", "always"] {
        let launch = ["launch", "--project", "demo", "--restart", policy, "--name", policy];
        let crash = ["--", "sh", "-c", "exit 3"];
        let ran = at_once(|| world.run(launch.iter().chain(&crash))).fails(10);
        assert!(ran.stderr().contains("exit 3"), "{}", ran.everything());
        assert!(
            ran.stderr().contains(&format!("stratavore logs {policy}")),
            "{}",
            ran.everything()
        );
    }
    // One that nobody would start again counts as launched as soon as it runs, if it is seen to.
    let once = ["launch", "--project", "demo", "--name", "once", "--", "sh", "-c", "exit 3"];
    assert!([0, 10].contains(&at_once(|| world.run(once)).code()));
    assert_eq!(world.until_state("once", &["failed"])["cause"], "exit 3");
    // An end that is nobody's fault is none, and what runs is simply launched.
    let ends_well = ["launch", "--project", "demo", "--restart", "always", "--", "true"];
    at_once(|| world.run(ends_well)).ok();
    let runs = ["launch", "--project", "demo", "--restart", "always", "--", "sleep", "1000"];
    assert!(world.run(runs).ok().stdout().starts_with("launched sleep in demo"));
}

#[test]
fn a_launch_with_attach_of_what_crashes_at_once_shows_what_it_printed() {
    let world = world();
    for policy in ["never", "on-failure"] {
        let launch = ["launch", "--project", "demo", "--attach", "--restart", policy];
        let crash = ["--", "sh", "-c", "echo no luck; exit 3"];
        let words: Vec<&str> = launch.into_iter().chain(crash).collect();
        let mut terminal = world.terminal(&words, 24, 80);
        let status = at_once(|| terminal.wait_exit());
        let text = terminal.text();
        assert!(text.contains("exit 3"), "{text}");
        let shown = String::from_utf8_lossy(terminal.raw()).into_owned();
        assert!(shown.contains("no luck"), "{shown}");
        assert_eq!(status.code(), Some(10), "{policy}: {text}");
    }
}

#[test]
fn a_restart_into_a_crash_says_so_and_fails() {
    let world = world();
    let script = "test -e once && exit 3; touch once; exec sleep 1000";
    let launch = ["launch", "--project", "demo", "--name", "one", "--restart", "on-failure"];
    world.run(launch.iter().chain(&["--", "sh", "-c", script])).ok();
    let ran = at_once(|| world.run(["restart", "one", "--force"])).fails(10);
    assert!(ran.stderr().contains("exit 3"), "{}", ran.everything());
    let shown = world.runner("one");
    assert_eq!((&shown["state"], &shown["epoch"]), (&"pending".into(), &3.into()));
    let listed = world.run(["runners"]).ok().stdout();
    assert!(listed.contains("after exit 3"), "{listed}");
}

/// The state of an epoch answers nobody who waits for a later one.
#[test]
fn a_wait_for_an_epoch_is_not_met_by_the_one_before() {
    let world = world();
    let id = world.launch("demo", "one", &["sleep", "1000"]);
    on_runtime(async {
        let client = client(&world).await;
        let wait = async |epoch: i64, timeout_ms: u64| {
            let states = vec!["running".into()];
            let request = WaitRunner { runner: id.clone(), states, timeout_ms, epoch };
            let began = Instant::now();
            let runner = client.runners().wait(request).await.expect("it is answered");
            (runner.into_inner().epoch, began.elapsed())
        };
        // The time is over: what is there is answered, as for any wait.
        let (epoch, waited) = wait(2, 300).await;
        assert!(epoch == 1 && waited >= Duration::from_millis(300), "{epoch} {waited:?}");
        // The control: without an epoch, the one that runs answers at once.
        assert!(wait(0, 10_000).await.1 < Duration::from_secs(5));
        assert!(wait(1, 10_000).await.1 < Duration::from_secs(5));
        world.run(["restart", "one", "--force"]).ok();
        assert_eq!(wait(2, 10_000).await.0, 2);
        // Whoever waits for one that is over is told that a later one has begun.
        let (epoch, waited) = wait(1, 10_000).await;
        assert!(epoch == 2 && waited < Duration::from_secs(5));
    });
}
