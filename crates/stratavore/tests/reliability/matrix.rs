//! T-LAUNCH, the matrix: at each point of a launch the daemon is killed, the agent is killed, the
//! client goes away, or the way to the database is cut, while the process that is at the point stands
//! still.
//!
//! The client is one that knows its key: afterwards it asks again with it. One that does not is the
//! control.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use stratavore_proto::v1::LaunchRunners;
use stratavore_testkit::postgres::{TestPostgres, database};
use stratavore_testkit::proxy::{Flow, Proxy};
use stratavore_testkit::trial::{Dice, Trial, scale};
use stratavore_testkit::wire::{all_runners, client, fresh_key, kill, new_runner, on_runtime};
use stratavore_testkit::world::{PATIENCE, World, signal, until, until_within};
use tokio::sync::oneshot;

use crate::launch::{Seen, impatient, impatient_on, mark, observed, until_nothing_is_left};
use crate::quota::insist;

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
    CutDatabase,
}

/// Where launches are tried. With PostgreSQL there is a wire before it.
struct Ground {
    world: World,
    wired: Option<Wired>,
}

struct Wired {
    wire: Proxy,
    _database: TestPostgres,
    _directory: tempfile::TempDir,
}

impl Ground {
    fn sqlite() -> Self {
        Self { world: impatient("20s"), wired: None }
    }

    fn postgresql() -> Self {
        let (database, directory) = (database(), tempfile::tempdir().unwrap());
        let socket = directory.path().join(database.socket().file_name().unwrap());
        let wire = Proxy::unix(&socket, &database.socket());
        let world = impatient_on(&database.settings(directory.path()), "20s");
        Self { world, wired: Some(Wired { wire, _database: database, _directory: directory }) }
    }

    /// Ends every connection to the database. Whoever connects anew hears nothing until it is healed.
    fn cut(&self) {
        let wire = &self.wired.as_ref().expect("a wire to cut").wire;
        wire.set(|wire| wire.up.flow = Flow::Hold);
        wire.cut_all();
    }

    fn heal(&self) {
        if let Some(wired) = &self.wired {
            wired.wire.heal();
        }
    }
}

/// Starts a daemon that stops, or whose agents stop, wherever they pass `point`.
fn start_pausing(world: &World, point: &str, hooks: &Path) {
    let mut command = world.command("stratavore");
    command.args(["daemon", "start"]).env("STRATAVORE_FAILPOINTS", format!("{point}=pause"));
    let started = command.env("STRATAVORE_TEST_HOOKS", hooks).output().expect("stratavore runs");
    assert!(started.status.success(), "{started:?}");
}

pub(crate) fn is_stopped(pid: u32) -> bool {
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

/// Interrupts a launch, asks again with what `again` is, and answers its runner and how long it took
/// until that ran or had ended.
fn interrupted(
    ground: &Ground,
    point: &str,
    deed: Deed,
    [request, again]: [&LaunchRunners; 2],
) -> (String, Duration) {
    let world = &ground.world;
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
            Deed::CutDatabase => {
                ground.cut();
                // Whatever it is told: the daemon has gone on without its database by then.
                waking(world, || asking.join()).expect("it does not fail");
                ground.heal();
            }
        }
    });
    let began = Instant::now();
    waking(world, || {
        world.run(["daemon", "start"]).ok();
        on_runtime(async {
            let asked = insist(world, async |client| client.runners().launch(again.clone()).await);
            let runner = asked.await.expect("it is answered").runners.remove(0).id;
            let settled = until_within(3 * PATIENCE, "it runs or has ended", || {
                let shown = world.runner(&runner);
                let process = world.processes_of(&runner);
                let is_running = shown["state"] == "running" && process.len() == 1;
                let is_over = deed == Deed::KillAgent && shown["state"] == "lost";
                if is_running || is_over { Ok((shown, process)) } else { Err((shown, process)) }
            });
            let took = began.elapsed();
            if let (shown, [process]) = (&settled.0, &settled.1[..]) {
                assert_eq!(shown["pid"], *process, "{point}, {deed:?}: {shown}");
                kill(&client(world).await, &runner).await;
            }
            (runner, took)
        })
    })
}

