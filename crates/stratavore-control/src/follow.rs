//! Reading what assistants tell of themselves: the signals that agents wrote down, and the transcripts.
//!
//! A daemon reads the files of its own host's runners. How far each file was read stands in the store and
//! moves in the transaction that takes in what was read, so every line counts once, whichever daemon dies
//! where. What a line means is the adapter's; what follows from it is here.
//!
//! Nothing is looked at again and again: an agent tells that its log of signals has grown, and the kernel
//! that a transcript has.
//!
//! Invariant: what a person waits for (activity, asks, prompts that arrived) is taken in before the place
//! in the file moves on. It may be taken in twice, which changes nothing, and is never passed over.

mod heed;
mod piece;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::Value;
use stratavore_assistants::adapter::{Adapter, Memory};
use stratavore_assistants::{self as assistants};
use stratavore_core::activity::Activity;
use stratavore_core::caller::Caller;
use stratavore_core::message::Place;
use stratavore_core::observation::Observation;
use stratavore_core::runner::{EnvValue, Runner};
use stratavore_core::signal::{Signal, What};
use stratavore_core::usage::{Priced, Tokens};
use stratavore_core::{RunnerId, SessionId, Timestamp};
use stratavore_runtime::{Watch, failpoint, signal_log};
use stratavore_store::{
    FileIdentity, Follow, FollowStep, Observed, Recorded, SessionFilter, StoreError,
};
use tokio::sync::Notify;

use crate::control::Control;
use crate::error::Error;

use heed::Level;
use piece::memory;
pub(crate) use piece::unreadable;
pub(crate) use piece::{files_in, read_piece};

/// How often what could not be read is tried again.
pub(crate) const AGAIN: Duration = Duration::from_secs(15);
/// How often it is looked what an assistant does that keeps that in a file of its own: an interrupt is told
/// by no event.
pub(crate) const LEVEL_EVERY: Duration = Duration::from_secs(2);
/// How much of a file is read at once.
pub(crate) const PIECE: usize = 1 << 20;
/// What the reader of a signal is told as the file's name, at its end.
const SIGNALS: &str = "signals";

/// Whose files are to be read.
#[derive(Default)]
pub(crate) struct Following {
    waiting: Mutex<BTreeSet<RunnerId>>,
    pub(crate) wake: Arc<Notify>,
    watch: Mutex<Option<Arc<Watch>>>,
    /// What is known of running assistants whose activity stands in a file.
    levels: Mutex<BTreeMap<RunnerId, Level>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What one piece of a file says.
#[derive(Default)]
pub(crate) struct Told {
    pub(crate) observations: Vec<Observation>,
    /// What hooks that asked something were given, by [`hook_of`].
    hooks: BTreeMap<String, Value>,
    /// Where the piece ends.
    pub(crate) read_to: u64,
    pub(crate) memory: Memory,
}

impl Control {
    /// Has the runner's files read, soon.
    pub fn signals_grown(&self, runner: RunnerId) {
        lock(&self.inner.following.waiting).insert(runner);
        self.inner.following.wake.notify_one();
    }

    /// Has the files of all runners of this host read: somebody may have written while no daemon ran.
    pub(crate) fn follow_all(&self) {
        let found = stratavore_runtime::RunnerDir::all(self.inner.runtime.runners());
        match found {
            Ok(found) => {
                let observed = found
                    .into_iter()
                    .filter(|(_, dir)| dir.signals().is_dir() || dir.visits().is_dir());
                lock(&self.inner.following.waiting).extend(observed.map(|(id, _)| id));
                self.inner.following.wake.notify_one();
            }
            Err(error) => tracing::warn!(%error, "could not look for what assistants have told"),
        }
    }

