//! A stand-in for the providers of models: an HTTP server on loopback that real assistants talk to.
//!
//! It speaks Anthropic's Messages, OpenAI's Responses and Chat Completions, and Gemini, streamed and
//! not. A test says what is answered to which request; nobody pays, and nothing leaves the machine.
//!
//! Invariant: each answer is on the [`Bill`] once, with the ids and figures that the client was sent.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::Value;
use tokio::sync::oneshot;

mod asked;
mod bill;
mod chat;
mod gemini;
mod messages;
mod responses;
mod script;
mod serve;
mod tool;

#[cfg(test)]
mod tests;

pub use asked::{Asked, Offered, Purpose, Said};
pub use bill::{Bill, Entry, Outcome, Usage};
pub use script::{End, Hold, Part, Place, Reply, Tool};

use script::Rule;

/// When everything was created, in the answers that say so: in seconds, a day in November 2026.
const CREATED: u64 = 1_795_255_200;

/// Whose language a request is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Protocol {
    /// Anthropic's.
    Messages,
    /// OpenAI's.
    Responses,
    /// OpenAI's older one, which many others speak.
    Chat,
    /// Google's.
    Gemini,
}

/// A request that is none for an answer of a model: a list of models, a count of tokens, or
/// something that the stand-in does not know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Other {
    pub method: String,
    pub path: String,
    /// What it was answered.
    pub status: u16,
}

/// The server. Dropping it ends it, and every connection to it.
pub struct StandIn {
    pub address: SocketAddr,
    shared: Arc<Shared>,
    end: Option<oneshot::Sender<()>>,
    serving: Option<JoinHandle<()>>,
}

struct Shared {
    /// In every id, so that two stand-ins never give the same one.
    port: u16,
    rules: Mutex<Vec<Rule>>,
    asked: Mutex<Vec<Arc<Asked>>>,
    others: Mutex<Vec<Other>>,
    bill: Mutex<Bill>,
    faults: Mutex<Vec<String>>,
    /// Headers that come with each answer, for clients that know them.
    windows: Mutex<Vec<(&'static str, String)>>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Default for StandIn {
    fn default() -> Self {
        Self::start()
    }
}

impl StandIn {
    /// One that answers what prompts themselves ask for (see [`Reply`]), else `done`.
    ///
    /// # Panics
    /// If it cannot listen on loopback.
    pub fn start() -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port is free");
        listener.set_nonblocking(true).expect("a listener can be made non-blocking");
        let address = listener.local_addr().expect("it has an address");
        let shared = Arc::new(Shared {
            port: address.port(),
            rules: Mutex::default(),
            asked: Mutex::default(),
            others: Mutex::default(),
            bill: Mutex::default(),
            faults: Mutex::default(),
            windows: Mutex::default(),
        });
        let own = shared.clone();
        let (end, ended) = oneshot::channel();
        // A thread of its own, so that it serves tests with and without a runtime alike.
        let serving = std::thread::spawn(move || serve::run(listener, own, ended));
        Self { address, shared, end: Some(end), serving: Some(serving) }
    }

    /// Its root, without a slash at the end.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Says with each answer from now on how many percent of a subscription's windows of five hours and
    /// of seven days are used, and at which second they begin anew: as Anthropic and OpenAI do.
    pub fn tells_windows(&self, used: [u32; 2], resets_at: [i64; 2]) {
        let ([five, seven], [five_resets, seven_resets]) =
            (used, resets_at.map(|at| at.to_string()));
        let share = |percent: u32| format!("{:.2}", f64::from(percent) / 100.0);
        *locked(&self.shared.windows) = vec![
            ("anthropic-ratelimit-unified-status", "allowed".into()),
            ("anthropic-ratelimit-unified-reset", five_resets.clone()),
            ("anthropic-ratelimit-unified-representative-claim", "five_hour".into()),
            ("anthropic-ratelimit-unified-5h-utilization", share(five)),
            ("anthropic-ratelimit-unified-5h-reset", five_resets.clone()),
            ("anthropic-ratelimit-unified-7d-utilization", share(seven)),
            ("anthropic-ratelimit-unified-7d-reset", seven_resets.clone()),
            ("x-codex-primary-used-percent", five.to_string()),
            ("x-codex-primary-window-minutes", "300".into()),
            ("x-codex-primary-reset-at", five_resets),
            ("x-codex-secondary-used-percent", seven.to_string()),
            ("x-codex-secondary-window-minutes", "10080".into()),
            ("x-codex-secondary-reset-at", seven_resets),
        ];
    }

