//! T-IDEM: a request that is repeated with its key happens once, and is answered alike.
//!
//! The effects are counted in the list of runners and in the events, the answers are compared with
//! each other. The same count, asked of retries that carry no key, finds several effects.

use std::collections::BTreeSet;

use futures_util::future::join_all;
use stratavore_proto::client::Client;
use stratavore_proto::v1::{
    ArchiveProject, EditProject, LaunchRunners, ListProjects, PauseRunner, Project, RestartRunner,
    Runner, StopRunner,
};
use stratavore_store::testing::sqlite_number;
use stratavore_testkit::world::{World, until};

use stratavore_testkit::wire::{
    all_runners, client, fresh_key, kill, new_project, new_runner, on_runtime, refusal, wait,
};

const AT_ONCE: usize = 16;

/// What a reply says of the runner itself: not how its host happens to be while it is answered.
pub(crate) fn recorded(runner: &Runner) -> Runner {
    Runner { connected: false, usage: None, ..runner.clone() }
}

/// The same for a project.
pub(crate) fn recorded_project(project: &Project) -> Project {
    Project { live_runners: 0, ..project.clone() }
}

/// Whether so many attempts had one effect: one answer, one runner, and one event of admission.
async fn had_one_effect(world: &World, answers: &[Runner]) -> Result<(), String> {
    let distinct: BTreeSet<&str> = answers.iter().map(|runner| runner.id.as_str()).collect();
    let rows = count(world, "runners").await;
    let accepted = count(world, "events WHERE kind = 'runner.accepted'").await;
    match (distinct.len(), rows, accepted) {
        (1, 1, 1) => Ok(()),
        (answered, rows, accepted) => Err(format!(
            "{} attempts: {answered} different answers, {rows} runners, {accepted} admissions",
            answers.len()
        )),
    }
}

/// Rows in the daemon's database.
async fn count(world: &World, rows: &str) -> i64 {
    sqlite_number(&world.path("state/stratavore.db"), &format!("SELECT count(*) FROM {rows}")).await
}

/// The records of a key.
async fn rows_of(world: &World, key: &str) -> i64 {
    count(world, &format!("idempotency_records WHERE key = '{key}'")).await
}

async fn launch_once(client: &Client, request: &LaunchRunners) -> Runner {
    let launched = client.runners().launch(request.clone()).await.expect("it is launched");
    launched.into_inner().runners.remove(0)
}

/// The same request over as many connections at the same time.
async fn launch_at_once(world: &World, requests: Vec<LaunchRunners>) -> Vec<Runner> {
    let launches = requests.into_iter().map(async |request| {
        let client = client(world).await;
        launch_once(&client, &request).await
    });
    join_all(launches).await
}

#[test]
fn a_launch_that_is_repeated_with_its_key_happens_once() {
    let world = World::new();
    world.project("demo");
    on_runtime(async {
        let client = client(&world).await;
        let request = new_runner("demo", "the-key".into());
        let first = launch_once(&client, &request).await;
        wait(&client, &first.id, &["running"]).await;
        let mut answers = vec![first];
        // While it runs, from many connections at once, and after it has ended.
        answers.push(launch_once(&client, &request).await);
        answers.extend(launch_at_once(&world, vec![request.clone(); AT_ONCE]).await);
        kill(&client, &answers[0].id).await;
        answers.push(launch_once(&client, &request).await);

        had_one_effect(&world, &answers).await.unwrap();
        for answer in &answers {
            assert_eq!(recorded(answer), recorded(&answers[0]));
        }
        assert_eq!(rows_of(&world, "the-key").await, 1);
    });
}

#[test]
fn of_launches_with_one_key_at_the_same_time_one_happens() {
    let world = World::new();
    world.project("demo");
    on_runtime(async {
        let request = new_runner("demo", "one-for-all".into());
        let answers = launch_at_once(&world, vec![request; AT_ONCE]).await;
        had_one_effect(&world, &answers).await.unwrap();
        assert_eq!(rows_of(&world, "one-for-all").await, 1);
        let processes = until("its one assistant runs", || match started_here(&world) {
            found if found.is_empty() => Err(found),
            found => Ok(found),
        });
        assert_eq!(processes.len(), 1, "{processes:?}");
    });
}

/// The control: the same retries, each with a key of its own, are so many runners, and the same
/// check says so.
#[test]
fn without_their_key_the_same_retries_are_several_runners() {
    let world = World::new();
    world.project("demo");
    on_runtime(async {
        let requests = (0..AT_ONCE).map(|_| new_runner("demo", fresh_key("retry"))).collect();
        let answers = launch_at_once(&world, requests).await;
        let client = client(&world).await;
        let found = had_one_effect(&world, &answers).await.expect_err("it is noticed");
        assert!(found.contains(&format!("{AT_ONCE} runners")), "{found}");
        // No key at all is as good as a new one.
        launch_once(&client, &new_runner("demo", String::new())).await;
        launch_once(&client, &new_runner("demo", String::new())).await;
        assert_eq!(all_runners(&client).await.len(), AT_ONCE + 2);
    });
}

