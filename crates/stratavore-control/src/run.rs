//! Runs without a screen: what they do, step by step, and how they came out.
//!
//! The steps are read of the recorded output, so whoever lost a connection goes on where it was, and a
//! run that has ended long ago can be read again. How a run came out is said once all that its assistant
//! told of it has been read: what it used is complete then.

use std::collections::BTreeSet;
use std::io;
use std::time::Duration;

use stratavore_assistants as assistants;
use stratavore_assistants::adapter::{Adapter, Outcome, Step};
use stratavore_bus::{Received, Subscription};
use stratavore_core::activity::Activity;
use stratavore_core::ask::AskState;
use stratavore_core::run::{RESULT_TEXT_MAX, RunOutcome};
use stratavore_core::runner::{Cause, RunLimit, Runner};
use stratavore_core::session::Session;
use stratavore_core::usage::UsageSums;
use stratavore_core::{AskId, RunnerId};
use stratavore_runtime::socket::{Heard, Hearing};
use stratavore_runtime::{Chunk, OutputReader};

use crate::control::Control;
use crate::error::Error;
use crate::runner::WaitFor;

/// Bytes of recorded output that are read at once.
const CHUNK: usize = 64 << 10;
/// The longest line that is read as one. What is longer tells no step.
const LINE_MAX: usize = 16 << 20;
/// So much of the end of the output says how a run came out.
const END: u64 = 4 << 20;
/// How many of a runner's questions are looked at.
const ASKS_MAX: u32 = 50;
/// How long an agent that cannot be reached is left alone: it starts, upgrades itself, or has ended.
const AGAIN: Duration = Duration::from_millis(250);

/// What happens in a run.
#[derive(Debug, Clone)]
pub enum RunProgress {
    /// Whoever goes on from `next` misses none of what follows and sees none of these again.
    Steps {
        next: u64,
        steps: Vec<Step>,
    },
    Ended(Box<RunResult>),
}

/// How a run came out, and what it has used.
#[derive(Debug, Clone)]
pub struct RunResult {
    pub runner: Runner,
    pub outcome: RunOutcome,
    pub usage: UsageSums,
    pub session: Option<Session>,
}

/// A reader of a run.
pub struct RunWatch {
    control: Control,
    id: RunnerId,
    adapter: &'static dyn Adapter,
    reader: OutputReader,
    lines: Lines,
    /// The agent, once the files have been read to their end.
    agent: Option<Hearing>,
    /// What happens, of which its questions are of interest, and those that were told.
    events: Subscription,
    asked: BTreeSet<AskId>,
    /// The runner has ended, and its files are read to their end for the last time.
    ending: bool,
    over: bool,
}

impl Control {
    /// Reads a run from an offset of its output on; 0 is its beginning.
    pub fn run_watch(&self, runner: &Runner, from: u64) -> Result<RunWatch, Error> {
        self.has_output(runner)?;
        Ok(RunWatch {
            control: self.clone(),
            id: runner.id,
            adapter: assistants::adapter(&runner.command.assistant),
            reader: OutputReader::new(self.inner.runtime.dir(runner.id).output()),
            lines: Lines { begins: from, bytes: Vec::new() },
            agent: None,
            events: self.inner.bus.subscribe(),
            asked: BTreeSet::new(),
            ending: false,
            over: false,
        })
    }

    /// How a run came out. Waits until it has ended, and until all that its assistant told was read.
    pub async fn run_result(&self, id: RunnerId) -> Result<RunResult, Error> {
        let runner = loop {
            let runner = self.wait(id, WaitFor::default()).await?;
            if runner.is_terminal() {
                break runner;
            }
        };
        // The task that follows may be at it too; whatever it has not read by now is read here.
        self.follow_one(id).await?;
        let outcome = self.run_outcome(&runner).await?;
        let session = match runner.session {
            Some(session) => Some(self.inner.store.session_get(session).await?),
            None => None,
        };
        let usage = self.used_by(id).await?;
        Ok(RunResult { runner, outcome, usage, session })
    }

