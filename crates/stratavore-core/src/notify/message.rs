//! What a message says: one event, or many that came together.
//!
//! Plain words, with all that people have named made fit to be shown; each channel escapes what its
//! own format would take for markup.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::Severity;
use crate::Timestamp;
use crate::alert;
use crate::envelope::{cloud_event, type_of};
use crate::event::Event;
use crate::terminal::{escape_untrusted, truncate_to_width};

/// Events that have a line of their own, and stand in what programs get.
const TOLD_MAX: usize = 10;
/// Kinds that are counted each by itself.
const KINDS_MAX: usize = 16;
const LINE_MAX: usize = 160;
/// An envelope of more bytes stands in a message without its data.
const ENVELOPE_MAX: usize = 16 << 10;
const TEST: &str = "test";

/// A message to a destination, as it was written down before it was sent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Message {
    /// Empty: it is about no event, but tries whether the destination can be reached.
    pub kinds: BTreeMap<String, u64>,
    pub severity: Severity,
    pub title: String,
    /// One for each of the first events, if there are several.
    pub lines: Vec<String>,
    /// What to do next.
    pub hint: String,
    pub count: u64,
    /// When the first of them happened.
    pub at: Timestamp,
    /// Their places among all events.
    pub first: i64,
    pub last: i64,
    /// The envelopes of the first.
    pub events: Vec<Value>,
}

impl Message {
    /// One that tells that the destination can be reached.
    pub fn test(destination: &str, by: &str, at: Timestamp) -> Self {
        let title = format!("This is a test of {destination}, asked for by {}.", shown(by));
        Self {
            kinds: BTreeMap::new(),
            severity: Severity::Info,
            title,
            lines: Vec::new(),
            hint: "nothing has to be done".into(),
            count: 0,
            at,
            first: 0,
            last: 0,
            events: Vec::new(),
        }
    }

    /// All of it as plain text, for people.
    pub fn text(&self) -> String {
        let mut text = self.title.clone();
        for line in &self.lines {
            text.push_str("\n- ");
            text.push_str(line);
        }
        let more = self.count.saturating_sub(self.lines.len() as u64);
        if more > 0 && !self.lines.is_empty() {
            text.push_str(&format!("\n- and {more} more"));
        }
        if !self.hint.is_empty() {
            text.push_str("\nNext: ");
            text.push_str(&self.hint);
        }
        text
    }

    /// What a program gets, as Standard Webhooks has it: a type, a time, and the data. Of a single
    /// event the data is its envelope.
    pub fn payload(&self) -> Value {
        let (kind, data) = match (self.count, self.events.as_slice()) {
            (0, _) => (TEST, json!({ "title": self.title })),
            (1, [event]) => {
                let kind = event["type"].as_str().unwrap_or_default();
                return json!({ "type": kind, "timestamp": self.at.to_string(), "data": event });
            }
            _ => (
                "events",
                json!({
                    "count": self.count, "kinds": self.kinds, "severity": self.severity,
                    "title": self.title, "first_sequence": format!("{:020}", self.first),
                    "last_sequence": format!("{:020}", self.last), "events": self.events,
                }),
            ),
        };
        json!({ "type": type_of(kind), "timestamp": self.at.to_string(), "data": data })
    }
}

/// Events that are to become one message. However many, it keeps the same few.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Gathered {
    count: u64,
    kinds: BTreeMap<String, u64>,
    severity: Option<Severity>,
    first: Option<Event>,
    lines: Vec<String>,
    events: Vec<Value>,
    last: i64,
}

impl Gathered {
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    pub fn severity(&self) -> Option<Severity> {
        self.severity
    }

    pub fn add(&mut self, event: Event) {
        self.count += 1;
        self.last = event.position.unwrap_or(self.last);
        let severity = Severity::of(&event);
        self.severity = self.severity.max(Some(severity));
        let is_known = self.kinds.len() < KINDS_MAX || self.kinds.contains_key(&event.kind);
        let kind = if is_known { event.kind.clone() } else { "others".into() };
        *self.kinds.entry(kind).or_default() += 1;
        if self.lines.len() < TOLD_MAX {
            self.lines.push(title_of(&event));
            self.events.push(bounded(&event));
        }
        self.first.get_or_insert(event);
    }

    /// The message; `None` of nothing.
    pub fn message(self) -> Option<Message> {
        let Self { count, kinds, severity, first, lines, events, last } = self;
        let (first, severity) = (first?, severity?);
        let (title, lines, hint) = match count {
            1 => (title_of(&first), Vec::new(), hint_of(&first)),
            _ => {
                let mut by_count: Vec<(&String, &u64)> = kinds.iter().collect();
                by_count.sort_by(|a, b| b.1.cmp(a.1).then(a.0.cmp(b.0)));
                let counts: Vec<String> =
                    by_count.into_iter().map(|(kind, count)| format!("{count} {kind}")).collect();
                let after = first.position.unwrap_or(1) - 1;
                let hint = format!("see them all: stratavore events list --after {after}");
                (format!("{count} events: {}", counts.join(", ")), lines, hint)
            }
        };
        let (at, position) = (first.at, first.position.unwrap_or_default());
        Some(Message {
            kinds,
            severity,
            title,
            lines,
            hint,
            count,
            at,
            first: position,
            last,
            events,
        })
    }
}

