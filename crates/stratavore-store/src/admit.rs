//! Admission: the one transaction that decides whether runners may exist, and makes them.
//!
//! Invariant: the project's lock is held from before its live runners are read until the commit,
//! so no two admissions decide on the same free place. What was read without the lock (`alone.rs`)
//! counts only if it is found to be so still once the lock is held.
//! Invariant: all runners of a call are admitted, or none.

use std::collections::HashSet;

use sqlx::types::Text;
use stratavore_core::caller::By;
use stratavore_core::event::{Entity, NewEvent};
use stratavore_core::idempotency::Idempotency;
use stratavore_core::limits::Limits;
use stratavore_core::name::{NAME_MAX, Name};
use stratavore_core::project::Project;
use stratavore_core::quota::Holder;
use stratavore_core::restart::{RestartPolicy, Restarts};
use stratavore_core::runner::{Activity, Command, Desired, Runner, RunnerState};
use stratavore_core::{NodeId, ProjectId, RunnerId, SessionId, Timestamp};

use crate::error::{Unique, doing, violated};
use crate::hook::{is_left_out, passing};
use crate::retry::retried;
use crate::tx::{Tx, on};
use crate::value::{DbTime, to_json};
use crate::{Store, StoreError, event, idempotency, node, project, reserve, runner, session};

/// What a negative control leaves out: of admissions to one project, that they wait for each other.
const LOCK: &str = "admission_lock";

const INSERT: &str =
    "INSERT INTO runners (id, project_id, name, node_id, limits, state, epoch, generation,
        session_id, successor_of, created_at, updated_at, ended_at, record)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, NULL, $13)";

/// The session if it is new, the runner, its event and the event's place in the outbox: to PostgreSQL
/// each statement is a round trip, within a lock that others wait for.
const INSERT_ALL_POSTGRES: &str = "WITH session AS (
        INSERT INTO sessions (id, project_id, assistant, created_at, updated_at)
        SELECT $9, $2, $14, $11, $11 WHERE $15
    ), runner AS (
        INSERT INTO runners (id, project_id, name, node_id, limits, state, epoch, generation,
            session_id, successor_of, created_at, updated_at, ended_at, record)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, NULL, $13)
    ), event AS (
        INSERT INTO events
            (id, entity, entity_id, name, project_id, seq, kind, at, caused_by, data,
                origin, decision, mac)
        VALUES ($16, $17, $1, $3, $2, $8, $18, $12, $19, $20, $21, $22, $23)
        RETURNING id, at
    )
    INSERT INTO outbox (destination, event_id, created_at) SELECT 'bus', id, at FROM event";

const BY_ID: &str = "SELECT record FROM runners WHERE id = $1";

const SUCCESSOR: &str = "SELECT id FROM runners WHERE successor_of = $1";

statements! { INSERT, INSERT_ALL_POSTGRES, BY_ID, SUCCESSOR }

/// A runner that somebody asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewRunner {
    pub id: RunnerId,
    pub project: ProjectId,
    pub name: NameWish,
    /// The node must be known: a daemon of it has called [`Store::daemon_started`].
    pub node: NodeId,
    /// The node has a capacity, which must not be exceeded: one more question within the admission.
    pub bounded: bool,
    pub command: Command,
    /// As asked for; what is missing comes from the project.
    pub limits: Limits,
    pub restart: RestartPolicy,
    pub session: SessionId,
    /// The session exists already, and this runner goes on with it.
    pub continues: bool,
    /// The session of the same project that the new one forks.
    pub forks: Option<SessionId>,
    /// The runner of the same project, ended, that this one carries on.
    pub successor_of: Option<RunnerId>,
}

/// How a new runner is to be called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NameWish {
    /// This name, or [`StoreError::NameTaken`].
    Exact(Name),
    /// The first of `name`, `name-2`, `name-3`, … that no live runner of the project has.
    Numbered(Name),
}

