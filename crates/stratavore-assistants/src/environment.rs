//! Which variables of the daemon's environment a runner inherits.
//!
//! The daemon was started in somebody's shell, which may have held anything. So runners get what
//! is on this list, what the configuration adds (`env_pass`), and what a launch names; never the
//! rest.

use crate::{claude, codex, gemini, opencode};

/// Who and where one is, language, and the way out through a company's network.
const ALLOWED: [&str; 36] = [
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "SHELL",
    "LANG",
    "LANGUAGE",
    "TZ",
    "TMPDIR",
    "EDITOR",
    "VISUAL",
    "PAGER",
    "SSH_AUTH_SOCK",
    "XDG_CONFIG_HOME",
    "XDG_CONFIG_DIRS",
    "XDG_DATA_HOME",
    "XDG_DATA_DIRS",
    "XDG_STATE_HOME",
    "XDG_CACHE_HOME",
    "XDG_RUNTIME_DIR",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "all_proxy",
    "no_proxy",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "NODE_EXTRA_CA_CERTS",
    "REQUESTS_CA_BUNDLE",
    // Where assistants keep their logins and sessions.
    "CLAUDE_CONFIG_DIR",
    "CODEX_HOME",
    "OPENCODE_CONFIG_DIR",
    "GEMINI_CLI_HOME",
];

/// The names of variables that a runner inherits, besides those that begin with `LC_`.
pub fn env_allowlist() -> &'static [&'static str] {
    &ALLOWED
}

/// True for a variable of the daemon's environment that every runner inherits.
pub fn inherits(variable: &str) -> bool {
    ALLOWED.contains(&variable) || variable.starts_with("LC_")
}

/// Variables to be removed whoever set them: they tell an assistant that it runs inside another.
pub fn scrub() -> impl Iterator<Item = &'static str> {
    let marks: [&[&str]; 4] = [&claude::MARKS, &codex::MARKS, &gemini::MARKS, &opencode::MARKS];
    marks.into_iter().flatten().copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runners_get_the_usual_and_nothing_else() {
        for variable in [
            "PATH",
            "HOME",
            "LANG",
            "LC_ALL",
            "TZ",
            "SSH_AUTH_SOCK",
            "https_proxy",
            "XDG_CONFIG_HOME",
        ] {
            assert!(inherits(variable), "{variable}");
        }
        for variable in [
            "AWS_SECRET_ACCESS_KEY",
            "DATABASE_URL",
            "LD_PRELOAD",
            "NODE_OPTIONS",
            "DBUS_SESSION_BUS_ADDRESS",
            "STRATAVORE_HOME",
            "XDG_SESSION_ID",
            "TERM",
            "path",
            "",
        ] {
            assert!(!inherits(variable), "{variable}");
        }
    }

    #[test]
    fn no_mark_of_another_assistant_is_inherited() {
        let marks: Vec<_> = scrub().collect();
        assert!(
            marks.contains(&"CLAUDECODE")
                && marks.contains(&"CODEX_CI")
                && marks.contains(&"GEMINI_CLI")
        );
        assert!(marks.iter().all(|mark| !inherits(mark)));
    }
}
