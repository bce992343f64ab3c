//! T-DRAIN: daemons are replaced one by the other while clients ask, and no client sees an error.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use stratavore_proto::client::Client;
use stratavore_proto::v1::{EditProject, ListRunners, StatusRequest};
use stratavore_testkit::postgres::{TestPostgres, database};
use stratavore_testkit::trial::{Trial, scale};
use stratavore_testkit::wire::{fresh_key, on_runtime};
use stratavore_testkit::world::{World, signal, until};

use crate::printing::Printing;

/// Longer than a daemon has to end: 5 s for requests, and what is left to write.
const ENDS: Duration = Duration::from_secs(10);

/// Asks by the command line, again and again; answers how often, and what failed.
fn ask(world: &World, done: &AtomicBool, commands: &[&[&str]]) -> (u64, Vec<String>) {
    let (mut asked, mut failed) = (0, Vec::new());
    for command in commands.iter().cycle() {
        if done.load(Ordering::Relaxed) {
            break;
        }
        let ran = world.run(command.iter());
        asked += 1;
        if ran.code() != 0 {
            failed.push(format!("{command:?}: {}", ran.everything()));
        }
    }
    (asked, failed)
}

/// Asks without asking again, on a connection that it makes once: how often it failed.
async fn ask_once_each(world: &World, done: &AtomicBool, failed: &AtomicU64) {
    let mut client = Client::connect(&world.path("run/d.sock")).await;
    while !done.load(Ordering::Relaxed) {
        let answered = match &client {
            Ok(client) => client.runners().list(ListRunners::default()).await.is_ok(),
            Err(_) => false,
        };
        if !answered {
            failed.fetch_add(1, Ordering::Relaxed);
            client = Client::connect(&world.path("run/d.sock")).await;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[test]
fn t_drain_daemons_are_replaced_and_no_client_sees_an_error() {
    let mut trial = Trial::new(
        "T-DRAIN",
        "a daemon is replaced while clients ask: no error, no runner touched",
    );
    let world = World::new();
    world.project("demo");
    let runner = Printing::launch(&world, "one", &["--every", "20"]);
    world.launch("demo", "two", &["cat"]);
    let (done, unaided) = (AtomicBool::new(false), AtomicU64::new(0));
    let results = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        let askers: [&[&[&str]]; 2] = [
            &[&["runners"], &["projects"], &["events", "list"]],
            // These change something.
            &[&["pause", "two"], &["unpause", "two"], &["send", "two", "words"]],
        ];
        for commands in askers {
            let (world, done, results) = (&world, &done, &results);
            scope.spawn(move || {
                let asked = ask(world, done, commands);
                results.lock().expect("no asker panics").push(asked);
            });
        }
        scope.spawn(|| on_runtime(ask_once_each(&world, &done, &unaided)));
        let restarts = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for _ in 0..scale(10, 200) {
                let pid = until("a daemon runs", || world.daemon_pid().ok_or("none"));
                let began = Instant::now();
                signal(pid, Signal::TERM);
                until("it is gone", || match world.daemon_pid() {
                    Some(now) if now == pid => Err(now),
                    _ => Ok(()),
                });
                trial.measured("a daemon's end", began.elapsed());
                world.run(["daemon", "start"]).ok();
                trial.measured("from the end of one to the answer of the next", began.elapsed());
                let on_time = trial.longest("a daemon's end") < ENDS;
                trial.tried(if on_time { Ok(()) } else { Err("it ended too late".into()) });
            }
        }));
        done.store(true, Ordering::Relaxed);
        restarts.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
    let results = results.into_inner().expect("no asker panics");
    let asked: u64 = results.iter().map(|(asked, _)| asked).sum();
    for words in results.into_iter().flat_map(|(_, failed)| failed) {
        trial.tried_times(0, Err(words));
    }
    trial.counted("requests", asked);
    until("its log has all that it printed", || runner.held(&world));
    assert_eq!(world.process_of(&runner.runner), runner.process);
    let unaided = unaided.into_inner();
    trial.control("a client that does not ask again", unaided > 0);
    trial.end();
}

/// What came of asking.
#[derive(Debug, Default)]
struct Told {
    asked: u64,
    /// Of these, how many change something.
    edits: u64,
    /// How often the next one had to be asked.
    again: u64,
    unanswered: u64,
}

