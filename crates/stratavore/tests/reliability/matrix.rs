//! T-LAUNCH, the matrix: at each point of a launch the daemon is killed, the agent is killed, or the
//! client goes away, while the process that is at the point stands still.
//!
//! The client is one that knows its key: afterwards it asks again with it.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use stratavore_proto::v1::LaunchRunners;
use stratavore_testkit::trial::{Trial, scale};
use stratavore_testkit::wire::{all_runners, client, fresh_key, kill, new_runner, on_runtime};
use stratavore_testkit::world::{World, signal, until};
use tokio::sync::oneshot;

use crate::launch::{Seen, impatient, mark, observed, until_nothing_is_left};

/// The points of a launch, in their order.
const POINTS: [&str; 14] =
    ["L0", "L1", "L2", "L3", "L4", "L5", "L6", "L7", "L8", "L9", "L10", "L11", "L12", "L13"];
/// Where an agent is there to be killed.
const WITH_AN_AGENT: [&str; 6] = ["L7", "L8", "L9", "L10", "L11", "L12"];
/// A launch has come to its end, or runs, at the latest so long after what happened.
const BOUND: Duration = Duration::from_secs(60);
const PROMISE: &str =
    "a launch that is interrupted has one runner, at most one process, and an end";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Deed {
    KillDaemon,
    KillAgent,
    CutClient,
}

/// Starts a daemon that stops, or whose agents stop, wherever they pass `point`.
fn start_pausing(world: &World, point: &str, hooks: &Path) {
    let mut command = world.command("stratavore");
    command.args(["daemon", "start"]).env("STRATAVORE_FAILPOINTS", format!("{point}=pause"));
    let started = command.env("STRATAVORE_TEST_HOOKS", hooks).output().expect("stratavore runs");
    assert!(started.status.success(), "{started:?}");
}

fn is_stopped(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'))
}

/// The daemon and the agents of this world that stand still.
fn stopped(world: &World) -> Vec<u32> {
    let all = world.daemon_pid().into_iter().chain(world.agents());
    all.filter(|pid| is_stopped(*pid)).collect()
}

/// Does `act` while whoever stops is woken.
fn waking<T>(world: &World, act: impl FnOnce() -> T) -> T {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                stopped(world).into_iter().for_each(|pid| signal(pid, Signal::CONT));
                std::thread::sleep(Duration::from_millis(10));
            }
        });
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(act));
        done.store(true, Ordering::Relaxed);
        result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Asks once, and goes away without a word when told to.
async fn ask(world: &World, request: LaunchRunners, cut: oneshot::Receiver<()>) {
    let client = client(world).await;
    let mut runners = client.runners();
    tokio::select! {
        // Whether the answer came is the same to us: we ask again.
        _answer = runners.launch(request) => {}
        _ = cut => {}
    }
}

/// Interrupts a launch, asks again with its key, and answers its runner and how long it took until
/// that ran or had ended.
fn interrupted(
    world: &World,
    point: &str,
    deed: Deed,
    request: &LaunchRunners,
) -> (String, Duration) {
    let (cut, was_cut) = oneshot::channel();
    std::thread::scope(|scope| {
        let asking = scope.spawn(|| on_runtime(ask(world, request.clone(), was_cut)));
        until("the launch is at the point", || match stopped(world) {
            those if those.is_empty() => Err(point),
            _ => Ok(()),
        });
        match deed {
            Deed::KillDaemon => drop(world.kill_daemon()),
            Deed::KillAgent => {
                let agent = until("there is one agent", || match world.agents()[..] {
                    [agent] => Ok(agent),
                    _ => Err((point, world.agents())),
                });
                signal(agent, Signal::KILL);
            }
            Deed::CutClient => {
                // A launch is answered once it is committed: later the client has gone by itself.
                cut.send(()).ok();
                asking.join().expect("it does not fail");
            }
        }
    });
    let began = Instant::now();
    waking(world, || {
        world.run(["daemon", "start"]).ok();
        on_runtime(async {
            let client = client(world).await;
            let again = client.runners().launch(request.clone()).await;
            let runner = again.expect("it is answered").into_inner().runners.remove(0).id;
            let settled = until("it runs or has ended", || {
                let shown = world.runner(&runner);
                let process = world.processes_of(&runner);
                let is_running = shown["state"] == "running" && process.len() == 1;
                let is_over = deed == Deed::KillAgent && shown["state"] == "lost";
                if is_running || is_over { Ok((shown, process)) } else { Err((shown, process)) }
            });
            let took = began.elapsed();
            if let (shown, [process]) = (&settled.0, &settled.1[..]) {
                assert_eq!(shown["pid"], *process, "{point}, {deed:?}: {shown}");
                kill(&client, &runner).await;
            }
            (runner, took)
        })
    })
}

fn one_cell(world: &World, point: &str, deed: Deed) -> (Duration, Result<(), String>) {
    let hooks = world.path("hooks");
    fs::remove_file(&hooks).ok();
    if world.daemon_pid().is_some() {
        world.kill_daemon();
    }
    start_pausing(world, point, &hooks);
    let known = |world: &World| on_runtime(async { all_runners(&client(world).await).await });
    // Whoever only looks passes no point.
    let before = known(world).len();
    let mark = mark(world);
    let request =
        LaunchRunners { env: vec![mark.clone()], ..new_runner("demo", fresh_key("cell")) };
    let ((runner, took), seen): (_, Seen) =
        observed(&mark, || interrupted(world, point, deed, &request));
    waking(world, || until_nothing_is_left(world, &runner));
    let passed = fs::read_to_string(&hooks).unwrap_or_default();
    assert!(passed.lines().any(|line| line == point), "{point} was passed: {passed}");
    let after = waking(world, || known(world)).len();
    let held = match after - before {
        1 => seen.held(1),
        more => Err(format!("one launch made {more} runners")),
    };
    (took, held.map_err(|found| format!("{point}, {deed:?}: {found}")))
}

fn t_launch(deed: Deed, points: &[&str]) {
    let mut trial = Trial::new("T-LAUNCH", PROMISE);
    let world = impatient("20s");
    // Each launch shows that the one before has given its place back.
    world.run(["projects", "edit", "demo", "--quota-runners", "1"]).ok();
    let what = format!("running or ended after {deed:?}");
    for _ in 0..scale(1, 50) {
        for point in points {
            let (took, held) = one_cell(&world, point, deed);
            trial.measured(&what, took);
            trial.tried(held);
        }
    }
    world.kill_daemon();
    world.run(["launch", "--project", "demo", "--", "sleep", "1000"]).ok();
    if trial.longest(&what) > BOUND {
        trial.tried_times(0, Err(format!("one took {:?}", trial.longest(&what))));
    }
    trial.end();
}

#[test]
fn t_launch_a_daemon_that_is_killed_at_any_point() {
    t_launch(Deed::KillDaemon, &POINTS);
}

#[test]
fn t_launch_an_agent_that_is_killed_at_any_point() {
    t_launch(Deed::KillAgent, &WITH_AN_AGENT);
}

#[test]
fn t_launch_a_client_that_goes_away_at_any_point() {
    t_launch(Deed::CutClient, &POINTS);
}
