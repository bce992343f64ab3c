//! Near vectors by an index of pgvector's, where PostgreSQL has that extension and lets us use it.
//!
//! The vectors in `embeddings` are what counts, on both databases. Here they stand once more as the
//! extension's own type, in a table that is made when the store is opened: a migration has to work
//! without the extension. What is asked of some of the messages only is compared one by one, as
//! everything is where there is no extension.
//!
//! Invariant: the index is asked only once it is known to have all vectors of its model.

use std::collections::HashSet;
use std::fmt::Write;
use std::sync::{Mutex, PoisonError};

use sqlx::{AssertSqlSafe, PgPool};
use stratavore_core::embedding::BUILTIN;

use crate::error::doing;
use crate::tx::Tx;
use crate::{Engine, Store, StoreError};

const AVAILABLE_POSTGRES: &str =
    "SELECT count(*) FROM pg_available_extensions WHERE name = 'vector'";

const MADE_POSTGRES: &str = "SELECT to_regclass('_message_vectors') IS NOT NULL";

/// Each is tried; what counts is whether the table is there in the end.
const MAKE: [&str; 2] = [
    "CREATE EXTENSION IF NOT EXISTS vector",
    "CREATE TABLE IF NOT EXISTS _message_vectors (
        message_id bigint PRIMARY KEY REFERENCES embeddings (message_id) ON DELETE CASCADE,
        model      text COLLATE \"C\" NOT NULL,
        vector     vector NOT NULL
    )",
];

