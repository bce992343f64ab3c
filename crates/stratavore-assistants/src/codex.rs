//! Codex CLI: `codex`.

use crate::Assistant;

pub(crate) const ASSISTANT: Assistant = Assistant {
    name: "codex",
    title: "Codex CLI",
    program: Some("codex"),
    flags,
    env: &[],
    adapter: &crate::generic::Generic,
};

/// Set for the tools of a running Codex.
pub(crate) const MARKS: [&str; 3] = ["CODEX_THREAD_ID", "CODEX_SESSION_ID", "CODEX_CI"];

/// Subcommands and options that start no screen, and therefore no daemon behind it.
const WITHOUT_SCREEN: [&str; 20] = [
    "exec",
    "e",
    "review",
    "login",
    "logout",
    "mcp",
    "mcp-server",
    "app-server",
    "completion",
    "sandbox",
    "debug",
    "apply",
    "a",
    "cloud",
    "features",
    "help",
    "--help",
    "-h",
    "--version",
    "-V",
];

/// Its screen is by default the client of a daemon that all share. That daemon would outlive the
/// runner, and finish the turn of one that was killed.
fn flags(configured: &[String], args: &[String]) -> &'static [&'static str] {
    let first = [configured.first(), args.first()];
    let without_screen =
        first.into_iter().flatten().any(|first| WITHOUT_SCREEN.contains(&first.as_str()));
    // What follows `--` is the text of a prompt.
    let options = configured.iter().chain(args.iter().take_while(|arg| *arg != "--"));
    let said_already = options.into_iter().any(|arg| arg == "--no-daemon");
    if without_screen || said_already { &[] } else { &["--no-daemon"] }
}
