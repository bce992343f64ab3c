//! How a run of Codex is started.

use serde_json::Value;

use super::home;
use crate::adapter::{Conversation, Mode, OTLP, Observed, Start, Started};
use crate::words::{Options, Word};

/// What `codex --help`, `codex exec --help` and those of `resume` and `fork` tell.
const OPTIONS: Options = Options {
    alone: &[
        "--all",
        "--approve-for-me",
        "--dangerously-bypass-approvals-and-sandbox",
        "--dangerously-bypass-hook-trust",
        "--ephemeral",
        "--full-auto",
        "-h",
        "--help",
        "--ignore-rules",
        "--ignore-user-config",
        "--include-non-interactive",
        "--json",
        "--last",
        "--no-alt-screen",
        "--no-daemon",
        "--oss",
        "--search",
        "--skip-git-repo-check",
        "--strict-config",
        "--trust",
        "--uncommitted",
        "-V",
        "--version",
        "--worktree",
        "--yolo",
    ],
    one: &[
        "-a",
        "--add-dir",
        "--ask-for-approval",
        "--base",
        "-C",
        "--cd",
        "-c",
        "--color",
        "--commit",
        "--config",
        "--cyber-access-program",
        "--disable",
        "--enable",
        "--local-provider",
        "-m",
        "--model",
        "-o",
        "--output-last-message",
        "--output-schema",
        "-p",
        "--profile",
        "--remote",
        "--remote-auth-token-env",
        "-s",
        "--sandbox",
        "--thread-source",
        "--title",
    ],
    maybe: &[],
    many: &["-i", "--image"],
};

/// Subcommands that hold no conversation.
const OTHERS: [&str; 29] = [
    "a",
    "agents",
    "app",
    "app-server",
    "apply",
    "archive",
    "cloud",
    "completion",
    "debug",
    "delete",
    "doctor",
    "exec-server",
    "features",
    "help",
    "login",
    "logout",
    "mcp",
    "mcp-server",
    "migrate-nfs-db",
    "migrate-rollouts",
    "plugin",
    "queue",
    "remote-control",
    "review",
    "sandbox",
    "stdio-to-uds",
    "unarchive",
    "update",
    "upgrade",
];
const NO_CONVERSATION: [&str; 4] = ["-h", "--help", "-V", "--version"];
/// Subcommands before a conversation's id.
const CHOOSE: [&str; 2] = ["resume", "fork"];
const WITHOUT_SCREEN: [&str; 2] = ["exec", "e"];
/// Options that have a meaning for those subcommands only.
const CHOOSE_OPTIONS: [&str; 3] = ["--last", "--all", "--include-non-interactive"];

/// A hook that waits would keep the dialog off the screen, so none does.
const EVENTS: [&str; 9] = [
    "SessionStart",
    "SessionEnd",
    "UserPromptSubmit",
    "PreToolUse",
    "PermissionRequest",
    "PostToolUse",
    "PreCompact",
    "SubagentStart",
    "Stop",
];
/// Responses with their tokens have the first, the beginnings of threads the second. There is a record for
/// each piece of a response besides.
const TELEMETRY: [&str; 2] = ["input_token_count", "sandbox_policy"];
/// Where most of a window is used it offers another model, with the cursor on that: a prompt that is typed then is
/// lost, and the enter key after it takes the offer.
const NO_OFFER: &str = "notice.hide_rate_limit_model_nudge=true";
/// The end of a session is given no more than three seconds.
const HOOK_SECONDS: u32 = 10;

/// What a caller's words are: subcommands, the ids and prompts after them, and all the rest.
struct Given<'a> {
    exec: Option<usize>,
    chooses: Option<usize>,
    /// The conversation that the caller chose.
    id: Option<(usize, &'a str)>,
    prompt: Option<usize>,
}

