//! Projects.

use sqlx::types::Text;
use stratavore_core::event::{Entity, NewEvent};
use stratavore_core::idempotency::Idempotency;
use stratavore_core::name::{Name, Reference};
use stratavore_core::project::Project;
use stratavore_core::quota::Holder;
use stratavore_core::{ProjectId, RunnerId};

use crate::error::{CANDIDATES_MAX, Unique, doing, violated};
use crate::retry::retried;
use crate::tx::{Reader, Tx, on};
use crate::value::{DbTime, from_json, to_json};
use crate::{Store, StoreError, event, idempotency};

const NOUN: &str = "project";

const INSERT: &str = "INSERT INTO projects
    (id, name, generation, created_at, updated_at, archived_at, deleted_at, record)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8)";

const UPDATE: &str = "UPDATE projects
    SET name = $1, generation = $2, updated_at = $3, archived_at = $4, deleted_at = $5, record = $6
    WHERE id = $7 AND generation = $8";

const BY_ID: &str = "SELECT record FROM projects WHERE id = $1";

/// NO KEY: what refers to the project by its id need not wait.
const BY_ID_LOCKED_POSTGRES: &str = "SELECT record FROM projects WHERE id = $1 FOR NO KEY UPDATE";

const BY_NAME: &str = "SELECT record FROM projects WHERE name = $1 AND archived_at IS NULL";

const ARCHIVED_BY_NAME: &str = "SELECT record FROM projects
    WHERE name = $1 AND archived_at IS NOT NULL AND deleted_at IS NULL ORDER BY id LIMIT $2";

/// Ids are lower-case letters and digits, and `~` comes after all of them.
const BY_PREFIX: &str = "SELECT record FROM projects
    WHERE id >= $1 AND id < $1 || '~' AND deleted_at IS NULL ORDER BY id LIMIT $2";

const LIST: &str = "SELECT record FROM projects WHERE archived_at IS NULL ORDER BY name";

const LIST_ALL: &str = "SELECT record FROM projects WHERE deleted_at IS NULL ORDER BY name, id";

const HOLDERS: &str = "SELECT id, name, limits FROM runners
    WHERE project_id = $1 AND ended_at IS NULL ORDER BY created_at, id";

statements! { INSERT, UPDATE, BY_ID, BY_ID_LOCKED_POSTGRES, BY_NAME, ARCHIVED_BY_NAME, BY_PREFIX, LIST, LIST_ALL, HOLDERS }

#[derive(Debug, sqlx::FromRow)]
struct HolderRow {
    id: Text<RunnerId>,
    name: Text<Name>,
    limits: String,
}

impl Store {
    /// Creates a project, at generation 1.
    ///
    /// Of two that want the same name at the same time one is refused with
    /// [`StoreError::NameTaken`].
    pub async fn project_create(
        &self,
        project: &Project,
        by: &str,
        idempotency: Option<&Idempotency>,
    ) -> Result<Project, StoreError> {
        if project.generation != 1 {
            return Err(StoreError::invalid(
                project.id.to_string(),
                "a new project has generation 1",
            ));
        }
        retried!({
            let mut tx = self.begin().await?;
            if let Some(answer) =
                idempotency::claim(&mut tx, idempotency, project.created_at).await?
            {
                return Ok(answer);
            }
            on!(tx, |conn| sqlx::query(INSERT)
                .bind(Text(project.id))
                .bind(project.name.as_str())
                .bind(project.generation)
                .bind(DbTime(project.created_at))
                .bind(DbTime(project.updated_at))
                .bind(project.archived_at.map(DbTime))
                .bind(project.deleted_at.map(DbTime))
                .bind(to_json(project))
                .execute(conn)
                .await
                .map(drop))
            .map_err(|error| name_taken(&project.name, error, "creating a project"))?;
            let created = NewEvent::new(
                "project.created",
                serde_json::json!({ "name": project.name, "directory": project.directory }),
            );
            event::append(&mut tx, about(project, by), &created).await?;
            idempotency::record(&mut tx, idempotency, project).await?;
            tx.commit().await?;
            Ok(project.clone())
        })
    }

