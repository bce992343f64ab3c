//! Conversations that an assistant keeps in no files of lines: had from its own program, and kept as
//! documents.
//!
//! What the program prints goes into memory that looks like a file to it: into a pipe, opencode prints no
//! more than 64 KiB and ends as if that were all (anomalyco/opencode#29330).
//!
//! Invariant: a document that is not whole is not kept.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{DirBuilder, File};
use std::io::{self, Read, Seek};
use std::os::unix::fs::DirBuilderExt;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::SignedDuration;
use rustix::fs::MemfdFlags;
use rustix::process::{Pid, Signal, kill_process_group};
use stratavore_assistants::adapter::{Adapter, Export};
use stratavore_assistants::{self as assistants};
use stratavore_core::caller::Caller;
use stratavore_core::message::Place;
use stratavore_core::name::Name;
use stratavore_core::observation::Observation;
use stratavore_core::runner::Runner;
use stratavore_core::session::Session;
use stratavore_core::{ProjectId, RunnerId, SessionId};
use stratavore_store::{Observed, Recorded, SessionFilter, StoreError};
use tokio::sync::Notify;

use crate::control::Control;
use crate::error::Error;
use crate::supervisor::chain;

/// How long the program may take for one answer.
const PATIENCE: Duration = Duration::from_secs(120);
/// The longest answer.
const ANSWER_MAX: u64 = 64 << 20;
/// How often it is looked how long the answer is.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// How often what could not be had is tried again.
pub(crate) const AGAIN: Duration = Duration::from_secs(600);
/// While a runner goes on, its conversation is had again after so long: the program takes seconds to start.
const FRESH_FOR: SignedDuration = SignedDuration::from_mins(10);

/// Whose conversations are to be had.
#[derive(Default)]
pub(crate) struct Documents {
    waiting: Mutex<BTreeSet<RunnerId>>,
    pub(crate) wake: Arc<Notify>,
}

/// Whose program is asked, and how.
pub(crate) struct Source {
    pub(crate) assistant: Name,
    adapter: &'static dyn Adapter,
    export: Export,
    program: String,
    env: BTreeMap<String, String>,
}

/// A conversation as its program has printed it.
pub(crate) struct Document {
    /// What stands for a path.
    pub(crate) name: String,
    pub(crate) text: String,
    pub(crate) observations: Vec<Observation>,
}

impl Control {
    /// The program of an assistant that exports its conversations, as an import would start it. `None`: it
    /// has no such program, or has never been used.
    pub(crate) fn documents_of(&self, assistant: &Name) -> Option<Source> {
        let known = assistants::find(assistant)?;
        let own = self.inner.settings.assistants.get(assistant.as_str());
        let program = own.and_then(|own| own.program.clone());
        let program = program.or_else(|| known.program.map(Into::into))?;
        self.source(assistant, program, self.env_of_assistant(assistant))
    }

    fn source(
        &self,
        assistant: &Name,
        program: String,
        env: BTreeMap<String, String>,
    ) -> Option<Source> {
        let adapter = assistants::adapter(assistant);
        let export = adapter.export()?;
        let assistant = assistant.clone();
        (export.is_used)(&env).then_some(Source { assistant, adapter, export, program, env })
    }

    /// The ids of all conversations that it has.
    pub(crate) async fn document_list(&self, source: &Source) -> Result<Vec<String>, Error> {
        let words: Vec<&str> = source.export.list.to_vec();
        let text = self.printed(source, &words).await?;
        Ok((source.export.listed)(&text))
    }

    /// One conversation.
    pub(crate) async fn document(&self, source: &Source, id: &str) -> Result<Document, Error> {
        let mut words: Vec<&str> = source.export.one.to_vec();
        words.push(id);
        let text = self.printed(source, &words).await?;
        let name = name_of(&source.assistant, id);
        let place = Place { file: name.clone(), offset: 0 };
        let observations = source.adapter.document(&text, &place);
        let is_it =
            |told: &Observation| matches!(told, Observation::Session(seen) if seen.session == id);
        if !observations.iter().any(is_it) {
            return Err(nothing(
                source,
                "what it prints is not the conversation, or not all of it",
            ));
        }
        Ok(Document { name, text, observations })
    }

    /// Takes in what a document says, and keeps it.
    pub(crate) async fn document_keep(
        &self,
        caller: &Caller,
        assistant: &Name,
        project: ProjectId,
        runner: Option<&Runner>,
        id: &str,
        document: &Document,
    ) -> Result<(Recorded, Option<SessionId>, u64), Error> {
        let price = |model: &str, tokens: &_, _| self.price(model, tokens);
        let batch = Observed {
            assistant,
            node: self.inner.node.id,
            project: Some(project),
            runner: runner.map(|runner| runner.id),
            epoch: runner.map(|runner| runner.epoch),
            follow: None,
            observations: &document.observations,
            price: &price,
            now: self.now(),
        };
        let recorded = self.inner.store.observed(&batch, self.by(caller, None)).await?;
        let session = recorded.sessions.get(id).copied();
        let Some(whose) = session else { return Ok((recorded, None, 0)) };
        let bytes = document.text.as_bytes();
        let kept = self.intake().take_in_document(whose, &document.name, bytes, self.now()).await?;
        Ok((recorded, session, kept.bytes))
    }

    /// Has the conversation of a runner kept, soon, if there is something new of it.
    pub(crate) fn document_due(&self, runner: RunnerId) {
        let documents = &self.inner.documents;
        documents.waiting.lock().unwrap_or_else(PoisonError::into_inner).insert(runner);
        documents.wake.notify_one();
    }

