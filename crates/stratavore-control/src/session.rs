//! Sessions: the conversations of assistants, found, shown and forgotten.

use std::collections::BTreeSet;

use stratavore_core::caller::{Caller, Principal};
use stratavore_core::idempotency::Idempotency;
use stratavore_core::name::Name;
use stratavore_core::session::{Held, Session};
use stratavore_core::usage::{UsageBy, UsageFilter, UsageSums};
use stratavore_core::{RunnerId, SessionId, Timestamp};
use stratavore_store::{SessionFilter, StoreError};

use crate::bounds;
use crate::control::Control;
use crate::error::Error;
use crate::usage::NamedGroup;

const LIST_DEFAULT: u32 = 100;
const LIST_MAX: u32 = 1000;
/// The most characters of a text that is looked for.
const TEXT_MAX: usize = 200;

/// Which sessions a list shows, in people's words.
#[derive(Debug, Clone, Default)]
pub struct SessionQuery {
    pub project: String,
    pub assistant: String,
    pub text: String,
    /// `live`, `ended`, or empty for both.
    pub state: String,
    /// 0: as many as usual.
    pub limit: u32,
    /// Where the page begins, as the page before said; empty: the first one.
    pub page: String,
}

/// A session, with what it belongs to by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionView {
    pub session: Session,
    pub project: String,
    /// The runner that holds it.
    pub runner: Option<Name>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionPage {
    pub sessions: Vec<SessionView>,
    /// Where the next page begins, if there may be one.
    pub next: Option<String>,
}

/// All that is known of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionDetails {
    pub view: SessionView,
    pub parent: Option<SessionView>,
    pub children: Vec<SessionView>,
    pub held: Vec<Held>,
    pub usage: UsageSums,
    pub by_model: Vec<NamedGroup>,
}

impl Control {
    /// The session that a person means. A program inside a runner means one that its own has held.
    pub async fn session(&self, caller: &Caller, wanted: &str) -> Result<Session, Error> {
        let found = match self.inner.store.session_find(wanted).await {
            Err(StoreError::NotFound { .. }) => {
                Err(Error::NotFound { noun: "session", wanted: wanted.into(), nearest: Vec::new() })
            }
            found => Ok(found?),
        };
        let Some(inside) = inside(caller) else { return found };
        // Whether there is one that it may not see is not told either.
        let foreign = || Error::Forbidden {
            message: format!("a program inside {inside} may not see sessions of others"),
        };
        let session = found.map_err(|_| foreign())?;
        match self.inner.store.session_is_held_by(session.id, inside).await? {
            true => Ok(session),
            false => Err(foreign()),
        }
    }

    pub async fn session_list(
        &self,
        caller: &Caller,
        query: SessionQuery,
    ) -> Result<SessionPage, Error> {
        let SessionQuery { project, assistant, text, state, limit, page } = query;
        if text.chars().count() > TEXT_MAX {
            return Err(Error::invalid(
                format!("a text to look for has at most {TEXT_MAX} characters"),
                "look for a part of it",
            ));
        }
        let limit = if limit == 0 { LIST_DEFAULT } else { limit.min(LIST_MAX) };
        let filter = SessionFilter {
            project: match &*project {
                "" => None,
                project => Some(self.project(project).await?.id),
            },
            assistant: (!assistant.is_empty()).then_some(assistant),
            held_by: inside(caller),
            last_held_by: None,
            text: (!text.is_empty()).then_some(text),
            live: match &*state {
                "" => None,
                "live" => Some(true),
                "ended" => Some(false),
                other => {
                    return Err(Error::invalid(
                        format!("`{}` is no state of a session", other.escape_debug()),
                        "use live or ended",
                    ));
                }
            },
            limit: Some(limit),
            before: (!page.is_empty()).then(|| place(&page)).transpose()?,
        };
        let mut sessions = self.inner.store.session_list(&filter).await?;
        let is_full = sessions.len() >= limit as usize;
        let fitting = bounds::fitting(sessions.iter().map(size));
        let is_cut = fitting < sessions.len();
        sessions.truncate(fitting);
        let next = match sessions.last() {
            Some(last) if is_full || is_cut => {
                Some(format!("{}.{}", last.updated_at.as_microsecond(), last.id))
            }
            Some(_) | None => None,
        };
        Ok(SessionPage { sessions: self.session_views(sessions).await?, next })
    }