    /// Answers such turns of a conversation, or of one below it, with these replies, one after
    /// another; then the rule is used up. Rules that were given earlier come first.
    pub fn on(
        &self,
        when: impl Fn(&Asked) -> bool + Send + 'static,
        replies: impl IntoIterator<Item = Reply>,
    ) {
        let when = Box::new(move |asked: &Asked| is_turn(asked) && when(asked));
        self.add(Rule::Replies { when, left: replies.into_iter().collect() });
    }

    /// The same for a prompt that has these words.
    pub fn on_prompt(&self, words: &str, replies: impl IntoIterator<Item = Reply>) {
        let words = words.to_owned();
        self.on(move |asked| asked.says(&words), replies);
    }

    /// Answers each request, whatever its purpose, with what this says, if it says something.
    pub fn answers(&self, answer: impl FnMut(&Asked) -> Option<Reply> + Send + 'static) {
        self.add(Rule::Answer(Box::new(answer)));
    }

    fn add(&self, rule: Rule) {
        locked(&self.shared.rules).push(rule);
    }

    /// Every request for an answer so far, refused ones too. Each has all that was said before it, and is
    /// looked at again and again: none is copied.
    pub fn asked(&self) -> Vec<Arc<Asked>> {
        locked(&self.shared.asked).clone()
    }

    /// Every other request so far.
    pub fn others(&self) -> Vec<Other> {
        locked(&self.shared.others).clone()
    }

    pub fn bill(&self) -> Bill {
        locked(&self.shared.bill).clone()
    }

    /// What the script wanted and could not be done, as a call of a tool that was not on offer.
    pub fn faults(&self) -> Vec<String> {
        locked(&self.shared.faults).clone()
    }
}

fn is_turn(asked: &Asked) -> bool {
    match asked.purpose {
        Purpose::Main | Purpose::Subagent => true,
        Purpose::Title | Purpose::Compaction | Purpose::Routing | Purpose::Other => false,
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        if let Some(end) = self.end.take() {
            // It may have ended by a panic of its own, which the join tells.
            end.send(()).ok();
        }
        if let Some(serving) = self.serving.take()
            && serving.join().is_err()
            && !std::thread::panicking()
        {
            panic!("the stand-in's server panicked");
        }
    }
}

/// A part of an answer, in the terms of the request.
#[derive(Debug, Clone, PartialEq)]
enum Spoken {
    Text(String),
    Call(tool::Call),
}

/// The bytes of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Answer {
    content_type: &'static str,
    /// One piece for an answer that is not streamed.
    events: Vec<String>,
    /// How many come before the middle.
    middle: usize,
}

impl Answer {
    fn whole(body: Value) -> Self {
        Self { content_type: "application/json", events: vec![body.to_string()], middle: 0 }
    }

    fn events(events: &[Value], middle: usize) -> Self {
        let events = events.iter().map(|event| format!("data: {event}\n\n")).collect();
        Self { content_type: "text/event-stream", events, middle }
    }

    /// Events that are also named by their `type`.
    fn named_events(events: &[Value], middle: usize) -> Self {
        let named = |event: &Value| {
            format!("event: {}\ndata: {event}\n\n", event["type"].as_str().unwrap_or_default())
        };
        let events = events.iter().map(named).collect();
        Self { content_type: "text/event-stream", events, middle }
    }
}

/// A text cut in two, between characters.
fn halves(text: &str) -> (&str, &str) {
    text.split_at(text.floor_char_boundary(text.len().div_ceil(2)))
}

/// What a request is answered.
struct Response {
    status: u16,
    headers: BTreeMap<&'static str, String>,
    answer: Answer,
    delay: Option<(Place, Duration)>,
    hold: Option<(Place, Hold)>,
    cut: bool,
    /// The entry of the bill, if it is on it.
    entry: Option<usize>,
}
