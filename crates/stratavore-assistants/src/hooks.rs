//! The hooks that Claude Code has, and Codex after it: what they are given, and what follows from it.
//!
//! A permission that is asked for is remembered until it is answered, wherever that happens: by the
//! waiting hook, or at the assistant's own screen, which is seen by the tool that runs afterwards.
//!
//! Invariant: while something is asked, nothing else that happens makes the assistant seem at work.

use jiff::Timestamp;
use serde_json::{Value, json};
use stratavore_core::activity::{Activity, Confidence, Doing};
use stratavore_core::observation::{AskKind, Asked, Observation, SessionSeen};

use crate::adapter::Memory;
use crate::excerpt::{NAME_MAX, SAID_MAX, clipped, tool_text};

/// In the names of [`Memory::more`]: a question that waits, by the call of its hook.
const ASK: &str = "ask:";
/// In [`Memory::more`]: when a hook that waited was last over, in seconds.
const ANSWERED: &str = "answered";
/// The most questions that are remembered. Tools that run at the same time may ask at the same time.
const ASKS_MAX: usize = 16;

/// What a hook was given.
#[derive(Clone, Copy)]
pub(crate) struct Hook<'a> {
    pub(crate) body: &'a Value,
    pub(crate) call: Option<&'a str>,
    pub(crate) at: Timestamp,
}

impl<'a> Hook<'a> {
    pub(crate) fn text(self, name: &str) -> Option<&'a str> {
        self.body.get(name)?.as_str().filter(|text| !text.is_empty())
    }

    pub(crate) fn event(self) -> &'a str {
        self.text("hook_event_name").unwrap_or_default()
    }

    pub(crate) fn session(self) -> Option<&'a str> {
        self.text("session_id")
    }

    pub(crate) fn tool(self) -> &'a str {
        self.text("tool_name").unwrap_or("a tool")
    }

    pub(crate) fn input(self) -> &'a Value {
        self.body.get("tool_input").unwrap_or(&Value::Null)
    }

    pub(crate) fn told(self, activity: Activity) -> Observation {
        Observation::Doing(Doing::told(activity, self.at, self.event()))
    }

    /// The conversation, where this is the first that is heard of it, or of where it is.
    pub(crate) fn session_seen(
        self,
        memory: &mut Memory,
        model: Option<&str>,
    ) -> Option<Observation> {
        let session = clipped(self.session()?, NAME_MAX);
        let starts = self.event() == "SessionStart";
        if memory.session.as_ref() == Some(&session) && !starts {
            return None;
        }
        memory.session = Some(session.clone());
        if let Some(model) = model {
            memory.model = Some(clipped(model, NAME_MAX));
        }
        Some(Observation::Session(SessionSeen {
            session,
            directory: self.text("cwd").map(|text| clipped(text, SAID_MAX)),
            transcript: self.text("transcript_path").map(|text| clipped(text, SAID_MAX)),
            title: self.text("session_title").map(|text| clipped(text, NAME_MAX)),
            model: model.map(|model| clipped(model, NAME_MAX)),
            lineage: None,
            at: Some(self.at),
            is_current: true,
        }))
    }

    pub(crate) fn prompt_taken(self) -> Option<Observation> {
        Some(Observation::PromptTaken {
            session: self.session()?.into(),
            text: clipped(self.text("prompt").unwrap_or_default(), SAID_MAX),
            at: self.at,
        })
    }

    pub(crate) fn turn_over(self, failure: Option<String>) -> Option<Observation> {
        Some(Observation::TurnOver {
            session: self.session()?.into(),
            text: self.text("last_assistant_message").map(|text| clipped(text, SAID_MAX)),
            failure,
            at: self.at,
        })
    }

    /// It asks for a permission, or asks something.
    pub(crate) fn asks(self, memory: &mut Memory) -> Vec<Observation> {
        let (kind, activity, text) = match question(self.tool(), self.input()) {
            Some(text) => (AskKind::Question, Activity::NeedsInput, text),
            None => (AskKind::Permission, Activity::NeedsPermission, tool_text(self.input())),
        };
        let asked = match kind {
            AskKind::Permission if text.is_empty() => self.tool().to_owned(),
            AskKind::Permission => format!("{}: {text}", self.tool()),
            AskKind::Question => text.clone(),
        };
        let print = self.print();
        if memory.more.keys().filter(|key| key.starts_with(ASK)).count() < ASKS_MAX {
            memory.more.insert(format!("{ASK}{}", self.call.unwrap_or(&print)), print);
        }
        vec![
            Observation::Doing(Doing::told(activity, self.at, self.event()).asking(&asked)),
            Observation::Asked(Asked {
                call: self.call.map(String::from),
                session: self.session().unwrap_or_default().into(),
                kind,
                tool: clipped(self.tool(), NAME_MAX),
                text,
                at: self.at,
            }),
        ]
    }

    /// A tool is about to run or has run: what it asked for was answered, and the turn goes on.
    pub(crate) fn tool_runs(self, memory: &mut Memory) -> Vec<Observation> {
        let print = self.print();
        let mut seen = over(memory, |asked| asked == print);
        let answered = !seen.is_empty();
        // A subagent in the background goes on while the conversation itself is idle.
        let own = self.text("agent_id").is_none();
        if !is_asking(memory) && (own || answered) {
            seen.push(self.told(Activity::Working));
        }
        seen
    }

    /// Tells the tool and what it is used with from others.
    fn print(self) -> String {
        let input = self.input();
        let essence = input.get("command").or_else(|| input.get("questions")).unwrap_or(input);
        format!("{}:{:016x}", self.tool(), fnv(&essence.to_string()))
    }
}

