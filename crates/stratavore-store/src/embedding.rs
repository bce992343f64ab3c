//! What messages mean, as vectors of numbers: which are missing, and which are near another one.
//!
//! All of one model have the same length, and the length 1. On SQLite, and where PostgreSQL has no
//! extension for it, all of them are compared, which is exact.
//!
//! Invariant: a message says which model's vector of it is kept, and none is if its text has changed.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use sqlx::types::Text;
use sqlx::{QueryBuilder, Row};
use stratavore_core::search::SearchFilter;

use crate::error::doing;
use crate::message::push_search_filter;
use crate::retry::retried;
use crate::tx::{Conn, on};
use crate::value::DbTime;
use crate::{Store, StoreError};

const PENDING: &str =
    "SELECT id, file_offset, text FROM messages WHERE embedded IS NULL ORDER BY id DESC LIMIT $1";

const PENDING_COUNT: &str = "SELECT count(*) FROM messages WHERE embedded IS NULL";

/// Not if the text has changed since it was read.
const MARK: &str = "UPDATE messages SET embedded = $1
    WHERE id = $2 AND file_offset = $3 AND embedded IS NULL";

const KEEP: &str = "INSERT INTO embeddings (message_id, model, vector) VALUES ($1, $2, $3)
    ON CONFLICT (message_id) DO UPDATE SET model = excluded.model, vector = excluded.vector";

/// Two ranges of the index, where `<>` would read all of it.
const OF_OTHERS: &str = "SELECT message_id FROM embeddings WHERE model < $1
    UNION ALL SELECT message_id FROM embeddings WHERE model > $1 LIMIT $2";

const UNMARK: &str = "UPDATE messages SET embedded = NULL WHERE id = $1";

const FORGET: &str = "DELETE FROM embeddings WHERE message_id = $1";

statements! { PENDING, PENDING_COUNT, MARK, KEEP, OF_OTHERS, UNMARK, FORGET }

/// Vectors that are fetched at once: a row for each would cost more than comparing them.
const PAGE: i64 = 2048;

/// The inner part of a page: rows in the order of their numbers.
macro_rules! page {
    ($sql:expr, $model:expr, $filter:expr, $after:expr) => {
        $sql.push("SELECT e.message_id, e.vector FROM embeddings AS e");
        if *$filter != SearchFilter::default() {
            $sql.push(" JOIN messages AS m ON m.id = e.message_id");
            $sql.push(" JOIN sessions AS s ON s.id = m.session_id");
        }
        $sql.push(" WHERE e.model = ").push_bind($model);
        $sql.push(" AND e.message_id > ").push_bind($after);
        push_search_filter!($sql, $filter);
        $sql.push(" ORDER BY e.message_id LIMIT ").push_bind(PAGE).push(") AS page");
    };
}

/// A message that has no vector yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unembedded {
    pub number: i64,
    pub text: String,
    /// By which a later text is told from this one.
    offset: i64,
}

impl Store {
    /// Messages without a vector, the newest first.
    pub async fn embedding_pending(&self, limit: u32) -> Result<Vec<Unembedded>, StoreError> {
        let mut reader = self.read().await?;
        let rows: Vec<(i64, i64, String)> = on!(reader, |conn| sqlx::query_as(PENDING)
            .bind(i64::from(limit))
            .fetch_all(conn)
            .await)
        .map_err(doing("looking for messages without a vector"))?;
        let rows = rows.into_iter();
        Ok(rows.map(|(number, offset, text)| Unembedded { number, text, offset }).collect())
    }

    /// How many messages have no vector.
    pub async fn embedding_pending_count(&self) -> Result<u64, StoreError> {
        let mut reader = self.read().await?;
        let count: i64 =
            on!(reader, |conn| sqlx::query_scalar(PENDING_COUNT).fetch_one(conn).await)
                .map_err(doing("counting messages without a vector"))?;
        Ok(count.unsigned_abs())
    }

