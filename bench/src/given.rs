//! What the store is filled with before it is measured.

use std::collections::BTreeMap;

use anyhow::Context;
use stratavore_core::daemon::{Daemon, Node};
use stratavore_core::limits::Limits;
use stratavore_core::liveness::Liveness;
use stratavore_core::name::Name;
use stratavore_core::node::Profile;
use stratavore_core::project::Project;
use stratavore_core::quota::Quota;

use stratavore_core::restart::{Backoff, RestartPolicy};
use stratavore_core::runner::{Cause, Command, Exit, Input, Outcome, Runner};
use stratavore_core::{DaemonId, NodeId, ProjectId, RunnerId, SessionId, Timestamp};
use stratavore_store::{NameWish, NewRunner, Store};

fn entropy() -> [u8; 16] {
    let mut bytes = [0; 16];
    // The kernel always has sixteen.
    let _filled = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
    bytes
}

/// `millis` after the beginning of 2026: all that is made here is older than what is launched.
pub(crate) fn at(millis: i64) -> Timestamp {
    Timestamp::from_millisecond(1_767_225_600_000 + millis).unwrap_or(Timestamp::UNIX_EPOCH)
}

fn name(text: &str) -> anyhow::Result<Name> {
    text.parse().with_context(|| format!("`{text}` is no name"))
}

pub(crate) async fn project(store: &Store, called: &str) -> anyhow::Result<ProjectId> {
    let project = Project {
        id: ProjectId::from_entropy(entropy()),
        name: name(called)?,
        directory: "/".into(),
        description: String::new(),
        assistant: None,
        quota: Quota { runners: 1_000_000, ..Quota::default() },
        runner_limits: Limits::default(),
        generation: 1,
        created_at: at(0),
        updated_at: at(0),
        archived_at: None,
        deleted_at: None,
    };
    Ok(store.project_create(&project, "bench", None).await?.id)
}

/// A host that is not this one, so that no daemon here starts its runners.
pub(crate) async fn node(store: &Store) -> anyhow::Result<NodeId> {
    let id = NodeId::from_entropy(entropy());
    let node = Node { id, hostname: "elsewhere".into(), boot_id: "boot".into(), seen_at: at(0) };
    let daemon = Daemon {
        id: DaemonId::from_entropy(entropy()),
        node: id,
        version: "0.1.0".into(),
        pid: 1,
        started_at: at(0),
        seen_at: at(0),
        stopped_at: None,
    };
    store.daemon_started(&node, &daemon, &Profile::default()).await?;
    Ok(id)
}

pub(crate) fn unborn(project: ProjectId, node: NodeId, called: &str) -> anyhow::Result<NewRunner> {
    Ok(NewRunner {
        id: RunnerId::from_entropy(entropy()),
        project,
        name: NameWish::Exact(name(called)?),
        node,
        bounded: false,
        command: Command {
            assistant: name("generic")?,
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
        },
        limits: Limits::default(),
        restart: RestartPolicy::Never,
        session: SessionId::from_entropy(entropy()),
        continues: false,
        forks: None,
        successor_of: None,
    })
}

/// Live runners, some hundred to a project.
pub(crate) async fn runners(store: &Store, count: usize) -> anyhow::Result<Vec<Runner>> {
    const IN_ONE: usize = 500;
    let node = node(store).await?;
    let mut made = Vec::with_capacity(count);
    while made.len() < count {
        let part = IN_ONE.min(count - made.len());
        let project = project(store, &format!("p{}", made.len())).await?;
        let new: anyhow::Result<Vec<_>> =
            (0..part).map(|n| unborn(project, node, &format!("r{n}"))).collect();
        made.extend(store.runners_admit(new?, "bench", at(made.len() as i64), None).await?);
    }
    Ok(made)
}

/// Runners of `project` that have ended.
pub(crate) async fn ended(store: &Store, project: ProjectId, count: usize) -> anyhow::Result<()> {
    const AT_ONCE: usize = 100;
    let node = node(store).await?;
    for begin in (0..count).step_by(AT_ONCE) {
        let new: anyhow::Result<Vec<_>> = (begin..count.min(begin + AT_ONCE))
            .map(|n| unborn(project, node, &format!("old-{n}")))
            .collect();
        let millis = begin as i64;
        let admitted = store.runners_admit(new?, "bench", at(millis), None).await?;
        for runner in admitted {
            let exit = Exit { cause: Cause::Exit(0), at: at(millis + 1) };
            let input = Input::Exited { epoch: runner.epoch, exit };
            if let Outcome::Changed(next, event) =
                runner.apply(input, at(millis + 2), &Backoff::default())?
            {
                store.runner_write(&runner, &next, event, "bench", None).await?;
            }
        }
    }
    Ok(())
}

pub(crate) fn heartbeats(runners: &[Runner], round: i64) -> Vec<Liveness> {
    runners
        .iter()
        .map(|runner| Liveness {
            runner: runner.id,
            epoch: runner.epoch,
            at: at(1_000_000 + round),
            cpu_ms: round.unsigned_abs(),
            memory: 1 << 20,
            processes: 3,
            output_bytes: 100,
            output_at: None,
            viewers: 0,
        })
        .collect()
}
