//! T-QUOTA: a quota holds at every moment, and every place comes back, whatever clients do and
//! whoever of the daemons dies. So does a budget: what is reserved of it is a place as well.
//!
//! The observer is the kernel: it counts the runners whose assistants have a process, whatever the
//! daemons believe. The check of what it saw also has to notice a runner too many, in a record and
//! in the flesh.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use stratavore_proto::client::{Client, problem};
use stratavore_proto::v1::{LaunchRunners, Problem, Runner, StopRunner, WaitRunner};
use stratavore_testkit::postgres::database;
use stratavore_testkit::trace::Process;
use stratavore_testkit::trial::{Trial, scale};
use stratavore_testkit::wire::{all_runners, client, fresh_key, new_runner, on_runtime};
use stratavore_testkit::world::{World, of_process, processes, until};
use tonic::{Response, Status};

const PLACES: usize = 5;
const CLIENTS: usize = 40;
/// How often the observer looks.
const LOOK: Duration = Duration::from_millis(2);
/// What each runner reserves of a budget.
const SHARE: usize = 20;
/// The longest that a client asks again while daemons come and go.
const INSISTS: Duration = Duration::from_secs(60);

/// What holds the number of runners down, and what is said to one for whom there is no place.
#[derive(Clone, Copy)]
pub(crate) struct Limit {
    what: &'static str,
    code: &'static str,
    words: &'static str,
    /// Has it give so many places.
    set: fn(&World, usize),
}

pub(crate) const QUOTA: Limit = Limit {
    what: "the quota",
    code: "quota_exceeded",
    words: "quota of runners is 5, 5 in use",
    set: |world, places| {
        world.run(["projects", "edit", "demo", "--quota-runners", &places.to_string()]).ok();
    },
};

/// Runners that use nothing: what each of them reserves is all that there is of it.
const BUDGET: Limit = Limit {
    what: "a budget has room for",
    code: "budget_exceeded",
    words: "100 tokens reserved",
    set: |world, places| {
        let (all, each) = ((places * SHARE).to_string(), SHARE.to_string());
        let set = ["budget", "set", "last", "--project", "demo", "--tokens", &all];
        world.run(set.iter().chain(&["--reserve", &each])).ok();
    },
};

/// The runners that have a process of their own at one moment, by their mark.
type Seen = BTreeMap<String, Process>;

/// What the runners of these daemons carry in their environment.
fn mark(worlds: &[World]) -> String {
    format!("QUOTA_TEST={}", worlds[0].path("").display())
}

/// Runners with this mark that have a process of `sleep`, which is what each of them runs.
fn look(mark: &str) -> Seen {
    let mut seen = Seen::new();
    for pid in processes() {
        let process = Process::of(pid);
        let environ = of_process(pid, "environ");
        let mut entries = environ.split(|&byte| byte == 0).map(String::from_utf8_lossy);
        let (mut runner, mut here) = (None, false);
        for entry in &mut entries {
            if let Some(id) = entry.strip_prefix("STRATAVORE_RUNNER_ID=") {
                runner = Some(id.to_owned());
            }
            here |= entry == mark;
        }
        // A process that is dead and not yet reaped has no environment.
        if let (Some(runner), Some(process), true) = (runner, process, here) {
            seen.insert(runner, process);
        }
    }
    // A look takes a while: only what lives still has lived all at the same time.
    seen.retain(|_, process| process.is_alive());
    seen
}

/// Whether no moment has more runners than there are places, and all places were used at all.
fn held(moments: &[usize]) -> Result<(), String> {
    match moments.iter().copied().max() {
        Some(most) if most > PLACES => Err(format!("{most} runners at once, of at most {PLACES}")),
        Some(most) if most == PLACES => Ok(()),
        Some(most) => Err(format!("only {most} of {PLACES} places were ever used")),
        None => Err("nothing was looked at".into()),
    }
}

