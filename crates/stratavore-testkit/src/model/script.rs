//! What the stand-in is told to answer.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::sync::Notify;

use super::{Asked, Purpose, Usage};

/// How long a test waits for a held answer to be asked for.
const PATIENCE: Duration = Duration::from_secs(60);

/// A tool that the model calls. Which of the tools on offer that is, and how it wants to be called,
/// is found in the request.
#[derive(Debug, Clone, PartialEq)]
pub enum Tool {
    Shell(String),
    /// The same outside of the assistant's sandbox, where it has one: a person is asked before.
    Escalated(String),
    Write {
        path: PathBuf,
        text: String,
    },
    /// Another model's conversation below this one.
    Subagent {
        prompt: String,
    },
    /// Just this one, with just these arguments.
    Named {
        name: String,
        arguments: Value,
    },
}

/// A part of what the model says.
#[derive(Debug, Clone, PartialEq)]
pub enum Part {
    Text(String),
    Call(Tool),
}

/// How an answer ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    Whole,
    /// In the middle, with the connection.
    Cut,
    /// It is none: the request is refused, and costs nothing.
    Refused {
        status: u16,
        message: String,
        retry_after: Option<Duration>,
        /// When a plan's limit ends, in seconds since 1970.
        resets_at: Option<i64>,
    },
}

/// Where an answer waits for its [`Hold`] or [delay](Reply::after).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Before its first byte.
    Start,
    /// After about half of it, if it is streamed.
    Middle,
}

/// One answer of the model.
#[derive(Debug, Clone)]
pub struct Reply {
    pub(super) parts: Vec<Part>,
    pub(super) usage: Option<Usage>,
    pub(super) delay: Option<(Place, Duration)>,
    pub(super) hold: Option<(Place, Hold)>,
    pub(super) end: End,
}

impl Reply {
    pub fn of(parts: Vec<Part>) -> Self {
        Self { parts, usage: None, delay: None, hold: None, end: End::Whole }
    }

    pub fn text(text: &str) -> Self {
        Self::of(vec![Part::Text(text.into())])
    }

    /// A call of a tool.
    pub fn call(tool: Tool) -> Self {
        Self::of(vec![Part::Call(tool)])
    }

    /// A command for the assistant's shell.
    pub fn shell(command: &str) -> Self {
        Self::call(Tool::Shell(command.into()))
    }

    /// The same, for which the assistant has to ask a person even where it has a sandbox.
    pub fn escalated(command: &str) -> Self {
        Self::call(Tool::Escalated(command.into()))
    }

    pub fn write(path: impl Into<PathBuf>, text: &str) -> Self {
        Self::call(Tool::Write { path: path.into(), text: text.into() })
    }

    pub fn subagent(prompt: &str) -> Self {
        Self::call(Tool::Subagent { prompt: prompt.into() })
    }

    /// A refusal with this status.
    pub fn refused(status: u16) -> Self {
        let message = "as the script says".into();
        let end = End::Refused { status, message, retry_after: None, resets_at: None };
        Self { end, ..Self::of(Vec::new()) }
    }

    /// Too many requests; the next may come after `retry_after`.
    pub fn rate_limited(retry_after: Duration) -> Self {
        let message = "too many requests, as the script says".into();
        let retry_after = Some(retry_after);
        let end = End::Refused { status: 429, message, retry_after, resets_at: None };
        Self { end, ..Self::of(Vec::new()) }
    }

    /// Too many requests, in these words, as where a plan's limit is met.
    pub fn limited(message: &str) -> Self {
        let message = message.into();
        let end = End::Refused { status: 429, message, retry_after: None, resets_at: None };
        Self { end, ..Self::of(Vec::new()) }
    }

    /// A plan's limit that ends then, in seconds since 1970, as each provider tells it.
    pub fn limited_until(resets_at: i64) -> Self {
        let message = format!("Claude AI usage limit reached|{resets_at}");
        let resets_at = Some(resets_at);
        let end = End::Refused { status: 429, message, retry_after: None, resets_at };
        Self { end, ..Self::of(Vec::new()) }
    }

    /// The provider has too much to do.
    pub fn overloaded() -> Self {
        Self::refused(529)
    }

    /// One part more.
    #[must_use]
    pub fn and(mut self, part: Part) -> Self {
        self.parts.push(part);
        self
    }

    /// The tokens that it costs.
    #[must_use]
    pub fn costing(mut self, usage: Usage) -> Self {
        self.usage = Some(usage);
        self
    }

    /// Takes this long, at that place.
    #[must_use]
    pub fn after(mut self, place: Place, delay: Duration) -> Self {
        self.delay = Some((place, delay));
        self
    }

