//! What tests start from.

use std::collections::BTreeMap;

use stratavore_core::daemon::{Daemon, Node};
use stratavore_core::event::NewEvent;
use stratavore_core::idempotency::Idempotency;
use stratavore_core::limits::Limits;
use stratavore_core::name::{Name, Reference};
use stratavore_core::node::Profile;
use stratavore_core::project::Project;
use stratavore_core::quota::Quota;
use stratavore_core::restart::{Backoff, RestartPolicy};
use stratavore_core::runner::{Cause, Command, Exit, Input, Outcome, Runner, RunnerState};
use stratavore_core::{DaemonId, NodeId, ProjectId, RunnerId, SessionId, Timestamp};
use stratavore_store::{NameWish, NewRunner, Store};

pub(crate) fn entropy() -> [u8; 16] {
    let mut bytes = [0; 16];
    let filled = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
    assert_eq!(filled, Ok(16));
    bytes
}

/// `seconds` after the beginning of 2026.
pub(crate) fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_767_225_600 + seconds).unwrap()
}

pub(crate) fn name(text: &str) -> Name {
    text.parse().unwrap()
}

pub(crate) fn reference(text: &str, prefix: &str) -> Reference {
    Reference::parse(text, prefix)
}

pub(crate) fn idempotency(key: &str, request: u8) -> Idempotency {
    Idempotency::new(key.into(), [request; 32]).unwrap()
}

pub(crate) fn unborn_project(called: &str) -> Project {
    Project {
        id: ProjectId::from_entropy(entropy()),
        name: name(called),
        directory: "/srv/work".into(),
        description: String::new(),
        assistant: Some(name("claude")),
        quota: Quota::default(),
        runner_limits: Limits::default(),
        generation: 1,
        created_at: at(0),
        updated_at: at(0),
        archived_at: None,
        deleted_at: None,
    }
}

pub(crate) async fn project(store: &Store, called: &str) -> Project {
    store.project_create(&unborn_project(called), "ada", None).await.unwrap()
}

pub(crate) async fn project_with(store: &Store, called: &str, quota: Quota) -> Project {
    store.project_create(&Project { quota, ..unborn_project(called) }, "ada", None).await.unwrap()
}

pub(crate) fn host(boot_id: &str) -> Node {
    Node {
        id: NodeId::from_entropy(entropy()),
        hostname: "box".into(),
        boot_id: boot_id.into(),
        seen_at: at(0),
    }
}

pub(crate) fn daemon_on(node: &Node) -> Daemon {
    Daemon {
        id: DaemonId::from_entropy(entropy()),
        node: node.id,
        version: "0.1.0".into(),
        pid: 4711,
        started_at: at(0),
        seen_at: at(0),
        stopped_at: None,
    }
}

/// A node that a daemon has been on.
pub(crate) async fn node(store: &Store) -> NodeId {
    let node = host("boot-1");
    store.daemon_started(&node, &daemon_on(&node), &Profile::default()).await.unwrap();
    node.id
}

pub(crate) fn command() -> Command {
    Command {
        assistant: name("generic"),
        argv: vec!["sh".into(), "-c".into(), "exit 0".into()],
        given: 0,
        prompt: None,
        bare: false,
        headless: None,
        after_limit: Default::default(),
        labels: Vec::new(),
        env: BTreeMap::new(),
        directory: "/srv/work".into(),
        columns: 80,
        rows: 24,
    }
}

pub(crate) fn unborn(project: ProjectId, node: NodeId, called: &str) -> NewRunner {
    NewRunner {
        id: RunnerId::from_entropy(entropy()),
        project,
        name: NameWish::Exact(name(called)),
        node,
        bounded: false,
        command: command(),
        limits: Limits::default(),
        restart: RestartPolicy::Never,
        session: SessionId::from_entropy(entropy()),
        continues: false,
        forks: None,
        successor_of: None,
    }
}

pub(crate) async fn admit(store: &Store, new: NewRunner) -> Runner {
    let mut admitted = store.runners_admit(vec![new], "ada", at(1), None).await.unwrap();
    admitted.pop().unwrap()
}

pub(crate) async fn runner(store: &Store, project: &Project, node: NodeId, called: &str) -> Runner {
    admit(store, unborn(project.id, node, called)).await
}

/// What comes of `input`, which must change the runner.
pub(crate) fn changed(runner: &Runner, input: Input, now: Timestamp) -> (Runner, NewEvent) {
    match runner.apply(input, now, &Backoff::default()) {
        Ok(Outcome::Changed(next, event)) => (*next, event),
        other => panic!("{other:?} is no change of {runner:?}"),
    }
}

/// The runner after it ended with exit code 0, and the event of it.
pub(crate) fn ended(runner: &Runner) -> (Runner, NewEvent) {
    let exit = Exit { cause: Cause::Exit(0), at: at(9) };
    changed(runner, Input::Exited { epoch: runner.epoch, exit }, at(10))
}

pub(crate) async fn end(store: &Store, runner: &Runner) -> Runner {
    let (next, event) = ended(runner);
    store.runner_write(runner, &next, event, "agent", None).await.unwrap()
}

pub(crate) async fn lose(store: &Store, runner: &Runner) -> Runner {
    let lost = RunnerState::Lost { cause: Cause::AgentDied, at: at(9) };
    let generation = runner.generation + 1;
    let next = Runner { state: lost, generation, updated_at: at(10), ..runner.clone() };
    let event = NewEvent::new("runner.lost", serde_json::json!({}));
    store.runner_write(runner, &next, event, "daemon", None).await.unwrap()
}

pub(crate) async fn archive(store: &Store, project: &Project) -> Project {
    let next = Project {
        archived_at: Some(at(20)),
        generation: project.generation + 1,
        updated_at: at(20),
        ..project.clone()
    };
    let event = NewEvent::new("project.archived", serde_json::json!({}));
    store.project_write(project, &next, event, "ada", None).await.unwrap()
}

/// A change that ends nothing.
pub(crate) fn activity(runner: &Runner) -> (Runner, NewEvent) {
    let next = Runner { generation: runner.generation + 1, updated_at: at(5), ..runner.clone() };
    (next, NewEvent::new("runner.activity", serde_json::json!({})))
}
