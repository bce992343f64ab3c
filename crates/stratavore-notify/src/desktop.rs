//! The desktop of whoever runs the daemon, by the program `notify-send`.

use std::path::Path;
use std::process::Stdio;

use stratavore_core::notify::{Message, Severity};
use tokio::process::Command;

use crate::{Answer, Failure, said};

const TEXT_MAX: usize = 1000;

/// What it shows is no secret, and so may stand in arguments.
pub(crate) async fn send(program: &Path, message: &Message) -> Answer {
    let text: String = message.text().chars().take(TEXT_MAX).collect();
    let urgency = match message.severity {
        Severity::Info => "low",
        Severity::Warning | Severity::Error => "normal",
        Severity::Critical => "critical",
    };
    let run = Command::new(program)
        .args(["--app-name=Stratavore", "--urgency", urgency, "--", "Stratavore", &escape(&text)])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .output()
        .await
        .map_err(|error| {
            Failure::misconfigured(format!(
                "run {}: {error}; it comes with libnotify",
                program.display()
            ))
        })?;
    match run.status.success() {
        true => Ok(None),
        false => {
            let why = said(&String::from_utf8_lossy(&run.stderr), &[]);
            Err(Failure::away(format!("the desktop does not show it: {why}")))
        }
    }
}

/// The body of a desktop notification may hold markup.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