    /// Waits there until the test lets it go on.
    #[must_use]
    pub fn held(mut self, place: Place, hold: &Hold) -> Self {
        self.hold = Some((place, hold.clone()));
        self
    }

    /// The connection ends in the middle of it.
    #[must_use]
    pub fn cut(mut self) -> Self {
        self.end = End::Cut;
        self
    }
}

/// What holds an answer back until the test lets it go.
#[derive(Debug, Clone, Default)]
pub struct Hold {
    inner: Arc<Held>,
}

#[derive(Debug, Default)]
struct Held {
    state: Mutex<State>,
    changed: Condvar,
    released: Notify,
}

#[derive(Debug, Default)]
struct State {
    reached: usize,
    released: bool,
}

impl Hold {
    pub fn new() -> Self {
        Self::default()
    }

    /// Waits until an answer is held here.
    ///
    /// # Panics
    /// If none is within a minute.
    #[track_caller]
    pub fn until_reached(&self) {
        let deadline = Instant::now() + PATIENCE;
        let mut state = self.state();
        while state.reached == 0 {
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "no answer was held within {PATIENCE:?}");
            let waited = self.inner.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Whether an answer has been held here.
    pub fn is_reached(&self) -> bool {
        self.state().reached > 0
    }

    /// Lets every answer go on, those that come later too.
    pub fn release(&self) {
        self.state().released = true;
        self.inner.released.notify_waiters();
    }

    /// Waits, on the server's side, until it is released.
    pub(super) async fn pass(&self) {
        // Listened to before the state is read: a release in between is heard.
        let released = self.inner.released.notified();
        {
            let mut state = self.state();
            state.reached += 1;
            self.inner.changed.notify_all();
            if state.released {
                return;
            }
        }
        released.await;
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

type When = Box<dyn Fn(&Asked) -> bool + Send>;
type Answers = Box<dyn FnMut(&Asked) -> Option<Reply> + Send>;

/// What such requests are answered.
pub(super) enum Rule {
    /// One reply after another; then the rule is used up.
    Replies { when: When, left: VecDeque<Reply> },
    /// Whatever this says, if it says something.
    Answer(Answers),
}

impl Rule {
    fn take(&mut self, asked: &Asked) -> Option<Reply> {
        match self {
            Rule::Replies { left, .. } if left.is_empty() => None,
            Rule::Replies { when, left } => when(asked).then(|| left.pop_front()).flatten(),
            Rule::Answer(answer) => answer(asked),
        }
    }
}

/// The reply of the first rule that has one; else what the prompt itself asks for; else a word.
pub(super) fn reply_to(rules: &mut [Rule], asked: &Asked) -> Reply {
    if let Some(reply) = rules.iter_mut().find_map(|rule| rule.take(asked)) {
        return reply;
    }
    match asked.purpose {
        Purpose::Title => Reply::text(&asked.title_reply("A scripted title")),
        Purpose::Compaction => Reply::text("<summary>What was said so far.</summary>"),
        Purpose::Routing => Reply::text(r#"{"reasoning":"simple","model_choice":"flash"}"#),
        Purpose::Main | Purpose::Subagent | Purpose::Other => {
            let steps = from_prompt(&asked.prompt);
            let reply = steps.into_iter().nth(asked.rounds);
            reply.unwrap_or_else(|| Reply::text("done"))
        }
    }
}

/// Replies that a prompt itself asks for: `[[shell:COMMAND]]`,
/// `[[escalated:COMMAND]]`, `[[write:PATH=TEXT]]`, `[[agent:PROMPT]]`, `[[text:TEXT]]`, one for each round of tools. The prompt of an agent may have
/// some of its own.
pub(super) fn from_prompt(prompt: &str) -> Vec<Reply> {
    let reply = |mark: &str| {
        let (verb, rest) = mark.split_once(':')?;
        match verb {
            "shell" => Some(Reply::shell(rest)),
            "escalated" => Some(Reply::escalated(rest)),
            "write" => rest.split_once('=').map(|(path, text)| Reply::write(path, text)),
            "agent" => Some(Reply::subagent(rest)),
            "text" => Some(Reply::text(rest)),
            _ => None,
        }
    };
    marks(prompt).into_iter().filter_map(reply).collect()
}

/// What stands between outermost pairs of brackets.
fn marks(prompt: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let (mut depth, mut from, mut at) = (0_usize, 0, 0);
    while at < prompt.len() {
        let rest = &prompt[at..];
        if rest.starts_with("[[") {
            if depth == 0 {
                from = at + 2;
            }
            depth += 1;
            at += 2;
        } else if depth > 0 && rest.starts_with("]]") {
            depth -= 1;
            if depth == 0 {
                found.push(&prompt[from..at]);
            }
            at += 2;
        } else {
            at += rest.chars().next().map_or(1, char::len_utf8);
        }
    }
    found
}
