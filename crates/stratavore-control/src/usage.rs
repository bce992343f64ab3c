//! What was used: reports of the ledger, and the rows that they are made of.

use std::collections::{BTreeMap, BTreeSet};

use stratavore_core::caller::Caller;
use stratavore_core::usage::{LedgerRow, UsageBy, UsageFilter, UsageGroup, UsageSums};
use stratavore_core::{ProjectId, RunnerId, SessionId, Timestamp};
use stratavore_store::UsagePlace;

use crate::bounds;
use crate::control::Control;
use crate::error::Error;
use crate::notify::find_zone;
use crate::session::inside;

const LIST_DEFAULT: u32 = 100;
const LIST_MAX: u32 = 1000;
/// The most characters of what a group is called.
const LABEL_MAX: usize = 100;

/// Which messages are meant, in people's words; what is empty is any.
#[derive(Debug, Clone, Default)]
pub struct UsageQuery {
    pub project: String,
    pub session: String,
    pub runner: String,
    pub assistant: String,
    pub model: String,
    pub since: Option<Timestamp>,
    pub until: Option<Timestamp>,
}

/// A line of a report, with what it is called for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedGroup {
    pub of: String,
    pub label: String,
    pub sums: UsageSums,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsageReport {
    pub by: UsageBy,
    pub groups: Vec<NamedGroup>,
    /// What is over the limit of groups, and how many groups that are.
    pub others: UsageSums,
    pub more: usize,
    pub total: UsageSums,
}

/// Rows of the ledger of one thing, and what is to be known of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsageExplained {
    pub noun: &'static str,
    pub id: String,
    pub label: String,
    pub rows: Vec<LedgerRow>,
    pub total: UsageSums,
    /// What no source of these assistants tells.
    pub not_covered: BTreeMap<String, &'static [&'static str]>,
    /// Where the next page begins, if there may be one.
    pub next: Option<String>,
}

/// What somebody wants to have explained.
enum About {
    Project(ProjectId, String),
    Session(SessionId, String),
    Runner(RunnerId, String),
}

impl Control {
    /// Sums of what was used, by what is asked for. A program inside a runner has those of its own
    /// runner, whatever it asks for.
    pub async fn usage_report(
        &self,
        caller: &Caller,
        by: &str,
        query: &UsageQuery,
        zone: &str,
        limit: u32,
    ) -> Result<UsageReport, Error> {
        let by = UsageBy::parse(by).ok_or_else(|| {
            let known: Vec<&str> = UsageBy::ALL.iter().map(|by| by.as_str()).collect();
            Error::invalid(
                format!("there is no report by `{}`", by.escape_debug()),
                format!("use one of {}", known.join(", ")),
            )
        })?;
        let zone = find_zone(if zone.is_empty() { "UTC" } else { zone })?;
        let filter = self.usage_filter(caller, query).await?;
        let mut groups = self.inner.store.usage_report(by, &filter, &zone).await?;
        let total = groups.iter().map(|group| group.sums).sum();
        let limit = if limit == 0 { LIST_DEFAULT } else { limit.min(LIST_MAX) } as usize;
        // Of days the last ones are wanted, of all else the largest.
        let cut = groups.len().saturating_sub(limit);
        let others = match by {
            UsageBy::Day => groups.drain(..cut).map(|group| group.sums).sum(),
            UsageBy::Project
            | UsageBy::Runner
            | UsageBy::Session
            | UsageBy::Model
            | UsageBy::Assistant => {
                let kept = groups.len() - cut;
                groups.drain(kept..).map(|group| group.sums).sum()
            }
        };
        Ok(UsageReport { by, groups: self.named(by, groups).await?, others, more: cut, total })
    }

    /// Rows of the ledger of a runner, session or project, the latest first.
    pub async fn usage_explain(
        &self,
        caller: &Caller,
        about: &str,
        query: &UsageQuery,
        limit: u32,
        page: &str,
    ) -> Result<UsageExplained, Error> {
        let about = self.about(caller, about).await?;
        let mut filter = self.usage_filter(caller, query).await?;
        let (noun, id, label) = match about {
            About::Project(id, name) => {
                filter.project = Some(id);
                ("project", id.to_string(), name)
            }
            About::Session(id, label) => {
                filter.session = Some(id);
                ("session", id.to_string(), label)
            }
            About::Runner(id, name) => {
                filter.runner = Some(id);
                ("runner", id.to_string(), name)
            }
        };
        let limit = if limit == 0 { LIST_DEFAULT } else { limit.min(LIST_MAX) };
        let before = (!page.is_empty()).then(|| place(page)).transpose()?;
        let mut rows = self.inner.store.usage_rows(&filter, before.as_ref(), limit).await?;
        let fitting = bounds::fitting(rows.iter().map(size));
        let goes_on = rows.len() >= limit as usize || fitting < rows.len();
        rows.truncate(fitting);
        let next = rows.last().filter(|_| goes_on).map(page_after);
        let utc = jiff::tz::TimeZone::UTC;
        let assistants = self.inner.store.usage_report(UsageBy::Assistant, &filter, &utc).await?;
        let not_covered = assistants
            .iter()
            .map(|group| (group.of.clone(), stratavore_assistants::not_covered(&group.of)));
        let not_covered = not_covered.collect();
        let total = assistants.iter().map(|group| group.sums).sum();
        Ok(UsageExplained { noun, id, label, rows, total, not_covered, next })
    }

