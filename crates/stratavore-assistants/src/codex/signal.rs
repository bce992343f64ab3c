//! What the hooks and the title of a running Codex tell.

use jiff::Timestamp;
use stratavore_core::activity::{Activity, Confidence, Doing, Source};
use stratavore_core::message::Place;
use stratavore_core::observation::{Lineage, LineageKind, Observation, SessionSeen};
use stratavore_core::signal::{Signal, What};

use crate::adapter::Memory;
use crate::excerpt::{NAME_MAX, SAID_MAX, clipped};
use crate::hooks::{self, Hook};

/// In [`Memory::more`]: what the title last told.
const TITLE: &str = "title";

pub(super) fn read(memory: &mut Memory, signal: &Signal, _: &Place) -> Vec<Observation> {
    match &signal.what {
        What::Hook { call, body } => {
            hook(memory, Hook { body, call: call.as_deref(), at: signal.at })
        }
        What::HookOver { call } => hooks::call_over(memory, call, signal.at),
        What::Title { title } => title_tells(memory, title, signal.at).into_iter().collect(),
        What::Telemetry { .. } | What::Sent { .. } => Vec::new(),
    }
}

fn hook(memory: &mut Memory, hook: Hook<'_>) -> Vec<Observation> {
    let mut seen = Vec::new();
    if hook.event() == "SubagentStop" {
        return subagent(hook).into_iter().collect();
    }
    if hook.event() != "SessionEnd" {
        seen.extend(hook.session_seen(memory, hook.text("model")));
    }
    match hook.event() {
        // It comes with the first prompt, and the prompt's own hook follows.
        "SessionStart" | "SessionEnd" => seen.extend(hooks::all_over(memory)),
        "UserPromptSubmit" => {
            seen.extend(hooks::all_over(memory));
            seen.extend(hook.prompt_taken());
            seen.push(hook.told(Activity::Working));
        }
        "PreToolUse" | "PostToolUse" => seen.extend(hook.tool_runs(memory)),
        "PermissionRequest" => seen.extend(hook.asks(memory)),
        "PreCompact" => seen.push(hook.told(Activity::Working)),
        "Stop" => {
            seen.extend(hooks::all_over(memory));
            seen.extend(hook.turn_over(None));
            seen.push(hook.told(Activity::Idle));
        }
        _ => {}
    }
    seen
}

/// The work of a subagent is a conversation of its own, in a file of its own.
fn subagent(hook: Hook<'_>) -> Option<Observation> {
    let parent = clipped(hook.session()?, NAME_MAX);
    Some(Observation::Session(SessionSeen {
        session: clipped(hook.text("agent_id")?, NAME_MAX),
        directory: hook.text("cwd").map(|text| clipped(text, SAID_MAX)),
        transcript: Some(clipped(hook.text("agent_transcript_path")?, SAID_MAX)),
        lineage: Some(Lineage { parent, kind: LineageKind::Subagent }),
        at: Some(hook.at),
        ..SessionSeen::default()
    }))
}

/// `⠏ dir` while it works, `[ ! ] Action Required | dir` when it asks, `dir` otherwise.
fn title_tells(memory: &mut Memory, title: &str, at: Timestamp) -> Option<Observation> {
    let activity = match title.chars().next()? {
        '\u{2800}'..='\u{28ff}' => Activity::Working,
        '[' if title.contains("Action Required") => Activity::NeedsPermission,
        _ => Activity::Idle,
    };
    let before = memory.more.insert(TITLE.into(), activity.as_str().into());
    if before.as_deref() == Some(activity.as_str()) {
        return None;
    }
    Some(Observation::Doing(Doing {
        source: Source::Screen,
        confidence: Confidence::Likely,
        ..Doing::told(activity, at, "title")
    }))
}
