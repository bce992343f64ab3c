//! Messages: what was said in conversations, and their words.
//!
//! Each database has an index of words of its own kind. What goes into it are folded words that this
//! program has made ([`stratavore_core::words`]), and a query is put together of such words only: what
//! somebody typed never becomes a part of a statement, nor of a database's language of queries.
//!
//! Invariant: a message is known by its session and id, however often it is told.
//! Invariant: the words of a message are written in the transaction that writes its text.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt::Write;

use sqlx::types::Text;
use sqlx::{QueryBuilder, Sqlite};
use stratavore_core::message::{MESSAGE_MAX, Message, Place, Role};
use stratavore_core::name::Name;
use stratavore_core::search::{Query, SearchFilter, Term};
use stratavore_core::words::folded;
use stratavore_core::{ProjectId, SessionId, Timestamp};

use crate::error::doing;
use crate::tx::{Conn, Tx, on};
use crate::value::{DbTime, count};
use crate::{Store, StoreError};

/// The newest of those that have all words, of which the best are wanted. Who asks for words that
/// more messages have is not helped by how often each has them.
const RANKED_MAX: i64 = 2000;

/// Messages in one statement.
const PIECE: usize = 128;

/// The longest id of a message, model and file name that are kept, in bytes.
const ID_MAX: usize = 256;
const FILE_MAX: usize = 4096;

/// PostgreSQL's limits of a word's places.
const PLACE_MAX: usize = 16_383;
const PLACES_MAX: usize = 255;

/// The same message again changes nothing. Another text of it is a later state of it if it stands
/// further down in the same file, or is longer in another one.
macro_rules! upsert {
    ($words:literal) => {
        concat!(
            " ON CONFLICT (session_id, external_id) DO UPDATE SET role = excluded.role, at = excluded.at,
                model = excluded.model, text = excluded.text, file = excluded.file,
                file_offset = excluded.file_offset, embedded = NULL", $words,
            " WHERE messages.text <> excluded.text AND CASE WHEN messages.file = excluded.file
                THEN messages.file_offset < excluded.file_offset
                ELSE length(messages.text) < length(excluded.text) END
            RETURNING id, session_id, external_id"
        )
    };
}

const INSERT_POSTGRES: &str = "INSERT INTO messages
        (session_id, external_id, role, at, model, text, file, file_offset, _words)
    SELECT session_id, external_id, role, at, model, text, file, file_offset, words::tsvector
    FROM unnest($1::text[], $2::text[], $3::text[], $4::timestamptz[], $5::text[], $6::text[],
            $7::text[], $8::bigint[], $9::text[])
        AS new (session_id, external_id, role, at, model, text, file, file_offset, words)";

const UPSERT_POSTGRES: &str = upsert!(", _words = excluded._words");

const UPSERT_SQLITE: &str = upsert!("");

/// Followed by pairs of both.
const KNOWN_SQLITE: [&str; 1] =
    ["SELECT session_id, external_id FROM messages WHERE (session_id, external_id) IN "];

/// Planned once, where a hundred pairs would be planned each time.
const KNOWN_POSTGRES: &str = "SELECT session_id, external_id FROM messages
    JOIN unnest($1::text[], $2::text[]) AS new (session_id, external_id)
        USING (session_id, external_id)";

const FORGET_VECTORS_POSTGRES: &str = "DELETE FROM embeddings WHERE message_id = ANY($1)";

const HITS: &str =
    "SELECT m.id, m.session_id, s.project_id, s.assistant, s.external_id AS conversation,
        m.external_id, m.role, m.at, m.model, m.text, m.file, m.file_offset
    FROM messages AS m JOIN sessions AS s ON s.id = m.session_id ";

const OF_SESSION: &str = "SELECT m.id, m.session_id, s.project_id, s.assistant,
        s.external_id AS conversation, m.external_id, m.role, m.at, m.model, m.text, m.file, m.file_offset
    FROM messages AS m JOIN sessions AS s ON s.id = m.session_id
    WHERE m.session_id = $1 AND (m.at, m.id) > ($2, $3) ORDER BY m.at, m.id LIMIT $4";

const ONE: &str = "SELECT m.id, m.session_id, s.project_id, s.assistant,
        s.external_id AS conversation, m.external_id, m.role, m.at, m.model, m.text, m.file, m.file_offset
    FROM messages AS m JOIN sessions AS s ON s.id = m.session_id
    WHERE m.session_id = $1 AND m.external_id = $2";

const FORGET: &str = "DELETE FROM messages WHERE session_id = $1";