    /// Hears of files that grow, for as long as the daemon lives.
    pub(crate) async fn hear_of_files(self) {
        let watch = match Watch::new() {
            Ok(watch) => Arc::new(watch),
            Err(error) => {
                tracing::warn!(%error, "files cannot be watched; transcripts are read when assistants tell something");
                return;
            }
        };
        *lock(&self.inner.following.watch) = Some(watch.clone());
        let stopping = self.inner.supervisor.stopping().clone();
        loop {
            tokio::select! {
                biased;
                () = stopping.cancelled() => return,
                grown = watch.grown() => match grown {
                    Ok(runners) => {
                        lock(&self.inner.following.waiting).extend(runners);
                        self.inner.following.wake.notify_one();
                    }
                    Err(error) => {
                        tracing::warn!(%error, "could not hear of files that grow");
                        return;
                    }
                }
            }
        }
    }

    /// Reads what is new of all that have something new.
    pub(crate) async fn read_followed(&self) -> Result<String, Error> {
        let waiting = std::mem::take(&mut *lock(&self.inner.following.waiting));
        let (count, mut failed) = (waiting.len(), None);
        for id in waiting {
            if self.inner.supervisor.stopping().is_cancelled() {
                break;
            }
            if let Err(error) = self.follow_one(id).await {
                self.not_done(id, "could not read what a runner tells; will try again", &error);
                lock(&self.inner.following.waiting).insert(id);
                failed = Some(error);
            }
        }
        match failed {
            Some(error) => Err(error),
            None => Ok(format!("read {count} runners' files")),
        }
    }

    pub(crate) async fn follow_one(&self, id: RunnerId) -> Result<(), Error> {
        let runner = match self.inner.store.runner_get(id).await {
            Ok(runner) if runner.node == self.inner.node.id => runner,
            Ok(_) | Err(StoreError::NotFound { .. }) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        self.read_visits(&runner).await?;
        let adapter = assistants::adapter(&runner.command.assistant);
        let dir = self.inner.runtime.dir(id).signals();
        let mut transcripts = self.read_signals(&runner, adapter, &dir).await?;
        transcripts.extend(self.transcripts_of(&runner, adapter).await?);
        let known = self.inner.store.follow_list(self.inner.node.id, id).await?;
        let logs = [dir, self.inner.runtime.dir(id).visits()].map(|log| log.display().to_string());
        transcripts.extend(known.into_iter().map(|f| f.path).filter(|path| !logs.contains(path)));
        let mut files = BTreeSet::new();
        for path in transcripts {
            let path = PathBuf::from(path);
            if let Some((beside, ending)) = adapter.beside(&path) {
                self.watch_file(&beside, id);
                files.extend(files_in(&beside, ending));
            }
            files.insert(path);
        }
        for path in self.carried_on(&runner, adapter).await? {
            files.retain(|file| !file.starts_with(&path));
        }
        for path in files {
            self.watch_file(&path, id);
            let session = self.read_file(&runner, adapter, &path).await?;
            self.keep_transcript(&runner, &path, session).await?;
        }
        if adapter.export().is_some() && runner.activity != Activity::Working {
            self.document_due(id);
        }
        if runner.is_terminal() {
            self.no_longer_followed(id);
            self.inner.store.asks_over(id, |_| true, self.now()).await?;
        }
        Ok(())
    }

    /// The files of conversations that another runner has gone on with: what is new in them is that one's.
    async fn carried_on(
        &self,
        runner: &Runner,
        adapter: &'static dyn Adapter,
    ) -> Result<Vec<PathBuf>, Error> {
        let filter = SessionFilter { held_by: Some(runner.id), ..SessionFilter::default() };
        let mut held = self.inner.store.session_list(&filter).await?;
        let filter = SessionFilter { last_held_by: Some(runner.id), ..SessionFilter::default() };
        let own = self.inner.store.session_list(&filter).await?;
        held.retain(|session| own.iter().all(|own| own.id != session.id));
        let files = held.into_iter().filter_map(|session| session.transcript.map(PathBuf::from));
        let with_beside = |file: PathBuf| {
            let beside = adapter.beside(&file).map(|(directory, _)| directory);
            [Some(file), beside].into_iter().flatten()
        };
        Ok(files.flat_map(with_beside).collect())
    }

    /// The files of the conversations that it has held, and one that was known when the assistant was
    /// started: a file that a signal names may come to be later.
    async fn transcripts_of(
        &self,
        runner: &Runner,
        adapter: &'static dyn Adapter,
    ) -> Result<Vec<String>, Error> {
        let dir = self.inner.runtime.dir(runner.id);
        let env = self.env_seen(&runner.command);
        let held = SessionFilter { last_held_by: Some(runner.id), ..SessionFilter::default() };
        let sessions = self.inner.store.session_list(&held).await?;
        let current = sessions.iter().find(|session| Some(session.id) == runner.session);
        let session = current.and_then(|session| session.external_id.clone());
        let here = self.inner.node.id;
        let told =
            sessions.into_iter().filter(|session| session.node.is_none_or(|node| node == here));
        let mut transcripts: Vec<String> = told.filter_map(|session| session.transcript).collect();
        let look = tokio::task::spawn_blocking(move || {
            let spec = dir.spec().ok().flatten();
            let known = spec.and_then(|spec| spec.observe?.transcript);
            let found = session.map(|session| adapter.transcripts(&session, &env));
            known.into_iter().chain(found.into_iter().flatten()).collect::<Vec<_>>()
        });
        let found = look.await.map_err(Error::internal)?;
        transcripts.extend(found.into_iter().map(|path| path.display().to_string()));
        Ok(transcripts)
    }

    fn watch_file(&self, path: &Path, runner: RunnerId) {
        let watch = lock(&self.inner.following.watch).clone();
        let Some(watch) = watch else { return };
        let watched = match watch.add(path, runner) {
            // It is heard of when it comes.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                path.parent().map_or(Ok(()), |parent| watch.add(parent, runner))
            }
            other => other,
        };
        if let Err(error) = watched {
            tracing::debug!(%runner, %error, "a file cannot be watched");
        }
    }

