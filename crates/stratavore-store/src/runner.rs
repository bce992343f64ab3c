//! Runners after their admission: found, listed, and moved through their life.

use std::collections::BTreeMap;

use futures_util::TryStreamExt;
use sqlx::types::Text;
use sqlx::{QueryBuilder, Row};
use stratavore_core::caller::By;
use stratavore_core::event::{Entity, NewEvent};
use stratavore_core::idempotency::Idempotency;
use stratavore_core::liveness::Liveness;
use stratavore_core::name::Reference;
use stratavore_core::runner::{Runner, RunnerState};
use stratavore_core::{NodeId, ProjectId, RunnerId, Timestamp};

use crate::error::{CANDIDATES_MAX, doing};
use crate::retry::retried;
use crate::tx::{Reader, Tx, on};
use crate::value::{DbTime, from_json, to_json};
use crate::{Store, StoreError, event, idempotency, liveness, reserve, session};

pub(crate) const NOUN: &str = "runner";

const BY_ID: &str = "SELECT record FROM runners WHERE id = $1";

// With a project and without one are two statements, each with an index that holds no more than it
// looks for: a name may have been used ten thousand times.

const LIVE_BY_NAME: &str = "SELECT record FROM runners
    WHERE name = $1 AND ended_at IS NULL ORDER BY created_at DESC, id LIMIT $2";

const LIVE_OF_PROJECT_BY_NAME: &str = "SELECT record FROM runners
    WHERE name = $1 AND ended_at IS NULL AND project_id = $3
    ORDER BY created_at DESC, id LIMIT $2";

const ENDED_BY_NAME: &str = "SELECT record FROM runners
    WHERE name = $1 AND ended_at IS NOT NULL ORDER BY created_at DESC, id DESC LIMIT $2";

const ENDED_OF_PROJECT_BY_NAME: &str = "SELECT record FROM runners
    WHERE name = $1 AND ended_at IS NOT NULL AND project_id = $3
    ORDER BY created_at DESC, id DESC LIMIT $2";

/// Ids are lower-case letters and digits, and `~` comes after all of them.
const BY_PREFIX: &str = "SELECT record FROM runners
    WHERE id >= $1 AND id < $1 || '~' ORDER BY id LIMIT $2";

const OF_PROJECT_BY_PREFIX: &str = "SELECT record FROM runners
    WHERE id >= $1 AND id < $1 || '~' AND project_id = $3 ORDER BY id LIMIT $2";

/// Its columns are read by their place: see [`liveness::read`].
const LIST: &str = "SELECT record, l.epoch, l.at, cpu_ms, memory, processes, output_bytes, output_at, viewers
    FROM runners LEFT JOIN runner_liveness AS l ON l.runner_id = runners.id AND l.epoch = runners.epoch
    WHERE 1 = 1";

const COUNTS: &str =
    "SELECT state, count(*) FROM runners WHERE ended_at IS NULL GROUP BY state ORDER BY state";

const LIVE_IDS: &str = "SELECT id FROM runners
    WHERE node_id = $1 AND ended_at IS NULL ORDER BY created_at, id";

/// The index has the order, and no runner that was carried on.
const LOST: &str =
    "SELECT record FROM lost_runners AS lost JOIN runners ON runners.id = lost.runner_id
    WHERE lost.node_id = $1 AND (project_id = $2 OR $2 IS NULL)
    ORDER BY lost.created_at DESC, lost.runner_id DESC LIMIT $3";

const UPDATE: &str = "UPDATE runners
    SET state = $1, epoch = $2, generation = $3, updated_at = $4, ended_at = $5, record = $6
    WHERE id = $7 AND epoch = $8 AND generation = $9 AND ended_at IS NULL";

statements! { BY_ID, LIVE_BY_NAME, LIVE_OF_PROJECT_BY_NAME, ENDED_BY_NAME, ENDED_OF_PROJECT_BY_NAME, BY_PREFIX, OF_PROJECT_BY_PREFIX, LIST, COUNTS, LIVE_IDS, LOST, UPDATE }

/// Which runners a list shows; the default is all of them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RunnerFilter {
    pub project: Option<ProjectId>,
    pub node: Option<NodeId>,
    /// Only those that have not ended.
    pub live_only: bool,
    /// Names of states; empty is any.
    pub states: Vec<String>,
    /// The most to answer; `None` is all.
    pub limit: Option<u32>,
    /// Only those that come after this one in the list: the last of the page before.
    pub before: Option<(Timestamp, RunnerId)>,
}

