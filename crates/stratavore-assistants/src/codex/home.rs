//! Where Codex keeps its rollouts, and its user's configuration.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::directory::{absolute, entries};

/// Year, month, day.
const DEPTH: u8 = 3;

fn home(env: &BTreeMap<String, String>) -> Option<PathBuf> {
    let own = env.get("CODEX_HOME").and_then(|dir| absolute(dir));
    own.or_else(|| Some(absolute(env.get("HOME")?)?.join(".codex")))
}

pub(super) fn sessions(env: &BTreeMap<String, String>) -> Option<PathBuf> {
    Some(home(env)?.join("sessions"))
}

pub(super) fn rollouts(env: &BTreeMap<String, String>) -> Vec<PathBuf> {
    let Some(home) = home(env) else { return Vec::new() };
    let mut found = within(&home.join("sessions"), DEPTH);
    found.extend(within(&home.join("archived_sessions"), 0));
    found
}

/// True if the user's own configuration says where telemetry goes, in whichever profile.
pub(super) fn has_own_telemetry(env: &BTreeMap<String, String>) -> bool {
    let files = home(env).map(|home| entries(&home)).unwrap_or_default();
    let mut files = files.iter().filter(|file| file.extension().is_some_and(|e| e == "toml"));
    files.any(|file| {
        let text = fs::read_to_string(file).unwrap_or_default();
        text.lines().map(str::trim_start).any(|line| {
            let name = line.trim_start_matches(['[', ' ']);
            name.starts_with("otel") || (line.starts_with("[profiles.") && line.contains(".otel"))
        })
    })
}

fn within(directory: &Path, depth: u8) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in entries(directory) {
        if depth > 0 {
            found.extend(within(&entry, depth - 1));
        }
        let name = entry.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with("rollout-") && name.ends_with(".jsonl") && entry.is_file() {
            found.push(entry);
        }
    }
    found
}