    fn no_longer_followed(&self, runner: RunnerId) {
        let watch = lock(&self.inner.following.watch).clone();
        if let Some(watch) = watch {
            watch.remove(runner);
        }
        lock(&self.inner.following.levels).remove(&runner);
    }

    /// Reads the log of signals to its end. Answers the transcripts that they name.
    async fn read_signals(
        &self,
        runner: &Runner,
        adapter: &'static dyn Adapter,
        dir: &Path,
    ) -> Result<BTreeSet<String>, Error> {
        debug_assert!(dir.ends_with(SIGNALS));
        let path = dir.display().to_string();
        let mut transcripts = BTreeSet::new();
        let mut epoch = runner.epoch;
        loop {
            let seen = self.inner.store.follow_get(self.inner.node.id, &path).await?;
            let (from, memory) = (seen.as_ref().map_or(0, |f| f.read_to), memory(seen.as_ref()));
            let (of, file) = (dir.to_path_buf(), path.clone());
            let read = tokio::task::spawn_blocking(move || signal_log::read(&of, from, PIECE));
            let lines =
                read.await.map_err(Error::internal)?.map_err(|error| unreadable(&file, &error))?;
            if lines.next == from {
                return Ok(transcripts);
            }
            let mut told = Told { read_to: lines.next, memory, ..Told::default() };
            for (offset, line) in &lines.lines {
                // Half a line of an agent that was killed.
                let Ok(signal) = serde_json::from_slice::<Signal>(line) else { continue };
                // Each start is taken in by itself: what an earlier one held is history.
                if signal.epoch != epoch && !told.observations.is_empty() {
                    told.read_to = *offset;
                    break;
                }
                let place = Place { file: path.clone(), offset: *offset };
                let observations = adapter.signal(&mut told.memory, &signal, &place);
                epoch = signal.epoch;
                let asks = observations.iter().any(|told| matches!(told, Observation::Asked(_)));
                told.observations.extend(observations);
                if let What::Hook { call, body } = signal.what
                    && asks
                {
                    told.hooks.insert(hook_of(call.as_deref(), signal.at), body);
                }
            }
            for observation in &told.observations {
                if let Observation::Session(session) = observation {
                    transcripts.extend(session.transcript.clone());
                }
            }
            let read_to = told.read_to;
            self.take_in(runner, epoch, &path, FileIdentity::default(), seen, told).await?;
            let forgotten = signal_log::forget(dir, read_to);
            if let Err(error) = forgotten {
                tracing::debug!(runner = %runner.id, %error, "could not forget signals that were read");
            }
        }
    }