    /// Finds a project by its name, its id, or the beginning of its id, in this order.
    ///
    /// Of a name, the project that is not archived is meant; if there is none, an archived one. A
    /// deleted one is found by its whole id only.
    pub async fn project_find(&self, wanted: &Reference) -> Result<Project, StoreError> {
        let mut reader = self.read().await?;
        if let Some(name) = &wanted.name {
            let found = on!(reader, |conn| sqlx::query_scalar::<_, String>(BY_NAME)
                .bind(name.as_str())
                .fetch_optional(conn)
                .await)
            .map_err(doing("looking for a project"))?;
            if let Some(record) = found {
                return parse(&record);
            }
            let archived = several(&mut reader, ARCHIVED_BY_NAME, name.as_str()).await?;
            if !archived.is_empty() {
                return one(archived, wanted);
            }
        }
        let prefix = wanted.id_prefix.as_deref().ok_or_else(|| not_found(wanted))?;
        let Ok(id) = prefix.parse::<ProjectId>() else {
            return one(several(&mut reader, BY_PREFIX, prefix).await?, wanted);
        };
        let found = on!(reader, |conn| sqlx::query_scalar::<_, String>(BY_ID)
            .bind(Text(id))
            .fetch_optional(conn)
            .await)
        .map_err(doing("looking for a project"))?;
        found.map_or_else(|| Err(not_found(wanted)), |record| parse(&record))
    }

    /// All projects by name, the archived ones too if asked for, the deleted ones never.
    pub async fn project_list(&self, archived: bool) -> Result<Vec<Project>, StoreError> {
        let sql = if archived { LIST_ALL } else { LIST };
        let mut reader = self.read().await?;
        let records: Vec<String> =
            on!(reader, |conn| sqlx::query_scalar(sql).fetch_all(conn).await)
                .map_err(doing("listing projects"))?;
        records.iter().map(|record| parse(record)).collect()
    }

    /// Replaces the project `seen` by `next`, with the event that says so.
    ///
    /// If somebody else changed it since `seen` was read it is left alone, and the answer is
    /// [`StoreError::Conflict`]. To archive it takes the project's lock, like every launch, so no
    /// runner can be admitted while the live ones are looked for; if there are any the answer is
    /// [`StoreError::LiveRunners`].
    pub async fn project_write(
        &self,
        seen: &Project,
        next: &Project,
        event: NewEvent,
        by: &str,
        idempotency: Option<&Idempotency>,
    ) -> Result<Project, StoreError> {
        if seen.id != next.id || next.generation != seen.generation + 1 {
            return Err(StoreError::invalid(
                seen.id.to_string(),
                "a change raises the generation by one",
            ));
        }
        retried!({
            let mut tx = self.begin().await?;
            if let Some(answer) = idempotency::claim(&mut tx, idempotency, next.updated_at).await? {
                return Ok(answer);
            }
            if next.archived_at.is_some() && seen.archived_at.is_none() {
                lock(&mut tx, seen.id).await?;
                let live = holders(&mut tx, seen.id).await?;
                if !live.is_empty() {
                    return Err(StoreError::LiveRunners(live));
                }
            }
            let written = on!(tx, |conn| sqlx::query(UPDATE)
                .bind(next.name.as_str())
                .bind(next.generation)
                .bind(DbTime(next.updated_at))
                .bind(next.archived_at.map(DbTime))
                .bind(next.deleted_at.map(DbTime))
                .bind(to_json(next))
                .bind(Text(seen.id))
                .bind(seen.generation)
                .execute(conn)
                .await
                .map(|done| done.rows_affected()))
            .map_err(|error| name_taken(&next.name, error, "changing a project"))?;
            if written == 0 {
                return Err(StoreError::Conflict { what: format!("project {}", seen.name) });
            }
            event::append(&mut tx, about(next, by), &event).await?;
            idempotency::record(&mut tx, idempotency, next).await?;
            tx.commit().await?;
            Ok(next.clone())
        })
    }
}