/// The extension may be missing where statements are looked at beforehand.
const KEEP: [&str; 1] = ["INSERT INTO _message_vectors (message_id, model, vector)
    VALUES ($1, $2, $3::text::vector)
    ON CONFLICT (message_id) DO UPDATE SET model = excluded.model, vector = excluded.vector"];

const MISSING: [&str; 1] = ["SELECT e.message_id, e.vector FROM embeddings AS e
    WHERE e.model = $1 AND NOT EXISTS (SELECT 1 FROM _message_vectors AS v
        WHERE v.message_id = e.message_id AND v.model = e.model)
    ORDER BY e.message_id LIMIT $2"];

statements! { AVAILABLE_POSTGRES, MADE_POSTGRES }

/// The longest vector that an index takes.
const SIZE_MAX: usize = 2000;
/// How many the index looks at, for the best of them.
const LOOKED_AT: u32 = 200;

/// What is known of the extension's table and its indexes.
#[derive(Debug, Default)]
pub(crate) struct Nearby {
    is_there: bool,
    /// Models whose index is there, and those whose vectors are all in it.
    indexed: Mutex<HashSet<String>>,
    filled: Mutex<HashSet<String>>,
}

impl Nearby {
    pub(crate) async fn of(engine: &Engine) -> Self {
        let is_there = match engine {
            Engine::Postgres { common, .. } => make(common).await.unwrap_or_else(|error| {
                tracing::info!(%error, "vectors are compared one by one: pgvector cannot be used");
                false
            }),
            Engine::Sqlite { .. } => false,
        };
        Self { is_there, ..Self::default() }
    }
}

async fn make(pool: &PgPool) -> Result<bool, sqlx::Error> {
    let available: i64 = sqlx::query_scalar(AVAILABLE_POSTGRES).fetch_one(pool).await?;
    if available == 0 {
        return Ok(false);
    }
    let made: bool = sqlx::query_scalar(MADE_POSTGRES).fetch_one(pool).await?;
    if made {
        return Ok(true);
    }
    for sql in MAKE {
        // Another daemon may be at it, or only the owner may: the look below says what came of it.
        if let Err(error) = sqlx::query(sql).execute(pool).await {
            tracing::debug!(%error, "pgvector could not be set up here");
        }
    }
    sqlx::query_scalar(MADE_POSTGRES).fetch_one(pool).await
}

impl Store {
    /// Whether near vectors are found by an index.
    pub fn has_vector_index(&self) -> bool {
        self.inner.nearby.is_there
    }

    /// Makes the index of a model. Without it the table is read whole, which is slower and no worse.
    pub(crate) async fn nearby_index(&self, model: &str, size: usize) {
        let Engine::Postgres { common, .. } = &self.inner.engine else { return };
        if !is_indexed(model) {
            return;
        }
        let is_done = |set: &Mutex<HashSet<String>>| {
            !set.lock().unwrap_or_else(PoisonError::into_inner).insert(model.to_owned())
        };
        if !self.inner.nearby.is_there || size > SIZE_MAX || is_done(&self.inner.nearby.indexed) {
            return;
        }
        let is_good = |c: char| c.is_ascii_alphanumeric();
        let called: String =
            model.chars().map(|c| if is_good(c) { c } else { '_' }).take(30).collect();
        // Both are one transaction. An index of many takes longer than a statement may otherwise.
        let sql = format!(
            "SET LOCAL statement_timeout = 0;
            CREATE INDEX IF NOT EXISTS \"_message_vectors_{called}_{size}\" ON _message_vectors
                USING hnsw ((vector::vector({size})) vector_ip_ops) WHERE model = {}",
            literal(model)
        );
        if let Err(error) = sqlx::raw_sql(AssertSqlSafe(sql)).execute(common).await {
            tracing::warn!(%error, model, "the index of vectors could not be made");
        }
    }

    /// Keeps a vector in the extension's own form too.
    pub(crate) async fn nearby_keep(
        &self,
        tx: &mut Tx,
        number: i64,
        model: &str,
        vector: &[f32],
    ) -> Result<(), StoreError> {
        let Tx::Postgres(tx, deadline, _) = tx else { return Ok(()) };
        if !self.inner.nearby.is_there || vector.len() > SIZE_MAX {
            return Ok(());
        }
        let kept = sqlx::query(KEEP[0]).bind(number).bind(model).bind(text(vector));
        deadline.keep(kept.execute(&mut **tx)).await.map(drop).map_err(doing("keeping vectors"))
    }

    /// Puts vectors of a model into the index that were kept without it, at most so many. None: it
    /// has all of them.
    pub async fn nearby_fill(&self, model: &str, limit: u32) -> Result<u64, StoreError> {
        let what = "putting vectors into the index";
        let nearby = &self.inner.nearby;
        let filled = || nearby.filled.lock().unwrap_or_else(PoisonError::into_inner);
        if !nearby.is_there || filled().contains(model) {
            return Ok(0);
        }
        let mut tx = self.begin().await?;
        let Tx::Postgres(inner, deadline, _) = &mut tx else { return Ok(0) };
        let missing = sqlx::query_as(MISSING[0]).bind(model).bind(i64::from(limit));
        let missing: Vec<(i64, Vec<u8>)> =
            deadline.keep(missing.fetch_all(&mut **inner)).await.map_err(doing(what))?;
        let (mut put, mut size) = (0, 0);
        for (number, bytes) in missing {
            let bytes = bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
            let vector: Vec<f32> = bytes.collect();
            size = vector.len();
            if size > SIZE_MAX {
                return Ok(0);
            }
            self.nearby_keep(&mut tx, number, model, &vector).await?;
            put += 1;
        }
        tx.commit().await?;
        if put < u64::from(limit) {
            // An index of many is made much faster than one that takes them in one by one.
            if put > 0 {
                self.nearby_index(model, size).await;
            }
            filled().insert(model.to_owned());
        }
        Ok(put)
    }

    /// The nearest by the index; `None`: there is none that has all of them.
    pub(crate) async fn nearby_nearest(
        &self,
        model: &str,
        vector: &[f32],
        limit: u32,
    ) -> Result<Option<Vec<(i64, f32)>>, StoreError> {
        let what = "asking the index of vectors";
        let nearby = &self.inner.nearby;
        let filled = nearby.filled.lock().unwrap_or_else(PoisonError::into_inner).contains(model);
        if !nearby.is_there || !filled || vector.len() > SIZE_MAX {
            return Ok(None);
        }
        // Both stand in the statement itself: the index is of one model and one length. What is not
        // written as in the index is not answered by it.
        let (size, of) = (vector.len(), literal(model));
        let theirs =
            if is_indexed(model) { format!("vector::vector({size})") } else { "vector".into() };
        let sql = format!(
            "SELECT message_id, -({theirs} <#> $1::text::vector({size}))
            FROM _message_vectors WHERE model = {of}
            ORDER BY {theirs} <#> $1::text::vector({size}) LIMIT $2"
        );
        let wide = format!("SET LOCAL hnsw.ef_search = {LOOKED_AT}");
        let mut tx = self.begin().await?;
        let Tx::Postgres(inner, deadline, _) = &mut tx else { return Ok(None) };
        let set = sqlx::query(AssertSqlSafe(wide)).execute(&mut **inner);
        deadline.keep(set).await.map_err(doing(what))?;
        let found = sqlx::query_as(AssertSqlSafe(sql)).bind(text(vector)).bind(i64::from(limit));
        let found: Vec<(i64, f64)> =
            deadline.keep(found.fetch_all(&mut **inner)).await.map_err(doing(what))?;
        #[expect(clippy::cast_possible_truncation, reason = "it was a product of such numbers")]
        let found = found.into_iter().map(|(number, likeness)| (number, likeness as f32));
        Ok(Some(found.filter(|(_, likeness)| *likeness > 0.0).collect()))
    }
}

/// Whether an index finds what is near by the vectors of this model.
///
/// Of built-in ones it does not. Of the 50 that were nearest to two words, in 100,000 messages of random words, it
/// found a third (`make bench` of 6ad2e9d); in 5,000 messages of ten topics 77 %.
fn is_indexed(model: &str) -> bool {
    model != BUILTIN
}

/// A vector as the extension reads it: `[1,0.5]`.
fn text(vector: &[f32]) -> String {
    let mut text = String::with_capacity(vector.len() * 12 + 2);
    text.push('[');
    for (at, number) in vector.iter().enumerate() {
        let comma = if at == 0 { "" } else { "," };
        write!(text, "{comma}{number}").expect("a string takes everything");
    }
    text.push(']');
    text
}

/// A name as it may stand in a statement. It comes from the configuration.
fn literal(text: &str) -> String {
    let text: String = text.chars().filter(|c| !c.is_control() && *c != '\\').collect();
    format!("'{}'", text.replace('\'', "''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_and_names_are_written_so_that_nothing_else_is_said() {
        assert_eq!(text(&[1.0, -0.5, 1e-7]), "[1,-0.5,0.0000001]");
        assert_eq!(text(&[]), "[]");
        assert_eq!(literal("a'; DROP TABLE x; --\\\0"), "'a''; DROP TABLE x; --'");
    }
}
