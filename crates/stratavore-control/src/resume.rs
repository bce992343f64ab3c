//! Going on with a conversation: as it was run before, and with what is different said.
//!
//! A conversation is resumed with the directory, the arguments and the variables of the run that held it
//! last. What is gone by now is left out and told; what the assistant cannot do without is refused, before
//! anything is admitted.

use std::collections::BTreeMap;
use std::path::Path;

use stratavore_assistants as assistants;
use stratavore_core::SessionId;
use stratavore_core::caller::Caller;
use stratavore_core::name::Name;
use stratavore_core::runner::{Command, EnvValue};
use stratavore_core::session::Session;
use stratavore_store::StoreError;

use crate::command::has_begun;
use crate::control::Control;
use crate::error::Error;

/// A conversation that a launch goes on with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resume {
    pub session: SessionId,
    pub assistant: Name,
    /// Where it was held: most assistants find it again only there. `None`: it is not known, or gone and
    /// not needed.
    pub directory: Option<String>,
    /// In a new conversation that begins as that one is now.
    pub fork: bool,
    /// What the run that held it last was given, for a launch that is given none.
    pub args: Vec<String>,
    pub env: BTreeMap<String, EnvValue>,
    /// What is different from that run, for people.
    pub remarks: Vec<String>,
}

impl Control {
    /// The conversation that a person wants to go on with, if its assistant can do that.
    pub async fn session_to_resume(
        &self,
        caller: &Caller,
        wanted: &str,
        fork: bool,
    ) -> Result<Resume, Error> {
        let session = self.session(caller, wanted).await?;
        let proves = assistants::adapter(&session.assistant).proves();
        let (can, what) = if fork { (proves.fork, "fork") } else { (proves.resume, "resume") };
        if !can {
            let message = format!("{} cannot {what} a conversation", session.assistant);
            return Err(Error::invalid(message, "begin a new one: stratavore launch"));
        }
        let begun = has_begun(&session) && session.external_id.is_some();
        if fork && !begun {
            let message =
                format!("nothing was said in {} yet, so there is nothing to fork", session.id);
            return Err(Error::invalid(message, "begin a new one: stratavore launch"));
        }
        let mut remarks = Vec::new();
        let before = self.command_before(&session, &mut remarks).await?;
        let directory = directory(&session, before.as_ref(), proves.elsewhere, &mut remarks);
        if begun {
            let seen =
                before.as_ref().map_or(self.inner.env.clone(), |command| self.env_seen(command));
            remarks.extend(self.transcripts_put_back(&session, &seen).await?);
            self.transcripts_are_here(&session, &seen).await?;
        }
        let (args, env) = before.map(|command| self.restored(command, &mut remarks)).unzip();
        Ok(Resume {
            session: session.id,
            assistant: session.assistant,
            directory,
            fork,
            args: args.unwrap_or_default(),
            env: env.unwrap_or_default(),
            remarks,
        })
    }

    /// How the conversation was run last; `None`: it never was, or nobody knows any more.
    async fn command_before(
        &self,
        session: &Session,
        remarks: &mut Vec<String>,
    ) -> Result<Option<Command>, Error> {
        let story = self.inner.store.session_show(session.id).await?;
        let Some(held) = story.held.first() else { return Ok(None) };
        // What it has told by now is its own, and not of whoever goes on.
        self.follow_one(held.runner).await?;
        match self.inner.store.runner_get(held.runner).await {
            Ok(runner) => Ok(Some(runner.command)),
            Err(StoreError::NotFound { .. }) => {
                remarks.push(format!(
                    "the runner {} that held it last is no longer known: it is resumed without its arguments and variables",
                    held.runner
                ));
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// The arguments and variables of a run, without what is gone.
    fn restored(
        &self,
        command: Command,
        remarks: &mut Vec<String>,
    ) -> (Vec<String>, BTreeMap<String, EnvValue>) {
        let args = command.argv.get(command.given.max(1)..).unwrap_or_default().to_vec();
        let mut env = command.env;
        env.retain(|key, value| {
            let gone = match value {
                EnvValue::Literal(_) => None,
                EnvValue::File(path) if Path::new(path).exists() => None,
                EnvValue::File(path) => Some(format!("the file {} is gone", path.escape_debug())),
                EnvValue::Daemon(name) if self.inner.env.contains_key(name) => None,
                EnvValue::Daemon(name) => {
                    Some(format!("the daemon has no {} now", name.escape_debug()))
                }
            };
            if let Some(gone) = &gone {
                remarks.push(format!("it runs without {key}: {gone}"));
            }
            gone.is_none()
        });
        (args, env)
    }
}

/// Where it is resumed. One that is gone is left out where the assistant finds the conversation from
/// elsewhere as well; else the launch will say that it is not there.
fn directory(
    session: &Session,
    before: Option<&Command>,
    elsewhere: bool,
    remarks: &mut Vec<String>,
) -> Option<String> {
    let known = session.directory.clone().or_else(|| Some(before?.directory.clone()))?;
    if elsewhere && !Path::new(&known).is_dir() {
        remarks.push(format!(
            "its directory {} is gone: it is resumed in the project's",
            known.escape_debug()
        ));
        return None;
    }
    Some(known)
}
