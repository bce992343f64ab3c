//! Where Claude Code keeps what it knows: its transcripts, and what each of its processes is doing.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::{fs, io};

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::Value;
use stratavore_core::activity::{Activity, Doing};

use crate::directory::{absolute, entries};

fn home(env: &BTreeMap<String, String>) -> Option<PathBuf> {
    let own = env.get("CLAUDE_CONFIG_DIR").and_then(|dir| absolute(dir));
    own.or_else(|| Some(absolute(env.get("HOME")?)?.join(".claude")))
}

pub(super) fn projects(env: &BTreeMap<String, String>) -> Option<PathBuf> {
    Some(home(env)?.join("projects"))
}

pub(super) fn transcripts(env: &BTreeMap<String, String>) -> Vec<PathBuf> {
    let projects = projects(env).map(|projects| entries(&projects)).unwrap_or_default();
    let files = projects.iter().flat_map(|project| entries(project));
    let is_transcript =
        |file: &PathBuf| file.extension().is_some_and(|ending| ending == "jsonl") && file.is_file();
    files.filter(is_transcript).collect()
}

/// True if the user has a status line of their own, for all projects or for this one.
pub(super) fn has_status_line(env: &BTreeMap<String, String>, directory: &Path) -> bool {
    let own = home(env).map(|home| home.join("settings.json"));
    let of_project =
        ["settings.json", "settings.local.json"].map(|name| directory.join(".claude").join(name));
    own.into_iter().chain(of_project).any(|file| {
        let text = fs::read(file).unwrap_or_default();
        serde_json::from_slice::<Value>(&text).is_ok_and(|all| all.get("statusLine").is_some())
    })
}

/// The file of one process.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Registered {
    pid: u32,
    proc_start: Option<String>,
    status: Option<String>,
    waiting_for: Option<String>,
    status_updated_at: Option<i64>,
    updated_at: Option<i64>,
}

pub(super) fn level(pid: u32, env: &BTreeMap<String, String>) -> Option<Doing> {
    let file = home(env)?.join("sessions").join(format!("{pid}.json"));
    let registered: Registered = serde_json::from_slice(&fs::read(file).ok()?).ok()?;
    // The file outlives a process that was killed, and its number is used again.
    let started = start_of(pid).ok()?;
    let same = registered.proc_start.as_ref().is_none_or(|start| *start == started);
    if registered.pid != pid || !same {
        return None;
    }
    let activity = match (registered.status.as_deref()?, registered.waiting_for.as_deref()) {
        ("busy", _) => Activity::Working,
        ("idle", _) => Activity::Idle,
        ("waiting", Some("permission prompt" | "sandbox request" | "worker request")) => {
            Activity::NeedsPermission
        }
        ("waiting", _) => Activity::NeedsInput,
        _ => return None,
    };
    let since = registered.status_updated_at.or(registered.updated_at)?;
    Some(Doing::told(activity, Timestamp::from_millisecond(since).ok()?, "sessions/PID.json"))
}

/// When a process was started, in ticks since the system was: field 22, counted after the name, which
/// may have anything in it.
fn start_of(pid: u32) -> io::Result<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let start = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(19));
    start.map(String::from).ok_or_else(|| io::ErrorKind::InvalidData.into())
}