impl Store {
    /// Admits runners to their project, which must be the same for all: they exist then, pending,
    /// at epoch 1, and hold their part of the quota.
    ///
    /// Admissions to one project wait for each other. A refusal names what is in the way, and then
    /// none of the runners exists.
    pub async fn runners_admit(
        &self,
        new: Vec<NewRunner>,
        by: impl Into<By>,
        now: Timestamp,
        idempotency: Option<&Idempotency>,
    ) -> Result<Vec<Runner>, StoreError> {
        let by = &self.author(by)?;
        let Some(project) = new.first().map(|n| n.project) else { return Ok(Vec::new()) };
        if new.iter().any(|n| n.project != project) {
            return Err(StoreError::invalid("a launch", "all its runners must be of one project"));
        }
        if let [lone] = &new[..]
            && lone.forks.is_none()
            && !is_left_out(LOCK)
            && let Some(admitted) = self.admit_alone(lone, by, now, idempotency).await?
        {
            return Ok(vec![admitted]);
        }
        retried!({
            let mut tx = self.begin().await?;
            if let Some(answer) = idempotency::claim(&mut tx, idempotency, now).await? {
                return Ok(answer);
            }
            let project = self.project_for_admission(&mut tx, project).await?;
            if project.archived_at.is_some() {
                return Err(StoreError::ProjectArchived(project.name));
            }
            let admitted = admit_within(&mut tx, &project, &new, by, now, self.locks()).await?;
            idempotency::record(&mut tx, idempotency, &admitted).await?;
            passing("L3");
            tx.commit().await?;
            passing("L4");
            Ok(admitted)
        })
    }

    /// The runner that carries this one on, if any does.
    pub async fn runner_successor(&self, id: RunnerId) -> Result<Option<RunnerId>, StoreError> {
        let mut reader = self.read().await?;
        let successor: Option<Text<RunnerId>> = on!(reader, |conn| sqlx::query_scalar(SUCCESSOR)
            .bind(Text(id))
            .fetch_optional(conn)
            .await)
        .map_err(doing("looking for a successor"))?;
        Ok(successor.map(|found| found.0))
    }

    /// False in negative controls only.
    pub(crate) fn locks(&self) -> bool {
        #[cfg(feature = "testing")]
        if !self.admission_lock {
            return false;
        }
        !is_left_out(LOCK)
    }

    async fn project_for_admission(
        &self,
        tx: &mut Tx,
        id: ProjectId,
    ) -> Result<Project, StoreError> {
        if !self.locks() {
            return project::read_unlocked(tx, id).await;
        }
        project::lock(tx, id).await
    }
}

/// Admits runners of a project whose lock this transaction has.
pub(crate) async fn admit_within(
    tx: &mut Tx,
    project: &Project,
    new: &[NewRunner],
    by: &event::Author,
    now: Timestamp,
    locks: bool,
) -> Result<Vec<Runner>, StoreError> {
    let mut holders = project::holders(tx, project.id).await?;
    let existing = holders.len();
    if let Some(bounded) = new.iter().find(|wanted| wanted.bounded) {
        let wanted = new.iter().filter(|other| other.node == bounded.node).count();
        node::check_capacity(tx, bounded.node, wanted).await?;
    }
    let mut admitted = Vec::with_capacity(new.len());
    for wanted in new {
        let decided = decide(tx, wanted, project, &holders, now).await;
        let runner = decided.map_err(|error| of_request(error, existing))?;
        holders.push(Holder {
            runner: runner.id,
            name: runner.name.clone(),
            limits: runner.limits,
        });
        insert(tx, &runner, !wanted.continues, by).await?;
        if let Some(parent) = wanted.forks {
            session::fork(tx, wanted.session, parent).await?;
        }
        admitted.push(runner);
    }
    reserve::reserve(tx, project.id, &admitted, now, locks).await?;
    Ok(admitted)
}