const FORGET_WORDS_SQLITE: &str = "DELETE FROM _message_words
    WHERE rowid IN (SELECT id FROM messages WHERE session_id = $1)";

const COUNT: &str = "SELECT count(*) FROM messages WHERE session_id = $1";

statements! {
    INSERT_POSTGRES, KNOWN_POSTGRES, FORGET_VECTORS_POSTGRES, HITS, OF_SESSION, ONE, COUNT, FORGET, FORGET_WORDS_SQLITE,
}

/// A message as it is kept, with whose it is.
#[derive(Debug, Clone, PartialEq)]
pub struct KeptMessage {
    /// Its number here; grows with every message.
    pub number: i64,
    pub session: SessionId,
    pub project: ProjectId,
    pub assistant: Name,
    pub message: Message,
}

#[derive(sqlx::FromRow)]
struct MessageRow {
    id: i64,
    session_id: Text<SessionId>,
    project_id: Text<ProjectId>,
    assistant: Text<Name>,
    conversation: Option<String>,
    external_id: String,
    role: String,
    at: DbTime,
    model: Option<String>,
    text: String,
    file: String,
    file_offset: i64,
}

impl MessageRow {
    fn into_kept(self) -> Result<KeptMessage, StoreError> {
        let role = Role::parse(&self.role).ok_or_else(|| StoreError::Corrupt {
            what: format!("message {} of {}", self.id, self.session_id.0),
            why: format!("`{}` is no role", self.role.escape_debug()),
        })?;
        Ok(KeptMessage {
            number: self.id,
            session: self.session_id.0,
            project: self.project_id.0,
            assistant: self.assistant.0,
            message: Message {
                id: self.external_id,
                session: self.conversation.unwrap_or_default(),
                role,
                at: self.at.0,
                model: self.model,
                text: self.text,
                place: Place { file: self.file, offset: self.file_offset.unsigned_abs() },
            },
        })
    }
}

/// A message as it is written: bounded, and without what no column takes.
struct NewRow {
    session: String,
    id: String,
    role: &'static str,
    at: Timestamp,
    model: Option<String>,
    text: String,
    file: String,
    offset: i64,
}

impl NewRow {
    fn of(session: SessionId, message: &Message) -> Self {
        Self {
            session: session.to_string(),
            id: kept(&message.id, ID_MAX),
            role: message.role.as_str(),
            at: message.at,
            model: message.model.as_deref().map(|model| kept(model, ID_MAX)),
            text: kept(&message.text, MESSAGE_MAX),
            file: kept(&message.place.file, FILE_MAX),
            offset: count(message.place.offset),
        }
    }
}

/// The beginning of `text`, without NUL, which PostgreSQL takes in no text.
fn kept(text: &str, max: usize) -> String {
    let mut end = text.len().min(max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].replace('\0', " ")
}

/// Writes down messages of sessions that are there, and answers which of them were not known. Those
/// that are known already change nothing.
///
/// The caller holds the rows of their sessions, so nobody else writes messages of them meanwhile.
pub(crate) async fn insert(
    tx: &mut Tx,
    messages: &[(SessionId, &Message)],
) -> Result<Vec<bool>, StoreError> {
    let what = "writing down messages";
    // The last state of each: one statement cannot write a row twice.
    let mut rows: BTreeMap<(String, String), NewRow> = BTreeMap::new();
    let mut is_new = Vec::with_capacity(messages.len());
    for (session, message) in messages {
        let row = NewRow::of(*session, message);
        let key = (row.session.clone(), row.id.clone());
        is_new.push(rows.insert(key, row).is_none());
    }
    let rows: Vec<NewRow> = rows.into_values().collect();
    let mut known: HashSet<(String, String)> = HashSet::new();
    for piece in rows.chunks(PIECE) {
        let found = match tx.conn() {
            Conn::Postgres(conn, deadline) => deadline.keep(insert_postgres(conn, piece)).await,
            Conn::Sqlite(conn) => insert_sqlite(conn, piece).await,
        };
        known.extend(found.map_err(doing(what))?);
    }
    if !known.is_empty() {
        for ((session, message), is_new) in messages.iter().zip(&mut is_new) {
            let key = (session.to_string(), kept(&message.id, ID_MAX));
            *is_new &= !known.contains(&key);
        }
    }
    Ok(is_new)
}