/// The ids of runners with a live process of their own, by the kernel.
fn started_here(world: &World) -> BTreeSet<String> {
    let runners = std::fs::read_dir(world.path("state/runners")).expect("runners have directories");
    let runners = runners.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    runners.filter(|runner| !world.processes_of(runner).is_empty()).collect()
}

/// Starts a daemon that dies at a failpoint.
fn start_doomed(world: &World, failpoint: &str) {
    let mut command = world.command("stratavore");
    command.args(["daemon", "start"]).env("STRATAVORE_FAILPOINTS", format!("{failpoint}=abort"));
    let started = command.output().expect("stratavore runs");
    assert!(started.status.success(), "{started:?}");
}

/// A daemon dies after the commit and before the answer; the request is repeated to the next one.
#[test]
fn a_launch_whose_answer_was_lost_is_answered_by_the_next_daemon() {
    let world = World::new();
    world.project("demo");
    world.kill_daemon();
    start_doomed(&world, "L5");
    on_runtime(async {
        let request = new_runner("demo", "lost-answer".into());
        let doomed = client(&world).await;
        doomed.runners().launch(request.clone()).await.expect_err("its daemon dies");
        until("the daemon is gone", || match world.daemon_pid() {
            None => Ok(()),
            Some(pid) => Err(pid),
        });
        assert_eq!(rows_of(&world, "lost-answer").await, 1, "it was committed");

        world.run(["daemon", "start"]).ok();
        let client = client(&world).await;
        let answers = [launch_once(&client, &request).await, launch_once(&client, &request).await];
        had_one_effect(&world, &answers).await.unwrap();
        let runner = wait(&client, &answers[0].id, &["running"]).await;
        assert_eq!(runner.state, "running", "what was admitted is started: {runner:?}");
        assert_eq!(started_here(&world).len(), 1);
    });
}

/// The same, and what was asked for has changed the world in which it is asked again.
#[test]
fn a_change_whose_answer_was_lost_is_answered_by_the_next_daemon() {
    let world = World::new();
    world.project("demo");
    let runner = world.launch("demo", "one", &["sleep", "1000"]);
    for (failpoint, key) in [("project_committed", "lost-rename"), ("stop_committed", "lost-stop")]
    {
        world.kill_daemon();
        start_doomed(&world, failpoint);
        let rename = EditProject {
            idempotency_key: key.into(),
            project: "demo".into(),
            name: Some("renamed".into()),
            ..EditProject::default()
        };
        let stop = StopRunner {
            idempotency_key: key.into(),
            runner: runner.clone(),
            force: true,
            ..StopRunner::default()
        };
        let renames = key == "lost-rename";
        on_runtime(async {
            let doomed = client(&world).await;
            if renames {
                doomed.projects().edit(rename.clone()).await.map(drop)
            } else {
                doomed.runners().stop(stop.clone()).await.map(drop)
            }
            .expect_err("its daemon dies");
        });
        until("the daemon is gone", || match world.daemon_pid() {
            None => Ok(()),
            Some(pid) => Err(pid),
        });
        world.run(["daemon", "start"]).ok();
        on_runtime(async {
            let client = client(&world).await;
            let before = count(&world, "events").await;
            if renames {
                let answer = client.projects().edit(rename.clone()).await.unwrap().into_inner();
                assert_eq!((answer.name.as_str(), answer.generation), ("renamed", 2));
            } else {
                wait(&client, &runner, &[]).await;
                let first = client.runners().stop(stop.clone()).await.unwrap().into_inner();
                let again = client.runners().stop(stop.clone()).await.unwrap().into_inner();
                assert_eq!(recorded(&first), recorded(&again));
                assert_eq!(first.desired, "stopped");
            }
            assert_eq!(rows_of(&world, key).await, 1);
            if renames {
                assert_eq!(count(&world, "events").await, before, "nothing happened again");
            }
        });
    }
}