    /// How the run of an ended runner of this host came out.
    pub(crate) async fn run_outcome(&self, runner: &Runner) -> Result<RunOutcome, Error> {
        let Some((cause, _)) = runner.state.ended() else {
            return Err(Error::internal("a run that has not ended came out nowhere"));
        };
        let exit = match cause {
            Cause::WallTime => return Ok(RunOutcome::TimedOut),
            Cause::StoppedBy(by) => {
                return Ok(match RunLimit::of_stopper(by) {
                    Some(limit) => RunOutcome::LimitReached { what: limit.told().into() },
                    None => RunOutcome::Stopped { why: cause.to_string() },
                });
            }
            Cause::SpawnError(_) | Cause::ExecError(_) | Cause::CrashLoop(_) => {
                return Ok(RunOutcome::Failed { why: cause.to_string() });
            }
            Cause::Exit(code) => Some(*code),
            Cause::Signal(_)
            | Cause::Oom
            | Cause::PidsLimit
            | Cause::AgentDied
            | Cause::AgentTerminated
            | Cause::HostReboot
            | Cause::StateMissing
            | Cause::LaunchInterrupted => None,
        };
        let reader = OutputReader::new(self.inner.runtime.dir(runner.id).output());
        let output = blocking(move || end_of(reader)).await?;
        let adapter = assistants::adapter(&runner.command.assistant);
        let ended = runner.state.ended().map_or_else(|| self.now(), |(_, at)| at);
        self.windows_told(runner, adapter.windows(&output, ended)).await?;
        Ok(match adapter.outcome(&output, exit) {
            Outcome::Done { text } => RunOutcome::Done { text: bounded(text) },
            Outcome::LimitReached { what } => RunOutcome::LimitReached { what: bounded(what) },
            Outcome::RateLimited { why } => {
                let limited = runner.doing.as_ref();
                let limited = limited.filter(|doing| doing.activity == Activity::RateLimited);
                let (_, ended) = runner.state.ended().unzip();
                let told = || assistants::reset_time(&why, ended.unwrap_or_else(|| self.now()));
                let resets_at = limited.and_then(|doing| doing.resets_at).or_else(told);
                RunOutcome::RateLimited { why: bounded(why), resets_at }
            }
            Outcome::Failed { why } => RunOutcome::Failed { why: bounded(why) },
            Outcome::Cut => RunOutcome::Cut { why: format!("it ended ({cause}) without a result") },
        })
    }
}

impl RunWatch {
    /// What comes next; `None` after the end, and when the daemon stops.
    pub async fn next(&mut self) -> Result<Option<RunProgress>, Error> {
        let id = self.id.to_string();
        loop {
            if self.over {
                return Ok(None);
            }
            if let Some(agent) = &mut self.agent {
                let stopping = self.control.inner.supervisor.stopping();
                let heard = tokio::select! {
                    biased;
                    () = stopping.cancelled() => return Err(Error::Stopping),
                    heard = agent.next() => heard,
                    received = self.events.recv() => {
                        let may_ask = match received {
                            Received::Events(events) => events.iter().any(|e| e.entity_id == id),
                            Received::Lagged => true,
                            Received::Closed => return Err(Error::Stopping),
                        };
                        if may_ask && let Some(asks) = self.asks().await? {
                            return Ok(Some(asks));
                        }
                        continue;
                    }
                };
                match heard {
                    Some(Heard::Output { offset, data }) => {
                        if let Some(progress) = self.take(offset, &data) {
                            return Ok(Some(progress));
                        }
                    }
                    Some(Heard::Gap { to }) => self.lines.skip(to),
                    // The files have the rest.
                    None => self.agent = None,
                }
                continue;
            }
            match self.read().await? {
                Chunk::Data { offset, data } => {
                    if let Some(progress) = self.take(offset, &data) {
                        return Ok(Some(progress));
                    }
                }
                Chunk::Gap { to, .. } => self.lines.skip(to),
                Chunk::End if self.ending => return self.end().await.map(Some),
                Chunk::End => {
                    self.wait().await?;
                    // Of what it asks already nothing more will be heard.
                    if let Some(asks) = self.asks().await? {
                        return Ok(Some(asks));
                    }
                }
            }
        }
    }

    async fn read(&mut self) -> Result<Chunk, Error> {
        let from = self.lines.end();
        let mut reader = std::mem::replace(&mut self.reader, OutputReader::new("".into()));
        let (reader, chunk) =
            blocking(move || reader.read(from, CHUNK).map(|chunk| (reader, chunk))).await?;
        self.reader = reader;
        Ok(chunk)
    }

    /// Waits for more: of the agent, or for the end.
    async fn wait(&mut self) -> Result<(), Error> {
        let runner = self.control.inner.store.runner_get(self.id).await?;
        if runner.is_terminal() {
            self.ending = true;
            return Ok(());
        }
        let from = self.lines.end();
        if let Ok(agent) = self.control.inner.runtime.hear_output(self.id, from).await {
            self.agent = Some(agent);
            return Ok(());
        }
        let soon = WaitFor { timeout: Some(AGAIN), ..WaitFor::default() };
        self.control.wait(self.id, soon).await.map(drop)
    }

    /// What it asks now and was not told yet.
    async fn asks(&mut self) -> Result<Option<RunProgress>, Error> {
        let open = self.control.inner.store.asks_of(self.id, ASKS_MAX).await?;
        let new = open.into_iter().filter(|ask| ask.state == AskState::Open);
        let steps: Vec<Step> = new
            .filter(|ask| self.asked.insert(ask.id))
            .map(|ask| Step::Asks { tool: ask.tool, text: ask.text })
            .collect();
        let next = self.lines.begins;
        Ok((!steps.is_empty()).then_some(RunProgress::Steps { next, steps }))
    }

