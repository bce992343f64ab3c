//! `stratavore doctor`: what works here, what does not, and what to do about it.
//!
//! It starts nothing and changes nothing. [`host`] looks at the machine.

mod host;

use clap::Args;
use serde::Serialize;
use stratavore_config::{Config, Paths};
use stratavore_core::terminal::Untrusted;
use stratavore_proto::v1::{DaemonStatus, StatusRequest};
use stratavore_proto::version::VERSION;

use crate::api::Api;
use crate::context::{Context, Globals, configuration};
use crate::daemon_start::find_program;
use crate::exit::{Exit, Failure};
use crate::local;
use crate::table::Tone;
use crate::ui::Ui;

/// Say what works here, what does not, and what to do
#[derive(Debug, Args)]
#[command(after_help = "\
It changes nothing, and ends with 0 if nothing is broken. Warnings are things that work in part.")]
pub(crate) struct Doctor {}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Verdict {
    Ok,
    Warning,
    Broken,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    check: &'static str,
    verdict: Verdict,
    message: String,
    next: Option<String>,
}

impl Finding {
    pub(crate) fn ok(check: &'static str, message: impl Into<String>) -> Self {
        Self { check, verdict: Verdict::Ok, message: message.into(), next: None }
    }

    pub(crate) fn warning(
        check: &'static str,
        message: impl Into<String>,
        next: impl Into<String>,
    ) -> Self {
        Self { check, verdict: Verdict::Warning, message: message.into(), next: Some(next.into()) }
    }

    pub(crate) fn broken(
        check: &'static str,
        message: impl Into<String>,
        next: impl Into<String>,
    ) -> Self {
        Self { check, verdict: Verdict::Broken, message: message.into(), next: Some(next.into()) }
    }
}

pub(crate) fn run(ui: Ui, globals: &Globals) -> Result<Exit, Failure> {
    let mut findings = Vec::new();
    match configuration(globals) {
        Ok((paths, loaded)) => {
            let files = loaded.files.len();
            findings.push(Finding::ok("configuration", format!("valid ({files} files read)")));
            let context = Context::load(globals, ui)?;
            findings.extend(host::directories(&paths));
            findings.push(host::disk(paths.state_dir()));
            findings.extend(programs(&loaded.config));
            findings.extend(daemon(&context));
            findings.push(runners(&paths));
            findings.extend(on_any_host(&loaded.config));
            finish(&context.ui, &findings)
        }
        Err(failure) => {
            findings.push(Finding::broken("configuration", failure.message, failure.next));
            findings.extend(on_any_host(&Config::default()));
            finish(&ui, &findings)
        }
    }
}

fn on_any_host(config: &Config) -> Vec<Finding> {
    let mut findings = host::limits_of_runners();
    findings.extend(host::logins());
    findings.push(host::open_files());
    findings.extend(host::assistants(config));
    findings.extend(host::terminal());
    findings
}

fn finish(ui: &Ui, findings: &[Finding]) -> Result<Exit, Failure> {
    ui.show(&findings, || {
        let width = findings.iter().map(|finding| finding.check.len()).max().unwrap_or(0);
        for Finding { check, verdict, message, next } in findings {
            let mark = match verdict {
                Verdict::Ok => Tone::Good.paint("ok     "),
                Verdict::Warning => Tone::Warning.paint("warning"),
                Verdict::Broken => Tone::Bad.paint("broken "),
            };
            ui.line(format!("{mark}  {check:width$}  {}", Untrusted(message)))?;
            if let Some(next) = next {
                let pad = "";
                ui.line(format!(
                    "{pad:9}{pad:width$}  {} {}",
                    Tone::Strong.paint("next:"),
                    Untrusted(next)
                ))?;
            }
        }
        Ok(())
    })?;
    let broken = findings.iter().filter(|finding| finding.verdict == Verdict::Broken).count();
    let warnings = findings.iter().filter(|finding| finding.verdict == Verdict::Warning).count();
    ui.note(match (broken, warnings) {
        (0, 0) => "all is well".into(),
        (0, n) => format!("nothing is broken; {}", counted(n)),
        (n, 0) => format!("{n} broken"),
        (n, warnings) => format!("{n} broken, {}", counted(warnings)),
    });
    Ok(if broken == 0 { Exit::Ok } else { Exit::Failure })
}

