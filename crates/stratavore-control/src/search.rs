//! Search over what was said in conversations: by words and by meaning, as one list.

use std::collections::{BTreeSet, HashMap};

use stratavore_core::caller::{Caller, Principal};
use stratavore_core::search::{
    FoundBy, Hit, Query, QueryError, RESULTS_MAX, SearchFilter, rank_score, snippet,
};
use stratavore_core::{ProjectId, SessionId, Timestamp};
use stratavore_store::{KeptMessage, Store};

use crate::control::Control;
use crate::embedding::Embedder;
use crate::error::Error;

const PAGE: u32 = 20;
/// Bytes of text after which an answer is long enough.
const ANSWER_MAX: usize = 1 << 20;
/// What is only alike is a guess: of those the nearest only.
const ALIKE_MAX: u32 = 50;

/// By what is to be found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SearchBy {
    #[default]
    Both,
    Words,
    Meaning,
}

#[derive(Debug, Clone, Default)]
pub struct Search {
    pub text: String,
    pub filter: SearchFilter,
    pub by: SearchBy,
    /// 0: as many as a page has.
    pub limit: u32,
    /// How many are passed by.
    pub offset: u32,
}

/// A page of what was found.
#[derive(Debug, Clone, Default)]
pub struct SearchPage {
    pub hits: Vec<Hit>,
    /// There is more after it.
    pub has_more: bool,
    /// Why it may not be all.
    pub note: Option<String>,
}

/// What was found, in the order of how good it is.
#[derive(Default)]
struct Found {
    score: f64,
    by_words: bool,
    by_meaning: bool,
}

impl Control {
    /// What projects are called.
    pub async fn project_names(
        &self,
        ids: &BTreeSet<ProjectId>,
    ) -> Result<HashMap<ProjectId, String>, Error> {
        Ok(self.inner.store.project_names(ids).await?)
    }

    /// Looks for messages.
    pub async fn search(&self, caller: &Caller, search: Search) -> Result<SearchPage, Error> {
        let query = Query::parse(&search.text).map_err(|error| {
            let hint = match error {
                QueryError::NoWord | QueryError::OnlyUnwanted => "stratavore search WORDS",
                QueryError::TooLong(_) | QueryError::TooMuch(_) => "ask for less",
            };
            Error::invalid(format!("nothing can be looked for: {error}"), hint)
        })?;
        let filter = self.may_search(caller, search.filter).await?;
        let limit = if search.limit == 0 { PAGE } else { search.limit.min(RESULTS_MAX) };
        let finder = Finder {
            store: &self.inner.store,
            embedder: &self.inner.settings.embedder,
            now: self.now(),
        };
        finder.page(&query, &filter, search.by, limit, search.offset).await
    }

    /// How many messages wait for a vector.
    pub async fn messages_without_vector(&self) -> Result<u64, Error> {
        Ok(self.inner.store.embedding_pending_count().await?)
    }

    /// Messages of a session, oldest first, as many as fit into an answer; from one of them on if it is named.
    pub async fn messages(
        &self,
        caller: &Caller,
        session: SessionId,
        from: Option<&str>,
        after: Option<(Timestamp, i64)>,
        limit: u32,
    ) -> Result<Vec<KeptMessage>, Error> {
        let wanted = SearchFilter { session: Some(session), ..SearchFilter::default() };
        self.may_search(caller, wanted).await?;
        let after = match from {
            Some(id) => {
                let message = self.inner.store.message_get(session, id).await?;
                Some((message.message.at, message.number - 1))
            }
            None => after,
        };
        let limit = if limit == 0 { 100 } else { limit.min(1000) };
        let mut messages = self.inner.store.message_list(session, after, limit).await?;
        let mut bytes = 0;
        let fitting = messages.iter().take_while(|kept| {
            let fits = bytes < ANSWER_MAX;
            bytes += kept.message.text.len();
            fits
        });
        let fitting = fitting.count();
        messages.truncate(fitting);
        Ok(messages)
    }

    /// A program inside a runner finds what was said in the conversations of that runner, and nothing
    /// else; if it names none it means the one that the runner holds.
    async fn may_search(
        &self,
        caller: &Caller,
        filter: SearchFilter,
    ) -> Result<SearchFilter, Error> {
        let runner = match &caller.principal {
            Principal::User { .. } | Principal::Daemon => return Ok(filter),
            Principal::Inside(runner) => *runner,
            Principal::Agent(_) | Principal::Node(_) => {
                return Err(Error::Forbidden {
                    message: format!("{caller} may not read conversations"),
                });
            }
        };
        let found = self.inner.store.runner_get(runner).await?;
        let of_project = filter.project.is_none_or(|project| project == found.project);
        let session = filter.session.or(found.session).filter(|_| of_project);
        let held = match session {
            Some(session) => self.inner.store.session_is_held_by(session, runner).await?,
            None => false,
        };
        if !held {
            tracing::warn!(%runner, "a program inside a runner was refused a search");
            return Err(Error::Forbidden {
                message: format!(
                    "a program inside {runner} may not read the conversations of others"
                ),
            });
        }
        Ok(SearchFilter { session, ..filter })
    }
}