impl RunnerFilter {
    /// True if no runner that has ended can match: those need not be passed by then, however many
    /// they are.
    fn is_of_live(&self) -> bool {
        let ends = ["exited", "failed", "lost"];
        self.live_only
            || (!self.states.is_empty() && !self.states.iter().any(|s| ends.contains(&s.as_str())))
    }
}

/// One change of a runner among many.
#[derive(Debug, Clone)]
pub struct RunnerWrite<'a> {
    pub seen: &'a Runner,
    pub next: &'a Runner,
    pub event: NewEvent,
}

/// [`LIST`] with the conditions of `$filter`.
macro_rules! list_query {
    ($filter:expr) => {{
        let mut query = QueryBuilder::new(LIST);
        if let Some(project) = $filter.project {
            query.push(" AND project_id = ").push_bind(Text(project));
        }
        if let Some(node) = $filter.node {
            query.push(" AND node_id = ").push_bind(Text(node));
        }
        if $filter.is_of_live() {
            query.push(" AND ended_at IS NULL");
        }
        if !$filter.states.is_empty() {
            query.push(" AND state IN (");
            for (i, state) in $filter.states.iter().enumerate() {
                query.push(if i == 0 { "" } else { ", " }).push_bind(state.clone());
            }
            query.push(")");
        }
        if let Some((created_at, id)) = $filter.before {
            query.push(" AND (created_at, id) < (").push_bind(DbTime(created_at));
            query.push(", ").push_bind(Text(id)).push(")");
        }
        query.push(" ORDER BY created_at DESC, id DESC");
        if let Some(limit) = $filter.limit {
            query.push(" LIMIT ").push_bind(i64::from(limit));
        }
        query
    }};
}

impl Store {
    pub async fn runner_get(&self, id: RunnerId) -> Result<Runner, StoreError> {
        let mut reader = self.read().await?;
        let record: Option<String> =
            on!(reader, |conn| sqlx::query_scalar(BY_ID).bind(Text(id)).fetch_optional(conn).await)
                .map_err(doing("reading a runner"))?;
        let record =
            record.ok_or_else(|| StoreError::NotFound { noun: NOUN, wanted: id.to_string() })?;
        parse(&record)
    }

    /// Finds a runner by its name, its id, or the beginning of its id, in this order; names and
    /// beginnings within `project` if it is given.
    ///
    /// Of a name, the live runner is meant; if there is none, the latest one that ended.
    pub async fn runner_find(
        &self,
        wanted: &Reference,
        project: Option<ProjectId>,
    ) -> Result<Runner, StoreError> {
        let not_found = || StoreError::NotFound { noun: NOUN, wanted: wanted.text.clone() };
        let mut reader = self.read().await?;
        if let Some(name) = &wanted.name {
            let (live, ended) = match project {
                Some(_) => (LIVE_OF_PROJECT_BY_NAME, ENDED_OF_PROJECT_BY_NAME),
                None => (LIVE_BY_NAME, ENDED_BY_NAME),
            };
            let name = name.as_str();
            let live = several(&mut reader, live, name, project, CANDIDATES_MAX).await?;
            if !live.is_empty() {
                return one(live, wanted);
            }
            let mut ended = several(&mut reader, ended, name, project, 1).await?;
            if let Some(runner) = ended.pop() {
                return Ok(runner);
            }
        }
        let prefix = wanted.id_prefix.as_deref().ok_or_else(not_found)?;
        if let Ok(id) = prefix.parse() {
            drop(reader);
            return self.runner_get(id).await;
        }
        let begin_so = project.map_or(BY_PREFIX, |_| OF_PROJECT_BY_PREFIX);
        one(several(&mut reader, begin_so, prefix, project, CANDIDATES_MAX).await?, wanted)
    }

