//! What an adapter is: all that Stratavore has to know of one assistant, behind one interface.
//!
//! An adapter starts nothing and reads no file that is not handed to it, but for
//! [`Adapter::found`], [`Adapter::found_in`] and [`Adapter::level`], and an assistant's own configuration where
//! [`Adapter::start`] must not override it. What it makes of signals and transcripts are
//! [`Observation`]s; what follows from them is not its business.
//!
//! Invariant: no line and no signal makes an adapter fail. What it does not know is no observation.
//! Invariant: the same lines, read again from any offset with the memory that was kept for it, give the
//! same observations.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use stratavore_core::activity::{Activity, Doing, Source};
use stratavore_core::message::Place;
use stratavore_core::observation::{Observation, RateWindow};
pub use stratavore_core::runner::Headless;
use stratavore_core::signal::Signal;
use stratavore_core::usage::Quality;

use crate::AssistantError;

/// Stands for the address of the agent's receiver of OTLP (`http://127.0.0.1:PORT`) in variables and words
/// that [`Adapter::start`] sets. The agent, which opens the port, puts it in.
pub const OTLP: &str = "{stratavore:otlp}";

/// Follows [`Observed::hook`] where the hook waits for an answer; it prints what [`Adapter::answer`] gave.
pub const WAIT: &str = "--wait";

/// Follows [`Observed::hook`] where only this field of what the hook is given is of interest, and only once
/// it has changed.
pub const PART: &str = "--part";

/// Follows [`Observed::hook`] where the assistant calls it as a server of one tool (MCP), which it asks for
/// permission.
pub const MCP: &str = "--mcp";

/// What can be proved of an assistant, for the rest to ask and for people to see.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Proves {
    /// It runs without a screen, takes a prompt on its standard input, and ends with a result.
    pub headless: bool,
    /// It holds a run without a screen to limits of turns and cost by itself; else we do.
    pub own_limits: bool,
    /// We choose the id of its conversation; else it is learned.
    pub preset_session: bool,
    pub resume: bool,
    /// It finds a conversation from another directory than that in which it was held.
    pub elsewhere: bool,
    /// It tells no messages; what it is started with resumes whatever was said before. Nothing that people
    /// are shown.
    #[serde(skip)]
    pub resumes_unheard: bool,
    pub fork: bool,
    /// The best source that tells what it is doing.
    pub activity: Option<Source>,
    /// It tells that it has a prompt, and which.
    pub prompts: bool,
    /// It tells at once that it asks for a permission.
    pub permission_requests: bool,
    /// A permission can be given from elsewhere than its screen.
    pub permission_answers: bool,
    /// The same in a run without a screen. Of others what nobody has allowed before is refused there.
    pub headless_answers: bool,
    /// How good the best figures of its usage are.
    pub usage: Option<Quality>,
    /// It says what its usage cost.
    pub cost: bool,
    /// What was said can be had word for word, from files of its own or from what it exports.
    pub transcript: bool,
    /// What is typed to have it end by itself.
    pub quit: Option<&'static str>,
    /// A server of tools (MCP) can be added for one run, by the command or the environment of that run. Of
    /// those that cannot, one can still be put into the user's own configuration, which is not ours.
    pub mcp: bool,
}

/// With a screen, or without.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Interactive,
    Headless(Headless),
}

/// Which conversation a run holds. Sessions are named as the assistant does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Conversation<'a> {
    /// A new one; `preset` is a random UUID that it may be called by.
    Fresh {
        preset: &'a str,
    },
    Resume {
        session: &'a str,
    },
    Fork {
        session: &'a str,
        preset: &'a str,
    },
}

/// How a run is to be started.
#[derive(Debug, Clone, Copy)]
pub struct Start<'a> {
    /// The program, the configured arguments, our flags, and then what the caller gave.
    pub argv: &'a [String],
    /// Where in `argv` begins what the caller gave.
    pub given: usize,
    pub mode: Mode,
    pub conversation: Conversation<'a>,
    /// The first prompt of a run with a screen. Without one it is handed over on the standard input.
    pub prompt: Option<&'a str>,
    /// What the conversation may be called.
    pub title: &'a str,
    pub directory: &'a Path,
    /// The environment that the run will have.
    pub env: &'a BTreeMap<String, String>,
    /// `None`: nothing is injected; it runs as if we were not there.
    pub observed: Option<Observed<'a>>,
}

