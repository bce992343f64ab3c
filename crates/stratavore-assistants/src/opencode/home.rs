//! Where opencode keeps its database.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Whether there is one.
pub(super) fn is_used(env: &BTreeMap<String, String>) -> bool {
    let absolute = |name: &str| env.get(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let data = absolute("XDG_DATA_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".local/share")));
    data.is_some_and(|data| data.join(Path::new("opencode/opencode.db")).is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_used_once_it_has_its_database() {
        let home = tempfile::tempdir().unwrap();
        let env = |name: &str, path: &Path| -> BTreeMap<String, String> {
            [(name.to_owned(), path.display().to_string())].into()
        };
        let share = home.path().join(".local/share");
        assert!(!is_used(&env("HOME", home.path())) && !is_used(&BTreeMap::new()));
        std::fs::create_dir_all(share.join("opencode")).unwrap();
        std::fs::write(share.join("opencode/opencode.db"), "").unwrap();
        assert!(is_used(&env("HOME", home.path())) && is_used(&env("XDG_DATA_HOME", &share)));
        let mut elsewhere = env("HOME", home.path());
        elsewhere.insert("XDG_DATA_HOME".into(), "/nonexistent".into());
        assert!(!is_used(&elsewhere));
    }
}
