//! Projects.

use std::collections::{BTreeSet, HashMap};

use sqlx::types::Text;
use sqlx::{FromRow, PgConnection, QueryBuilder, Row};
use stratavore_core::caller::By;
use stratavore_core::event::{Entity, NewEvent};
use stratavore_core::idempotency::Idempotency;
use stratavore_core::name::{Name, Reference};
use stratavore_core::project::Project;
use stratavore_core::quota::Holder;
use stratavore_core::{ProjectId, RunnerId, Timestamp};

use crate::deadline::Deadline;
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

/// All in one look, which is one round trip. The name beside the project says that a launch has to
/// reserve.
const WITH_HOLDERS_POSTGRES: &str = "SELECT record, NULL AS id,
        (SELECT 'budget' WHERE EXISTS (SELECT FROM budgets WHERE removed_at IS NULL AND runner_id IS NULL
            AND (project_id IS NULL OR project_id = $1))) AS name,
        NULL AS limits, NULL AS created_at
    FROM projects WHERE id = $1
    UNION ALL
    SELECT NULL, id, name, limits, created_at FROM runners WHERE project_id = $1 AND ended_at IS NULL
    ORDER BY created_at NULLS FIRST, id";

const LIVE_COUNTS: &str =
    "SELECT project_id, count(*) FROM runners WHERE ended_at IS NULL GROUP BY project_id";

const LIVE_COUNT: &str = "SELECT count(*) FROM runners WHERE project_id = $1 AND ended_at IS NULL";

statements! { INSERT, UPDATE, BY_ID, BY_ID_LOCKED_POSTGRES, BY_NAME, ARCHIVED_BY_NAME, BY_PREFIX, LIST, LIST_ALL, HOLDERS, WITH_HOLDERS_POSTGRES, LIVE_COUNTS, LIVE_COUNT }

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
        by: impl Into<By>,
        idempotency: Option<&Idempotency>,
    ) -> Result<Project, StoreError> {
        let by = &self.author(by)?;
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

    /// What projects are called, of those that are asked for.
    pub async fn project_names(
        &self,
        ids: &BTreeSet<ProjectId>,
    ) -> Result<HashMap<ProjectId, String>, StoreError> {
        if ids.is_empty() {
            return Ok(HashMap::new());
        }
        let mut reader = self.read().await?;
        let named: Vec<(Text<ProjectId>, String)> = on!(reader, |conn| {
            let mut query = QueryBuilder::new("SELECT id, name FROM projects WHERE id IN (");
            let mut list = query.separated(", ");
            for id in ids {
                list.push_bind(Text(*id));
            }
            query.push(")").build_query_as().fetch_all(conn).await
        })
        .map_err(doing("reading the names of projects"))?;
        Ok(named.into_iter().map(|(id, name)| (id.0, name)).collect())
    }

    /// How many runners live, by their projects; a project of none is left out.
    pub async fn project_live_counts(&self) -> Result<HashMap<ProjectId, u32>, StoreError> {
        let mut reader = self.read().await?;
        let counts: Vec<(Text<ProjectId>, i64)> =
            on!(reader, |conn| sqlx::query_as(LIVE_COUNTS).fetch_all(conn).await)
                .map_err(doing("counting the runners of projects"))?;
        Ok(counts.into_iter().map(|(id, count)| (id.0, small(count))).collect())
    }

    /// How many runners of one project live.
    pub async fn project_live_count(&self, id: ProjectId) -> Result<u32, StoreError> {
        let mut reader = self.read().await?;
        on!(reader, |conn| sqlx::query_scalar(LIVE_COUNT).bind(Text(id)).fetch_one(conn).await)
            .map(small)
            .map_err(doing("counting the runners of a project"))
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
        by: impl Into<By>,
        idempotency: Option<&Idempotency>,
    ) -> Result<Project, StoreError> {
        let by = &self.author(by)?;
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

/// Reads a project without the lock: only for the negative controls of quotas.
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
    rows.into_iter().map(HolderRow::into_holder).collect()
}

impl HolderRow {
    fn into_holder(self) -> Result<Holder, StoreError> {
        let limits = from_json("the limits of a runner", &self.limits)?;
        Ok(Holder { runner: self.id.0, name: self.name.0, limits })
    }
}

/// The project and its live runners, as they are now, without the lock; `None`: there is no such
/// project, or a launch in it has to reserve a part of a budget.
pub(crate) async fn with_holders(
    conn: &mut PgConnection,
    deadline: &Deadline,
    id: ProjectId,
) -> Result<Option<(Project, Vec<Holder>)>, StoreError> {
    let what = "reading who holds a project's quota";
    let query = sqlx::query(WITH_HOLDERS_POSTGRES).bind(Text(id));
    let rows = deadline.keep(query.fetch_all(conn)).await.map_err(doing(what))?;
    let Some((first, others)) = rows.split_first() else { return Ok(None) };
    let Some(record) = first.try_get(0).map_err(doing(what))? else { return Ok(None) };
    if first.try_get::<Option<&str>, _>(2).map_err(doing(what))?.is_some() {
        return Ok(None);
    }
    let holders = others.iter().map(|row| HolderRow::from_row(row).map_err(doing(what)));
    let holders = holders.map(|row| row.and_then(HolderRow::into_holder)).collect::<Result<_, _>>();
    Ok(Some((parse(record)?, holders?)))
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

fn small(count: i64) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

fn not_found(wanted: &Reference) -> StoreError {
    StoreError::NotFound { noun: NOUN, wanted: wanted.text.clone() }
}

fn name_taken(name: &Name, error: sqlx::Error, what: &'static str) -> StoreError {
    match violated(&error) {
        Some(Unique::ProjectName) => StoreError::NameTaken { noun: NOUN, name: name.clone() },
        Some(
            Unique::RunnerName
            | Unique::RunnerSession
            | Unique::RunnerSuccessor
            | Unique::BudgetName
            | Unique::Other,
        )
        | None => doing(what)(error),
    }
}

/// Records something that happened in a project whose row is locked. It is its next event.
pub(crate) async fn happened(
    tx: &mut Tx,
    project: &Project,
    event: &NewEvent,
    at: Timestamp,
    by: &event::Author,
) -> Result<(), StoreError> {
    let (generation, updated_at) = (project.generation + 1, at.max(project.updated_at));
    let next = Project { generation, updated_at, ..project.clone() };
    let written = on!(tx, |conn| sqlx::query(UPDATE)
        .bind(next.name.as_str())
        .bind(next.generation)
        .bind(DbTime(next.updated_at))
        .bind(next.archived_at.map(DbTime))
        .bind(next.deleted_at.map(DbTime))
        .bind(to_json(&next))
        .bind(Text(project.id))
        .bind(project.generation)
        .execute(conn)
        .await
        .map(|done| done.rows_affected()))
    .map_err(doing("recording what happened in a project"))?;
    if written == 0 {
        return Err(StoreError::Conflict { what: format!("project {}", project.name) });
    }
    event::append(tx, about(&next, by), event).await
}

fn about<'a>(project: &'a Project, by: &'a event::Author) -> event::About<'a> {
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