    /// Keeps the vectors of messages. One whose text has changed meanwhile is left out.
    pub async fn embedding_keep(
        &self,
        model: &str,
        vectors: &[(Unembedded, Vec<f32>)],
    ) -> Result<(), StoreError> {
        let what = "keeping vectors";
        if let Some((_, vector)) = vectors.first() {
            self.nearby_index(model, vector.len()).await;
        }
        retried!({
            let mut tx = self.begin().await?;
            for (message, vector) in vectors {
                let marked = on!(tx, |conn| sqlx::query(MARK)
                    .bind(model)
                    .bind(message.number)
                    .bind(message.offset)
                    .execute(conn)
                    .await
                    .map(|done| done.rows_affected()))
                .map_err(doing(what))?;
                if marked == 1 {
                    on!(tx, |conn| sqlx::query(KEEP)
                        .bind(message.number)
                        .bind(model)
                        .bind(to_bytes(vector))
                        .execute(conn)
                        .await
                        .map(drop))
                    .map_err(doing(what))?;
                    self.nearby_keep(&mut tx, message.number, model, vector).await?;
                }
            }
            tx.commit().await
        })
    }

    /// Forgets vectors of all models but this one, at most so many. Answers how many they were.
    pub async fn embedding_forget_others(
        &self,
        model: &str,
        limit: u32,
    ) -> Result<u64, StoreError> {
        let what = "forgetting vectors of another model";
        retried!({
            let mut tx = self.begin().await?;
            let others: Vec<i64> = on!(tx, |conn| sqlx::query_scalar(OF_OTHERS)
                .bind(model)
                .bind(i64::from(limit))
                .fetch_all(conn)
                .await)
            .map_err(doing(what))?;
            for number in &others {
                for sql in [FORGET, UNMARK] {
                    on!(tx, |conn| sqlx::query(sql).bind(*number).execute(conn).await.map(drop))
                        .map_err(doing(what))?;
                }
            }
            tx.commit().await?;
            Ok(others.len() as u64)
        })
    }

