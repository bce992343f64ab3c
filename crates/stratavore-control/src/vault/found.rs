//! Taking in the conversations that the user's assistants have on this host already.
//!
//! A conversation belongs to the project whose directory it was in; the innermost one. What was in
//! none belongs to the project that was named, else to one of the name `imported`.
//!
//! Invariant: what is imported again changes nothing: each line counts once.

mod printed;

use std::collections::{BTreeSet, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use serde_json::json;
use stratavore_assistants::{self as assistants, Adapter};
use stratavore_core::caller::Caller;
use stratavore_core::limits::Limits;
use stratavore_core::name::Name;
use stratavore_core::observation::Observation;
use stratavore_core::project::Project;
use stratavore_core::quota::Quota;
use stratavore_core::{ProjectId, SessionId};
use stratavore_store::{FollowStep, Observed, StoreError};

use super::document::Source;
use super::intake::Care;
use crate::control::Control;
use crate::error::Error;
use crate::follow::{Told, files_in, read_piece};

/// The project of what was in none.
const ELSEWHERE: &str = "imported";

/// What is to be imported.
#[derive(Debug, Clone, Default)]
pub struct Importing {
    /// Only those of this assistant.
    pub assistant: Option<String>,
    /// Whose they are if they were in the directory of no project.
    pub project: Option<String>,
    /// Nothing is taken in; it is only said what would be.
    pub is_dry_run: bool,
}

/// Conversations that were found, to be taken in one after another.
pub struct Found {
    control: Control,
    caller: Caller,
    files: VecDeque<(&'static str, PathBuf)>,
    /// Conversations that are in no files.
    documents: VecDeque<(Arc<Source>, String)>,
    /// Why those of an assistant cannot be had.
    unlisted: VecDeque<FoundFile>,
    projects: Vec<Project>,
    named: Option<Project>,
    is_dry_run: bool,
}

/// One file of a conversation.
#[derive(Debug, Clone, Default)]
pub struct FoundFile {
    pub assistant: String,
    pub path: PathBuf,
    /// The conversation as the assistant names it; `None`: the file tells of none.
    pub external_id: Option<String>,
    pub directory: Option<String>,
    /// The project that it belongs to, or would.
    pub project: String,
    pub imported: Imported,
    /// Why it was not taken in.
    pub problem: Option<String>,
}

/// What came of it.
#[derive(Debug, Clone, Default)]
pub struct Imported {
    pub session: Option<SessionId>,
    /// How many messages its lines told of, new or not.
    pub messages: u64,
    /// How many bytes are new in the vault.
    pub bytes: u64,
}

impl Control {
    /// Looks for conversations that assistants have on this host.
    pub async fn import(&self, caller: &Caller, wish: Importing) -> Result<Found, Error> {
        self.may_change(caller, "import conversations")?;
        let only = wish.assistant.as_deref().map(|name| self.parse_assistant(name)).transpose()?;
        let named = match &wish.project {
            Some(name) => Some(self.project(name).await?),
            None => None,
        };
        if !wish.is_dry_run {
            let about = json!({ "assistant": wish.assistant, "project": wish.project });
            self.record(caller, "request.import", about).await?;
        }
        let (documents, unlisted) = self.printed_list(only.as_ref()).await?;
        let env = self.inner.env.clone();
        let projects = self.project_list(false).await?;
        let directories: BTreeSet<PathBuf> =
            projects.iter().map(|project| PathBuf::from(&project.directory)).collect();
        let look = move || {
            let all = assistants::known().iter();
            let wanted = all.filter(|one| only.as_ref().is_none_or(|o| o.as_str() == one.name));
            let mut files: Vec<(SystemTime, &'static str, PathBuf)> = Vec::new();
            for assistant in wanted {
                let in_projects = directories.iter();
                let in_projects = in_projects.filter_map(|dir| assistant.adapter.found_in(dir));
                for path in assistant.adapter.found(&env).into_iter().chain(in_projects) {
                    let at = path.metadata().and_then(|found| found.modified());
                    files.push((at.unwrap_or(SystemTime::UNIX_EPOCH), assistant.name, path));
                }
            }
            // The oldest first: what was forked comes after what it was forked from.
            files.sort();
            files.into_iter().map(|(_, assistant, path)| (assistant, path)).collect()
        };
        let files = tokio::task::spawn_blocking(look).await.map_err(Error::internal)?;
        Ok(Found {
            control: self.clone(),
            caller: caller.clone(),
            files,
            documents,
            unlisted,
            projects,
            named,
            is_dry_run: wish.is_dry_run,
        })
    }
}

impl Found {
    /// How many files are still to come.
    pub fn remaining(&self) -> usize {
        self.files.len() + self.documents.len() + self.unlisted.len()
    }

    /// Takes in the next file; `None` after the last. One that cannot be taken in stops no other.
    pub async fn next(&mut self) -> Result<Option<FoundFile>, Error> {
        if self.control.inner.supervisor.stopping().is_cancelled() {
            return Err(Error::Stopping);
        }
        if let Some(unlisted) = self.unlisted.pop_front() {
            return Ok(Some(unlisted));
        }
        let (mut file, taken) = if let Some((assistant, path)) = self.files.pop_front() {
            let mut file = FoundFile { assistant: assistant.into(), path, ..FoundFile::default() };
            let taken = self.one(&mut file).await;
            (file, taken)
        } else if let Some((source, id)) = self.documents.pop_front() {
            let assistant = source.assistant.to_string();
            let mut file =
                FoundFile { assistant, external_id: Some(id.clone()), ..FoundFile::default() };
            let taken = self.printed(&mut file, &source, &id).await;
            (file, taken)
        } else {
            return Ok(None);
        };
        if let Err(error) = taken {
            // What stands against all of them is not told of each.
            if let Error::Store(store) = &error
                && store.is_transient()
            {
                return Err(error);
            }
            file.problem = Some(crate::supervisor::chain(&error));
        }
        Ok(Some(file))
    }

    async fn one(&mut self, file: &mut FoundFile) -> Result<(), Error> {
        let assistant: Name = file.assistant.parse().map_err(Error::internal)?;
        let adapter = assistants::adapter(&assistant);
        let Some(told) = look_into(adapter, &file.path).await? else {
            file.problem = Some("it tells of no conversation".into());
            return Ok(());
        };
        for observation in &told.observations {
            if let Observation::Session(seen) = observation {
                file.directory = file.directory.take().or_else(|| seen.directory.clone());
                file.external_id.get_or_insert_with(|| seen.session.clone());
            }
        }
        file.external_id = file.external_id.take().or(told.memory.session);
        let Some(external) = file.external_id.clone() else {
            file.problem = Some("it tells of no conversation".into());
            return Ok(());
        };
        let project = self.whose(file, &assistant, &external).await?;
        let Some(project) = project.filter(|_| !self.is_dry_run) else { return Ok(()) };
        let mut files = BTreeSet::from([file.path.clone()]);
        files.extend(beside(&assistant, &file.path).await?);
        for path in &files {
            let session = self.take_in(&assistant, adapter, path, project, file).await?;
            file.imported.session = file.imported.session.or(session);
        }
        let session = match file.imported.session {
            Some(session) => session,
            None => match self.known(&assistant, &external).await? {
                Some((session, _)) => session,
                None => return Ok(()),
            },
        };
        file.imported.session = Some(session);
        for path in &files {
            let taken = self.control.vault_take_in(session, path, Care::Now).await?;
            file.imported.bytes += taken.bytes;
        }
        self.control.messages_told();
        self.control.inner.relay_wake.notify_one();
        Ok(())
    }

    /// The project that a conversation belongs to, and says so; `None`: it would be made for it.
    async fn whose(
        &mut self,
        file: &mut FoundFile,
        assistant: &Name,
        external: &str,
    ) -> Result<Option<ProjectId>, Error> {
        let known = self.known(assistant, external).await?;
        let project = match (&known, self.project_of(file.directory.as_deref())) {
            // It stays whose it is.
            (Some((_, project)), _) => Some(*project),
            (None, Some(project)) => Some(project.id),
            (None, None) if self.is_dry_run => None,
            (None, None) => Some(self.elsewhere().await?.id),
        };
        file.project = match project {
            Some(id) => {
                let names = self.control.inner.store.project_names(&[id].into()).await?;
                names.into_values().next().unwrap_or_default()
            }
            None => ELSEWHERE.into(),
        };
        file.imported.session = known.map(|(session, _)| session);
        Ok(project)
    }

    /// Reads the lines of a file that were not read yet.
    async fn take_in(
        &self,
        assistant: &Name,
        adapter: &'static dyn Adapter,
        path: &Path,
        project: ProjectId,
        file: &mut FoundFile,
    ) -> Result<Option<SessionId>, Error> {
        let (control, name) = (&self.control, path.display().to_string());
        let node = control.inner.node.id;
        let mut session = None;
        loop {
            let seen = control.inner.store.follow_get(node, &name).await?;
            let (of, called, known) = (path.to_owned(), name.clone(), seen.clone());
            let read = move || read_piece(adapter, &of, &called, known);
            let piece = tokio::task::spawn_blocking(read).await.map_err(Error::internal)?;
            let piece = piece.map_err(|error| unreadable(path, &error))?;
            let Some((told, identity)) = piece else { return Ok(session) };
            let Told { observations, read_to, memory, .. } = told;
            let is_message = |told: &&Observation| matches!(told, Observation::Message(_));
            file.imported.messages += observations.iter().filter(is_message).count() as u64;
            let external = memory.session.clone();
            let memory = serde_json::to_string(&memory).map_err(Error::internal)?;
            let follow = FollowStep {
                path: &name,
                seen: seen.as_ref(),
                read_to,
                memory: &memory,
                identity: &identity,
            };
            let price = |model: &str, tokens: &_, _| control.price(model, tokens);
            let batch = Observed {
                assistant,
                node,
                project: Some(project),
                runner: None,
                epoch: None,
                follow: Some(follow),
                observations: &observations,
                price: &price,
                now: control.now(),
            };
            match control.inner.store.observed(&batch, control.by(&self.caller, None)).await {
                Ok(recorded) => {
                    let whose = external.and_then(|name| recorded.sessions.get(&name).copied());
                    session = whose.or(session);
                }
                // The follower of a runner was faster: the next look begins where it has ended.
                Err(StoreError::Conflict { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    async fn known(
        &self,
        assistant: &Name,
        external: &str,
    ) -> Result<Option<(SessionId, ProjectId)>, Error> {
        match self.control.inner.store.session_find(external).await {
            Ok(found) => Ok((found.assistant == *assistant
                && found.external_id.as_deref() == Some(external))
            .then_some((found.id, found.project))),
            Err(StoreError::NotFound { .. } | StoreError::Ambiguous { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// The innermost project whose directory has this one in it, else the one that was named.
    fn project_of(&self, directory: Option<&str>) -> Option<&Project> {
        let inside = |project: &&Project| {
            directory.is_some_and(|directory| Path::new(directory).starts_with(&project.directory))
        };
        let depth = |project: &&Project| Path::new(&project.directory).components().count();
        let innermost = self.projects.iter().filter(inside).max_by_key(depth);
        innermost.or(self.named.as_ref())
    }

    /// The project of what was in none, which is made if it is not there.
    async fn elsewhere(&mut self) -> Result<Project, Error> {
        let made = match self.control.project(ELSEWHERE).await {
            Ok(found) => found,
            Err(Error::Store(StoreError::NotFound { .. }) | Error::NotFound { .. }) => {
                let home = self.control.inner.env.get("HOME").map_or("/", String::as_str);
                let about =
                    "Conversations that were in no project's directory when they were imported";
                let (quota, limits) = (Quota::default(), Limits::default());
                let caller = self.caller.clone();
                let made = self.control.project_create(
                    &caller,
                    ELSEWHERE,
                    home,
                    about.into(),
                    None,
                    quota,
                    limits,
                    None,
                );
                made.await?
            }
            Err(error) => return Err(error),
        };
        self.named = Some(made.clone());
        Ok(made)
    }
}

/// What the beginning of a file says; `None`: nothing.
async fn look_into(adapter: &'static dyn Adapter, path: &Path) -> Result<Option<Told>, Error> {
    let owned = path.to_owned();
    let read = move || read_piece(adapter, &owned, &owned.display().to_string(), None);
    let piece = tokio::task::spawn_blocking(read).await.map_err(Error::internal)?;
    Ok(piece.map_err(|error| unreadable(path, &error))?.map(|(told, _)| told))
}

/// Further files of the same conversation.
pub(crate) async fn beside(assistant: &Name, path: &Path) -> Result<Vec<PathBuf>, Error> {
    let Some((directory, ending)) = assistants::adapter(assistant).beside(path) else {
        return Ok(Vec::new());
    };
    let look = move || {
        let mut files = files_in(&directory, ending);
        files.sort();
        files
    };
    tokio::task::spawn_blocking(look).await.map_err(Error::internal)
}

fn unreadable(path: &Path, error: &std::io::Error) -> Error {
    Error::Absent {
        message: format!("{} cannot be read: {error}", path.display().to_string().escape_debug()),
        hint: "see who may read it: ls -l".into(),
    }
}