/// One launch that is interrupted. Of a client that has forgotten its key, what it is asked again is
/// another launch.
fn one_cell(
    ground: &Ground,
    point: &str,
    deed: Deed,
    forgets: bool,
) -> (Duration, Result<(), String>) {
    let world = &ground.world;
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
    let key = if forgets { fresh_key("again") } else { request.idempotency_key.clone() };
    let again = LaunchRunners { idempotency_key: key, ..request.clone() };
    let ((runner, took), seen): (_, Seen) =
        observed(&mark, || interrupted(ground, point, deed, [&request, &again]));
    let after = waking(world, || {
        let known = known(world);
        // Of one that was asked for twice the first one is there besides.
        for other in known.iter().filter(|other| other.ended_at_us == 0) {
            on_runtime(async { kill(&client(world).await, &other.id).await });
        }
        until_nothing_is_left(world, &runner);
        known.len()
    });
    let passed = fs::read_to_string(&hooks).unwrap_or_default();
    assert!(passed.lines().any(|line| line == point), "{point} was passed: {passed}");
    let held = match after - before {
        1 => seen.held(1),
        more => Err(format!("one launch made {more} runners")),
    };
    (took, held.map_err(|found| format!("{point}, {deed:?}: {found}")))
}

fn t_launch(mut trial: Trial, ground: &Ground, deed: Deed, points: &[&str], rounds: usize) {
    let world = &ground.world;
    // Each launch shows that the one before has given its place back.
    world.run(["projects", "edit", "demo", "--quota-runners", "1"]).ok();
    let what = format!("running or ended after {deed:?}");
    for _ in 0..rounds {
        for point in points {
            let (took, held) = one_cell(ground, point, deed, false);
            trial.measured(&what, took);
            trial.tried(held);
        }
    }
    world.kill_daemon();
    world.run(["launch", "--project", "demo", "--", "sleep", "1000"]).ok();
    if trial.longest(&what) > BOUND {
        trial.tried_times(0, Err(format!("one took {:?}", trial.longest(&what))));
    }
    if deed == Deed::CutDatabase {
        for runner in world.json(&["runners"]).as_array().expect("a list") {
            world.run(["kill", "--force", runner["id"].as_str().expect("an id")]).ok();
        }
        world.run(["projects", "edit", "demo", "--quota-runners", "10"]).ok();
        let (_, found) = one_cell(ground, "L5", deed, true);
        trial.control("a client that asks again without its key", found.is_err());
    }
    trial.end();
}

fn on_sqlite(deed: Deed, points: &[&str]) {
    t_launch(Trial::new("T-LAUNCH", PROMISE), &Ground::sqlite(), deed, points, scale(1, 50));
}

/// At all points in a long run, else at some of them.
fn on_postgresql(deed: Deed, points: &[&str]) {
    let mut trial = Trial::new("T-LAUNCH", &format!("PostgreSQL: {PROMISE}"));
    let points = some(&mut trial.dice(), points, scale(3, points.len()));
    t_launch(trial, &Ground::postgresql(), deed, &points, scale(1, 50));
}

/// So many of them, in their order.
fn some<'a>(dice: &mut Dice, points: &[&'a str], count: usize) -> Vec<&'a str> {
    let mut points = points.to_vec();
    while points.len() > count {
        points.remove(dice.below(points.len()));
    }
    points
}

#[test]
fn t_launch_a_daemon_that_is_killed_at_any_point() {
    on_sqlite(Deed::KillDaemon, &POINTS);
}

#[test]
fn t_launch_an_agent_that_is_killed_at_any_point() {
    on_sqlite(Deed::KillAgent, &WITH_AN_AGENT);
}

#[test]
fn t_launch_a_client_that_goes_away_at_any_point() {
    on_sqlite(Deed::CutClient, &POINTS);
}

#[test]
fn t_launch_on_postgresql_a_daemon_that_is_killed_at_any_point() {
    on_postgresql(Deed::KillDaemon, &POINTS);
}

#[test]
fn t_launch_on_postgresql_an_agent_that_is_killed_at_any_point() {
    on_postgresql(Deed::KillAgent, &WITH_AN_AGENT);
}

#[test]
fn t_launch_on_postgresql_a_client_that_goes_away_at_any_point() {
    on_postgresql(Deed::CutClient, &POINTS);
}

#[test]
fn t_launch_on_postgresql_a_database_that_is_cut_off_at_any_point() {
    on_postgresql(Deed::CutDatabase, &POINTS);
}

/// The daemon reads what it has admitted, and cannot; whoever asks once more is not the last to hear of it.
#[test]
fn t_launch_on_postgresql_a_database_that_is_cut_off_right_after_the_commit() {
    let trial = Trial::new("T-LAUNCH", &format!("PostgreSQL: {PROMISE}"));
    t_launch(trial, &Ground::postgresql(), Deed::CutDatabase, &["L5"], scale(1, 50));
}