/// With what a run is observed.
#[derive(Debug, Clone, Copy)]
pub struct Observed<'a> {
    /// The directory of the runner, where [`Started::files`] will be.
    pub dir: &'a Path,
    /// The beginning of the command that an assistant calls as its hook: it takes JSON on its standard
    /// input, exits with 0, and prints nothing, or for a call that waits ([`WAIT`]) the answer.
    /// The program and its arguments are absolute and need no quotes in a shell.
    pub hook: &'a [String],
}

/// A run, ready to be started.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Started {
    pub argv: Vec<String>,
    /// Set unless the caller has set them.
    pub env: BTreeMap<String, String>,
    /// Files to be written into the runner's directory: name, content.
    pub files: Vec<(String, String)>,
    /// The conversation's id, if that is known before.
    pub session: Option<String>,
    /// The file to follow as its transcript, if that is known before.
    pub transcript: Option<PathBuf>,
    /// The terminal's title tells something.
    pub watch_title: bool,
    /// The prompt could not be given with the command: it is to be sent once the assistant is idle.
    pub unsaid: bool,
    /// A log record of its telemetry that has none of these attributes tells nothing, and need not be kept.
    /// Empty: all are kept.
    pub telemetry: &'static [&'static str],
}

/// What an adapter keeps in mind between the lines of one file, or the signals of one runner.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Memory {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Whatever else it needs, by names of its own. Small.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub more: BTreeMap<String, String>,
}

impl Memory {
    /// Signals are those of this start of the runner: of an earlier one nothing is open any more. What is
    /// kept has names that begin with `kept`.
    pub(crate) fn at_epoch(&mut self, epoch: i64, kept: Option<&str>) {
        const EPOCH: &str = "epoch";
        let epoch = epoch.to_string();
        if self.more.get(EPOCH) != Some(&epoch) {
            self.session = None;
            self.more.retain(|name, _| kept.is_some_and(|kept| name.starts_with(kept)));
            self.more.insert(EPOCH.into(), epoch);
        }
    }
}

/// How conversations are had from an assistant that keeps them in no files of lines: what its own
/// program is called with. What that prints is for [`Adapter::document`].
///
/// It prints into a file, and never into a pipe: opencode cuts off there what is longer than 64 KiB, and
/// says nothing (anomalyco/opencode#29330).
#[derive(Clone, Copy)]
pub struct Export {
    /// Whether it may have any, for the environment that it would run in: one that was never used is
    /// not started.
    pub is_used: fn(&BTreeMap<String, String>) -> bool,
    /// Prints a list of its conversations, all of them, those that others began from first.
    pub list: &'static [&'static str],
    /// The ids in that list.
    pub listed: fn(&str) -> Vec<String>,
    /// Prints one conversation, whose id comes after these.
    pub one: &'static [&'static str],
}

/// How a run without a screen came out, by its final record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Outcome {
    Done {
        text: String,
    },
    /// It ended by a limit of turns or cost.
    LimitReached {
        what: String,
    },
    /// Its maker lets it do nothing until a time, if that was told.
    RateLimited {
        why: String,
    },
    Failed {
        why: String,
    },
    /// There is no final record, so whatever the exit code says it did not come to its end.
    Cut,
}

/// One step of a run without a screen, for whoever watches.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "snake_case")]
pub enum Step {
    Session {
        session: String,
    },
    Text {
        text: String,
    },
    Tool {
        tool: String,
        text: String,
    },
    ToolResult {
        text: String,
    },
    Retry {
        why: String,
    },
    /// It waits for a person. No output tells that, but what asks.
    Asks {
        tool: String,
        text: String,
    },
}

/// One assistant.
pub trait Adapter: Sync {
    fn proves(&self) -> Proves;

