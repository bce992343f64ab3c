//! T-MONO on real schedules: two daemons on one PostgreSQL, or one on its own SQLite, and runners that are
//! launched, stopped, restarted and carried on while their programs, agents and daemons are killed, stopped and
//! continued. What has ended stays so, no runner has two processes, and its events are a path.

use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use stratavore_proto::client::{Client, problem};
use stratavore_proto::v1::{
    LaunchRunners, PauseRunner, Problem, RestartRunner, Runner, StopRunner, WaitRunner,
};
use stratavore_testkit::postgres::database;
use stratavore_testkit::trial::{Dice, Trial, scale};
use stratavore_testkit::wire::{fresh_key, new_runner, on_runtime};
use stratavore_testkit::world::{World, signal, until};
use tonic::{Response, Status};

mod history;

use history::{Database, Moments, ends_are_final, events_are_a_path};

use crate::pgdown::no_event_missing_by;

/// Schedules that run at the same time.
const AT_ONCE: usize = 5;
/// What is done to each runner before it is ended.
const STEPS: usize = 6;
/// How often the observer of processes looks.
const LOOK: Duration = Duration::from_millis(10);
/// The longest that an answer is waited for while daemons come and go.
const PATIENCE: Duration = Duration::from_secs(60);
const CONFIG: &str = "agent:\n  heartbeat: 200ms\nrunner:\n  unresponsive_after: 1s\n  grace: 1s\n  \
                      restart_backoff: 20ms\n  restart_backoff_max: 200ms\n  crash_loop_limit: 4\n";