async fn decide(
    tx: &mut Tx,
    wanted: &NewRunner,
    project: &Project,
    holders: &[Holder],
    now: Timestamp,
) -> Result<Runner, StoreError> {
    let runner = placed(wanted, project, holders, now)?;
    if let Some(predecessor) = wanted.successor_of {
        check_succession(tx, predecessor, project).await?;
    }
    if let Some(wished) = wanted.forks.or(wanted.continues.then_some(wanted.session)) {
        let session = session::read(tx, wished).await?;
        if session.project != project.id {
            let why = format!("it belongs to another project, {}", session.project);
            return Err(StoreError::invalid(session.id.to_string(), why));
        }
        if wanted.forks.is_some() {
            return Ok(runner);
        }
        if let Some(runner) = session.runner {
            return Err(StoreError::SessionBusy { session: session.id, runner });
        }
        session::touch(tx, session.id, now).await?;
    }
    Ok(runner)
}

/// The runner, if there is a place and a name for it beside those that live.
pub(crate) fn placed(
    wanted: &NewRunner,
    project: &Project,
    holders: &[Holder],
    now: Timestamp,
) -> Result<Runner, StoreError> {
    let limits = project
        .quota
        .admit(wanted.limits.or(project.runner_limits), holders)
        .map_err(|refusal| StoreError::Quota(Box::new(refusal)))?;
    let name = name(&wanted.name, holders)?;
    Ok(Runner {
        id: wanted.id,
        project: project.id,
        name,
        node: wanted.node,
        command: wanted.command.clone(),
        limits,
        restart: wanted.restart,
        desired: Desired::Running,
        state: RunnerState::Pending { not_before: None },
        activity: Activity::Unknown,
        doing: None,
        epoch: 1,
        generation: 1,
        restarts: Restarts::default(),
        last_end: None,
        session: Some(wanted.session),
        successor_of: wanted.successor_of,
        agent_key: None,
        noted: 0,
        limits_not_enforced: None,
        created_at: now,
        updated_at: now,
        started_at: None,
    })
}

async fn check_succession(
    tx: &mut Tx,
    predecessor: RunnerId,
    project: &Project,
) -> Result<(), StoreError> {
    let record: Option<String> = on!(tx, |conn| sqlx::query_scalar(BY_ID)
        .bind(Text(predecessor))
        .fetch_optional(conn)
        .await)
    .map_err(doing("reading the runner to carry on"))?;
    let record = record.ok_or_else(|| StoreError::NotFound {
        noun: runner::NOUN,
        wanted: predecessor.to_string(),
    })?;
    let ended = runner::parse(&record)?;
    if ended.project != project.id || !ended.is_terminal() {
        let why = "only a runner of the same project that has ended can be carried on";
        return Err(StoreError::invalid(predecessor.to_string(), why));
    }
    let successor: Option<Text<RunnerId>> = on!(tx, |conn| sqlx::query_scalar(SUCCESSOR)
        .bind(Text(predecessor))
        .fetch_optional(conn)
        .await)
    .map_err(doing("looking for a successor"))?;
    match successor {
        Some(by) => Err(StoreError::AlreadySucceeded { runner: predecessor, by: by.0 }),
        None => Ok(()),
    }
}

/// A refusal in terms of the whole request.
fn of_request(error: StoreError, existing: usize) -> StoreError {
    let StoreError::Quota(refusal) = error else { return error };
    StoreError::Quota(Box::new(refusal.of_request(existing)))
}

fn name(wish: &NameWish, holders: &[Holder]) -> Result<Name, StoreError> {
    let taken: HashSet<&str> = holders.iter().map(|h| h.name.as_str()).collect();
    match wish {
        NameWish::Exact(name) if taken.contains(name.as_str()) => {
            Err(StoreError::NameTaken { noun: runner::NOUN, name: name.clone() })
        }
        NameWish::Exact(name) => Ok(name.clone()),
        NameWish::Numbered(name) if !taken.contains(name.as_str()) => Ok(name.clone()),
        NameWish::Numbered(name) => (2_u64..)
            .map(|number| numbered(name, number))
            .find(|candidate| !taken.contains(candidate.as_str()))
            .ok_or_else(|| StoreError::NameTaken { noun: runner::NOUN, name: name.clone() }),
    }
}