    /// The command, variables and files of a run. What the caller gave comes after our own, unchanged;
    /// but a prompt among it is left out where a conversation is resumed.
    fn start(&self, start: &Start<'_>) -> Result<Started, AssistantError>;

    /// What a signal of a running assistant says.
    fn signal(&self, memory: &mut Memory, signal: &Signal, place: &Place) -> Vec<Observation>;

    /// What one whole line of a transcript says, without its end.
    fn line(&self, memory: &mut Memory, line: &[u8], place: &Place) -> Vec<Observation>;

    /// Further files of the same conversation, as those of subagents: a directory in which each file
    /// with such an ending is one.
    fn beside(&self, transcript: &Path) -> Option<(PathBuf, &'static str)> {
        let _ = transcript;
        None
    }

    /// The transcripts that the assistant has on this host, for an import; `env` is the environment that
    /// it would run in.
    fn found(&self, env: &BTreeMap<String, String>) -> Vec<PathBuf> {
        let _ = env;
        Vec::new()
    }

    /// The same of one that keeps them in the directories that it works in: the one of this directory.
    fn found_in(&self, directory: &Path) -> Option<PathBuf> {
        let _ = directory;
        None
    }

    /// The transcripts of one conversation, for an assistant that tells no signal where they are.
    fn transcripts(&self, session: &str, env: &BTreeMap<String, String>) -> Vec<PathBuf> {
        let _ = (session, env);
        Vec::new()
    }

    /// The directory below which it keeps its transcripts, and looks for them when it resumes one. `None`: one
    /// that is gone cannot be put back.
    fn transcript_home(&self, env: &BTreeMap<String, String>) -> Option<PathBuf> {
        let _ = env;
        None
    }

    /// How to have conversations that are in no transcript.
    fn export(&self) -> Option<Export> {
        None
    }

    /// What an exported conversation says, all of it.
    fn document(&self, text: &str, place: &Place) -> Vec<Observation> {
        let _ = (text, place);
        Vec::new()
    }

    /// What it does by the title of its terminal. `None`: that tells nothing of it.
    fn titled(&self, title: &str) -> Option<Activity> {
        let _ = title;
        None
    }

    /// What it is doing now, where it keeps that in a file: interrupts, for one, are told by no event.
    fn level(&self, pid: u32, env: &BTreeMap<String, String>) -> Option<Doing> {
        let _ = (pid, env);
        None
    }

    /// What the waiting hook prints to let the assistant go on, or not; `message` is for the assistant:
    /// why not, or the answer to its question. `body` is what the hook was given. `None`: it does not take
    /// this answer so.
    fn answer(
        &self,
        body: &serde_json::Value,
        allow: bool,
        message: Option<&str>,
    ) -> Option<String> {
        let _ = (body, allow, message);
        None
    }

    /// What is typed at the dialog on the assistant's screen to let it go on, or not, where no hook waits
    /// ([`Asked::call`](stratavore_core::observation::Asked) is `None`). Only while it is known to ask:
    /// typed at any other time it means something else.
    fn answer_keys(&self, body: &serde_json::Value, allow: bool) -> Option<&'static str> {
        let _ = (body, allow);
        None
    }

    /// Words that are on its screen for as long as a dialog waits for [`Adapter::answer_keys`]. `None`: nobody
    /// types there but a person who sees it.
    fn dialog(&self) -> Option<&'static str> {
        None
    }

    /// What the dialog on its screen asks, where no signal says it: the tool, and what with.
    fn asked_on_screen(&self, screen: &str) -> Option<(String, String)> {
        let _ = screen;
        None
    }

    /// One line of the output of a run without a screen.
    fn step(&self, line: &str) -> Vec<Step> {
        let _ = line;
        Vec::new()
    }

    /// What a run without a screen printed of its subscription's windows, by `at`.
    fn windows(&self, output: &str, at: Timestamp) -> Vec<RateWindow> {
        let _ = (output, at);
        Vec::new()
    }

    /// How a run without a screen came out: `output` is the end of what it printed.
    fn outcome(&self, output: &str, exit: Option<i32>) -> Outcome;
}
