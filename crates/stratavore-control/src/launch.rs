//! Launching: check and reserve, then start, then say so.

#[cfg(test)]
mod fuzz;

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use stratavore_assistants as assistants;
use stratavore_core::caller::Caller;
use stratavore_core::idempotency::Idempotency;
use stratavore_core::limits::Limits;
use stratavore_core::name::{Name, NameError};
use stratavore_core::node::Label;
use stratavore_core::project::Project;
use stratavore_core::restart::RestartPolicy;
use stratavore_core::runner::{Command, EnvError, EnvValue, Headless, Runner, parse_env};
use stratavore_core::window::AfterLimit;
use stratavore_core::{RunnerId, SessionId};
use stratavore_runtime::{failpoint, program};
use stratavore_store::{NameWish, NewRunner};

use crate::bounds;
use crate::control::Control;
use crate::error::Error;
use crate::resume::Resume;

/// The most runners that one request launches.
const COUNT_MAX: u32 = 100;
/// What is asked for.
#[derive(Debug, Clone, Default)]
pub struct Launch {
    pub assistant: Option<String>,
    pub args: Vec<String>,
    pub name: Option<String>,
    pub count: u32,
    pub env: Vec<String>,
    pub restart: RestartPolicy,
    pub limits: Limits,
    /// Absolute, or relative to the project's.
    pub directory: Option<String>,
    pub columns: u16,
    pub rows: u16,
    /// The first prompt.
    pub prompt: Option<String>,
    /// Not observed, and given nothing of ours.
    pub bare: bool,
    /// Without a screen.
    pub headless: Option<Headless>,
    pub after_limit: AfterLimit,
    /// What its node has to be labelled with; where it goes is decided before.
    pub labels: Vec<Label>,
    /// The conversation that it goes on with.
    pub resume: Option<Resume>,
}

impl Control {
    /// Admits runners: all of them, or none. Answers before they run. What it is resumed with
    /// ([`Resume`]) gives way to what the launch itself is given.
    pub async fn launch(
        &self,
        caller: &Caller,
        project: &str,
        launch: Launch,
        key: Option<Idempotency>,
    ) -> Result<Vec<Runner>, Error> {
        self.may_change(caller, "launch runners")?;
        failpoint("L0");
        if let Some(answer) = self.answered::<Vec<Runner>>(key.as_ref()).await? {
            self.look_again(&answer).await?;
            return Ok(answer);
        }
        failpoint("L1");
        let project = self.project(project).await?;
        let count = launch.count.max(1);
        if count > COUNT_MAX {
            return Err(Error::invalid(
                format!("{count} runners at once are over the limit of {COUNT_MAX}"),
                "launch them in several requests",
            ));
        }
        bounds::command(&launch.args, &launch.env)?;
        let command = self.command(&project, &launch)?;
        let wish = match &launch.name {
            Some(name) => {
                let name = parse_name(name)?;
                if count == 1 { NameWish::Exact(name) } else { NameWish::Numbered(name) }
            }
            None => NameWish::Numbered(usual_name(&command)),
        };
        if launch.resume.is_some() && count > 1 {
            return Err(Error::invalid(
                "a conversation is held by one runner at a time",
                "leave the count out, or fork it for each",
            ));
        }
        let resume = launch.resume.as_ref();
        let new = (0..count)
            .map(|_| NewRunner {
                id: RunnerId::from_entropy(self.entropy()),
                project: project.id,
                name: wish.clone(),
                node: self.inner.node.id,
                bounded: self.inner.settings.profile.capacity.is_some(),
                command: command.clone(),
                limits: launch.limits,
                restart: launch.restart,
                session: match resume {
                    Some(Resume { session, fork: false, .. }) => *session,
                    Some(Resume { fork: true, .. }) | None => {
                        SessionId::from_entropy(self.entropy())
                    }
                },
                continues: resume.is_some_and(|resume| !resume.fork),
                forks: resume.filter(|resume| resume.fork).map(|resume| resume.session),
                successor_of: None,
            })
            .collect();
        self.admit(new, caller, key.as_ref()).await
    }

    /// The common end of launching, restarting and recovering.
    pub(crate) async fn admit(
        &self,
        new: Vec<NewRunner>,
        caller: &Caller,
        key: Option<&Idempotency>,
    ) -> Result<Vec<Runner>, Error> {
        self.room_to_launch()?;
        failpoint("L2");
        let runners =
            self.inner.store.runners_admit(new, &self.by(caller, key), self.now(), key).await?;
        failpoint("L5");
        match key {
            // With a repeated key this is the stored answer.
            Some(_) => self.look_again(&runners).await?,
            None => runners.iter().for_each(|runner| self.changed(runner)),
        }
        failpoint("L13");
        Ok(runners)
    }

