//! The daemon's API as a program calls it, with nothing of the command line in between.

use std::future::Future;

use stratavore_proto::client::Client;
use stratavore_proto::v1::{
    CreateProject, LaunchRunners, ListRunners, Runner, StopRunner, WaitRunner,
};
use tonic::{Response, Status};

use crate::world::World;

/// Runs `future` on a runtime of its own, on this thread.
pub fn on_runtime<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime can be made").block_on(future)
}

/// A connection to the daemon of `world`, which runs.
pub async fn client(world: &World) -> Client {
    Client::connect(&world.path("run/d.sock")).await.expect("a daemon answers")
}

/// A key that no other call of this test run has.
pub fn fresh_key(what: &str) -> String {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!("{what}-{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

/// The problem's code that a refused call tells.
#[track_caller]
pub fn refusal<T: std::fmt::Debug>(
    answer: Result<Response<T>, Status>,
) -> stratavore_proto::v1::Problem {
    stratavore_proto::client::problem(&answer.expect_err("the call is refused"))
}

/// A request for a project in the world's directory.
pub fn new_project(world: &World, name: &str, key: String) -> CreateProject {
    CreateProject {
        idempotency_key: key,
        name: name.into(),
        directory: world.work().display().to_string(),
        ..CreateProject::default()
    }
}

/// A request for one runner that does nothing until it is told to end.
pub fn new_runner(project: &str, key: String) -> LaunchRunners {
    LaunchRunners {
        idempotency_key: key,
        project: project.into(),
        assistant: "generic".into(),
        args: vec!["sleep".into(), "1000".into()],
        ..LaunchRunners::default()
    }
}

/// Kills a runner and waits until nothing of it is left.
pub async fn kill(client: &Client, runner: &str) -> Runner {
    let stop = StopRunner {
        idempotency_key: fresh_key("kill"),
        runner: runner.into(),
        force: true,
        ..StopRunner::default()
    };
    client.runners().stop(stop).await.expect("a live runner can be stopped");
    wait(client, runner, &[]).await
}

/// Waits until the runner is in one of `states`, or has ended.
pub async fn wait(client: &Client, runner: &str, states: &[&str]) -> Runner {
    let wait = WaitRunner {
        runner: runner.into(),
        states: states.iter().map(|state| (*state).to_owned()).collect(),
        timeout_ms: 20_000,
        epoch: 0,
    };
    let waited = client.runners().wait(wait).await.expect("it is answered").into_inner();
    let ended = ["exited", "failed", "lost"];
    let reached = states.iter().chain(&ended).any(|state| waited.state == *state);
    assert!(reached, "waited in vain for {states:?}: {waited:?}");
    waited
}

/// Every runner that there is, ended ones too.
pub async fn all_runners(client: &Client) -> Vec<Runner> {
    let mut list = ListRunners { all: true, ..ListRunners::default() };
    let mut runners = Vec::new();
    loop {
        let page = client.runners().list(list.clone()).await.expect("runners are listed");
        let page = page.into_inner();
        runners.extend(page.runners);
        if page.next.is_empty() {
            return runners;
        }
        list.before = page.next;
    }
}