/// The envelope; without its data if that is large.
fn bounded(event: &Event) -> Value {
    let mut envelope = cloud_event(event);
    if envelope.to_string().len() > ENVELOPE_MAX
        && let Some(fields) = envelope.as_object_mut()
    {
        fields.remove("data");
        fields.remove("reason");
        fields.insert("truncated".into(), true.into());
    }
    envelope
}

/// A name or a reason on one line, with nothing in it that cannot be seen.
fn shown(text: &str) -> String {
    truncate_to_width(&escape_untrusted(text), LINE_MAX)
}

/// What happened, in a line.
fn title_of(event: &Event) -> String {
    let name = shown(&event.name);
    let data = |field: &str| event.data[field].as_str().map(shown).unwrap_or_default();
    let because = |why: String| if why.is_empty() { why } else { format!(": {why}") };
    let lift = |ways: String| if ways.is_empty() { ways } else { format!(". To lift it: {ways}") };
    match event.kind.as_str() {
        "runner.failed" => format!("Runner {name} failed{}", because(data("cause"))),
        "runner.lost" => format!("Runner {name} is lost{}", because(data("cause"))),
        "runner.restarting" => format!("Runner {name} starts again{}", because(data("cause"))),
        "runner.unresponsive" => format!("Nothing is heard from the agent of runner {name}"),
        "runner.output_gap" => {
            format!("Output of runner {name} could not be kept{}", because(data("why")))
        }
        "runner.limits_not_enforced" => {
            format!("Runner {name} runs without its limits{}", because(data("why")))
        }
        "runner.activity" => match event.data["activity"].as_str() {
            Some("needs_input") => format!("Runner {name} waits for input"),
            Some("needs_permission") => format!("Runner {name} asks for permission"),
            Some(_) | None => format!("Runner {name} is now {}", data("activity")),
        },
        "project.item_failed" => {
            format!("What was queued in {name} has failed{}", because(data("why")))
        }
        "request.refused" => {
            let why = event.reason.as_deref().map(shown).unwrap_or_default();
            format!("{} was refused {}{}", shown(&event.by), data("what"), because(why))
        }
        "system.checkpoint" => {
            format!("The record was signed by {name}, up to position {}", event.data["size"])
        }
        "node.token_stolen" => format!("A join token was used by two hosts; {name} is one of them"),
        "node.destination_disabled" => {
            format!("Destination {} is off{}", data("destination"), because(data("why")))
        }
        alert::KIND => {
            let of = if event.data["scope"] == "host" { format!(" on {name}") } else { "".into() };
            match event.data["state"].as_str() {
                Some("cleared") => {
                    let lasted = event.data["lasted_s"].as_u64().unwrap_or_default().div_ceil(60);
                    format!("Over after {lasted} min{of}: {}", data("words"))
                }
                Some(_) | None => format!("Alert{of}: {}", data("words")),
            }
        }
        "budget.threshold" | "budget.exhausted" => format!(
            "Budget {name} is at {} %: {} used of {}{}",
            event.data["percent"],
            data("used_text"),
            data("limit_text"),
            lift(data("lift"))
        ),
        "budget.ask" => format!(
            "Runner {} is held by budget {name} at {} % of {}, and asks whether it may go on{}",
            data("runner_name"),
            event.data["percent"],
            data("limit_text"),
            lift(data("lift"))
        ),
        kind => format!("{}: {name}, by {}", shown(kind), shown(&event.by)),
    }
}