/// `name-number`, with the name cut where the whole would be too long.
fn numbered(name: &Name, number: u64) -> Name {
    let suffix = format!("-{number}");
    // Names are ASCII, so any place is one to cut at, and the first character stays.
    let kept = name.as_str().len().min(NAME_MAX - suffix.len());
    format!("{}{suffix}", &name.as_str()[..kept]).parse().expect("a name with a number is a name")
}

/// A statement whose first thirteen values are the columns of `$runner`.
macro_rules! inserting {
    ($sql:expr, $runner:expr) => {
        sqlx::query($sql)
            .bind(Text($runner.id))
            .bind(Text($runner.project))
            .bind($runner.name.as_str())
            .bind(Text($runner.node))
            .bind(to_json(&$runner.limits))
            .bind($runner.state.as_str())
            .bind($runner.epoch)
            .bind($runner.generation)
            .bind($runner.session.map(Text))
            .bind($runner.successor_of.map(Text))
            .bind(DbTime($runner.created_at))
            .bind(DbTime($runner.updated_at))
            .bind(to_json($runner))
    };
}
pub(crate) use inserting;

pub(crate) fn accepted(runner: &Runner) -> NewEvent {
    NewEvent::new(
        "runner.accepted",
        serde_json::json!({
            "name": runner.name,
            "assistant": runner.command.assistant,
            "state": runner.state.as_str(),
            "epoch": runner.epoch,
            "session": runner.session,
            "successor_of": runner.successor_of,
        }),
    )
}

async fn insert(
    tx: &mut Tx,
    runner: &Runner,
    new_session: bool,
    by: &event::Author,
) -> Result<(), StoreError> {
    let accepted = accepted(runner);
    match tx {
        Tx::Postgres(tx, deadline, kept) => {
            let about = runner::about(runner, by);
            let row = by.row(&about, &accepted)?;
            kept.write(&about, &row)?;
            let inserted = inserting!(INSERT_ALL_POSTGRES, runner)
                .bind(runner.command.assistant.as_str())
                .bind(new_session)
                .bind(row.id)
                .bind(Entity::Runner.as_str())
                .bind(accepted.kind)
                .bind(&by.name)
                .bind(&row.data)
                .bind(&by.origin)
                .bind(accepted.decision.as_str())
                .bind(&row.mac)
                .execute(&mut **tx);
            deadline.keep(inserted).await.map(drop).map_err(|error| refused(runner, error))
        }
        Tx::Sqlite(..) => {
            if let (true, Some(session)) = (new_session, runner.session) {
                let (assistant, now) = (&runner.command.assistant, runner.created_at);
                session::insert(tx, session, runner.project, assistant, now).await?;
            }
            on!(tx, |conn| inserting!(INSERT, runner).execute(conn).await.map(drop))
                .map_err(|error| refused(runner, error))?;
            event::append(tx, runner::about(runner, by), &accepted).await
        }
    }
}

/// Under the lock only the last two can happen; the others are the schema's safety net.
pub(crate) fn refused(runner: &Runner, error: sqlx::Error) -> StoreError {
    match violated(&error) {
        Some(Unique::RunnerName) => {
            StoreError::NameTaken { noun: runner::NOUN, name: runner.name.clone() }
        }
        Some(Unique::RunnerSession | Unique::RunnerSuccessor) => {
            StoreError::Conflict { what: format!("what runner {} carries on", runner.name) }
        }
        Some(Unique::Other | Unique::ProjectName | Unique::BudgetName) => {
            StoreError::invalid(runner.id.to_string(), "a runner with this id exists already")
        }
        None if error.as_database_error().is_some_and(|e| e.is_foreign_key_violation()) => {
            StoreError::NotFound { noun: "node", wanted: runner.node.to_string() }
        }
        None => doing("admitting a runner")(error),
    }
}