    /// Reads a transcript to its end, as far as its lines are whole. Answers whose it is, if it said
    /// so.
    async fn read_file(
        &self,
        runner: &Runner,
        adapter: &'static dyn Adapter,
        path: &Path,
    ) -> Result<Option<SessionId>, Error> {
        let name = path.display().to_string();
        let mut session = None;
        loop {
            let seen = self.inner.store.follow_get(self.inner.node.id, &name).await?;
            let (of, file, known) = (path.to_path_buf(), name.clone(), seen.clone());
            let read = tokio::task::spawn_blocking(move || read_piece(adapter, &of, &file, known));
            let piece = read.await.map_err(Error::internal)?;
            let Some((told, identity)) = piece.map_err(|error| unreadable(&name, &error))? else {
                return Ok(session);
            };
            let told = self.take_in(runner, runner.epoch, &name, identity, seen, told).await?;
            session = told.or(session);
        }
    }

    async fn take_in(
        &self,
        runner: &Runner,
        epoch: i64,
        path: &str,
        identity: FileIdentity,
        seen: Option<Follow>,
        told: Told,
    ) -> Result<Option<SessionId>, Error> {
        let Told { observations, hooks, read_to, memory } = told;
        let session = memory.session.clone();
        self.heed(runner, epoch, &observations, &hooks).await?;
        failpoint("heeded");
        let memory = serde_json::to_string(&memory).map_err(Error::internal)?;
        let follow =
            FollowStep { path, seen: seen.as_ref(), read_to, memory: &memory, identity: &identity };
        let price = |model: &str, tokens: &Tokens, _| self.price(model, tokens);
        let batch = Observed {
            assistant: &runner.command.assistant,
            node: self.inner.node.id,
            project: Some(runner.project),
            runner: Some(runner.id),
            epoch: Some(epoch),
            follow: Some(follow),
            observations: &observations,
            price: &price,
            now: self.now(),
        };
        let by = self.by(&Caller::agent(runner.id), None);
        match self.inner.store.observed(&batch, by).await {
            Ok(recorded) => {
                self.recorded(runner, &recorded);
                if !recorded.deltas.is_empty() {
                    self.hold_to_limits(runner).await?;
                }
                Ok(session.and_then(|session| recorded.sessions.get(&session).copied()))
            }
            // Another daemon was faster; the next look begins where it has ended.
            Err(StoreError::Conflict { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Draws the consequences of what was recorded.
    pub(crate) fn recorded(&self, runner: &Runner, recorded: &Recorded) {
        if let Some((session, holder)) = recorded.held_by_another {
            tracing::warn!(runner = %runner.id, %session, %holder, "an assistant has gone on to a conversation that another runner holds");
        }
        if recorded.now_holds.is_some() || !recorded.deltas.is_empty() {
            self.inner.relay_wake.notify_one();
        }
        if !recorded.deltas.is_empty() {
            self.budgets_changed();
        }
        if !recorded.sessions.is_empty() {
            self.messages_told();
        }
    }

    /// What a message costs by our table, if it has the model.
    pub(crate) fn price(&self, model: &str, tokens: &Tokens) -> Option<Priced> {
        let prices = self.prices();
        Some(Priced { cost: prices.cost(model, tokens)?, version: prices.version(model) })
    }

    /// The environment of the runner's program, without the values of files.
    pub(crate) fn env_seen(
        &self,
        command: &stratavore_core::runner::Command,
    ) -> BTreeMap<String, String> {
        let mut env = self.inherited_env(command);
        for (key, value) in &command.env {
            if let EnvValue::Literal(value) = value {
                env.insert(key.clone(), value.clone());
            }
        }
        env
    }
}

/// Names what the hook was given that asked something: the one of this call, or of this time.
fn hook_of(call: Option<&str>, at: Timestamp) -> String {
    call.map_or_else(|| at.as_microsecond().to_string(), String::from)
}