impl<'a> Given<'a> {
    fn read(words: &[Word<'a>], has_last: bool) -> Self {
        let mut given = Self { exec: None, chooses: None, id: None, prompt: None };
        let mut ended = false;
        for word in words {
            let (text, sure, at) = match word {
                Word::Text { text, sure, at } => (*text, *sure, *at),
                Word::End { .. } => {
                    ended = true;
                    continue;
                }
                Word::Option { .. } => continue,
            };
            let untouched = given.prompt.is_none() && given.chooses.is_none() && !ended && sure;
            if untouched && given.exec.is_none() && WITHOUT_SCREEN.contains(&text) {
                given.exec = Some(at);
            } else if untouched && CHOOSE.contains(&text) {
                given.chooses = Some(at);
            } else if given.chooses.is_some() && given.id.is_none() && !has_last {
                given.id = Some((at, text));
            } else if sure && given.prompt.is_none() {
                given.prompt = Some(at);
            }
        }
        given
    }
}

pub(super) fn start(start: &Start<'_>) -> Started {
    let (before, given) = start.argv.split_at(start.given.min(start.argv.len()));
    let configured = before.get(1..).unwrap_or_default();
    let (configured_words, words) = (OPTIONS.read(configured), OPTIONS.read(given));
    let has = |names: &[&str]| configured_words.iter().chain(&words).any(|word| word.is(names));
    let mut before_end = words.iter().take_while(|word| !matches!(word, Word::End { .. }));
    let other = before_end.find_map(Word::text).is_some_and(|text| OTHERS.contains(&text));
    if other || has(&NO_CONVERSATION) {
        return Started { argv: start.argv.to_vec(), ..Started::default() };
    }
    let caller = Given::read(&words, has(&["--last"]));
    let headless = matches!(start.mode, Mode::Headless(_)) || caller.exec.is_some();

    let (choice, session) = match start.conversation {
        Conversation::Fresh { .. } => (None, None),
        Conversation::Resume { session } => (Some("resume"), Some(session)),
        Conversation::Fork { session, .. } => (Some("fork"), Some(session)),
    };
    let chooses = choice.is_some();
    let mut observed = start.observed.map(|observed| observing(&observed)).unwrap_or_default();
    // What is in no rollout are requests for titles, which are made for the screen.
    let theirs = |word: &Word<'_>| {
        word.is(&["-c", "--config"]) && word.value().is_some_and(|value| value.starts_with("otel"))
    };
    let tells = start.observed.is_some()
        && !headless
        && !configured_words.iter().chain(&words).any(theirs)
        && !home::has_own_telemetry(start.env);
    if tells {
        observed.extend(["-c".to_owned(), telemetry()]);
    }
    if start.observed.is_some() && !headless {
        observed.extend(["-c", NO_OFFER].map(String::from));
    }
    let mut rest = Vec::new();
    for (place, arg) in given.iter().enumerate() {
        let dropped = [caller.chooses, caller.id.map(|(at, _)| at), caller.prompt];
        let chooser = words.iter().any(|word| match word {
            Word::Option { at, .. } => word.is(&CHOOSE_OPTIONS) && at.contains(&place),
            Word::Text { .. } | Word::End { .. } => false,
        });
        let end = words.contains(&Word::End { at: place });
        let gone = chooses && (chooser || end || dropped.contains(&Some(place)));
        if !gone && caller.exec != Some(place) {
            rest.push(arg.clone());
        }
    }

    let mut argv = before.to_vec();
    let mut add = |words: &[&str]| argv.extend(words.iter().map(ToString::to_string));
    if headless {
        let word = caller.exec.and_then(|at| given.get(at));
        add(&[word.map_or("exec", String::as_str)]);
        for flag in ["--json", "--skip-git-repo-check"] {
            if matches!(start.mode, Mode::Headless(_)) && !has(&[flag]) {
                add(&[flag]);
            }
        }
    }
    match (choice, session) {
        // The options of `exec` are understood before its own subcommands only.
        (Some(choice), Some(session)) if headless => {
            argv.extend(trusted(&observed, &has));
            argv.extend(rest);
            argv.extend([choice.to_owned(), session.to_owned()]);
        }
        (Some(choice), Some(session)) => {
            add(&[choice]);
            argv.extend(trusted(&observed, &has));
            // Else it asks in which directory to go on.
            if !has(&["-C", "--cd"]) {
                argv.extend(["-C".into(), start.directory.to_string_lossy().into_owned()]);
            }
            argv.push(session.to_owned());
            argv.extend(rest);
        }
        _ => {
            // Our options are those of the caller's subcommand.
            let subcommand = caller.chooses.filter(|_| !headless);
            let place = subcommand.map_or(0, |at| at + 1).min(rest.len());
            let (command, options) = rest.split_at(place);
            argv.extend_from_slice(command);
            argv.extend(trusted(&observed, &has));
            argv.extend_from_slice(options);
        }
    }
    let ended = !chooses && words.iter().any(|word| matches!(word, Word::End { .. }));
    match (start.mode, start.prompt) {
        (Mode::Headless(_), _) if chooses || caller.prompt.is_none() => argv.push("-".into()),
        (Mode::Interactive, Some(prompt)) => {
            // Nor is it an option, nor the next of some images.
            argv.extend((!ended).then(|| "--".into()));
            argv.push(prompt.into());
        }
        (Mode::Headless(_), _) | (Mode::Interactive, None) => {}
    }
    let known = match start.conversation {
        Conversation::Resume { session } => Some(session),
        Conversation::Fresh { .. } => caller.id.map(|(_, id)| id).filter(|id| {
            let resumes = caller.chooses.and_then(|at| given.get(at));
            resumes.is_some_and(|word| word == "resume") && id.len() == 36
        }),
        Conversation::Fork { .. } => None,
    };
    Started {
        argv,
        session: known.map(String::from),
        watch_title: start.observed.is_some(),
        telemetry: if tells { &TELEMETRY } else { &[] },
        ..Started::default()
    }
}

fn telemetry() -> String {
    format!("otel.exporter={{otlp-http={{endpoint=\"{OTLP}/v1/logs\",protocol=\"json\"}}}}")
}

/// The options that have its hooks call us.
fn observing(observed: &Observed<'_>) -> Vec<String> {
    // A shell reads it; it needs no quotes there, but as a text of TOML it has some.
    let command = Value::String(observed.hook.join(" ")).to_string();
    let hook = |event: &&str| {
        let hook = format!("{{type=\"command\",command={command},timeout={HOOK_SECONDS}}}");
        ["-c".to_owned(), format!("hooks.{event}=[{{hooks=[{hook}]}}]")]
    };
    EVENTS.iter().flat_map(hook).collect()
}

/// Hooks that nobody has agreed to are asked about at the start; ours are.
fn trusted(observed: &[String], has: &impl Fn(&[&str]) -> bool) -> Vec<String> {
    const FLAG: &str = "--dangerously-bypass-hook-trust";
    let flag = (!observed.is_empty() && !has(&[FLAG])).then(|| FLAG.to_owned());
    flag.into_iter().chain(observed.iter().cloned()).collect()
}