/// Forgets the messages of a session, and answers how many they were.
pub(crate) async fn forget(tx: &mut Tx, session: SessionId) -> Result<u64, StoreError> {
    let what = "forgetting messages";
    if let Tx::Sqlite(tx, _, _) = tx {
        let words = sqlx::query(FORGET_WORDS_SQLITE).bind(Text(session));
        words.execute(&mut **tx).await.map_err(doing(what))?;
    }
    on!(tx, |conn| sqlx::query(FORGET)
        .bind(Text(session))
        .execute(conn)
        .await
        .map(|done| done.rows_affected()))
    .map_err(doing(what))
}

/// Answers which of them were known.
async fn insert_postgres(
    conn: &mut sqlx::PgConnection,
    rows: &[NewRow],
) -> Result<Vec<(String, String)>, sqlx::Error> {
    let texts = |of: fn(&NewRow) -> &str| rows.iter().map(of).collect::<Vec<&str>>();
    let known = sqlx::query_as(KNOWN_POSTGRES)
        .bind(texts(|row| &row.session))
        .bind(texts(|row| &row.id))
        .fetch_all(&mut *conn)
        .await?;
    let mut query = QueryBuilder::<sqlx::Postgres>::new(INSERT_POSTGRES);
    query.push(UPSERT_POSTGRES);
    let query = query.build_query_as::<(i64, String, String)>();
    let written = query
        .bind(texts(|row| &row.session))
        .bind(texts(|row| &row.id))
        .bind(texts(|row| row.role))
        .bind(rows.iter().map(|row| DbTime(row.at)).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.model.as_deref()).collect::<Vec<_>>())
        .bind(texts(|row| &row.text))
        .bind(texts(|row| &row.file))
        .bind(rows.iter().map(|row| row.offset).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| words_with_places(&row.text)).collect::<Vec<_>>())
        .fetch_all(&mut *conn)
        .await?;
    let numbers: Vec<i64> = written.into_iter().map(|(number, ..)| number).collect();
    if !numbers.is_empty() {
        sqlx::query(FORGET_VECTORS_POSTGRES).bind(numbers).execute(conn).await?;
    }
    Ok(known)
}

async fn insert_sqlite(
    conn: &mut sqlx::SqliteConnection,
    rows: &[NewRow],
) -> Result<Vec<(String, String)>, sqlx::Error> {
    let mut query = QueryBuilder::<Sqlite>::new(KNOWN_SQLITE[0]);
    query.push_tuples(rows, |mut one, row| {
        one.push_bind(&row.session).push_bind(&row.id);
    });
    let known = query.build_query_as().fetch_all(&mut *conn).await?;
    let mut query = QueryBuilder::<Sqlite>::new(
        "INSERT INTO messages (session_id, external_id, role, at, model, text, file, file_offset) ",
    );
    query.push_values(rows, |mut values, row| {
        values
            .push_bind(&row.session)
            .push_bind(&row.id)
            .push_bind(row.role)
            .push_bind(DbTime(row.at))
            .push_bind(&row.model)
            .push_bind(&row.text)
            .push_bind(&row.file)
            .push_bind(row.offset);
    });
    query.push(UPSERT_SQLITE);
    let written: Vec<(i64, String, String)> = query.build_query_as().fetch_all(&mut *conn).await?;
    if written.is_empty() {
        return Ok(known);
    }
    let texts: HashMap<(&str, &str), &str> =
        rows.iter().map(|row| ((&*row.session, &*row.id), &*row.text)).collect();
    let mut query =
        QueryBuilder::<Sqlite>::new("INSERT OR REPLACE INTO _message_words (rowid, words) ");
    query.push_values(&written, |mut values, (number, session, id)| {
        let text = texts.get(&(&**session, &**id)).copied().unwrap_or_default();
        values.push_bind(*number).push_bind(folded(text));
    });
    query.build().execute(&mut *conn).await?;
    let mut query = QueryBuilder::<Sqlite>::new("DELETE FROM embeddings WHERE message_id IN (");
    let mut between = query.separated(", ");
    for (number, ..) in &written {
        between.push_bind(*number);
    }
    query.push(")");
    query.build().execute(conn).await?;
    Ok(known)
}

/// The words of a text as PostgreSQL reads them: `'word':1,4 'other':2`.
fn words_with_places(text: &str) -> String {
    let folded = folded(text);
    let mut places: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (at, word) in folded.split(' ').filter(|word| !word.is_empty()).enumerate() {
        let places = places.entry(word).or_default();
        if places.len() < PLACES_MAX {
            places.push((at + 1).min(PLACE_MAX));
        }
    }
    let mut out = String::with_capacity(folded.len() * 2);
    for (word, mut places) in places {
        places.dedup();
        write!(out, "'{word}'").expect("a string takes everything");
        for (at, place) in places.iter().enumerate() {
            write!(out, "{}{place}", if at == 0 { ':' } else { ',' })
                .expect("a string takes everything");
        }
        out.push(' ');
    }
    out
}