    /// What a person means by a text that may name a runner, a session or a project: by its id
    /// whatever it is an id of, else the first of these that there is.
    async fn about(&self, caller: &Caller, wanted: &str) -> Result<About, Error> {
        let begins = |prefix: &str| wanted.strip_prefix(prefix).is_some_and(|r| r.starts_with('_'));
        let session = || async {
            let session = self.session(caller, wanted).await?;
            let label = session.label().unwrap_or_default().to_owned();
            Ok(About::Session(session.id, label))
        };
        let project = || async {
            let project = self.project(wanted).await?;
            Ok(About::Project(project.id, project.name.to_string()))
        };
        let runner = || async {
            let runner = self.runner(wanted, None).await?;
            Ok(About::Runner(runner.id, runner.name.to_string()))
        };
        let found = if begins(SessionId::PREFIX) {
            session().await
        } else if begins(ProjectId::PREFIX) {
            project().await
        } else if begins(RunnerId::PREFIX) {
            runner().await
        } else {
            let mut found = runner().await;
            for other in 0..2 {
                if !matches!(found, Err(Error::NotFound { .. })) {
                    break;
                }
                let next = if other == 0 { project().await } else { session().await };
                // Names that are alike are those of runners.
                if !matches!(next, Err(Error::NotFound { .. })) {
                    found = next;
                }
            }
            found
        }?;
        match (inside(caller), &found) {
            (Some(own), About::Runner(id, _)) if *id != own => Err(foreign(own)),
            (Some(own), About::Project(..)) => Err(foreign(own)),
            (Some(_) | None, _) => Ok(found),
        }
    }

    async fn usage_filter(
        &self,
        caller: &Caller,
        query: &UsageQuery,
    ) -> Result<UsageFilter, Error> {
        let UsageQuery { project, session, runner, assistant, model, since, until } = query;
        let given = |text: &String| (!text.is_empty()).then(|| text.clone());
        if let (Some(since), Some(until)) = (since, until)
            && since >= until
        {
            return Err(Error::invalid(
                format!("{since} is not before {until}"),
                "give a --since that is before --until",
            ));
        }
        let mut filter = UsageFilter {
            assistant: given(assistant),
            model: given(model),
            since: *since,
            until: *until,
            ..UsageFilter::default()
        };
        if !project.is_empty() {
            filter.project = Some(self.project(project).await?.id);
        }
        if !session.is_empty() {
            filter.session = Some(self.session(caller, session).await?.id);
        }
        if !runner.is_empty() {
            let project = (!project.is_empty()).then_some(&**project);
            filter.runner = Some(self.runner(runner, project).await?.id);
        }
        if let Some(own) = inside(caller) {
            if filter.runner.is_some_and(|runner| runner != own) {
                return Err(foreign(own));
            }
            filter.runner = Some(own);
        }
        Ok(filter)
    }

    async fn named(&self, by: UsageBy, groups: Vec<UsageGroup>) -> Result<Vec<NamedGroup>, Error> {
        let store = &self.inner.store;
        let labels: BTreeMap<String, String> = match by {
            UsageBy::Project => {
                let names = store.project_names(&ids(&groups)).await?;
                names.into_iter().map(|(id, name)| (id.to_string(), name)).collect()
            }
            UsageBy::Runner => {
                let names = store.runner_names(&ids(&groups)).await?;
                names.into_iter().map(|(id, name)| (id.to_string(), name.into())).collect()
            }
            UsageBy::Session => {
                let labels = store.session_labels(&ids(&groups)).await?;
                labels.into_iter().map(|(id, label)| (id.to_string(), label)).collect()
            }
            UsageBy::Model | UsageBy::Day | UsageBy::Assistant => BTreeMap::new(),
        };
        let named = groups.into_iter().map(|UsageGroup { of, sums }| {
            let label = labels.get(&of).unwrap_or(&of).chars().take(LABEL_MAX).collect();
            NamedGroup { of, label, sums }
        });
        Ok(named.collect())
    }
}

fn foreign(own: RunnerId) -> Error {
    Error::Forbidden {
        message: format!("a program inside {own} may not see what others have used"),
    }
}

fn ids<T: Ord + std::str::FromStr>(groups: &[UsageGroup]) -> BTreeSet<T> {
    groups.iter().filter_map(|group| group.of.parse().ok()).collect()
}

/// About how many bytes a row's texts have.
fn size(row: &LedgerRow) -> usize {
    let record = &row.record;
    let texts = [&record.key, &record.session, &record.model, &record.place.file];
    let ids = record.request_id.iter().chain(&record.message_id);
    texts.into_iter().chain(ids).map(String::len).sum::<usize>() + 400
}

fn page_after(row: &LedgerRow) -> String {
    format!("{}/{}/{}", row.record.at.as_microsecond(), row.assistant, row.record.key)
}

fn place(page: &str) -> Result<UsagePlace, Error> {
    let read = || {
        let (at, rest) = page.split_once('/')?;
        let at = Timestamp::from_microsecond(at.parse().ok()?).ok()?;
        Some((at, rest))
    };
    let wrong = || {
        Error::invalid(
            format!("`{}` is no page of the ledger", page.escape_debug()),
            "give what the page before said is next",
        )
    };
    let (at, rest) = read().ok_or_else(wrong)?;
    let (assistant, key) = rest.split_once('/').ok_or_else(wrong)?;
    Ok(UsagePlace { at, assistant: assistant.into(), key: key.into() })
}