    /// The task that does so: those that could not be had wait for its next turn.
    pub(crate) async fn keep_documents(&self) -> Result<String, Error> {
        let waiting = &self.inner.documents.waiting;
        let due = std::mem::take(&mut *waiting.lock().unwrap_or_else(PoisonError::into_inner));
        let (mut kept, mut failed) = (0, None);
        for id in due {
            if self.inner.supervisor.stopping().is_cancelled() {
                break;
            }
            match self.keep_documents_of(id).await {
                Ok(count) => kept += count,
                Err(error) => {
                    tracing::warn!(runner = %id, error = %chain(&error), "a conversation could not be exported; will try again");
                    waiting.lock().unwrap_or_else(PoisonError::into_inner).insert(id);
                    failed = Some(error);
                }
            }
        }
        match failed {
            Some(error) => Err(error),
            None => Ok(format!("kept {kept} documents")),
        }
    }

    async fn keep_documents_of(&self, id: RunnerId) -> Result<usize, Error> {
        let runner = match self.inner.store.runner_get(id).await {
            Ok(runner) => runner,
            Err(StoreError::NotFound { .. }) => return Ok(0),
            Err(error) => return Err(error.into()),
        };
        let command = &runner.command;
        let Some(program) = command.argv.first().cloned() else { return Ok(0) };
        let source = self.source(&command.assistant, program, self.env_seen(command));
        let Some(source) = source else { return Ok(0) };
        let held = SessionFilter { held_by: Some(id), ..SessionFilter::default() };
        let mut kept = 0;
        for session in self.inner.store.session_list(&held).await? {
            let Some(external) = session.external_id.as_deref() else { continue };
            if !self.is_due(&runner, &session, &name_of(&source.assistant, external)).await? {
                continue;
            }
            let document = self.document(&source, external).await?;
            let (caller, project) = (Caller::agent(id), runner.project);
            let keeping = self.document_keep(
                &caller,
                &source.assistant,
                project,
                Some(&runner),
                external,
                &document,
            );
            let (recorded, ..) = keeping.await?;
            self.recorded(&runner, &recorded);
            kept += 1;
        }
        Ok(kept)
    }

    /// Whether something was said since it was kept last, and, while its runner goes on, that is long ago.
    async fn is_due(&self, runner: &Runner, session: &Session, name: &str) -> Result<bool, Error> {
        let latest = self.inner.store.transcript_latest(self.inner.node.id, name).await?;
        let Some(latest) = latest else { return Ok(session.has_begun()) };
        let is_old = || self.now().duration_since(latest.updated_at) > FRESH_FOR;
        Ok(session.updated_at > latest.updated_at && (runner.is_terminal() || is_old()))
    }

    /// What the program prints when it is called with these words.
    async fn printed(&self, source: &Source, words: &[&str]) -> Result<String, Error> {
        let directory = self.inner.settings.state_dir.join("exports");
        let made = DirBuilder::new().mode(0o700).recursive(true).create(&directory);
        let failed = |error: io::Error| nothing(source, &error.to_string());
        made.map_err(failed)?;
        let memory = rustix::fs::memfd_create("document", MemfdFlags::CLOEXEC);
        let mut answer = File::from(memory.map_err(|errno| failed(errno.into()))?);
        let mut child = tokio::process::Command::new(&source.program)
            .args(words)
            .env_clear()
            .envs(&source.env)
            // Nothing that a project has configured is of it.
            .current_dir(&directory)
            .stdin(Stdio::null())
            .stdout(answer.try_clone().map_err(failed)?)
            .stderr(Stdio::null())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(failed)?;
        // It is ours and not waited for yet, so the number is nobody else's.
        let group = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        let until = self.inner.clock.monotonic() + PATIENCE;
        let stopping = self.inner.supervisor.stopping().clone();
        let ended = loop {
            tokio::select! {
                status = child.wait() => break status.map_err(failed),
                () = stopping.cancelled() => break Err(Error::Stopping),
                () = tokio::time::sleep(LOOK_EVERY) => {
                    if answer.metadata().map_err(failed)?.len() > ANSWER_MAX {
                        break Err(nothing(source, "it prints more than 64 MiB"));
                    }
                    if self.inner.clock.monotonic() > until {
                        break Err(nothing(source, "it does not end within two minutes"));
                    }
                }
            }
        };
        let status = match ended {
            Ok(status) => status,
            Err(error) => {
                if let Some(group) = group {
                    kill_process_group(group, Signal::KILL).ok();
                }
                child.wait().await.ok();
                return Err(error);
            }
        };
        if !status.success() {
            return Err(nothing(source, &status.to_string()));
        }
        let reading = tokio::task::spawn_blocking(move || {
            let mut text = String::new();
            answer.rewind()?;
            answer.take(ANSWER_MAX + 1).read_to_string(&mut text).map(|_| text)
        });
        let text = reading.await.map_err(Error::internal)?.map_err(failed)?;
        match text.len() as u64 > ANSWER_MAX {
            true => Err(nothing(source, "it prints more than 64 MiB")),
            false => Ok(text),
        }
    }
}

/// What stands for the path of such a document.
fn name_of(assistant: &Name, id: &str) -> String {
    format!("{assistant}:{id}.json")
}

fn nothing(source: &Source, why: &str) -> Error {
    Error::Absent {
        message: format!(
            "{} gives no conversation: {}",
            source.program.escape_debug(),
            why.escape_debug()
        ),
        hint: format!("try it: {} export", source.assistant),
    }
}