/// The query as FTS5 reads it: `("a b" AND "c" *) NOT ("d" OR "e")`.
fn fts5(query: &Query) -> String {
    let term = |term: &Term| {
        let star = if term.is_prefix { " *" } else { "" };
        format!("\"{}\"{star}", term.words.join(" "))
    };
    let all = |terms: &[Term], between: &str| {
        format!("({})", terms.iter().map(term).collect::<Vec<_>>().join(between))
    };
    let wanted = all(&query.wanted, " AND ");
    if query.unwanted.is_empty() {
        return wanted;
    }
    format!("{wanted} NOT {}", all(&query.unwanted, " OR "))
}

/// The query as PostgreSQL reads it: `('a' <-> 'b') & ('c':*) & !('d')`.
fn tsquery(query: &Query) -> String {
    let term = |term: &Term| {
        let star = if term.is_prefix { ":*" } else { "" };
        let words: Vec<_> = term.words.iter().map(|word| format!("'{word}'")).collect();
        format!("({}{star})", words.join(" <-> "))
    };
    let wanted = query.wanted.iter().map(term);
    let unwanted = query.unwanted.iter().map(|one| format!("!{}", term(one)));
    wanted.chain(unwanted).collect::<Vec<_>>().join(" & ")
}

/// Adds the conditions of a filter on `m`, the messages, and `s`, their sessions.
macro_rules! push_search_filter {
    ($query:expr, $filter:expr) => {
        if let Some(session) = $filter.session {
            $query.push(" AND m.session_id = ").push_bind(Text(session));
        }
        if let Some(project) = $filter.project {
            $query.push(" AND s.project_id = ").push_bind(Text(project));
        }
        if let Some(assistant) = &$filter.assistant {
            $query.push(" AND s.assistant = ").push_bind(assistant.as_str().to_owned());
        }
        if let Some(role) = $filter.role {
            $query.push(" AND m.role = ").push_bind(role.as_str());
        }
        if let Some(since) = $filter.since {
            $query.push(" AND m.at >= ").push_bind(DbTime(since));
        }
        if let Some(until) = $filter.until {
            $query.push(" AND m.at < ").push_bind(DbTime(until));
        }
    };
}
pub(crate) use push_search_filter;

impl Store {
    /// Messages that have all the words of a query, the best first: their numbers and how good they
    /// are, which compares within one answer only.
    pub async fn message_search(
        &self,
        query: &Query,
        filter: &SearchFilter,
        limit: u32,
    ) -> Result<Vec<(i64, f64)>, StoreError> {
        let what = "searching messages";
        let mut reader = self.read().await?;
        match reader.conn() {
            Conn::Postgres(conn, deadline) => {
                let mut sql = QueryBuilder::new("WITH wanted AS (SELECT ");
                sql.push_bind(tsquery(query)).push(
                    "::tsquery AS query), found AS MATERIALIZED (SELECT m.id, m._words FROM messages AS m",
                );
                if *filter != SearchFilter::default() {
                    sql.push(" JOIN sessions AS s ON s.id = m.session_id");
                }
                sql.push(" WHERE m._words @@ (SELECT query FROM wanted)");
                push_search_filter!(sql, filter);
                sql.push(" ORDER BY m.at DESC, m.id DESC LIMIT ").push_bind(RANKED_MAX);
                sql.push(
                    ") SELECT id, ts_rank(_words, query, 1)::float8 AS score FROM found, wanted
                    ORDER BY score DESC, id DESC LIMIT ",
                );
                sql.push_bind(i64::from(limit));
                deadline.keep(sql.build_query_as().fetch_all(conn)).await
            }
            Conn::Sqlite(conn) => {
                let mut sql =
                    QueryBuilder::new("SELECT w.rowid, -w.rank FROM _message_words(");
                sql.push_bind(fts5(query)).push(") AS w");
                if *filter != SearchFilter::default() {
                    sql.push(" JOIN messages AS m ON m.id = w.rowid");
                    sql.push(" JOIN sessions AS s ON s.id = m.session_id");
                }
                sql.push(" WHERE true");
                push_search_filter!(sql, filter);
                sql.push(" ORDER BY w.rank LIMIT ").push_bind(i64::from(limit));
                sql.build_query_as().fetch_all(conn).await
            }
        }
        .map_err(doing(what))
    }