#[test]
fn every_mutation_is_answered_alike_when_it_is_repeated() {
    let world = World::new();
    world.project("demo");
    on_runtime(async {
        let client = client(&world).await;
        let events = async || count(&world, "events").await;

        let create = new_project(&world, "second", fresh_key("create"));
        let first = client.projects().create(create.clone()).await.unwrap().into_inner();
        let edit = EditProject {
            idempotency_key: fresh_key("edit"),
            project: "second".into(),
            name: Some("other".into()),
            description: Some("as it is now".into()),
            ..EditProject::default()
        };
        let edited = client.projects().edit(edit.clone()).await.unwrap().into_inner();
        let archive = ArchiveProject {
            idempotency_key: fresh_key("archive"),
            project: "other".into(),
            restore: false,
        };
        let archived = client.projects().archive(archive.clone()).await.unwrap().into_inner();

        let launched = launch_once(&client, &new_runner("demo", fresh_key("launch"))).await;
        let running = wait(&client, &launched.id, &["running"]).await;
        let runner = running.id.as_str();
        let pause = PauseRunner {
            idempotency_key: fresh_key("pause"),
            runner: runner.into(),
            paused: true,
            ..PauseRunner::default()
        };
        let paused = client.runners().pause(pause.clone()).await.unwrap().into_inner();
        let unpause =
            PauseRunner { idempotency_key: fresh_key("unpause"), paused: false, ..pause.clone() };
        client.runners().pause(unpause).await.unwrap();
        let restart = RestartRunner {
            idempotency_key: fresh_key("restart"),
            runner: runner.into(),
            force: true,
            ..RestartRunner::default()
        };
        let restarted = client.runners().restart(restart.clone()).await.unwrap().into_inner();
        until("the runner is in its second epoch", || {
            let shown = world.runner(runner);
            let again = shown["epoch"] == 2 && shown["state"] == "running";
            if again { Ok(()) } else { Err(shown) }
        });
        let stop = StopRunner {
            idempotency_key: fresh_key("stop"),
            runner: runner.into(),
            force: true,
            ..StopRunner::default()
        };
        let stopped = client.runners().stop(stop.clone()).await.unwrap().into_inner();
        wait(&client, runner, &[]).await;
        let before = events().await;

        // By now none of them could be carried out any more, or would be answered otherwise.
        let again = client.projects().create(create).await.unwrap().into_inner();
        assert_eq!(recorded_project(&again), recorded_project(&first));
        let again = client.projects().edit(edit).await.unwrap().into_inner();
        assert_eq!(recorded_project(&again), recorded_project(&edited));
        let again = client.projects().archive(archive).await.unwrap().into_inner();
        assert_eq!(recorded_project(&again), recorded_project(&archived));
        let again = client.runners().pause(pause).await.unwrap().into_inner();
        assert_eq!(recorded(&again), recorded(&paused));
        let again = client.runners().restart(restart).await.unwrap().into_inner();
        assert_eq!(recorded(&again), recorded(&restarted));
        let again = client.runners().stop(stop).await.unwrap().into_inner();
        assert_eq!(recorded(&again), recorded(&stopped));

        assert_eq!(events().await, before, "nothing happened a second time");
        assert_eq!(all_runners(&client).await.len(), 1, "no successor was made");
    });
}

#[test]
fn a_key_that_was_used_for_something_else_is_refused() {
    let world = World::new();
    world.project("demo");
    on_runtime(async {
        let client = client(&world).await;
        let request = new_runner("demo", "used".into());
        launch_once(&client, &request).await;

        let other = LaunchRunners { args: vec!["sleep".into(), "1".into()], ..request.clone() };
        let problem = refusal(client.runners().launch(other).await);
        assert_eq!(problem.code, "idempotency_key_reuse");
        assert!(
            problem.message.contains("used") && problem.hint.contains("new key"),
            "{problem:?}"
        );
        // Also for another kind of request.
        let problem =
            refusal(client.projects().create(new_project(&world, "x", "used".into())).await);
        assert_eq!(problem.code, "idempotency_key_reuse");

        assert_eq!(all_runners(&client).await.len(), 1);
        let projects = client.projects().list(ListProjects { archived: true }).await.unwrap();
        assert_eq!(projects.into_inner().projects.len(), 1);
    });
}

#[test]
fn a_refused_request_uses_no_key_up() {
    let world = World::new();
    world.project("demo");
    on_runtime(async {
        let client = client(&world).await;
        let request = new_runner("demo", "second-try".into());
        let missing = LaunchRunners { directory: "/nowhere/at/all".into(), ..request.clone() };
        assert_eq!(refusal(client.runners().launch(missing).await).code, "not_found");
        assert_eq!(rows_of(&world, "second-try").await, 0);
        launch_once(&client, &request).await;
    });
}

#[test]
fn a_key_has_a_form() {
    let world = World::new();
    world.project("demo");
    on_runtime(async {
        let client = client(&world).await;
        for key in ["k".repeat(129), "two words".into(), "line\n".into(), "\u{1b}[2J".into()] {
            let problem = refusal(client.runners().launch(new_runner("demo", key)).await);
            assert_eq!(problem.code, "invalid", "{problem:?}");
            assert!(problem.message.contains("idempotency key"), "{problem:?}");
        }
        let longest = new_runner("demo", "k".repeat(128));
        launch_once(&client, &longest).await;
        launch_once(&client, &longest).await;
        assert_eq!(all_runners(&client).await.len(), 1);
    });
}
