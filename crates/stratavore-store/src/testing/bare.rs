//! What the database can do without us: the same rows, the least that could be asked for. It is what
//! the store's own functions are measured against.

use std::collections::HashSet;

use futures_util::TryStreamExt;
use sqlx::postgres::PgConnectOptions;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, PgConnection, Row, SqliteConnection};
use stratavore_core::liveness::Liveness;

use crate::value::DbTime;
use crate::{Database, Host, Settings};

const HEARTBEATS_POSTGRES: &str = "UPDATE runner_liveness AS kept SET at = new.at, cpu_ms = new.cpu_ms,
        memory = new.memory, processes = new.processes, output_bytes = new.output_bytes
    FROM unnest($1::text[], $2::timestamptz[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[])
        AS new (runner_id, at, cpu_ms, memory, processes, output_bytes)
    WHERE kept.runner_id = new.runner_id";

const HEARTBEATS_SQLITE: &str = "UPDATE runner_liveness AS kept SET at = new.value ->> 'at',
        cpu_ms = new.value ->> 'cpu_ms', memory = new.value ->> 'memory',
        processes = new.value ->> 'processes', output_bytes = new.value ->> 'output_bytes'
    FROM json_each($1) AS new
    WHERE kept.runner_id = new.value ->> 'runner_id'";

/// What a list shows: the runners, each with its heartbeat.
const LIST: &str = "SELECT record, l.epoch, l.at, cpu_ms, memory, processes, output_bytes, output_at, viewers
    FROM runners LEFT JOIN runner_liveness AS l ON l.runner_id = runners.id AND l.epoch = runners.epoch
    ORDER BY created_at DESC, runners.id DESC LIMIT $1";

/// What has all of some words, the best first, and nothing more than the database's own index does.
const SEARCH_POSTGRES: &str = "SELECT id, text FROM messages WHERE _words @@ $1::tsquery
    ORDER BY ts_rank(_words, $1::tsquery, 1) DESC LIMIT $2";

const SEARCH_SQLITE: &str = "SELECT m.id, m.text FROM _message_words($1) AS w
    JOIN messages AS m ON m.id = w.rowid ORDER BY w.rank LIMIT $2";

const VECTORS: &str = "SELECT message_id, vector FROM embeddings";

const ROOM: &str = "CREATE TABLE kept (text text NOT NULL)";
const KEEP: &str = "INSERT INTO kept (text) VALUES ($1)";

/// Texts that are found by their words.
const INDEX_POSTGRES: &str = "CREATE TABLE indexed (text text NOT NULL, words tsvector NOT NULL);
    CREATE INDEX indexed_words ON indexed USING gin (words) WITH (fastupdate = off)";
const INDEX_SQLITE: &str = "CREATE TABLE indexed (text TEXT NOT NULL);
    CREATE VIRTUAL TABLE indexed_words USING fts5 (
        words, content = '', contentless_delete = 1, tokenize = 'ascii')";

const INDEXED_POSTGRES: &str = "INSERT INTO indexed (text, words)
    SELECT text, to_tsvector('simple', text) FROM unnest($1::text[]) AS new (text)";
const INDEXED_SQLITE: [&str; 2] = [
    "INSERT INTO indexed (text) SELECT value FROM json_each($1)",
    "INSERT INTO indexed_words (rowid, words)
        SELECT rowid, text FROM indexed ORDER BY rowid DESC LIMIT $1",
];

/// One connection, with the durability that the store has.
pub enum Bare {
    Postgres(Box<PgConnection>),
    Sqlite(Box<SqliteConnection>),
}

impl Bare {
    pub async fn open(settings: &Settings) -> Result<Bare, sqlx::Error> {
        Ok(match &settings.database {
            Database::Sqlite { path } => {
                let options = SqliteConnectOptions::new()
                    .filename(path)
                    .create_if_missing(true)
                    .journal_mode(SqliteJournalMode::Wal)
                    .synchronous(SqliteSynchronous::Full);
                Bare::Sqlite(Box::new(options.connect().await?))
            }
            Database::Postgres(at) => {
                let mut options = PgConnectOptions::new_without_pgpass()
                    .port(at.port)
                    .database(&at.database)
                    .username(&at.user);
                options = match &at.host {
                    Host::Tcp(host) => options.host(host),
                    Host::Socket(directory) => options.socket(directory),
                };
                Bare::Postgres(Box::new(options.connect().await?))
            }
        })
    }

    /// Looks for messages that have all of these words, which are folded already. Answers how many bytes
    /// of text were found.
    pub async fn search(&mut self, words: &[&str], limit: i64) -> Result<usize, sqlx::Error> {
        let quoted = |quote: char, between: &str| {
            let all: Vec<_> = words.iter().map(|word| format!("{quote}{word}{quote}")).collect();
            all.join(between)
        };
        let found: Vec<(i64, String)> = match self {
            Bare::Postgres(conn) => {
                sqlx::query_as(SEARCH_POSTGRES)
                    .bind(quoted('\'', " & "))
                    .bind(limit)
                    .fetch_all(&mut **conn)
                    .await?
            }
            Bare::Sqlite(conn) => {
                sqlx::query_as(SEARCH_SQLITE)
                    .bind(quoted('"', " AND "))
                    .bind(limit)
                    .fetch_all(&mut **conn)
                    .await?
            }
        };
        Ok(found.iter().map(|(_, text)| text.len()).sum())
    }

    /// Has pgvector's index look at so many, for the best of them.
    pub async fn look_at(&mut self, many: u32) -> Result<(), sqlx::Error> {
        match self {
            Bare::Postgres(conn) => {
                let set = format!("SET hnsw.ef_search = {many}");
                sqlx::query(AssertSqlSafe(set)).execute(&mut **conn).await.map(drop)
            }
            Bare::Sqlite(_) => Ok(()),
        }
    }

    /// Gives messages these vectors of a model in place of those that they have.
    pub async fn replace_vectors(
        &mut self,
        model: &str,
        vectors: &[(i64, Vec<f32>)],
    ) -> Result<(), sqlx::Error> {
        const SQL: &str = "WITH given AS (
                SELECT * FROM unnest($2::bigint[], $3::bytea[]) AS g (id, vector)
            ), marked AS (
                UPDATE messages SET embedded = $1 FROM given WHERE messages.id = given.id
            )
            UPDATE embeddings SET model = $1, vector = given.vector
            FROM given WHERE embeddings.message_id = given.id";
        let Bare::Postgres(conn) = self else { return Ok(()) };
        let numbers: Vec<i64> = vectors.iter().map(|(number, _)| *number).collect();
        let bytes = |vector: &Vec<f32>| vector.iter().flat_map(|n| n.to_le_bytes()).collect();
        let bytes: Vec<Vec<u8>> = vectors.iter().map(|(_, vector)| bytes(vector)).collect();
        let replaced = sqlx::query(SQL).bind(model).bind(numbers).bind(bytes);
        replaced.execute(&mut **conn).await.map(drop)
    }

    /// Asks pgvector for the `nearest` so many of a model, whose name needs no quotes, by its index or by
    /// comparing all, and for the text of the first of them. Answers how many bytes that is.
    pub async fn nearest(
        &mut self,
        (model, vector): (&str, &[f32]),
        by_index: bool,
        nearest: i64,
        shown: i64,
    ) -> Result<usize, sqlx::Error> {
        let Bare::Postgres(conn) = self else { return Ok(0) };
        let size = vector.len();
        let theirs = if by_index { format!("vector::vector({size})") } else { "vector".into() };
        let numbers: Vec<String> = vector.iter().map(ToString::to_string).collect();
        let sql = format!(
            "SELECT m.id, m.text FROM (SELECT message_id FROM _message_vectors WHERE model = '{model}'
                ORDER BY {theirs} <#> $1::text::vector({size}) LIMIT $2) AS near
            JOIN messages AS m ON m.id = near.message_id LIMIT $3"
        );
        let found: Vec<(i64, String)> = sqlx::query_as(AssertSqlSafe(sql))
            .bind(format!("[{}]", numbers.join(",")))
            .bind(nearest)
            .bind(shown)
            .fetch_all(&mut **conn)
            .await?;
        Ok(found.iter().map(|(_, text)| text.len()).sum())
    }

    /// Reads all vectors, and makes nothing of them.
    pub async fn vectors(&mut self) -> Result<usize, sqlx::Error> {
        let mut bytes = 0;
        match self {
            Bare::Postgres(conn) => {
                let mut rows = sqlx::query(VECTORS).fetch(&mut **conn);
                while let Some(row) = rows.try_next().await? {
                    bytes += row.get::<&[u8], _>(1).len();
                }
            }
            Bare::Sqlite(conn) => {
                let mut rows = sqlx::query(VECTORS).fetch(&mut **conn);
                while let Some(row) = rows.try_next().await? {
                    bytes += row.get::<&[u8], _>(1).len();
                }
            }
        }
        Ok(bytes)
    }

    /// Asks for as much as a number of the schema's version.
    pub async fn ask(&mut self) -> Result<i64, sqlx::Error> {
        const SQL: &str = "SELECT count(*) FROM projects";
        match self {
            Bare::Postgres(conn) => sqlx::query_scalar(SQL).fetch_one(&mut **conn).await,
            Bare::Sqlite(conn) => sqlx::query_scalar(SQL).fetch_one(&mut **conn).await,
        }
    }

    /// Makes room for [`Bare::keep`], in a database of its own.
    pub async fn make_room(&mut self) -> Result<(), sqlx::Error> {
        match self {
            Bare::Postgres(conn) => sqlx::query(ROOM).execute(&mut **conn).await.map(drop),
            Bare::Sqlite(conn) => sqlx::query(ROOM).execute(&mut **conn).await.map(drop),
        }
    }

    /// Commits one row that holds `text`.
    pub async fn keep(&mut self, text: &str) -> Result<(), sqlx::Error> {
        match self {
            Bare::Postgres(conn) => {
                sqlx::query(KEEP).bind(text).execute(&mut **conn).await.map(drop)
            }
            Bare::Sqlite(conn) => sqlx::query(KEEP).bind(text).execute(&mut **conn).await.map(drop),
        }
    }

    /// Makes room for [`Bare::index`].
    pub async fn make_index(&mut self) -> Result<(), sqlx::Error> {
        match self {
            Bare::Postgres(conn) => {
                sqlx::raw_sql(INDEX_POSTGRES).execute(&mut **conn).await.map(drop)
            }
            Bare::Sqlite(conn) => sqlx::raw_sql(INDEX_SQLITE).execute(&mut **conn).await.map(drop),
        }
    }

    /// Commits texts, with the database's own index of their words.
    pub async fn index(&mut self, texts: &[String]) -> Result<(), sqlx::Error> {
        match self {
            Bare::Postgres(conn) => {
                sqlx::query(INDEXED_POSTGRES).bind(texts).execute(&mut **conn).await.map(drop)
            }
            Bare::Sqlite(conn) => {
                let mut tx = conn.begin().await?;
                let [keep, index] = INDEXED_SQLITE;
                let all =
                    serde_json::to_string(texts).map_err(|e| sqlx::Error::Encode(e.into()))?;
                sqlx::query(keep).bind(all).execute(&mut *tx).await?;
                sqlx::query(index).bind(texts.len() as i64).execute(&mut *tx).await?;
                tx.commit().await
            }
        }
    }

    /// Writes heartbeats of different runners, whose rows are there already.
    pub async fn heartbeats(&mut self, batch: &[Liveness]) -> Result<u64, sqlx::Error> {
        debug_assert_eq!(batch.iter().map(|l| l.runner).collect::<HashSet<_>>().len(), batch.len());
        Ok(match self {
            Bare::Postgres(conn) => sqlx::query(HEARTBEATS_POSTGRES)
                .bind(batch.iter().map(|l| l.runner.to_string()).collect::<Vec<_>>())
                .bind(batch.iter().map(|l| DbTime(l.at)).collect::<Vec<_>>())
                .bind(batch.iter().map(|l| l.cpu_ms as i64).collect::<Vec<_>>())
                .bind(batch.iter().map(|l| l.memory as i64).collect::<Vec<_>>())
                .bind(batch.iter().map(|l| i64::from(l.processes)).collect::<Vec<_>>())
                .bind(batch.iter().map(|l| l.output_bytes as i64).collect::<Vec<_>>())
                .execute(&mut **conn)
                .await?
                .rows_affected(),
            Bare::Sqlite(conn) => {
                let rows: Vec<_> = batch
                    .iter()
                    .map(|l| {
                        serde_json::json!({
                            "runner_id": l.runner.to_string(), "at": l.at.as_microsecond(),
                            "cpu_ms": l.cpu_ms, "memory": l.memory, "processes": l.processes,
                            "output_bytes": l.output_bytes,
                        })
                    })
                    .collect();
                sqlx::query(HEARTBEATS_SQLITE)
                    .bind(serde_json::Value::from(rows).to_string())
                    .execute(&mut **conn)
                    .await?
                    .rows_affected()
            }
        })
    }

    /// Fetches the newest runners and makes nothing of them. Answers how many bytes their records
    /// have.
    pub async fn list(&mut self, limit: i64) -> Result<usize, sqlx::Error> {
        self.list_with(limit, |record| Ok(record.len())).await
    }

    /// The same, with each record looked through by `serde_json`: all of it is read, and none of it
    /// is kept. Nothing that answers with what stands in records can take less.
    pub async fn list_looked_through(&mut self, limit: i64) -> Result<usize, sqlx::Error> {
        self.list_with(limit, |record| {
            let read = serde_json::from_str::<serde::de::IgnoredAny>(record);
            read.map(|_| record.len()).map_err(|error| sqlx::Error::Decode(error.into()))
        })
        .await
    }

    async fn list_with(
        &mut self,
        limit: i64,
        read: impl Fn(&str) -> Result<usize, sqlx::Error>,
    ) -> Result<usize, sqlx::Error> {
        let mut bytes = 0;
        match self {
            Bare::Postgres(conn) => {
                let mut rows = sqlx::query(LIST).bind(limit).fetch(&mut **conn);
                while let Some(row) = rows.try_next().await? {
                    bytes += read(row.get(0))?;
                }
            }
            Bare::Sqlite(conn) => {
                let mut rows = sqlx::query(LIST).bind(limit).fetch(&mut **conn);
                while let Some(row) = rows.try_next().await? {
                    bytes += read(row.get(0))?;
                }
            }
        }
        Ok(bytes)
    }

    pub async fn close(self) -> Result<(), sqlx::Error> {
        match self {
            Bare::Postgres(conn) => conn.close().await,
            Bare::Sqlite(conn) => conn.close().await,
        }
    }
}