    pub(crate) fn command(&self, project: &Project, launch: &Launch) -> Result<Command, Error> {
        let resumed = launch.resume.as_ref();
        let assistant = match (&launch.assistant, resumed) {
            (Some(name), Some(resume)) if *name != resume.assistant.as_str() => {
                let message =
                    format!("{} is a conversation of {}", resume.session, resume.assistant);
                return Err(Error::invalid(message, "leave the assistant out"));
            }
            (_, Some(resume)) => resume.assistant.clone(),
            (Some(name), None) => parse_name(name)?,
            (None, None) => match project.assistant.clone() {
                Some(name) => name,
                None if !launch.args.is_empty() => parse_name("generic")?,
                None => {
                    return Err(Error::invalid(
                        format!("the project {} names no assistant", project.name),
                        "say which one: --assistant claude, or give a command: -- COMMAND ARGS…",
                    ));
                }
            },
        };
        let settings = self.inner.settings.assistants.get(assistant.as_str());
        let settings = settings.map(|settings| assistants::Settings {
            program: settings.program.clone(),
            args: settings.args.clone(),
        });
        let proves = assistants::adapter(&assistant).proves();
        if launch.after_limit == AfterLimit::Continue && !proves.prompts {
            return Err(Error::invalid(
                format!(
                    "{assistant} does not tell that it has a prompt, so it cannot be told to go on after a limit"
                ),
                "leave --after-limit out",
            ));
        }
        let limited =
            launch.headless.is_some_and(|h| h.max_turns.is_some() || h.max_cost.is_some());
        if limited && proves.usage.is_none() {
            return Err(Error::invalid(
                format!(
                    "{assistant} does not tell what it uses, so it cannot be held to turns or a cost"
                ),
                "leave --max-turns and --max-cost out, or end it by time: --timeout 30m",
            ));
        }
        let before = resumed.map_or(&[][..], |resume| &resume.args);
        let args = if launch.args.is_empty() { before } else { &launch.args };
        let argv = assistants::command(&assistant, args, settings.as_ref())?;
        let mut env = resumed.map(|resume| resume.env.clone()).unwrap_or_default();
        for text in &launch.env {
            let (key, value) = self.env_variable(text)?;
            env.insert(key, value);
        }
        let held_in = resumed.and_then(|resume| resume.directory.as_deref());
        let directory = match launch.directory.as_deref().or(held_in).map(Path::new) {
            Some(directory) if directory.is_absolute() => resolve_directory(directory)?,
            Some(directory) => resolve_directory(&own_directory(project)?.join(directory))?,
            None => own_directory(project)?.display().to_string(),
        };
        let (columns, rows) = (launch.columns, launch.rows);
        let given = argv.len() - args.len();
        if let Some(prompt) = &launch.prompt {
            bounds::prompt(prompt)?;
        }
        let command = Command {
            assistant,
            argv,
            given,
            prompt: launch.prompt.clone(),
            bare: launch.bare,
            headless: launch.headless,
            after_limit: launch.after_limit,
            labels: launch.labels.clone(),
            env,
            directory,
            columns: if columns == 0 { 80 } else { columns.min(1000) },
            rows: if rows == 0 { 24 } else { rows.min(1000) },
        };
        self.check_variables(&command)?;
        self.check_program(&command)?;
        Ok(command)
    }

    /// A variable that the daemon should hand on and does not have is told, not left out.
    pub(crate) fn check_variables(&self, command: &Command) -> Result<(), Error> {
        for (key, value) in &command.env {
            if let EnvValue::Daemon(name) = value
                && !self.inner.env.contains_key(name)
            {
                let name = name.escape_debug();
                return Err(Error::invalid(
                    format!("{key} refers to {name}, which is not in the daemon's environment"),
                    format!("write {key}=file:PATH, or set {name} and: stratavore daemon restart"),
                ));
            }
        }
        Ok(())
    }

    /// A slip in the program's name is told before anything is admitted. Only the agent can tell
    /// for certain, when it starts the program.
    pub(crate) fn check_program(&self, command: &Command) -> Result<(), Error> {
        let name = command.argv.first().map_or("", String::as_str);
        let path = match command.env.get("PATH") {
            Some(EnvValue::Literal(path)) => Some(path.clone()),
            Some(EnvValue::File(_) | EnvValue::Daemon(_)) => return Ok(()),
            None => self.inherited_env(command).remove("PATH"),
        };
        Ok(program::check(name, path.as_deref(), Path::new(&command.directory))?)
    }