/// Looks for messages, whoever asks.
struct Finder<'a> {
    store: &'a Store,
    embedder: &'a Embedder,
    now: Timestamp,
}

impl Finder<'_> {
    async fn page(
        &self,
        query: &Query,
        filter: &SearchFilter,
        by: SearchBy,
        limit: u32,
        offset: u32,
    ) -> Result<SearchPage, Error> {
        let by_words = async {
            match by {
                SearchBy::Both | SearchBy::Words => {
                    self.store.message_search(query, filter, RESULTS_MAX).await
                }
                SearchBy::Meaning => Ok(Vec::new()),
            }
        };
        let by_meaning = async {
            match by {
                SearchBy::Both | SearchBy::Meaning => self.alike(query, filter).await,
                SearchBy::Words => (Vec::new(), None),
            }
        };
        let (by_words, (by_meaning, note)) = tokio::join!(by_words, by_meaning);
        let ranked = ranked(by_words?, by_meaning);

        // One more than is shown tells whether there is more.
        let mut hits = Vec::new();
        let mut passed = 0;
        let mut has_more = false;
        'pages: for page in ranked.chunks(limit as usize + 1) {
            let numbers: Vec<i64> = page.iter().map(|(number, _)| *number).collect();
            let kept = self.store.message_numbered(&numbers).await?;
            let mut kept: HashMap<i64, KeptMessage> =
                kept.into_iter().map(|message| (message.number, message)).collect();
            for (number, found) in page {
                let Some(message) = kept.remove(number) else { continue };
                // Words were looked for without them; what is alike was not.
                if !found.by_words && query.forbids(&message.message.text) {
                    continue;
                }
                if passed < offset {
                    passed += 1;
                    continue;
                }
                if hits.len() == limit as usize {
                    has_more = true;
                    break 'pages;
                }
                hits.push(hit(query, message, found));
            }
        }
        Ok(SearchPage { hits, has_more, note })
    }

    /// Messages that are alike, the nearest first, and why they may not be all.
    async fn alike(
        &self,
        query: &Query,
        filter: &SearchFilter,
    ) -> (Vec<(i64, f32)>, Option<String>) {
        let embedder = self.embedder;
        let Some(name) = embedder.name() else { return (Vec::new(), None) };
        let failed = |why: String| {
            (Vec::new(), Some(format!("only words were looked for, and not their meaning: {why}")))
        };
        let vector = match embedder.embed(std::slice::from_ref(&query.text), self.now).await {
            Ok(vectors) => vectors.into_iter().next().unwrap_or_default(),
            Err(why) => return failed(why),
        };
        match self.store.embedding_nearest(name, &vector, filter, ALIKE_MAX).await {
            Ok(mut near) => {
                near.retain(|(_, likeness)| *likeness >= embedder.floor());
                (near, None)
            }
            Err(error) => failed(error.to_string()),
        }
    }
}

/// Both lists as one: what is high in either, and higher if it is in both.
fn ranked(by_words: Vec<(i64, f64)>, by_meaning: Vec<(i64, f32)>) -> Vec<(i64, Found)> {
    let mut found: HashMap<i64, Found> = HashMap::new();
    for (rank, (number, _)) in by_words.into_iter().enumerate() {
        let one = found.entry(number).or_default();
        one.score += rank_score(rank);
        one.by_words = true;
    }
    for (rank, (number, _)) in by_meaning.into_iter().enumerate() {
        let one = found.entry(number).or_default();
        one.score += rank_score(rank);
        one.by_meaning = true;
    }
    let mut ranked: Vec<(i64, Found)> = found.into_iter().collect();
    // Of two that are as good the one that has the words, and then the newer one.
    ranked.sort_by(|(a, one), (b, other)| {
        let by_score = other.score.total_cmp(&one.score);
        by_score.then(other.by_words.cmp(&one.by_words)).then(b.cmp(a))
    });
    ranked
}

fn hit(query: &Query, kept: KeptMessage, found: &Found) -> Hit {
    let KeptMessage { session, project, assistant, message, .. } = kept;
    Hit {
        session,
        project,
        assistant,
        external_id: Some(message.session).filter(|id| !id.is_empty()),
        snippet: snippet(&message.text, query),
        message: message.id,
        role: message.role,
        at: message.at,
        model: message.model,
        place: message.place,
        score: found.score,
        found_by: match (found.by_words, found.by_meaning) {
            (true, true) => FoundBy::Both,
            (false, true) => FoundBy::Meaning,
            (true, false) | (false, false) => FoundBy::Words,
        },
    }
}

#[cfg(test)]
mod tests;
