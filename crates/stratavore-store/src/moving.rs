//! Moves of runners from nodes that are drained: what the nodes concerned have said of each.

use sqlx::types::Text;
use stratavore_core::moving::{Move, MoveView};
use stratavore_core::name::Name;
use stratavore_core::{NodeId, RunnerId};

use crate::error::doing;
use crate::retry::retried;
use crate::tx::{Tx, on};
use crate::value::{from_json, to_json};
use crate::{Store, StoreError};

/// With whoever carries the runner on: of a move that is done nothing else says so.
const LIST: &str = "SELECT m.record, r.name, r.ended_at IS NOT NULL AS has_ended,
        s.id AS successor, s.node_id AS successor_node
    FROM moves AS m JOIN runners AS r ON r.id = m.runner_id
        LEFT JOIN runners AS s ON s.successor_of = m.runner_id
    ORDER BY r.created_at, r.id LIMIT 5000";

const BEGIN: &str = "INSERT INTO moves (runner_id, node_id, record) VALUES ($1, $2, $3)
    ON CONFLICT (runner_id) DO NOTHING";

const READ_POSTGRES: &str = "SELECT record FROM moves WHERE runner_id = $1 FOR UPDATE";
const READ_SQLITE: &str = "SELECT record FROM moves WHERE runner_id = $1";

const SET: &str = "UPDATE moves SET record = $2 WHERE runner_id = $1";

const FORGET: &str = "DELETE FROM moves WHERE runner_id = $1";

/// Runners that were stopped to go on elsewhere, and do not yet.
const BETWEEN: &str = "SELECT count(*) FROM moves AS m JOIN runners AS r ON r.id = m.runner_id
    WHERE m.node_id = $1 AND r.ended_at IS NOT NULL
        AND NOT EXISTS (SELECT 1 FROM runners AS s WHERE s.successor_of = m.runner_id)";

statements! { LIST, BEGIN, READ_POSTGRES, READ_SQLITE, SET, FORGET, BETWEEN }

#[derive(Debug, sqlx::FromRow)]
struct MoveRow {
    record: String,
    name: Text<Name>,
    has_ended: bool,
    successor: Option<Text<RunnerId>>,
    successor_node: Option<Text<NodeId>>,
}

impl Store {
    /// All moves that are wanted, under way, or done on nodes that are drained still.
    pub async fn move_list(&self) -> Result<Vec<MoveView>, StoreError> {
        let mut reader = self.read().await?;
        let rows: Vec<MoveRow> = on!(reader, |conn| sqlx::query_as(LIST).fetch_all(conn).await)
            .map_err(doing("listing moves"))?;
        let view = |row: MoveRow| {
            let (successor, node) = (row.successor, row.successor_node);
            Ok(MoveView {
                of: from_json("a move", &row.record)?,
                name: row.name.0,
                has_ended: row.has_ended,
                successor: successor.zip(node).map(|(id, node)| (id.0, node.0)),
            })
        };
        rows.into_iter().map(view).collect()
    }

    /// Begins a move; one that is known stays as it is.
    pub async fn move_begin(&self, new: &Move) -> Result<(), StoreError> {
        retried!({
            let mut tx = self.begin().await?;
            on!(tx, |conn| sqlx::query(BEGIN)
                .bind(Text(new.runner))
                .bind(Text(new.from))
                .bind(to_json(new))
                .execute(conn)
                .await
                .map(drop))
            .map_err(doing("beginning a move"))?;
            tx.commit().await
        })
    }

    /// Changes what is said of a move, decided on what is said now: several nodes do. Answers how it is
    /// then; `None`: there is none.
    pub async fn move_change(
        &self,
        runner: RunnerId,
        change: impl Fn(&mut Move),
    ) -> Result<Option<Move>, StoreError> {
        retried!({
            let mut tx = self.begin().await?;
            let sql = tx.either(READ_POSTGRES, READ_SQLITE);
            let record: Option<String> = on!(tx, |conn| sqlx::query_scalar(sql)
                .bind(Text(runner))
                .fetch_optional(conn)
                .await)
            .map_err(doing("reading a move"))?;
            let Some(record) = record else { return Ok(None) };
            let before: Move = from_json("a move", &record)?;
            let mut now = before.clone();
            change(&mut now);
            if now != before {
                on!(tx, |conn| sqlx::query(SET)
                    .bind(Text(runner))
                    .bind(to_json(&now))
                    .execute(conn)
                    .await
                    .map(drop))
                .map_err(doing("changing a move"))?;
                tx.commit().await?;
            }
            Ok(Some(now))
        })
    }

    pub async fn move_forget(&self, runner: RunnerId) -> Result<(), StoreError> {
        retried!({
            let mut tx = self.begin().await?;
            on!(tx, |conn| sqlx::query(FORGET).bind(Text(runner)).execute(conn).await.map(drop))
                .map_err(doing("forgetting a move"))?;
            tx.commit().await
        })
    }
}

/// How many runners of a node were stopped to go on elsewhere, and do not yet.
pub(crate) async fn between(tx: &mut Tx, node: NodeId) -> Result<u64, StoreError> {
    let count: i64 =
        on!(tx, |conn| sqlx::query_scalar(BETWEEN).bind(Text(node)).fetch_one(conn).await)
            .map_err(doing("counting the moves of a node"))?;
    Ok(count.unsigned_abs())
}