    /// The messages whose vectors are nearest to `vector`, the nearest first, with the cosine of
    /// the angle between the two. Those that have nothing in common with it are no answer.
    pub async fn embedding_nearest(
        &self,
        model: &str,
        vector: &[f32],
        filter: &SearchFilter,
        limit: u32,
    ) -> Result<Vec<(i64, f32)>, StoreError> {
        let what = "comparing vectors";
        if *filter == SearchFilter::default()
            && let Some(found) = self.nearby_nearest(model, vector, limit).await?
        {
            return Ok(found);
        }
        let mut nearest = Nearest::new(limit as usize);
        let mut after = i64::MIN;
        let mut reader = self.read().await?;
        loop {
            let (numbers, bytes) = match reader.conn() {
                Conn::Postgres(conn, deadline) => {
                    let mut sql = QueryBuilder::new(
                        "SELECT array_agg(message_id), string_agg(vector, ''::bytea) FROM (",
                    );
                    page!(sql, model, filter, after);
                    let row = sql.build().fetch_one(conn);
                    let row = deadline.keep(row).await.map_err(doing(what))?;
                    let numbers: Option<Vec<i64>> = row.try_get(0).map_err(doing(what))?;
                    let bytes: Option<Vec<u8>> = row.try_get(1).map_err(doing(what))?;
                    (numbers.unwrap_or_default(), bytes.unwrap_or_default())
                }
                Conn::Sqlite(conn) => {
                    // Both aggregates go through the rows in the same order.
                    let mut sql = QueryBuilder::new(
                        "SELECT group_concat(message_id, ' '),
                            CAST(group_concat(vector, '') AS BLOB) FROM (",
                    );
                    page!(sql, model, filter, after);
                    let row = sql.build().fetch_one(conn).await.map_err(doing(what))?;
                    let numbers: Option<String> = row.try_get(0).map_err(doing(what))?;
                    let bytes: Option<Vec<u8>> = row.try_get(1).map_err(doing(what))?;
                    let numbers = numbers.unwrap_or_default();
                    let numbers = numbers.split_ascii_whitespace();
                    (numbers.filter_map(|n| n.parse().ok()).collect(), bytes.unwrap_or_default())
                }
            };
            let size = vector.len() * 4;
            if bytes.len() != numbers.len() * size {
                return Err(StoreError::Corrupt {
                    what: format!("the vectors of the model `{}`", model.escape_debug()),
                    why: format!("they are not of {} numbers each", vector.len()),
                });
            }
            for (number, bytes) in numbers.iter().zip(bytes.chunks_exact(size.max(1))) {
                nearest.offer(*number, dot(vector, bytes));
            }
            match numbers.last() {
                Some(last) if numbers.len() as i64 == PAGE => after = *last,
                Some(_) | None => return Ok(nearest.best()),
            }
        }
    }
}

fn to_bytes(vector: &[f32]) -> Vec<u8> {
    vector.iter().flat_map(|number| number.to_le_bytes()).collect()
}

/// Sums that do not wait for each other, so that they are made side by side.
const LANES: usize = 16;

fn dot(vector: &[f32], bytes: &[u8]) -> f32 {
    let mut sums = [0.0f32; LANES];
    let (ours, theirs) = (vector.chunks_exact(LANES), bytes.chunks_exact(4 * LANES));
    let (our_rest, their_rest) = (ours.remainder(), theirs.remainder());
    for (ours, theirs) in ours.zip(theirs) {
        for lane in 0..LANES {
            let at = lane * 4;
            let bytes = [theirs[at], theirs[at + 1], theirs[at + 2], theirs[at + 3]];
            sums[lane] += ours[lane] * f32::from_le_bytes(bytes);
        }
    }
    let rest = our_rest.iter().zip(their_rest.chunks_exact(4));
    let rest: f32 = rest.map(|(a, b)| a * f32::from_le_bytes([b[0], b[1], b[2], b[3]])).sum();
    sums.iter().sum::<f32>() + rest
}

/// The best so many of what is offered.
struct Nearest {
    limit: usize,
    /// The worst of them on top.
    kept: BinaryHeap<Offer>,
}

#[derive(Debug, PartialEq)]
struct Offer {
    likeness: f32,
    number: i64,
}

impl Eq for Offer {}

impl Ord for Offer {
    /// The greatest is the least like; of two that are alike, the older.
    fn cmp(&self, other: &Self) -> Ordering {
        other.likeness.total_cmp(&self.likeness).then(other.number.cmp(&self.number))
    }
}

impl PartialOrd for Offer {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Nearest {
    fn new(limit: usize) -> Self {
        Self { limit, kept: BinaryHeap::with_capacity(limit + 1) }
    }

    fn offer(&mut self, number: i64, likeness: f32) {
        let is_good = likeness > 0.0 && likeness.is_finite();
        let is_full = self.kept.len() == self.limit;
        if !is_good || (is_full && self.kept.peek().is_none_or(|worst| worst.likeness >= likeness))
        {
            return;
        }
        self.kept.push(Offer { likeness, number });
        if self.kept.len() > self.limit {
            self.kept.pop();
        }
    }

    fn best(self) -> Vec<(i64, f32)> {
        self.kept.into_sorted_vec().into_iter().map(|o| (o.number, o.likeness)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_are_kept_in_order() {
        let mut nearest = Nearest::new(3);
        for (number, likeness) in [(1, 0.1), (2, 0.9), (3, -1.0), (4, 0.5), (5, 0.3), (6, f32::NAN)]
        {
            nearest.offer(number, likeness);
        }
        assert_eq!(nearest.best(), [(2, 0.9), (4, 0.5), (5, 0.3)]);
        let mut none = Nearest::new(0);
        none.offer(1, 1.0);
        assert_eq!(none.best(), []);
    }

    #[test]
    fn a_product_is_that_of_its_numbers_whatever_its_length() {
        for length in [0usize, 1, 15, 16, 17, 256, 300] {
            let (a, b): (Vec<f32>, Vec<f32>) =
                (0..length).map(|i| (i as f32, 1.0 / (1.0 + i as f32))).unzip();
            let plain: f32 = a.iter().zip(&b).map(|(a, b)| a * b).sum();
            assert!((dot(&a, &to_bytes(&b)) - plain).abs() < 0.01, "{length}");
        }
    }
}