    fn take(&mut self, offset: u64, data: &[u8]) -> Option<RunProgress> {
        let adapter = self.adapter;
        let mut steps = Vec::new();
        self.lines.push(offset, data, |line| steps.extend(adapter.step(line)));
        (!steps.is_empty()).then_some(RunProgress::Steps { next: self.lines.begins, steps })
    }

    async fn end(&mut self) -> Result<RunProgress, Error> {
        let mut steps = Vec::new();
        self.lines.finish(|line| steps.extend(self.adapter.step(line)));
        if !steps.is_empty() {
            return Ok(RunProgress::Steps { next: self.lines.begins, steps });
        }
        // In a task of its own: a reader that goes away cuts no write in half.
        let (control, id) = (self.control.clone(), self.id);
        let result = async move { control.run_result(id).await };
        let result = self.control.inner.supervisor.detached(result).await?;
        self.over = true;
        Ok(RunProgress::Ended(Box::new(result)))
    }
}

/// The lines of a stream of bytes with offsets.
struct Lines {
    /// Where the line begins that is not complete.
    begins: u64,
    bytes: Vec<u8>,
}

impl Lines {
    fn end(&self) -> u64 {
        self.begins + self.bytes.len() as u64
    }

    /// What is missing takes the line with it that it is in.
    fn skip(&mut self, to: u64) {
        (self.begins, self.bytes) = (to, Vec::new());
    }

    fn push(&mut self, offset: u64, data: &[u8], mut line: impl FnMut(&str)) {
        if offset != self.end() {
            self.skip(offset);
        }
        self.bytes.extend_from_slice(data);
        let mut whole = 0;
        while let Some(length) = self.bytes[whole..].iter().position(|byte| *byte == b'\n') {
            line(&text(&self.bytes[whole..whole + length]));
            whole += length + 1;
        }
        self.bytes.drain(..whole);
        self.begins += whole as u64;
        if self.bytes.len() > LINE_MAX {
            self.skip(self.end());
        }
    }

    /// A last line that has no end.
    fn finish(&mut self, mut line: impl FnMut(&str)) {
        if !self.bytes.is_empty() {
            line(&text(&self.bytes));
            self.skip(self.end());
        }
    }
}

/// A line as it was written: the terminal has put a carriage return before its end.
fn text(line: &[u8]) -> String {
    String::from_utf8_lossy(line.strip_suffix(b"\r").unwrap_or(line)).into_owned()
}

/// The end of the recorded output.
fn end_of(mut reader: OutputReader) -> io::Result<String> {
    let (first, end) = reader.bounds()?;
    let mut offset = end.saturating_sub(END).max(first);
    let mut bytes = Vec::new();
    loop {
        match reader.read(offset, CHUNK)? {
            Chunk::Data { offset: at, data } => {
                offset = at + data.len() as u64;
                bytes.extend(data);
            }
            Chunk::Gap { to, .. } => offset = to,
            Chunk::End => return Ok(String::from_utf8_lossy(&bytes).replace('\r', "")),
        }
    }
}

fn bounded(text: String) -> String {
    match text.char_indices().nth(RESULT_TEXT_MAX) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text,
    }
}

async fn blocking<T: Send + 'static>(
    act: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, Error> {
    let result = tokio::task::spawn_blocking(act).await.map_err(Error::internal)?;
    result.map_err(Error::internal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_whole_wherever_they_are_cut_and_none_is_told_twice() {
        let whole = b"one\r\ntwo\n\nfour";
        for cut in 0..=whole.len() {
            let (mut lines, mut told) = (Lines { begins: 10, bytes: Vec::new() }, Vec::new());
            lines.push(10, &whole[..cut], |line| told.push(line.to_owned()));
            // Whoever goes on from where the last whole line has ended.
            let (from, next) = (lines.begins, (lines.begins - 10) as usize);
            let mut lines = Lines { begins: from, bytes: Vec::new() };
            lines.push(from, &whole[next..], |line| told.push(line.to_owned()));
            lines.finish(|line| told.push(line.to_owned()));
            assert_eq!(told, ["one", "two", "", "four"], "cut at {cut}");
            assert_eq!(lines.begins, 10 + whole.len() as u64);
        }
    }

    #[test]
    fn what_is_missing_takes_its_line_with_it() {
        let (mut lines, mut told) = (Lines { begins: 0, bytes: Vec::new() }, Vec::new());
        lines.push(0, b"a\nhalf", |line| told.push(line.to_owned()));
        lines.push(100, b"of another\nb\n", |line| told.push(line.to_owned()));
        assert_eq!(told, ["a", "of another", "b"]);
        assert_eq!(lines.end(), 113);
    }
}