/// Asks the daemon of `world` until it answers or refuses for a reason of its own.
async fn ask<T>(
    world: &World,
    ask: impl AsyncFn(Client) -> Result<Response<T>, Status>,
) -> Result<T, Problem> {
    let began = Instant::now();
    loop {
        let code = match Client::connect(&world.path("run/d.sock")).await {
            Ok(client) => match ask(client).await {
                Ok(answer) => return Ok(answer.into_inner()),
                Err(status) => problem(&status),
            },
            Err(error) => Problem {
                code: "unavailable".into(),
                message: error.to_string(),
                ..Problem::default()
            },
        };
        // Away, busy, or the connection broke; everything else is an answer.
        let away = ["unavailable", "store_unavailable", "cancelled", "internal", "conflict"];
        if !away.contains(&&*code.code) {
            return Err(code);
        }
        assert!(began.elapsed() < PATIENCE, "{code:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// One runner and whoever carries it on, and what happens to them.
struct Schedule<'w> {
    /// Its own daemon, and the other one, which is the same where there is one only.
    worlds: [&'w World; 2],
    dice: Dice,
    runner: String,
}

impl<'w> Schedule<'w> {
    async fn begin(worlds: [&'w World; 2], mut dice: Dice, mark: &str) -> Self {
        let home = dice.below(2);
        let args: [&[&str]; 4] =
            [&["sleep", "1000"], &["sleep", "1000"], &["sleep", "0.2"], &["false"]];
        let args = args[dice.below(args.len())].iter().map(|word| (*word).to_owned()).collect();
        let request = LaunchRunners {
            args,
            restart: ["never", "on-failure", "always"][dice.below(3)].into(),
            env: vec![mark.into()],
            ..new_runner("demo", fresh_key("mono"))
        };
        let worlds = [worlds[home], worlds[1 - home]];
        let launched =
            ask(worlds[0], async |client| client.runners().launch(request.clone()).await).await;
        let runner = launched.expect("it is launched").runners.remove(0).id;
        Self { worlds, dice, runner }
    }

    /// Waits until it runs or has ended, but not for long: what comes next may come too early.
    async fn wait(&self, states: &[&str], timeout_ms: u64) -> Runner {
        let wait = WaitRunner {
            runner: self.runner.clone(),
            states: states.iter().map(|state| (*state).to_owned()).collect(),
            timeout_ms,
            epoch: 0,
        };
        ask(self.worlds[0], async |client| client.runners().wait(wait.clone()).await)
            .await
            .expect("it is known")
    }

    /// `at` is 0 for its own daemon and 1 for the other one.
    async fn stop(&self, at: usize, force: bool) {
        let stop = StopRunner {
            idempotency_key: fresh_key("mono"),
            runner: self.runner.clone(),
            force,
            ..StopRunner::default()
        };
        let stopped =
            ask(self.worlds[at], async |client| client.runners().stop(stop.clone()).await).await;
        stopped.expect("whatever its state, it can be stopped");
    }

    /// Restarts it, or carries it on if it has ended.
    async fn restart(&mut self, force: bool) {
        let restart = RestartRunner {
            idempotency_key: fresh_key("mono"),
            runner: self.runner.clone(),
            force,
            ..RestartRunner::default()
        };
        let restarted =
            ask(self.worlds[0], async |client| client.runners().restart(restart.clone()).await);
        self.runner = restarted.await.expect("it can be carried on").id;
    }

    async fn pause(&self, paused: bool) {
        let pause = PauseRunner {
            idempotency_key: fresh_key("mono"),
            runner: self.runner.clone(),
            paused,
            ..PauseRunner::default()
        };
        let paused =
            ask(self.worlds[0], async |client| client.runners().pause(pause.clone()).await).await;
        // It may not run, or have ended.
        if let Err(refused) = paused {
            assert_eq!(refused.code, "refused", "{refused:?}");
        }
    }

    fn agents(&self, how: Signal) {
        self.worlds[0].agents_of(&self.runner).into_iter().for_each(|agent| signal(agent, how));
    }

    async fn step(&mut self) {
        match self.dice.below(14) {
            0 => self.stop(0, false).await,
            1 => self.stop(0, true).await,
            2 => {
                let force = self.dice.below(2) == 0;
                self.stop(1, force).await;
            }
            3..6 => {
                let program = self.worlds[0].processes_of(&self.runner);
                program.into_iter().for_each(|pid| signal(pid, Signal::KILL));
            }
            6 => self.agents(Signal::KILL),
            7 => self.agents(Signal::STOP),
            8 => self.agents(Signal::CONT),
            9..12 => {
                let force = self.dice.below(2) == 0;
                self.restart(force).await;
            }
            12 => self.pause(true).await,
            _ => self.pause(false).await,
        }
        if self.dice.below(3) > 0 {
            self.wait(&["running", "unresponsive"], 500).await;
        }
    }

    /// Does all that the dice say, then ends it; answers how it ended.
    async fn run(mut self) -> Runner {
        self.wait(&["running"], 2000).await;
        for _ in 0..STEPS {
            self.step().await;
        }
        self.agents(Signal::CONT);
        self.stop(0, true).await;
        let began = Instant::now();
        loop {
            let ended = self.wait(&[], 1000).await;
            if ended.ended_at_us != 0 {
                return ended;
            }
            assert!(began.elapsed() < PATIENCE, "it does not end: {ended:?}");
            // One that was restarted meanwhile, or an agent that was stopped as it began.
            self.agents(Signal::CONT);
            self.stop(0, true).await;
        }
    }
}

/// Does something to one of the daemons, again and again. Answers how often.
fn weather(worlds: [&World; 2], mut dice: Dice, done: &AtomicBool) -> u64 {
    let mut times = 0;
    while !done.load(Ordering::Relaxed) {
        std::thread::sleep(Duration::from_millis(100 + dice.below(500) as u64));
        let world = worlds[dice.below(2)];
        let daemon = world.daemon_pid().expect("a daemon runs");
        match dice.below(3) {
            0 => {
                world.kill_daemon();
                world.run(["daemon", "start"]).ok();
            }
            1 => {
                signal(daemon, Signal::TERM);
                until("it is gone", || world.daemon_pid().map_or(Ok(()), Err));
                world.run(["daemon", "start"]).ok();
            }
            _ => {
                signal(daemon, Signal::STOP);
                std::thread::sleep(Duration::from_millis(50 + dice.below(400) as u64));
                signal(daemon, Signal::CONT);
            }
        }
        times += 1;
    }
    times
}

/// Runs so many schedules on these daemons until all have ended, and answers what the observer of
/// processes saw and how often something was done to a daemon.
fn run(worlds: [&World; 2], dice: &mut Dice, schedules: usize, mark: &str) -> (Moments, u64) {
    let seeds: Vec<Dice> = (0..schedules).map(|_| Dice::of(dice.number())).collect();
    let (done, next) = (AtomicBool::new(false), AtomicUsize::new(0));
    let of_weather = Dice::of(dice.number());
    std::thread::scope(|scope| {
        let observer = scope.spawn(|| {
            let mut moments = Moments::default();
            while !done.load(Ordering::Relaxed) {
                moments.look(mark);
                std::thread::sleep(LOOK);
            }
            moments
        });
        let weather = scope.spawn(|| weather(worlds, of_weather, &done));
        let workers: Vec<_> = (0..AT_ONCE)
            .map(|_| {
                scope.spawn(|| {
                    while let Some(seed) = seeds.get(next.fetch_add(1, Ordering::Relaxed)) {
                        on_runtime(async {
                            Schedule::begin(worlds, seed.clone(), mark).await.run().await
                        });
                    }
                })
            })
            .collect();
        let all: Vec<_> = workers.into_iter().map(|worker| worker.join()).collect();
        done.store(true, Ordering::Relaxed);
        let times = weather.join().expect("the weather does not fail");
        let moments = observer.join().expect("the observer does not fail");
        for worker in all {
            worker.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        }
        (moments, times)
    })
}

#[test]
fn t_mono_real_schedules_on_two_daemons_end_once_and_never_run_twice() {
    let promise = "real schedules on two daemons: ends are final, no process is there twice, events \
                   are a path";
    let database = database();
    let config = format!("{}{CONFIG}", database.settings(&database.socket_dir));
    let worlds: [World; 2] = std::array::from_fn(|_| World::with_config(&config));
    worlds[0].project("demo");
    worlds[1].run(["daemon", "start"]).ok();
    let mut trial = Trial::new("T-MONO", promise);
    let database = Database::Postgres(database);
    schedules_end_once(&mut trial, worlds.each_ref(), &database, scale(12, 1000));
    trial.end();
}

#[test]
fn t_mono_real_schedules_on_an_embedded_database_end_once_and_never_run_twice() {
    let promise = "real schedules on SQLite: ends are final, no process is there twice, events are a \
                   path";
    let world = World::with_config(CONFIG);
    world.project("demo");
    let database = Database::Sqlite(world.path("state/stratavore.db"));
    let mut trial = Trial::new("T-MONO", promise);
    // Fewer: while its one daemon is away, all of them wait.
    schedules_end_once(&mut trial, [&world, &world], &database, scale(12, 300));
    trial.end();
}

fn schedules_end_once(
    trial: &mut Trial,
    worlds: [&World; 2],
    database: &Database,
    schedules: usize,
) {
    database.observe();
    let mut dice = trial.dice();
    let mark = format!("MONO_TEST={}", worlds[0].path("").display());
    let (moments, times) = run(worlds, &mut dice, schedules, &mark);
    until("nothing of them is left", || {
        let agents: Vec<u32> = worlds.iter().flat_map(|world| world.agents()).collect();
        // One may have been stopped while it waited for the word that its runner's end was heard.
        agents.iter().for_each(|&agent| signal(agent, Signal::CONT));
        if agents.is_empty() { Ok(()) } else { Err(agents) }
    });
    assert_eq!(database.count("runners WHERE ended_at IS NULL"), 0, "all have ended");
    until("every event is there and has its place", || {
        no_event_missing_by(|sql| Ok(database.rows(sql)))
    });

    let (states, steps) = (ends_are_final(database), events_are_a_path(database));
    trial.counted("states given", states.clone().unwrap_or_default() as u64);
    trial.counted("steps by events", steps.clone().unwrap_or_default() as u64);
    trial.counted("daemons killed, replaced or stopped", times);
    trial.counted("looks of the observer", moments.looks);
    trial.counted("processes seen", moments.processes() as u64);
    trial.tried_times(schedules, states.map(drop));
    trial.tried_times(0, steps.map(drop));
    trial.tried_times(0, moments.never_two(database));
    // What the database had to refuse was tried by a daemon that should have known better.
    for world in worlds {
        let log = std::fs::read_to_string(world.path("state/daemon.log")).unwrap();
        let tried: Vec<&str> = log
            .lines()
            .filter(|line| line.contains("never changes") || line.contains("never shrinks"))
            .collect();
        trial.tried_times(0, if tried.is_empty() { Ok(()) } else { Err(format!("{tried:?}")) });
    }
    controls(worlds[0], database, &mark, trial);
}

/// Breaks each promise on purpose.
fn controls(world: &World, database: &Database, mark: &str, trial: &mut Trial) {
    let runner = world.launch_with("demo", "two", &["--env", mark], &["sleep", "1000"]);
    let (name, value) = mark.split_once('=').unwrap();
    let mut second = Command::new("sleep")
        .arg("1000")
        .env_clear()
        .envs([(name, value), ("STRATAVORE_RUNNER_ID", &runner)])
        .stdin(Stdio::null())
        .spawn()
        .expect("sleep runs");
    let noticed = until("both are seen", || {
        let mut moments = Moments::default();
        moments.look(mark);
        match moments.processes() {
            2 => Ok(moments.never_two(database).is_err()),
            other => Err(other),
        }
    });
    second.kill().and_then(|()| second.wait()).expect("it is our child");
    trial.control("a second process of a runner", noticed);
    world.run(["kill", "two", "--force"]).ok();
    world.until_state(&runner, &["exited"]);

    assert!(ends_are_final(database).is_ok() && events_are_a_path(database).is_ok());
    database.live_again(&runner);
    trial.control("a runner that lives again", ends_are_final(database).is_err());
    database.forget(&runner, "runner.starting");
    trial.control("a step that is missing", events_are_a_path(database).is_err());
}

/// Whatever is asked of the other daemon is carried out by the runner's own, while its agent stays
/// connected to that.
#[test]
fn what_is_wished_of_any_daemon_is_carried_out_by_the_runners_own() {
    let database = database();
    let config = format!("{}{CONFIG}", database.settings(&database.socket_dir));
    let [own, other] = std::array::from_fn(|_| World::with_config(&config));
    own.project("demo");
    let runner = own.launch("demo", "one", &["sleep", "1000"]);
    let process = own.process_of(&runner);
    for (wish, wanted) in [("pause", true), ("unpause", false)] {
        other.run([wish, &runner]).ok();
        until(wish, || match process.is_held() {
            held if held == wanted => Ok(()),
            held => Err(held),
        });
    }
    other.run(["restart", &runner]).ok();
    until("its next process runs", || match own.runner(&runner) {
        shown if shown["epoch"] == 2 && shown["state"] == "running" => Ok(()),
        shown => Err(shown),
    });
    assert!(!process.is_alive());
    other.run(["kill", &runner]).ok();
    assert_eq!(own.until_state(&runner, &["exited", "failed", "lost"])["state"], "exited");
    assert_eq!(own.processes_of(&runner), Vec::<u32>::new());
}
