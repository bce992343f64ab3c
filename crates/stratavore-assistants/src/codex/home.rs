//! Where Codex keeps its rollouts.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::directory::{absolute, entries};

/// Year, month, day.
const DEPTH: u8 = 3;

pub(super) fn rollouts(env: &BTreeMap<String, String>) -> Vec<PathBuf> {
    let own = env.get("CODEX_HOME").and_then(|dir| absolute(dir));
    let Some(home) = own.or_else(|| Some(absolute(env.get("HOME")?)?.join(".codex"))) else {
        return Vec::new();
    };
    let mut found = within(&home.join("sessions"), DEPTH);
    found.extend(within(&home.join("archived_sessions"), 0));
    found
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