    /// Runners that match, newest first, each with the latest heartbeat of its epoch.
    pub async fn runner_list(
        &self,
        filter: &RunnerFilter,
    ) -> Result<Vec<(Runner, Option<Liveness>)>, StoreError> {
        // An unknown state matches nothing, and is most likely a slip.
        if let Some(state) =
            filter.states.iter().find(|s| !RunnerState::NAMES.contains(&s.as_str()))
        {
            let why = format!("a runner is one of {}", RunnerState::NAMES.join(", "));
            return Err(StoreError::invalid(format!("the state `{}`", state.escape_debug()), why));
        }
        let mut reader = self.read().await?;
        let mut listed = Vec::with_capacity(filter.limit.unwrap_or(0).min(1000) as usize);
        let mut unreadable = None;
        on!(reader, |conn| {
            let mut query = list_query!(filter);
            // Each row is read while the next ones are on their way.
            let mut rows = query.build().fetch(conn);
            while let Some(row) = rows.try_next().await? {
                match parse(row.try_get(0)?) {
                    Ok(runner) => {
                        let liveness = liveness::read(&row, 1, runner.id)?;
                        listed.push((runner, liveness));
                    }
                    Err(error) => unreadable = Some(error),
                }
            }
            Ok(())
        })
        .map_err(doing("listing runners"))?;
        unreadable.map_or(Ok(listed), Err)
    }

    /// The runners of a node that have not ended.
    pub async fn runner_live_ids(&self, node: NodeId) -> Result<Vec<RunnerId>, StoreError> {
        let mut reader = self.read().await?;
        let ids: Vec<Text<RunnerId>> =
            on!(reader, |conn| sqlx::query_scalar(LIVE_IDS).bind(Text(node)).fetch_all(conn).await)
                .map_err(doing("listing who lives"))?;
        Ok(ids.into_iter().map(|id| id.0).collect())
    }

    /// The runners of a node that are lost and that no other carries on, newest first.
    pub async fn runner_lost(
        &self,
        node: NodeId,
        project: Option<ProjectId>,
        limit: u32,
    ) -> Result<Vec<Runner>, StoreError> {
        let mut reader = self.read().await?;
        let records: Vec<String> = on!(reader, |conn| sqlx::query_scalar(LOST)
            .bind(Text(node))
            .bind(project.map(Text))
            .bind(i64::from(limit))
            .fetch_all(conn)
            .await)
        .map_err(doing("listing lost runners"))?;
        records.iter().map(|record| parse(record)).collect()
    }

    /// How many runners live, by the names of their states; states of no runner are left out.
    pub async fn runner_counts(&self) -> Result<BTreeMap<&'static str, u64>, StoreError> {
        let mut reader = self.read().await?;
        let counts: Vec<(String, i64)> =
            on!(reader, |conn| sqlx::query_as(COUNTS).fetch_all(conn).await)
                .map_err(doing("counting runners"))?;
        let known = |state: &str| RunnerState::NAMES.into_iter().find(|name| *name == state);
        let counts = counts.into_iter().map(|(state, count)| {
            let name = known(&state).ok_or_else(|| StoreError::Corrupt {
                what: "the state of a runner".into(),
                why: format!("`{}` is none", state.escape_debug()),
            })?;
            Ok((name, count.unsigned_abs()))
        });
        counts.collect()
    }

    /// Replaces the runner `seen` by `next`, with the event that says so.
    ///
    /// If it has changed or ended since `seen` was read, or is in another epoch, it is left alone,
    /// and the answer is [`StoreError::Conflict`]: read again and decide again.
    pub async fn runner_write(
        &self,
        seen: &Runner,
        next: &Runner,
        event: NewEvent,
        by: impl Into<By>,
        idempotency: Option<&Idempotency>,
    ) -> Result<Runner, StoreError> {
        let by = &self.author(by)?;
        let change = RunnerWrite { seen, next, event };
        retried!({
            let mut tx = self.begin().await?;
            if let Some(answer) = idempotency::claim(&mut tx, idempotency, next.updated_at).await? {
                return Ok(answer);
            }
            write(&mut tx, &change, by).await?;
            idempotency::record(&mut tx, idempotency, next).await?;
            release(&mut tx, &[&change]).await?;
            tx.commit().await?;
            Ok(next.clone())
        })
    }

    /// Makes many changes at once, all or none: if one runner has changed since it was seen, the
    /// answer is [`StoreError::Conflict`] and names it.
    pub async fn runners_write(
        &self,
        writes: &[RunnerWrite<'_>],
        by: impl Into<By>,
    ) -> Result<(), StoreError> {
        let by = &self.author(by)?;
        // Everybody locks in the same order, so two such batches cannot hold each other up.
        let mut ordered: Vec<_> = writes.iter().collect();
        ordered.sort_by_key(|change| change.seen.id);
        retried!({
            let mut tx = self.begin().await?;
            for &change in &ordered {
                write(&mut tx, change, by).await?;
            }
            release(&mut tx, &ordered).await?;
            tx.commit().await
        })
    }
}