fn counted(warnings: usize) -> String {
    match warnings {
        1 => "1 warning".into(),
        n => format!("{n} warnings"),
    }
}

fn programs(config: &Config) -> Vec<Finding> {
    let install = "install all three programs in one directory: make install";
    let daemon = match find_program("stratavored") {
        Some(path) => Finding::ok("daemon program", path.display().to_string()),
        None => Finding::broken(
            "daemon program",
            "stratavored is neither beside stratavore nor on the PATH",
            install,
        ),
    };
    let agent = match &config.agent.binary {
        Some(path) if path.is_file() => Finding::ok("agent program", path.display().to_string()),
        Some(path) => Finding::broken(
            "agent program",
            format!("agent.binary is {}, and that is no file", path.display()),
            "correct it, or remove it: stratavore config show",
        ),
        None => match find_program("stratavore-agent") {
            Some(path) => Finding::ok("agent program", path.display().to_string()),
            None => Finding::broken(
                "agent program",
                "stratavore-agent is neither beside stratavore nor on the PATH",
                install,
            ),
        },
    };
    vec![daemon, agent]
}

fn daemon(context: &Context) -> Vec<Finding> {
    let asked = context.block_on(async {
        let Some(mut api) = Api::connect_if_running(context).await? else { return Ok(None) };
        let patience = std::time::Duration::from_secs(5);
        let status = api
            .call_within(patience, async |client| client.daemon().status(StatusRequest {}).await)
            .await?;
        Ok(Some(status))
    });
    match asked {
        Ok(None) => vec![
            Finding::ok("daemon", "not running; commands start it when they need it"),
            // Only the daemon opens it.
            Finding::warning(
                "database",
                "not checked, since no daemon runs",
                "stratavore daemon start, then stratavore doctor again",
            ),
        ],
        Ok(Some(status)) => health(&status),
        Err(failure) => vec![Finding::broken("daemon", failure.message, failure.next)],
    }
}

fn health(status: &DaemonStatus) -> Vec<Finding> {
    let DaemonStatus { version, pid, health, problems, .. } = status;
    let mut findings = Vec::new();
    findings.push(if version != VERSION {
        let message = format!("runs version {version} (pid {pid}), and this program is {VERSION}");
        Finding::warning("daemon", message, "stratavore daemon restart; runners go on")
    } else if health == "ready" {
        Finding::ok("daemon", format!("ready (pid {pid})"))
    } else {
        let message = format!("{health} (pid {pid}): {}", problems.join("; "));
        Finding::warning("daemon", message, "stratavore daemon status; its log says more")
    });
    if let Some(store) = &status.store {
        let millis = store.ping_us as f64 / 1000.0;
        let message =
            format!("{}, schema {}, answers in {millis:.1} ms", store.engine, store.schema_version);
        findings.push(if store.ping_us > 1_000_000 {
            Finding::warning(
                "database",
                message,
                "it is slow: look at its disk, its server and the network to it",
            )
        } else {
            Finding::ok("database", message)
        });
    }
    let failing: Vec<&str> = status
        .tasks
        .iter()
        .filter(|task| !task.error.is_empty())
        .map(|task| task.name.as_str())
        .collect();
    if !failing.is_empty() {
        let message = format!("failed last time: {}", failing.join(", "));
        findings.push(Finding::warning(
            "background tasks",
            message,
            "stratavore daemon status says why",
        ));
    }
    findings
}

fn runners(paths: &Paths) -> Finding {
    match local::all_live(&paths.runners_dir()) {
        Ok(live) => Finding::ok("runners", format!("{} live on this host", live.len())),
        Err(error) => Finding::broken(
            "runners",
            format!("cannot look into {}: {error}", paths.runners_dir().display()),
            "give this user access to it",
        ),
    }
}