/// The hook of a call waits no longer: it was answered, or its assistant has gone on.
pub(crate) fn call_over(memory: &mut Memory, call: &str, at: Timestamp) -> Vec<Observation> {
    let was_known = memory.more.remove(&format!("{ASK}{call}")).is_some();
    let mut seen = vec![Observation::AskOver { call: call.into() }];
    memory.more.insert(ANSWERED.into(), at.as_second().to_string());
    if was_known && !is_asking(memory) {
        let doing = Doing::told(Activity::Working, at, "HookOver");
        seen.push(Observation::Doing(Doing { confidence: Confidence::Likely, ..doing }));
    }
    seen
}

/// Whatever was asked is asked no longer.
pub(crate) fn all_over(memory: &mut Memory) -> Vec<Observation> {
    over(memory, |_| true)
}

/// True if a hook that waited was over less than so many seconds ago.
pub(crate) fn answered_within(memory: &Memory, seconds: i64, now: Timestamp) -> bool {
    let answered = memory.more.get(ANSWERED).and_then(|second| second.parse::<i64>().ok());
    answered.is_some_and(|second| now.as_second().saturating_sub(second) < seconds)
}

pub(crate) fn is_asking(memory: &Memory) -> bool {
    memory.more.keys().any(|key| key.starts_with(ASK))
}

fn over(memory: &mut Memory, which: impl Fn(&str) -> bool) -> Vec<Observation> {
    let mut seen = Vec::new();
    memory.more.retain(|key, print| {
        let Some(call) = key.strip_prefix(ASK).filter(|_| which(print)) else { return true };
        // Without a call its own print stands for it.
        if call != print {
            seen.push(Observation::AskOver { call: call.into() });
        }
        false
    });
    seen
}

/// What is asked by tools that do nothing but ask.
fn question(tool: &str, input: &Value) -> Option<String> {
    match tool {
        "AskUserQuestion" => {
            let questions = input.get("questions")?.as_array()?;
            let lines: Vec<String> = questions.iter().filter_map(one_question).collect();
            Some(clipped(&lines.join("\n"), SAID_MAX))
        }
        "ExitPlanMode" => {
            let plan = input.get("plan").and_then(Value::as_str).unwrap_or_default();
            Some(clipped(&format!("Go on with this plan?\n{plan}"), SAID_MAX))
        }
        _ => None,
    }
}

fn one_question(question: &Value) -> Option<String> {
    let asked = question.get("question")?.as_str()?;
    let options = question.get("options").and_then(Value::as_array).into_iter().flatten();
    let labels: Vec<&str> =
        options.filter_map(|option| option.get("label").and_then(Value::as_str)).collect();
    Some(if labels.is_empty() { asked.into() } else { format!("{asked} ({})", labels.join(" / ")) })
}

/// What a hook that waits prints to decide.
pub(crate) fn decision(body: &Value, allow: bool, message: Option<&str>) -> Option<Value> {
    if body.get("hook_event_name")?.as_str()? != "PermissionRequest" {
        return None;
    }
    let decision = match (allow, message) {
        (true, None) => json!({ "behavior": "allow" }),
        // It takes no words with that.
        (true, Some(_)) => return None,
        (false, Some(message)) => json!({ "behavior": "deny", "message": message }),
        (false, None) => json!({ "behavior": "deny" }),
    };
    Some(json!({
        "hookSpecificOutput": { "hookEventName": "PermissionRequest", "decision": decision }
    }))
}

/// FNV-1a: the same on every machine, and nothing hangs on its strength.
fn fnv(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