/// Asks the daemon of `world` until it answers, or refuses for a reason of its own.
pub(crate) async fn insist<T>(
    world: &World,
    ask: impl AsyncFn(Client) -> Result<Response<T>, Status>,
) -> Result<T, Problem> {
    let began = Instant::now();
    loop {
        let said = match Client::connect(&world.path("run/d.sock")).await {
            Ok(client) => match ask(client).await {
                Ok(answer) => return Ok(answer.into_inner()),
                Err(status) => problem(&status),
            },
            Err(error) => {
                Problem { code: "gone".into(), message: error.to_string(), ..Problem::default() }
            }
        };
        let refused = [QUOTA.code, BUDGET.code, "invalid"].contains(&said.code.as_str());
        if refused || began.elapsed() > INSISTS {
            return Err(said);
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Launches, and answers the runner, or why there is none.
async fn launch(world: &World, mark: &str) -> Result<String, Problem> {
    let request =
        LaunchRunners { env: vec![mark.into()], ..new_runner("demo", fresh_key("quota")) };
    let launched =
        insist(world, async |client| client.runners().launch(request.clone()).await).await;
    launched.map(|mut list| list.runners.remove(0).id)
}

/// Waits until the runner is in one of `states`, or has ended.
async fn reached(world: &World, runner: &str, states: &[&str]) -> Runner {
    let states = states.iter().map(|state| (*state).to_owned()).collect();
    let wait =
        WaitRunner { runner: runner.into(), states, timeout_ms: 20_000, ..WaitRunner::default() };
    let waited = insist(world, async |client| client.runners().wait(wait.clone()).await).await;
    waited.expect("the runner comes to the state that is waited for")
}

/// Kills a runner and waits until it has ended.
async fn end(world: &World, runner: &str) {
    let stop = StopRunner {
        idempotency_key: fresh_key("end"),
        runner: runner.into(),
        force: true,
        ..StopRunner::default()
    };
    let stopped = insist(world, async |client| client.runners().stop(stop.clone()).await).await;
    stopped.expect("a live runner can be stopped");
    reached(world, runner, &[]).await;
}

/// One client: launches and kills, and keeps trying where it is refused.
async fn one_client(world: &World, mark: &str, limit: Limit, rounds: usize, refused: &AtomicU64) {
    for _ in 0..rounds {
        match launch(world, mark).await {
            Ok(runner) => {
                let reached = reached(world, &runner, &["running"]).await;
                assert_eq!(reached.state, "running", "{reached:?}");
                end(world, &runner).await;
            }
            Err(problem) => {
                assert_eq!(problem.code, limit.code, "{problem:?}");
                assert!(problem.message.contains(limit.words), "{problem:?}");
                assert_eq!(problem.related.len(), PLACES, "the holders are named: {problem:?}");
                refused.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

/// Puts a limit under pressure by many clients of several daemons, of which one is killed now and
/// then if `kills` says how often.
pub(crate) fn t_quota(
    mut trial: Trial,
    limit: Limit,
    worlds: &[World],
    rounds: usize,
    kills: Option<Duration>,
) {
    let mut dice = trial.dice();
    worlds[0].project("demo");
    (limit.set)(&worlds[0], PLACES);
    for world in worlds {
        world.run(["daemon", "start"]).ok();
    }
    let mark = mark(worlds);
    let (done, refused) = (AtomicBool::new(false), AtomicU64::new(0));
    let mut killed = 0;
    let moments = std::thread::scope(|scope| {
        let observer = scope.spawn(|| {
            let mut moments = vec![look(&mark).len()];
            while !done.load(Ordering::Relaxed) {
                std::thread::sleep(LOOK);
                moments.push(look(&mark).len());
            }
            moments
        });
        let killer = kills.map(|every| {
            let (done, dice, killed) = (&done, &mut dice, &mut killed);
            scope.spawn(move || {
                // The first at once: a fast machine may be done soon.
                let mut last: Option<Instant> = None;
                while !done.load(Ordering::Relaxed) {
                    std::thread::sleep(LOOK);
                    if last.is_none_or(|last| last.elapsed() >= every) {
                        let world = &worlds[dice.below(worlds.len())];
                        world.kill_daemon();
                        world.run(["daemon", "start"]).ok();
                        *killed += 1;
                        last = Some(Instant::now());
                    }
                }
            })
        });
        let clients = (0..CLIENTS)
            .map(|n| one_client(&worlds[n % worlds.len()], &mark, limit, rounds, &refused));
        let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            on_runtime(join_all(clients));
        }));
        done.store(true, Ordering::Relaxed);
        if let Some(killer) = killer {
            killer.join().expect("the killer does not fail");
        }
        let moments = observer.join().expect("the observer does not fail");
        match ended {
            Ok(()) => moments,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    });
    let refused = refused.load(Ordering::Relaxed);
    assert!(refused > 0, "the limit was pressed against");
    let kept = match held(&moments) {
        // While daemons are away all places may never be used at a moment that is looked at. That
        // they were is known from the refusals, each of which names five holders.
        Err(_) if kills.is_some() && moments.iter().all(|seen| *seen <= PLACES) => Ok(()),
        held => held,
    };
    trial.tried_times(CLIENTS * rounds, kept);
    trial.most("most at once", moments.iter().copied().max().unwrap_or_default() as u64);
    trial.counted("refused", refused);
    trial.counted("looks of the observer", moments.len() as u64);
    if kills.is_some() {
        trial.counted("daemons killed", killed);
        assert!(killed > 0, "daemons were killed at all");
    }

    on_runtime(async {
        let client = client(&worlds[0]).await;
        let known = all_runners(&client).await;
        let live = known.iter().filter(|runner| runner.ended_at_us == 0).count();
        trial.tried(match (live, look(&mark).len()) {
            (0, 0) => Ok(()),
            left => Err(format!("{left:?} runners, processes are left of nothing")),
        });
        // Each attempt had one end, whatever was asked again.
        let all = (CLIENTS * rounds) as u64;
        trial.tried(match known.len() as u64 + refused == all {
            true => Ok(()),
            false => Err(format!("{} runners, {refused} refusals of {all}", known.len())),
        });
        // Every place is free again, and there is not one more.
        let request = LaunchRunners {
            count: 5,
            env: vec![mark.clone()],
            ..new_runner("demo", fresh_key("quota"))
        };
        let five = client.runners().launch(request).await;
        trial.tried(five.map(drop).map_err(|status| format!("places that leaked: {status:?}")));
        let sixth = launch(&worlds[0], &mark).await;
        trial.tried(match sixth.map_err(|problem| problem.code) {
            Err(code) if code == limit.code => Ok(()),
            other => Err(format!("a sixth: {other:?}")),
        });
    });
    // The control: one more is let in, and the observer's look says so.
    (limit.set)(&worlds[0], PLACES + 1);
    on_runtime(launch(&worlds[0], &mark)).expect("a sixth place is there");
    let six = until("all six run", || match look(&mark).len() {
        6 => Ok([6]),
        other => Err(other),
    });
    trial.control("a sixth runner for a moment", held(&six).is_err());
    trial.end();
}

#[test]
fn t_quota_never_more_runners_than_the_quota_whatever_the_clients_do() {
    let promise = format!("1 daemon, {CLIENTS} clients: no more runners than the quota");
    t_quota(Trial::new("T-QUOTA", &promise), QUOTA, &[World::new()], scale(4, 50), None);
}

#[test]
fn t_quota_holds_over_three_daemons_of_which_one_dies_now_and_then() {
    three_daemons_hold(QUOTA);
}

#[test]
fn t_quota_of_a_budget_whose_last_three_daemons_would_spend() {
    three_daemons_hold(BUDGET);
}

fn three_daemons_hold(limit: Limit) {
    let database = database();
    let worlds: [World; 3] =
        std::array::from_fn(|_| World::with_config(&database.settings(&database.socket_dir)));
    let every = Duration::from_millis(if scale(0, 1) == 0 { 700 } else { 2000 });
    let promise = format!(
        "3 daemons on PostgreSQL, killed again and again, {CLIENTS} clients: no more runners than \
         {}",
        limit.what
    );
    t_quota(Trial::new("T-QUOTA", &promise), limit, &worlds, scale(2, 50), Some(every));
}

/// The control: daemons whose admissions to a project do not wait for each other let in too many at once.
#[test]
fn t_quota_without_the_lock_there_are_too_many() {
    let mut trial = Trial::new("T-QUOTA", "3 daemons that admit without the project's lock");
    let database = database();
    let worlds: [World; 3] = std::array::from_fn(|_| {
        let mut world = World::with_config(&database.settings(&database.socket_dir));
        world.set_env("STRATAVORE_FAILPOINTS", "admission_lock=off");
        world
    });
    worlds[0].project("demo");
    (QUOTA.set)(&worlds[0], PLACES);
    for world in &worlds {
        world.run(["daemon", "start"]).ok();
    }
    let mark = mark(&worlds);
    on_runtime(async {
        let launches = (0..CLIENTS).map(async |n| {
            // A name of its own: two of one name are kept apart without the lock too.
            let name = format!("runner-{n}");
            let env = vec![mark.clone()];
            let request = LaunchRunners { name, env, ..new_runner("demo", fresh_key("quota")) };
            let world = &worlds[n % worlds.len()];
            let asked =
                insist(world, async |client| client.runners().launch(request.clone()).await);
            asked.await.map(|mut list| list.runners.remove(0).id)
        });
        let let_in = join_all(launches).await.into_iter().flatten().enumerate();
        let starting = let_in.map(async |(n, runner)| {
            let world = &worlds[n % worlds.len()];
            assert_eq!(reached(world, &runner, &["running"]).await.state, "running");
        });
        join_all(starting).await;
    });
    let most = look(&mark).len();
    trial.most("most at once", most as u64);
    trial.control("admissions without the lock", most > PLACES && held(&[most]).is_err());
    trial.end();
}

/// The control of the check: a record in which a sixth runner lives for a moment, and ones that
/// show nothing.
#[test]
fn the_check_of_the_observer_notices_one_runner_too_many() {
    held(&[0, 5, 3]).unwrap();
    let found = held(&[0, 5, 6, 2]).unwrap_err();
    assert!(found.contains("6 runners at once"), "{found}");
    held(&[1, 4]).unwrap_err();
    held(&[]).unwrap_err();
}

/// The observer sees runners at all: the control of the other half.
#[test]
fn the_observer_sees_what_runs() {
    let worlds = [World::new()];
    let [world] = &worlds;
    let mark = mark(&worlds);
    world.project("demo");
    on_runtime(async {
        let runner = launch(world, &mark).await.unwrap();
        reached(world, &runner, &["running"]).await;
        assert!(look(&mark).keys().eq([&runner]));
        end(world, &runner).await;
        assert!(look(&mark).is_empty());
    });
}
