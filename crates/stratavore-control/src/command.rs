//! What a runner's program is started with at each start: what was asked for, and what its assistant's
//! adapter adds so that it holds the right conversation and can be observed.
//!
//! What was asked for stands in the store and stays the same. The rest is put together anew each time, since
//! a restart goes on with the conversation that the start before it has begun.

use std::collections::BTreeMap;
use std::path::Path;

use stratavore_assistants as assistants;
use stratavore_assistants::adapter::{Conversation, Mode, OTLP, Observed, Start, Started};
use stratavore_core::runner::{Command, EnvValue, Runner};
use stratavore_core::session::Session;
use stratavore_runtime::{Observe, RunnerDir};

use crate::control::Control;
use crate::error::Error;

/// The file that a runner without a screen reads its prompt from.
const PROMPT: &str = "prompt";

/// All that one start takes.
pub(crate) struct CommandOfStart {
    /// What the assistant calls its conversation, where nothing else will tell that.
    pub session: Option<String>,
    /// The prompt that could not be given with the command.
    pub unsaid: Option<String>,
    pub argv: Vec<String>,
    pub env: BTreeMap<String, String>,
    pub observe: Option<Observe>,
    pub files: Vec<(String, String)>,
}

impl Control {
    pub(crate) async fn command_of_start(&self, runner: &Runner) -> Result<CommandOfStart, Error> {
        let Command { assistant, argv, .. } = &runner.command;
        let env = self.inherited_env(&runner.command);
        // Any program of which nothing is known is started as it was asked for.
        let known = assistants::find(assistant).is_some_and(|known| known.program.is_some());
        if !known && runner.command.prompt.is_none() {
            return Ok(CommandOfStart {
                session: None,
                unsaid: None,
                argv: argv.clone(),
                env,
                observe: None,
                files: Vec::new(),
            });
        }
        let session = match runner.session {
            Some(id) => Some(self.inner.store.session_get(id).await?),
            None => None,
        };
        let parent = match session.as_ref().and_then(|session| session.parent) {
            Some(id) => Some(self.inner.store.session_get(id).await?),
            None => None,
        };
        let preset = uuid(self.entropy());
        let conversation = conversation(session.as_ref(), parent.as_ref(), &preset);
        self.put_together(runner, conversation, env)
    }

    fn put_together(
        &self,
        runner: &Runner,
        conversation: Conversation<'_>,
        env: BTreeMap<String, String>,
    ) -> Result<CommandOfStart, Error> {
        let command = &runner.command;
        let dir = self.inner.runtime.dir(runner.id);
        let hook = self.hook(&dir);
        let begins = matches!(conversation, Conversation::Fresh { .. } | Conversation::Fork { .. });
        // One that is started again, or carries another one on, has it in its conversation.
        let is_asked = runner.epoch == 1 && runner.successor_of.is_none();
        let prompt = command.prompt.as_deref().filter(|_| begins || is_asked);
        let title = runner.name.to_string();
        // What the program will see, values of files apart: those are secrets, and no adapter asks for them.
        let mut seen = env.clone();
        for (key, value) in &command.env {
            if let EnvValue::Literal(value) = value {
                seen.insert(key.clone(), value.clone());
            }
        }
        let start = Start {
            argv: &command.argv,
            given: command.given,
            mode: command.headless.map_or(Mode::Interactive, Mode::Headless),
            conversation,
            prompt: prompt.filter(|_| command.headless.is_none()),
            title: &title,
            directory: Path::new(&command.directory),
            env: &seen,
            observed: (!command.bare).then_some(Observed { dir: dir.path(), hook: &hook }),
        };
        let started = assistants::adapter(&command.assistant).start(&start)?;
        assistants::can_be_passed(&started.argv)?;
        let mut files = started.files.clone();
        let input = match (command.headless, &command.prompt) {
            (Some(_), Some(prompt)) => {
                files.push((PROMPT.into(), prompt.clone()));
                Some(PROMPT.into())
            }
            (None, _) | (_, None) => None,
        };
        let unsaid = prompt.filter(|_| started.unsaid).map(String::from);
        // Of one that is observed its own events say it.
        let session = started.session.filter(|_| command.bare);
        let Started { argv, env: own, watch_title: title, transcript, telemetry, .. } = started;
        // Ours: in a word or a prompt of the caller's it is a text like any.
        let is_ours = |word: &String| !command.argv.contains(word) && prompt != Some(word.as_str());
        let places = argv.iter().enumerate().filter(|(_, word)| word.contains(OTLP));
        let words = places.filter(|(_, word)| is_ours(word)).map(|(place, _)| place).collect();
        let telemetry = telemetry.iter().map(ToString::to_string).collect();
        let observe = Observe { env: own, words, title, telemetry, transcript, input };
        Ok(CommandOfStart { session, unsaid, argv, env, observe: Some(observe), files })
    }

    /// The command that an assistant calls as its hook.
    fn hook(&self, dir: &RunnerDir) -> Vec<String> {
        let text = |path: &Path| path.to_string_lossy().into_owned();
        let program = text(self.inner.runtime.agent_program());
        vec![program, "hook".into(), "--dir".into(), text(dir.path())]
    }
}

/// A conversation is resumed once something was said in it, and not before: a session that was only
/// opened is one that assistants do not find again.
fn conversation<'a>(
    session: Option<&'a Session>,
    parent: Option<&'a Session>,
    preset: &'a str,
) -> Conversation<'a> {
    let begun = |session: &&Session| has_begun(session);
    let named = |session: &'a Session| session.external_id.as_deref();
    if let Some(session) = session.filter(begun).and_then(named) {
        return Conversation::Resume { session };
    }
    match parent.filter(begun).and_then(named) {
        Some(session) => Conversation::Fork { session, preset },
        None => Conversation::Fresh { preset },
    }
}

/// True if there is something to resume. Of an assistant that tells no messages that is so once it was
/// started.
pub(crate) fn has_begun(session: &Session) -> bool {
    let resumes_unheard = || assistants::adapter(&session.assistant).proves().resumes_unheard;
    session.has_begun() || (session.external_id.is_some() && resumes_unheard())
}

/// A random UUID (version 4, RFC 9562), of 16 random bytes.
pub(crate) fn uuid(mut bytes: [u8; 16]) -> String {
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex = crate::launch::hex(&bytes);
    let part = |from: usize, to: usize| &hex[from..to];
    [part(0, 8), part(8, 12), part(12, 16), part(16, 20), part(20, 32)].join("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_preset_is_a_uuid_of_version_four() {
        assert_eq!(uuid([0; 16]), "00000000-0000-4000-8000-000000000000");
        assert_eq!(uuid([255; 16]), "ffffffff-ffff-4fff-bfff-ffffffffffff");
    }
}