/// What to do about it. Names are those of runners and so need no quotes in a shell.
fn hint_of(event: &Event) -> String {
    let name = shown(&event.name);
    match event.kind.as_str() {
        "runner.failed" => format!("stratavore logs {name}; stratavore restart {name}"),
        "runner.lost" => "stratavore recover".into(),
        "runner.activity" => format!("stratavore attach {name}"),
        "project.item_failed" => {
            let item = event.data["item"].as_str().map(shown).unwrap_or_default();
            format!("stratavore queue show {item}; stratavore queue retry {item}")
        }
        "node.token_stolen" => "see who joined: stratavore nodes; stratavore nodes tokens".into(),
        "node.destination_disabled" => "stratavore notify".into(),
        alert::KIND if event.data["state"] == "cleared" => "nothing has to be done".into(),
        alert::KIND => "stratavore status".into(),
        "request.refused" => "stratavore audit list --refused".into(),
        "budget.ask" => {
            let runner = event.data["runner"].as_str().map(shown).unwrap_or_default();
            format!("stratavore budget allow {runner} --budget {name}")
        }
        kind if kind.starts_with("budget.") => format!("stratavore budget show {name}"),
        kind if kind.starts_with("runner.") => format!("stratavore runners show {name}"),
        kind if kind.starts_with("node.") => "stratavore nodes".into(),
        _ => "stratavore events list".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Decision, Entity};
    use crate::terminal::has_invisible;
    use crate::{EventId, RunnerId};

    fn event(kind: &str, position: i64, data: Value) -> Event {
        Event {
            id: EventId::from_entropy([position as u8; 16]),
            position: Some(position),
            entity: Entity::Runner.as_str().into(),
            entity_id: RunnerId::from_entropy([1; 16]).to_string(),
            name: format!("r{position}"),
            project: None,
            seq: position,
            kind: kind.into(),
            at: Timestamp::UNIX_EPOCH,
            by: "daemon".into(),
            origin: None,
            decision: Decision::Allowed,
            reason: None,
            data,
        }
    }

    #[test]
    fn one_event_says_what_happened_and_what_to_do() {
        let mut gathered = Gathered::default();
        gathered.add(event("runner.failed", 7, json!({ "cause": "exit code 3" })));
        let message = gathered.message().unwrap();
        assert_eq!(
            message.text(),
            "Runner r7 failed: exit code 3\nNext: stratavore logs r7; stratavore restart r7"
        );
        assert_eq!(message.severity, Severity::Error);
        assert_eq!(message.payload()["type"], "stratavore.runner.failed");
        assert_eq!(message.payload()["data"]["entityname"], "r7");
    }

    #[test]
    fn an_alert_says_where_it_is_wrong_and_when_it_is_over() {
        let text = |data: Value| {
            let mut gathered = Gathered::default();
            gathered.add(event(alert::KIND, 7, data));
            let message = gathered.message().unwrap();
            (message.severity, message.text())
        };
        let raised = json!({ "state": "raised", "severity": "critical", "scope": "host", "words": "disk: \u{1b}full" });
        let (severity, said) = text(raised);
        assert_eq!(severity, Severity::Critical);
        assert_eq!(said, "Alert on r7: disk: \\x1bfull\nNext: stratavore status");
        let over = json!({ "state": "cleared", "severity": "warning", "scope": "cluster", "words": "x", "lasted_s": 61 });
        let over = text(over);
        assert_eq!(over.0, Severity::Warning, "whoever was told of it is told that it is over");
        assert_eq!(over.1, "Over after 2 min: x\nNext: nothing has to be done");
    }

    #[test]
    fn a_budget_says_what_is_used_and_what_is_asked() {
        let text = |kind: &str, data: Value| {
            let mut gathered = Gathered::default();
            gathered.add(event(kind, 7, data));
            gathered.message().unwrap().text()
        };
        let reached =
            json!({ "percent": 90, "used_text": "45.00 USD", "limit_text": "50.00 USD a day" });
        assert_eq!(
            text("budget.threshold", reached),
            "Budget r7 is at 90 %: 45.00 USD used of 50.00 USD a day\nNext: stratavore budget show r7"
        );
        let ask = json!({ "percent": 90, "runner": "run_x", "runner_name": "api", "limit_text": "50.00 USD a day" });
        assert_eq!(
            text("budget.ask", ask),
            "Runner api is held by budget r7 at 90 % of 50.00 USD a day, and asks whether it may go on\n\
             Next: stratavore budget allow run_x --budget r7"
        );
    }

    #[test]
    fn many_events_are_one_message_with_their_count() {
        let mut gathered = Gathered::default();
        for position in 1..=500 {
            gathered.add(event("runner.lost", position, json!({ "cause": "host" })));
        }
        gathered.add(event("runner.failed", 501, json!({ "cause": "signal 9" })));
        let message = gathered.message().unwrap();
        assert_eq!(message.title, "501 events: 500 runner.lost, 1 runner.failed");
        assert_eq!((message.first, message.last, message.lines.len()), (1, 501, TOLD_MAX));
        assert!(
            message
                .text()
                .ends_with("and 491 more\nNext: see them all: stratavore events list --after 0")
        );
        let payload = message.payload();
        assert_eq!(
            (&payload["type"], &payload["data"]["count"]),
            (&json!("stratavore.events"), &json!(501))
        );
        assert_eq!(payload["data"]["events"].as_array().unwrap().len(), TOLD_MAX);
        let text = serde_json::to_string(&message).unwrap();
        assert_eq!(serde_json::from_str::<Message>(&text).unwrap(), message);
        assert_eq!(Gathered::default().message(), None);
    }

    #[test]
    fn what_others_wrote_is_shown_and_bounded() {
        let mut gathered = Gathered::default();
        let long = "\u{1b}[31m\u{202e}".repeat(5000);
        gathered.add(event("runner.failed", 1, json!({ "cause": long })));
        for n in 0..100_u8 {
            let kind = format!("made.up_{}", char::from(b'a' + n % 26));
            gathered.add(event(&kind, 2, json!({ "much": "x".repeat(ENVELOPE_MAX) })));
        }
        let message = gathered.message().unwrap();
        assert!(!has_invisible(&message.text()));
        assert!(message.kinds.len() <= KINDS_MAX + 1);
        assert!(serde_json::to_string(&message).unwrap().len() < 64 << 10);
        assert_eq!(message.events[1]["truncated"], true);
    }
}