/// What those that end have reserved of budgets is free.
async fn release(tx: &mut Tx, changes: &[&RunnerWrite<'_>]) -> Result<(), StoreError> {
    let ended: Vec<_> = changes.iter().filter(|change| change.next.is_terminal()).collect();
    let Some(last) = ended.iter().map(|change| change.next.updated_at).max() else {
        return Ok(());
    };
    let ids: Vec<RunnerId> = ended.iter().map(|change| change.next.id).collect();
    reserve::release(tx, &ids, last).await
}

async fn write(
    tx: &mut Tx,
    change: &RunnerWrite<'_>,
    by: &event::Author,
) -> Result<(), StoreError> {
    let RunnerWrite { seen, next, event } = change;
    check(seen, next)?;
    let written = on!(tx, |conn| sqlx::query(UPDATE)
        .bind(next.state.as_str())
        .bind(next.epoch)
        .bind(next.generation)
        .bind(DbTime(next.updated_at))
        .bind(next.state.ended().map(|(_, at)| DbTime(at)))
        .bind(to_json(next))
        .bind(Text(seen.id))
        .bind(seen.epoch)
        .bind(seen.generation)
        .execute(conn)
        .await
        .map(|done| done.rows_affected()))
    .map_err(doing("changing a runner"))?;
    if written == 0 {
        return Err(StoreError::Conflict { what: format!("runner {}", seen.name) });
    }
    if let (true, Some(id)) = (next.is_terminal(), next.session) {
        session::touch(tx, id, next.updated_at).await?;
    }
    event::append(tx, about(next, by), event).await
}

/// What no change may do; the columns that stay as admission wrote them rely on it.
fn check(seen: &Runner, next: &Runner) -> Result<(), StoreError> {
    let same = seen.id == next.id
        && seen.project == next.project
        && seen.name == next.name
        && seen.node == next.node
        && seen.limits == next.limits
        && seen.session == next.session
        && seen.successor_of == next.successor_of
        && seen.created_at == next.created_at;
    if !same {
        return Err(StoreError::invalid(
            seen.id.to_string(),
            "a runner keeps what it was admitted with",
        ));
    }
    if next.generation != seen.generation + 1 || next.epoch < seen.epoch {
        let why = "a change raises the generation by one and never lowers the epoch";
        return Err(StoreError::invalid(seen.id.to_string(), why));
    }
    Ok(())
}

pub(crate) fn about<'a>(runner: &'a Runner, by: &'a event::Author) -> event::About<'a> {
    event::About {
        entity: Entity::Runner,
        entity_id: runner.id.to_string(),
        name: runner.name.as_str(),
        project: Some(runner.project),
        seq: runner.generation,
        at: runner.updated_at,
        by,
    }
}

/// `sql` names `project` as `$3` if there is one.
async fn several(
    reader: &mut Reader,
    sql: &'static str,
    text: &str,
    project: Option<ProjectId>,
    limit: usize,
) -> Result<Vec<Runner>, StoreError> {
    let records: Vec<String> = on!(reader, |conn| {
        let query = sqlx::query_scalar(sql).bind(text).bind(limit as i64);
        match project {
            Some(project) => query.bind(Text(project)).fetch_all(conn).await,
            None => query.fetch_all(conn).await,
        }
    })
    .map_err(doing("looking for a runner"))?;
    records.iter().map(|record| parse(record)).collect()
}

fn one(mut found: Vec<Runner>, wanted: &Reference) -> Result<Runner, StoreError> {
    if found.len() > 1 {
        let candidates = found.iter().map(|r| format!("{} ({})", r.id, r.name)).collect();
        return Err(StoreError::Ambiguous { noun: NOUN, wanted: wanted.text.clone(), candidates });
    }
    found.pop().ok_or_else(|| StoreError::NotFound { noun: NOUN, wanted: wanted.text.clone() })
}

pub(crate) fn parse(record: &str) -> Result<Runner, StoreError> {
    from_json("a runner", record)
}
