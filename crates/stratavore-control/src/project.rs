//! Projects.

use std::collections::HashMap;
use std::path::Path;

use serde_json::json;
use stratavore_core::caller::Caller;
use stratavore_core::event::NewEvent;
use stratavore_core::idempotency::Idempotency;
use stratavore_core::limits::Limits;
use stratavore_core::name::{Name, Reference};
use stratavore_core::project::{Project, ProjectEdit};
use stratavore_core::quota::Quota;
use stratavore_core::{ProjectId, Timestamp};
use stratavore_runtime::failpoint;
use stratavore_store::StoreError;

use crate::control::{CONFLICTS, Control};
use crate::error::Error;
use crate::launch::{parse_name, resolve_directory};

/// How unlike a name may be to be suggested, and how many are.
const NEAR: f64 = 0.6;
const SUGGESTIONS: usize = 3;

impl Control {
    /// The project that a person means.
    pub async fn project(&self, wanted: &str) -> Result<Project, Error> {
        match self.inner.store.project_find(&Reference::parse(wanted, "prj")).await {
            Ok(project) => Ok(project),
            Err(StoreError::NotFound { .. }) => {
                let names = self.inner.store.project_list(false).await?;
                let names = names.into_iter().map(|project| project.name.to_string()).collect();
                Err(Error::NotFound {
                    noun: "project",
                    wanted: wanted.into(),
                    nearest: nearest(wanted, names),
                })
            }
            Err(error) => Err(error.into()),
        }
    }

    /// How many runners live, by their projects; a project of none is left out.
    pub async fn live_runners(&self) -> Result<HashMap<ProjectId, u32>, Error> {
        Ok(self.inner.store.project_live_counts().await?)
    }

    /// How many runners of one project live.
    pub async fn live_runners_of(&self, id: ProjectId) -> Result<u32, Error> {
        Ok(self.inner.store.project_live_count(id).await?)
    }

    /// A project's name for showing; its id if it cannot be had.
    pub async fn project_name(&self, id: ProjectId) -> String {
        match self.inner.store.project_find(&Reference::parse(&id.to_string(), "prj")).await {
            Ok(project) => project.name.to_string(),
            Err(_) => id.to_string(),
        }
    }

    pub async fn project_list(&self, archived: bool) -> Result<Vec<Project>, Error> {
        Ok(self.inner.store.project_list(archived).await?)
    }

    #[expect(clippy::too_many_arguments, reason = "each is one field of what is asked for")]
    pub async fn project_create(
        &self,
        caller: &Caller,
        name: &str,
        directory: &str,
        description: String,
        assistant: Option<&str>,
        quota: Quota,
        runner_limits: Limits,
        key: Option<Idempotency>,
    ) -> Result<Project, Error> {
        self.may_change(caller, "create projects")?;
        if let Some(answer) = self.answered(key.as_ref()).await? {
            return Ok(answer);
        }
        let now = self.now();
        let project = Project {
            id: ProjectId::from_entropy(self.entropy()),
            name: parse_name(name)?,
            directory: resolve_directory(Path::new(directory))?,
            description: checked_description(description)?,
            assistant: assistant.map(|name| self.parse_assistant(name)).transpose()?,
            quota,
            runner_limits,
            generation: 1,
            created_at: now,
            updated_at: now,
            archived_at: None,
            deleted_at: None,
        };
        let project = self
            .inner
            .store
            .project_create(&project, &self.by(caller, key.as_ref()), key.as_ref())
            .await?;
        failpoint("project_committed");
        self.inner.relay_wake.notify_one();
        Ok(project)
    }

    pub async fn project_edit(
        &self,
        caller: &Caller,
        wanted: &str,
        edit: ProjectEdit,
        key: Option<Idempotency>,
    ) -> Result<Project, Error> {
        let edit = ProjectEdit {
            directory: edit
                .directory
                .map(|path| resolve_directory(Path::new(&path)))
                .transpose()?,
            description: edit.description.map(checked_description).transpose()?,
            assistant: edit
                .assistant
                .map(|name| self.parse_assistant(name.as_str()))
                .transpose()?,
            ..edit
        };
        let data = serde_json::to_value(&edit).map_err(Error::internal)?;
        self.project_change(caller, wanted, key, |project, now| {
            (project.edited(edit.clone(), now), NewEvent::new("project.edited", data.clone()))
        })
        .await
    }

