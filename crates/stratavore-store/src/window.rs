//! Windows of subscriptions, as assistants last told of them.

use std::collections::BTreeMap;

use sqlx::types::Text;
use stratavore_core::name::Name;
use stratavore_core::observation::{Observation, RateWindow};
use stratavore_core::usage::{USAGE_TEXT_MAX, bounded_text};
use stratavore_core::window::Window;
use stratavore_core::{NodeId, RunnerId};

use crate::error::doing;
use crate::tx::{Tx, on};
use crate::value::{DbTime, from_json, to_json};
use crate::{Observed, Store, StoreError};

/// The most windows that one host keeps of one assistant: names come from outside.
const WINDOWS_MAX: usize = 50;

/// What was told later holds, whoever is read first.
const TOLD: &str = "INSERT INTO windows AS kept (node_id, assistant, name, runner_id, at, record)
    SELECT $1, $2, $3, $4, $5, $6 WHERE (SELECT count(*) FROM windows
        WHERE node_id = $1 AND assistant = $2 AND name <> $3) < $7
    ON CONFLICT (node_id, assistant, name) DO UPDATE
    SET runner_id = excluded.runner_id, at = excluded.at, record = excluded.record
    WHERE excluded.at >= kept.at";

const LIST: &str = "SELECT node_id, assistant, runner_id, record FROM windows
    ORDER BY assistant, node_id, name";

statements! { TOLD, LIST }

#[derive(Debug, sqlx::FromRow)]
struct WindowRow {
    node_id: Text<NodeId>,
    assistant: Text<Name>,
    runner_id: Text<RunnerId>,
    record: String,
}

impl Store {
    /// All windows that are known, by assistant and host. Some may have begun anew since.
    pub async fn window_list(&self) -> Result<Vec<Window>, StoreError> {
        let mut reader = self.read().await?;
        let rows: Vec<WindowRow> = on!(reader, |conn| sqlx::query_as(LIST).fetch_all(conn).await)
            .map_err(doing("listing windows"))?;
        let window = |row: WindowRow| {
            Ok(Window {
                node: row.node_id.0,
                assistant: row.assistant.0,
                runner: row.runner_id.0,
                told: from_json("a window", &row.record)?,
            })
        };
        rows.into_iter().map(window).collect()
    }
}

/// Keeps what a batch says of windows: the last of each, in the order of their names, so that two batches
/// wait for each other at the same row.
pub(crate) async fn keep(tx: &mut Tx, batch: &Observed<'_>) -> Result<(), StoreError> {
    // What is imported is of some account and some day.
    let Some(runner) = batch.runner else { return Ok(()) };
    let mut last: BTreeMap<String, RateWindow> = BTreeMap::new();
    for observation in batch.observations {
        if let Observation::Window(told) = observation {
            let name = bounded_text(&told.name, USAGE_TEXT_MAX);
            if name.is_empty() || last.get(&name).is_some_and(|before| before.at > told.at) {
                continue;
            }
            // What is told of the future is told now.
            let at = told.at.min(batch.now);
            last.insert(name.clone(), RateWindow { name, at, ..told.clone() });
        }
    }
    for (name, told) in &last {
        on!(tx, |conn| sqlx::query(TOLD)
            .bind(Text(batch.node))
            .bind(Text(batch.assistant))
            .bind(name)
            .bind(Text(runner))
            .bind(DbTime(told.at))
            .bind(to_json(told))
            .bind(WINDOWS_MAX as i64)
            .execute(conn)
            .await
            .map(drop))
        .map_err(doing("keeping a window"))?;
    }
    Ok(())
}