    /// All that is known of a session, with what was used in it.
    pub async fn session_show(
        &self,
        caller: &Caller,
        wanted: &str,
    ) -> Result<SessionDetails, Error> {
        let id = self.session(caller, wanted).await?.id;
        let story = self.inner.store.session_show(id).await?;
        let filter =
            UsageFilter { session: Some(id), runner: inside(caller), ..UsageFilter::default() };
        let utc = jiff::tz::TimeZone::UTC;
        let models = self.inner.store.usage_report(UsageBy::Model, &filter, &utc).await?;
        let usage = models.iter().map(|group| group.sums).sum();
        let by_model = models.into_iter().map(|group| NamedGroup {
            label: group.of.clone(),
            of: group.of,
            sums: group.sums,
        });
        // Another runner's conversations are not this one's to see.
        let related = match inside(caller) {
            None => (story.parent, story.children),
            Some(_) => (None, Vec::new()),
        };
        let mut held = story.held;
        if let Some(inside) = inside(caller) {
            held.retain(|held| held.runner == inside);
        }
        let parents = self.session_views(related.0.into_iter().collect()).await?;
        let mut views = self.session_views(vec![story.session]).await?;
        Ok(SessionDetails {
            view: views.pop().ok_or_else(|| Error::internal("a session without a view"))?,
            parent: parents.into_iter().next(),
            children: self.session_views(related.1).await?,
            held,
            usage,
            by_model: by_model.collect(),
        })
    }

    /// Forgets what a session is called and takes it out of lists.
    pub async fn session_remove(
        &self,
        caller: &Caller,
        wanted: &str,
        key: Option<Idempotency>,
    ) -> Result<SessionView, Error> {
        self.may_change(caller, "remove sessions")?;
        if let Some(answer) = self.answered::<Session>(key.as_ref()).await? {
            return self.session_view(answer).await;
        }
        let id = self.session(caller, wanted).await?.id;
        let by = self.by(caller, key.as_ref());
        let removed = self.inner.store.session_remove(id, &by, self.now(), key.as_ref()).await?;
        self.inner.relay_wake.notify_one();
        self.session_view(removed).await
    }

    async fn session_view(&self, session: Session) -> Result<SessionView, Error> {
        let mut views = self.session_views(vec![session]).await?;
        views.pop().ok_or_else(|| Error::internal("a session without a view"))
    }

    async fn session_views(&self, sessions: Vec<Session>) -> Result<Vec<SessionView>, Error> {
        let projects = sessions.iter().map(|session| session.project).collect();
        let projects = self.inner.store.project_names(&projects).await?;
        let runners: BTreeSet<RunnerId> = sessions.iter().filter_map(|s| s.runner).collect();
        let runners = match runners.is_empty() {
            true => Default::default(),
            false => self.inner.store.runner_names(&runners).await?,
        };
        let view = |session: Session| SessionView {
            project: projects.get(&session.project).cloned().unwrap_or_default(),
            runner: session.runner.and_then(|id| runners.get(&id).cloned()),
            session,
        };
        Ok(sessions.into_iter().map(view).collect())
    }
}

/// The runner that the caller is a program in, if it is one.
pub(crate) fn inside(caller: &Caller) -> Option<RunnerId> {
    match &caller.principal {
        Principal::Inside(runner) => Some(*runner),
        Principal::User { .. } | Principal::Daemon | Principal::Agent(_) | Principal::Node(_) => {
            None
        }
    }
}

/// About how many bytes a session's texts have.
fn size(session: &Session) -> usize {
    let texts = [
        &session.external_id,
        &session.title,
        &session.first_prompt,
        &session.directory,
        &session.transcript,
    ];
    let texts = texts.into_iter().flatten().chain(&session.models);
    texts.map(String::len).sum::<usize>() + 400
}

fn place(page: &str) -> Result<(Timestamp, SessionId), Error> {
    let read = || {
        let (at, id) = page.split_once('.')?;
        Some((Timestamp::from_microsecond(at.parse().ok()?).ok()?, id.parse().ok()?))
    };
    read().ok_or_else(|| {
        Error::invalid(
            format!("`{}` is no page of sessions", page.escape_debug()),
            "give what the page before said is next",
        )
    })
}