    /// Archives a project, or brings it back. Refused while runners of it live.
    pub async fn project_archive(
        &self,
        caller: &Caller,
        wanted: &str,
        restore: bool,
        key: Option<Idempotency>,
    ) -> Result<Project, Error> {
        self.project_change(caller, wanted, key, |project, now| {
            let kind = if restore { "project.restored" } else { "project.archived" };
            let archived_at = if restore { None } else { project.archived_at.or(Some(now)) };
            (
                Project { archived_at, ..project.edited(ProjectEdit::default(), now) },
                NewEvent::new(kind, json!({})),
            )
        })
        .await
    }

    /// Archives a project for good: it is no longer shown, and retention removes its history.
    pub async fn project_delete(
        &self,
        caller: &Caller,
        wanted: &str,
        key: Option<Idempotency>,
    ) -> Result<Project, Error> {
        self.project_change(caller, wanted, key, |project, now| {
            let archived_at = project.archived_at.or(Some(now));
            let next = Project {
                archived_at,
                deleted_at: Some(now),
                ..project.edited(ProjectEdit::default(), now)
            };
            (next, NewEvent::new("project.deleted", json!({})))
        })
        .await
    }

    /// An assistant that we know, or that the configuration names.
    pub(crate) fn parse_assistant(&self, name: &str) -> Result<Name, Error> {
        let name = parse_name(name)?;
        if !self.inner.settings.assistants.contains_key(name.as_str()) {
            stratavore_assistants::check(&name)?;
        }
        Ok(name)
    }

    /// Reads a project and writes what `change` makes of it; if somebody else wrote in between,
    /// decides anew on what is there now.
    async fn project_change(
        &self,
        caller: &Caller,
        wanted: &str,
        key: Option<Idempotency>,
        change: impl Fn(&Project, Timestamp) -> (Project, NewEvent),
    ) -> Result<Project, Error> {
        self.may_change(caller, "change projects")?;
        if let Some(answer) = self.answered(key.as_ref()).await? {
            return Ok(answer);
        }
        let by = self.by(caller, key.as_ref());
        let mut last = None;
        for _ in 0..CONFLICTS {
            let seen = self.project(wanted).await?;
            let (next, event) = change(&seen, self.now());
            match self.inner.store.project_write(&seen, &next, event, &by, key.as_ref()).await {
                Ok(written) => {
                    failpoint("project_committed");
                    self.inner.relay_wake.notify_one();
                    return Ok(written);
                }
                Err(error @ StoreError::Conflict { .. }) => last = Some(error),
                Err(error) => return Err(error.into()),
            }
        }
        Err(last.map_or_else(|| Error::internal("no attempt was made"), Error::from))
    }
}

fn checked_description(text: String) -> Result<String, Error> {
    const LIMIT: usize = 1000;
    match text.chars().count() {
        length if length > LIMIT => Err(Error::invalid(
            format!("a description has at most {LIMIT} characters, this one has {length}"),
            "shorten it",
        )),
        _ => Ok(text),
    }
}

/// The names that `wanted` was perhaps meant to be, best first.
pub(crate) fn nearest(wanted: &str, names: Vec<String>) -> Vec<String> {
    let mut near: Vec<(f64, String)> = names
        .into_iter()
        .map(|name| (strsim::jaro_winkler(&wanted.to_lowercase(), &name.to_lowercase()), name))
        .filter(|(likeness, _)| *likeness >= NEAR)
        .collect();
    near.sort_by(|a, b| b.0.total_cmp(&a.0));
    near.dedup_by(|a, b| a.1 == b.1);
    near.into_iter().take(SUGGESTIONS).map(|(_, name)| name).collect()
}