/// Reads a project and keeps everybody else from changing it, and from admitting runners to it,
/// until the transaction ends. On SQLite every transaction that writes is alone anyway.
pub(crate) async fn lock(tx: &mut Tx, id: ProjectId) -> Result<Project, StoreError> {
    let sql = tx.either(BY_ID_LOCKED_POSTGRES, BY_ID);
    read_by(tx, sql, id).await
}

/// Reads a project without the lock: only for the negative control of the quota test.
#[cfg(feature = "testing")]
pub(crate) async fn read_unlocked(tx: &mut Tx, id: ProjectId) -> Result<Project, StoreError> {
    read_by(tx, BY_ID, id).await
}

async fn read_by(tx: &mut Tx, sql: &'static str, id: ProjectId) -> Result<Project, StoreError> {
    let record: Option<String> =
        on!(tx, |conn| sqlx::query_scalar(sql).bind(Text(id)).fetch_optional(conn).await)
            .map_err(doing("locking a project"))?;
    let record =
        record.ok_or_else(|| StoreError::NotFound { noun: NOUN, wanted: id.to_string() })?;
    parse(&record)
}

/// The project's live runners, oldest first.
pub(crate) async fn holders(tx: &mut Tx, id: ProjectId) -> Result<Vec<Holder>, StoreError> {
    let rows: Vec<HolderRow> =
        on!(tx, |conn| sqlx::query_as(HOLDERS).bind(Text(id)).fetch_all(conn).await)
            .map_err(doing("reading who holds a project's quota"))?;
    rows.into_iter()
        .map(|row| {
            let limits = from_json("the limits of a runner", &row.limits)?;
            Ok(Holder { runner: row.id.0, name: row.name.0, limits })
        })
        .collect()
}

async fn several(
    reader: &mut Reader,
    sql: &'static str,
    text: &str,
) -> Result<Vec<Project>, StoreError> {
    let records: Vec<String> = on!(reader, |conn| sqlx::query_scalar(sql)
        .bind(text)
        .bind(CANDIDATES_MAX as i64)
        .fetch_all(conn)
        .await)
    .map_err(doing("looking for a project"))?;
    records.iter().map(|record| parse(record)).collect()
}

fn one(mut found: Vec<Project>, wanted: &Reference) -> Result<Project, StoreError> {
    if found.len() > 1 {
        let candidates = found.iter().map(|p| format!("{} ({})", p.id, p.name)).collect();
        return Err(StoreError::Ambiguous { noun: NOUN, wanted: wanted.text.clone(), candidates });
    }
    found.pop().ok_or_else(|| not_found(wanted))
}

fn not_found(wanted: &Reference) -> StoreError {
    StoreError::NotFound { noun: NOUN, wanted: wanted.text.clone() }
}

fn name_taken(name: &Name, error: sqlx::Error, what: &'static str) -> StoreError {
    match violated(&error) {
        Some(Unique::ProjectName) => StoreError::NameTaken { noun: NOUN, name: name.clone() },
        Some(
            Unique::RunnerName | Unique::RunnerSession | Unique::RunnerSuccessor | Unique::Other,
        )
        | None => doing(what)(error),
    }
}

fn about<'a>(project: &'a Project, by: &'a str) -> event::About<'a> {
    event::About {
        entity: Entity::Project,
        entity_id: project.id.to_string(),
        name: project.name.as_str(),
        project: Some(project.id),
        seq: project.generation,
        at: project.updated_at,
        by,
    }
}

fn parse(record: &str) -> Result<Project, StoreError> {
    from_json("a project", record)
}