/// Asks a daemon, and the next one once if that does not answer. Every other request is an edit of the
/// project, which has the same key at both.
async fn ask_the_next_one_once(
    worlds: &[World; 3],
    first: usize,
    project: &str,
    done: &AtomicBool,
) -> Told {
    let mut told = Told::default();
    let mut clients: [Option<Client>; 3] = Default::default();
    while !done.load(Ordering::Relaxed) {
        told.asked += 1;
        let edit = told.asked.is_multiple_of(2).then(|| EditProject {
            idempotency_key: fresh_key("drain"),
            project: project.into(),
            description: Some(format!("edit {}", told.asked)),
            ..EditProject::default()
        });
        told.edits += u64::from(edit.is_some());
        let mut answered = false;
        for which in [first, (first + 1) % worlds.len()] {
            if clients[which].is_none() {
                clients[which] = Client::connect(&worlds[which].path("run/d.sock")).await.ok();
            }
            if let Some(client) = &clients[which] {
                answered = match &edit {
                    Some(edit) => client.projects().edit(edit.clone()).await.is_ok(),
                    None => client.runners().list(ListRunners::default()).await.is_ok(),
                };
            }
            if answered {
                break;
            }
            clients[which] = None;
            told.again += u64::from(which == first);
        }
        told.unanswered += u64::from(!answered);
    }
    told
}

/// How often a project was edited, by its events.
fn edits_of(database: &TestPostgres, project: &str) -> u64 {
    let sql =
        format!("SELECT count(*) FROM events WHERE kind = 'project.edited' AND name = '{project}'");
    database.query(&sql).parse().expect("a number")
}

/// Three daemons of one database are replaced one after the other; clients know two of them each.
#[test]
fn t_drain_three_daemons_are_replaced_and_the_next_one_answers() {
    let mut trial = Trial::new(
        "T-DRAIN",
        "three daemons are replaced one by one: who asks the next one once is answered",
    );
    let database = database();
    let worlds: [World; 3] =
        std::array::from_fn(|_| World::with_config(&database.settings(&database.socket_dir)));
    worlds[0].project("demo");
    let names = ["red", "green", "blue"];
    let runners: Vec<Printing> = (worlds.iter().zip(names))
        .map(|(world, name)| Printing::launch(world, name, &["--every", "50"]))
        .collect();
    let done = AtomicBool::new(false);
    // Each waits for its answers. In the full count there are as many as 200 requests a second take on a machine
    // that does nothing else.
    let projects: Vec<String> = (0..scale(3, 18)).map(|client| format!("of-{client}")).collect();
    for name in &projects {
        worlds[0].project(name);
    }
    let began = Instant::now();
    let told: Vec<Told> = std::thread::scope(|scope| {
        let asking: Vec<_> = (projects.iter().enumerate())
            .map(|(client, name)| {
                let (worlds, done, first) = (&worlds, &done, client % 3);
                scope.spawn(move || on_runtime(ask_the_next_one_once(worlds, first, name, done)))
            })
            .collect();
        let restarts = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for round in 0..scale(6, 200) {
                let world = &worlds[round % worlds.len()];
                let pid = until("a daemon runs", || world.daemon_pid().ok_or("none"));
                let began = Instant::now();
                signal(pid, Signal::TERM);
                until("it is gone", || match world.daemon_pid() {
                    Some(now) if now == pid => Err(now),
                    _ => Ok(()),
                });
                trial.measured("a daemon's end", began.elapsed());
                world.run(["daemon", "start"]).ok();
                let on_time = trial.longest("a daemon's end") < ENDS;
                trial.tried(if on_time { Ok(()) } else { Err("it ended too late".into()) });
            }
        }));
        done.store(true, Ordering::Relaxed);
        restarts.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        asking.into_iter().map(|asking| asking.join().expect("it does not panic")).collect()
    });
    let took = began.elapsed();
    let sum = |of: fn(&Told) -> u64| told.iter().map(of).sum::<u64>();
    let (asked, unanswered) = (sum(|told| told.asked), sum(|told| told.unanswered));
    trial.tried_times(
        asked as usize,
        match unanswered {
            0 => Ok(()),
            some => Err(format!("{some} of {asked} had no answer from either")),
        },
    );
    trial.counted("requests", asked);
    trial.counted("edits", sum(|told| told.edits));
    let once = |edits: u64, of: &str| match edits_of(&database, of) {
        found if found == edits => Ok(()),
        found => Err(format!("{edits} edits of {of} had {found} effects")),
    };
    for (told, name) in told.iter().zip(&projects) {
        trial.tried(once(told.edits, name));
    }
    trial.control("an edit that happens twice", once(told[0].edits - 1, &projects[0]).is_err());
    let rate = asked as f64 / took.as_secs_f64();
    trial.most("requests a second", rate as u64);
    for (runner, world) in runners.iter().zip(&worlds) {
        until("its log has all that it printed", || runner.held(world));
        assert_eq!(world.process_of(&runner.runner), runner.process);
    }
    trial.control("a client that knows one daemon only", sum(|told| told.again) > 0);
    trial.end();
}

/// A wish to end that comes with requests under way lets them finish.
#[test]
fn a_request_under_way_is_answered_by_a_daemon_that_ends() {
    let world = World::new();
    world.project("demo");
    on_runtime(async {
        let client = stratavore_testkit::wire::client(&world).await;
        let mut daemon = client.daemon();
        let asked = daemon.status(StatusRequest::default());
        signal(world.daemon_pid().expect("it runs"), Signal::TERM);
        asked.await.expect("it is answered");
    });
}