    /// The messages of these numbers, in this order. What is gone by now is left out.
    pub async fn message_numbered(&self, numbers: &[i64]) -> Result<Vec<KeptMessage>, StoreError> {
        if numbers.is_empty() {
            return Ok(Vec::new());
        }
        let mut reader = self.read().await?;
        let rows: Vec<MessageRow> = on!(reader, |conn| {
            let mut sql = QueryBuilder::new(HITS);
            sql.push(" WHERE m.id IN (");
            let mut between = sql.separated(", ");
            for number in numbers {
                between.push_bind(*number);
            }
            sql.push(")");
            sql.build_query_as().fetch_all(conn).await
        })
        .map_err(doing("reading messages"))?;
        let mut found: HashMap<i64, MessageRow> =
            rows.into_iter().map(|row| (row.id, row)).collect();
        let rows = numbers.iter().filter_map(|number| found.remove(number));
        rows.map(MessageRow::into_kept).collect()
    }

    /// Messages of a session, oldest first, after one of them or from the beginning.
    pub async fn message_list(
        &self,
        session: SessionId,
        after: Option<(Timestamp, i64)>,
        limit: u32,
    ) -> Result<Vec<KeptMessage>, StoreError> {
        // The earliest time that both databases have.
        let (at, number) = after.unwrap_or((Timestamp::UNIX_EPOCH, -1));
        let mut reader = self.read().await?;
        let rows: Vec<MessageRow> = on!(reader, |conn| sqlx::query_as(OF_SESSION)
            .bind(Text(session))
            .bind(DbTime(at))
            .bind(number)
            .bind(i64::from(limit))
            .fetch_all(conn)
            .await)
        .map_err(doing("listing messages"))?;
        rows.into_iter().map(MessageRow::into_kept).collect()
    }

    /// One message of a session, by the id that the assistant has for it.
    pub async fn message_get(
        &self,
        session: SessionId,
        id: &str,
    ) -> Result<KeptMessage, StoreError> {
        let mut reader = self.read().await?;
        let row: Option<MessageRow> = on!(reader, |conn| sqlx::query_as(ONE)
            .bind(Text(session))
            .bind(kept(id, ID_MAX))
            .fetch_optional(conn)
            .await)
        .map_err(doing("reading a message"))?;
        let row = row.ok_or_else(|| StoreError::NotFound { noun: "message", wanted: id.into() })?;
        row.into_kept()
    }

    /// How many messages of a session are known.
    pub async fn message_count(&self, session: SessionId) -> Result<u64, StoreError> {
        let mut reader = self.read().await?;
        let count: i64 =
            on!(reader, |conn| sqlx::query_scalar(COUNT).bind(Text(session)).fetch_one(conn).await)
                .map_err(doing("counting messages"))?;
        Ok(count.unsigned_abs())
    }

    /// Writes down messages by themselves, of sessions that are there; answers how many are new.
    pub async fn message_record(
        &self,
        messages: &[(SessionId, &Message)],
    ) -> Result<usize, StoreError> {
        crate::retry::retried!({
            let mut tx = self.begin().await?;
            let is_new = insert(&mut tx, messages).await?;
            tx.commit().await?;
            Ok(is_new.into_iter().filter(|is_new| *is_new).count())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_put_together_of_folded_words_only() {
        let evil = Query::parse("\"a' OR b\" -x*) NEAR(y \"z\" |'&! col:umn*").unwrap();
        assert_eq!(
            fts5(&evil),
            "(\"a or b\" AND \"near y\" AND \"z\" AND \"col umn\" *) NOT (\"x\")"
        );
        assert_eq!(
            tsquery(&evil),
            "('a' <-> 'or' <-> 'b') & ('near' <-> 'y') & ('z') & ('col' <-> 'umn':*) & !('x')"
        );
    }

    #[test]
    fn words_have_their_places() {
        assert_eq!(words_with_places("The cat, the CAT & dog"), "'cat':2,4 'dog':5 'the':1,3 ");
        assert_eq!(words_with_places(" - "), "");
        let long = words_with_places(&"x ".repeat(20_000));
        assert!(long.len() < 2000 && long.contains("255"), "{long}");
    }

    #[test]
    fn what_is_kept_is_bounded_and_has_no_nul() {
        assert_eq!(kept("a\0b", 10), "a b");
        assert_eq!(kept("ééé", 3), "é");
    }
}