    fn env_variable(&self, text: &str) -> Result<(String, EnvValue), Error> {
        match parse_env(text) {
            Ok(parsed) => Ok(parsed),
            Err(EnvError::Forbidden(key)) if self.inner.settings.env_allow.contains(&key) => {
                let value = text.split_once('=').map_or("", |(_, value)| value);
                Ok((key, EnvValue::Literal(value.into())))
            }
            Err(error @ EnvError::Forbidden(_)) => Err(Error::invalid(
                error.to_string(),
                "if it has to: name it in runner.env_allow of the configuration",
            )),
            Err(error) => Err(Error::invalid(
                error.to_string(),
                "write KEY=VALUE, or for a secret KEY=file:PATH or KEY=env:NAME",
            )),
        }
    }

    /// What a runner inherits from the daemon's environment, with what its variables refer to.
    pub(crate) fn inherited_env(&self, command: &Command) -> BTreeMap<String, String> {
        let mut env = self.env_of_assistant(&command.assistant);
        for (key, value) in &command.env {
            if let EnvValue::Daemon(name) = value
                && let Some(value) = self.inner.env.get(name)
            {
                env.insert(key.clone(), value.clone());
            }
        }
        env
    }

    /// What an assistant inherits from the daemon's environment, whatever it is started for.
    pub(crate) fn env_of_assistant(&self, assistant: &Name) -> BTreeMap<String, String> {
        let settings = &self.inner.settings;
        let own = settings.assistants.get(assistant.as_str());
        let passed = |key: &str| {
            assistants::inherits(key)
                || settings.env_pass.iter().any(|name| name == key)
                || own.is_some_and(|own| own.env_pass.iter().any(|name| name == key))
        };
        let defaults = assistants::default_env(assistant);
        let mut env: BTreeMap<String, String> =
            defaults.map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
        let inherited =
            self.inner.env.iter().filter(|(key, _)| passed(key) && !env.contains_key(*key));
        let inherited: Vec<_> =
            inherited.map(|(key, value)| (key.clone(), value.clone())).collect();
        env.extend(inherited);
        for mark in assistants::scrub() {
            env.remove(mark);
        }
        env
    }
}

/// A runner is named after its assistant, and one of any command after its program.
pub(crate) fn usual_name(command: &Command) -> Name {
    let program = command.argv.first().and_then(|program| Path::new(program).file_name());
    let program = program.and_then(|name| name.to_str()?.parse().ok());
    match program {
        Some(program) if command.assistant.as_str() == "generic" => program,
        Some(_) | None => command.assistant.clone(),
    }
}

pub(crate) fn parse_name(text: &str) -> Result<Name, Error> {
    text.parse()
        .map_err(|error: NameError| Error::invalid(error.to_string(), "choose another name"))
}

/// The project's directory, which was resolved when it was given. Another one that a link leads to
/// by now was not meant, whoever made the link.
fn own_directory(project: &Project) -> Result<&Path, Error> {
    let found = resolve_directory(Path::new(&project.directory))?;
    if found != project.directory {
        let (meant, found) = (project.directory.escape_debug(), found.escape_debug());
        return Err(Error::invalid(
            format!("the directory {meant} of the project {} is now {found}", project.name),
            format!("if that is right: stratavore projects edit {} --directory DIR", project.name),
        ));
    }
    Ok(Path::new(&project.directory))
}

/// Of `linux/limits.h`, without the zero at its end.
const PATH_MAX: usize = 4095;

/// The directory as the file system knows it, without links; an error that says what is wrong.
pub(crate) fn resolve_directory(path: &Path) -> Result<String, Error> {
    // The C library would come to a place by a name that the kernel refuses whoever uses it.
    let length = path.as_os_str().len();
    if length > PATH_MAX {
        return Err(Error::invalid(
            format!("the directory is named with {length} bytes, and {PATH_MAX} are the most"),
            "name it by a shorter path",
        ));
    }
    let shown = path.display().to_string();
    let shown = shown.escape_debug();
    if !path.is_absolute() {
        return Err(Error::invalid(
            format!("the directory {shown} is not absolute"),
            "begin it with /",
        ));
    }
    let resolved: PathBuf = path.canonicalize().map_err(|error| {
        let another = "name another: stratavore projects edit PROJECT --directory DIR";
        if error.kind() == ErrorKind::NotFound {
            let message = format!("the directory {shown} does not exist");
            Error::Absent { message, hint: format!("make it first, or {another}") }
        } else if error.kind() == ErrorKind::PermissionDenied {
            let message = format!("the daemon's user may not enter the directory {shown}");
            Error::Denied { message, hint: format!("give access to it, or {another}") }
        } else {
            Error::invalid(format!("the directory {shown} cannot be used: {error}"), another)
        }
    })?;
    if !resolved.is_dir() {
        return Err(Error::invalid(
            format!("{shown} is not a directory"),
            "name the directory to work in",
        ));
    }
    resolved.into_os_string().into_string().map_err(|_| {
        Error::invalid(
            format!("the directory {shown} has a name that is not UTF-8"),
            "rename it, or use another",
        )
    })
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
