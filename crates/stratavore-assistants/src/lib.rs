//! What is particular to each assistant: how its program is started, and what it may inherit.
//!
//! One file per assistant, and one table of them. A command is an argument vector and never a
//! shell's line, so no text of a user's is ever read as anything but one argument.
//!
//! What an assistant tells of itself is read by its [`Adapter`]: sessions, activity, messages, usage.
//!
//! Invariant: what a caller gives comes after our own flags, each piece as one argument, unchanged.

pub mod adapter;
mod aider;
mod claude;
mod codex;
mod content;
mod covered;
mod directory;
mod environment;
mod error;
mod excerpt;
mod final_record;
mod gemini;
mod generic;
mod hooks;
mod log_record;
mod opencode;
mod reset;
mod told;
mod words;

use stratavore_core::name::Name;

pub use adapter::Adapter;
pub use covered::not_covered;
pub use environment::{env_allowlist, inherits, scrub};
pub use error::AssistantError;
pub use reset::reset_time;

/// An assistant that we know how to start.
pub struct Assistant {
    pub name: &'static str,
    /// For people.
    pub title: &'static str,
    /// The program, looked for on the `PATH`. `None`: the caller's first argument.
    pub program: Option<&'static str>,
    /// The flags that it cannot do without under us, given the configured arguments and those of
    /// this launch.
    flags: fn(&[String], &[String]) -> &'static [&'static str],
    /// Variables that its runners have, unless the caller sets them.
    env: &'static [(&'static str, &'static str)],
    pub adapter: &'static dyn Adapter,
}

/// How an assistant is started on this host, where that differs from the usual.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Settings {
    /// In place of the assistant's own program: a name on the `PATH`, or an absolute path.
    pub program: Option<String>,
    /// Come before the arguments of each launch.
    pub args: Vec<String>,
}

/// The longest single argument, in bytes: Linux takes 128 KiB with the NUL at its end.
pub const ARGUMENT_MAX: usize = 128 * 1024 - 1;
/// The longest command, in bytes. The system takes about twice as much, environment included.
pub const COMMAND_MAX: usize = 1024 * 1024;

const KNOWN: [Assistant; 6] = [
    aider::ASSISTANT,
    claude::ASSISTANT,
    codex::ASSISTANT,
    gemini::ASSISTANT,
    generic::ASSISTANT,
    opencode::ASSISTANT,
];

/// What every runner's terminal is, whatever the daemon's own was.
const TERMINAL: [(&str, &str); 2] = [("TERM", "xterm-256color"), ("COLORTERM", "truecolor")];

/// Every assistant, by name in alphabetical order.
pub fn known() -> &'static [Assistant] {
    &KNOWN
}

/// The assistant of this name.
pub fn find(name: &Name) -> Option<&'static Assistant> {
    KNOWN.iter().find(|assistant| assistant.name == name.as_str())
}

/// The adapter of an assistant; of one that we do not know, that of any program.
pub fn adapter(name: &Name) -> &'static dyn Adapter {
    find(name).map_or(&generic::Generic, |assistant| assistant.adapter)
}

/// Refuses a name that is no assistant's.
pub fn check(name: &Name) -> Result<(), AssistantError> {
    find(name).map(|_| ()).ok_or_else(|| AssistantError::unknown(name))
}

/// The argument vector that starts an assistant: program, configured arguments, our flags, `args`.
///
/// A name that we do not know is an assistant as well if `settings` name its program. `generic`
/// has no settings: its arguments are the whole command.
pub fn command(
    name: &Name,
    args: &[String],
    settings: Option<&Settings>,
) -> Result<Vec<String>, AssistantError> {
    let assistant = find(name);
    let settings =
        settings.filter(|_| assistant.is_none_or(|assistant| assistant.program.is_some()));
    let configured = settings.and_then(|settings| settings.program.clone());
    let program = match (assistant, configured) {
        (Some(_) | None, Some(program)) => Some(program),
        (Some(assistant), None) => assistant.program.map(String::from),
        (None, None) => return Err(AssistantError::unknown(name)),
    };
    let before = settings.map_or(&[][..], |settings| &settings.args);
    let flags = assistant.map_or(&[][..], |assistant| (assistant.flags)(before, args));

    let mut argv: Vec<String> = program.into_iter().collect();
    argv.extend(before.iter().cloned());
    argv.extend(flags.iter().map(ToString::to_string));
    argv.extend(args.iter().cloned());
    if argv.first().is_none_or(String::is_empty) {
        return Err(AssistantError::EmptyCommand);
    }
    can_be_passed(&argv)?;
    Ok(argv)
}

/// Variables that a runner of this assistant has, unless the caller sets them itself: the terminal
/// that we are, and what makes the assistant behave under us.
pub fn default_env(name: &Name) -> impl Iterator<Item = (&'static str, &'static str)> {
    let own = find(name).map_or(&[][..], |assistant| assistant.env);
    TERMINAL.iter().chain(own).copied()
}

/// Refuses a command that no program can be given.
pub fn can_be_passed(argv: &[String]) -> Result<(), AssistantError> {
    for (nth, argument) in argv.iter().enumerate() {
        if argument.contains('\0') {
            return Err(AssistantError::Nul { nth });
        }
        if argument.len() > ARGUMENT_MAX {
            return Err(AssistantError::ArgumentTooLong { nth, bytes: argument.len() });
        }
    }
    match argv.iter().map(|argument| argument.len() + 1).sum() {
        bytes if bytes > COMMAND_MAX => Err(AssistantError::CommandTooLong { bytes }),
        _ => Ok(()),
    }
}

/// For assistants that need no flag.
fn no_flags(_: &[String], _: &[String]) -> &'static [&'static str] {
    &[]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn name(text: &str) -> Name {
        text.parse().unwrap()
    }

    fn strings(texts: &[&str]) -> Vec<String> {
        texts.iter().map(ToString::to_string).collect()
    }

    fn line(assistant: &str, args: &[&str], settings: Option<(Option<&str>, &[&str])>) -> String {
        let settings = settings.map(|(program, args)| Settings {
            program: program.map(String::from),
            args: strings(args),
        });
        command(&name(assistant), &strings(args), settings.as_ref()).unwrap().join("|")
    }

    #[test]
    fn each_assistant_starts_its_program() {
        assert_eq!(line("claude", &["-n", "a b"], None), "claude|-n|a b");
        assert_eq!(line("opencode", &[], None), "opencode");
        assert_eq!(line("gemini", &["-m", "x"], None), "gemini|-m|x");
        assert_eq!(line("generic", &["bash", "-l"], None), "bash|-l");
        assert_eq!(line("codex", &["fix it"], None), "codex|--no-daemon|fix it");
    }

    #[test]
    fn codex_is_kept_from_its_daemon_where_it_has_one() {
        assert_eq!(line("codex", &["resume", "--last"], None), "codex|--no-daemon|resume|--last");
        assert_eq!(line("codex", &["exec", "--json"], None), "codex|exec|--json");
        assert_eq!(line("codex", &["exec"], Some((None, &["-m", "x"]))), "codex|-m|x|exec");
        assert_eq!(line("codex", &["--no-daemon"], None), "codex|--no-daemon");
        assert_eq!(line("codex", &["--help"], None), "codex|--help");
        assert_eq!(
            line("codex", &[], Some((None, &["--no-daemon", "-v"]))),
            "codex|--no-daemon|-v"
        );
        // Not an option of ours: the text of a prompt.
        assert_eq!(line("codex", &["--", "--no-daemon"], None), "codex|--no-daemon|--|--no-daemon");
    }

    #[test]
    fn configured_programs_and_arguments_come_first() {
        assert_eq!(
            line("claude", &["-c"], Some((Some("/opt/claude"), &["-v"]))),
            "/opt/claude|-v|-c"
        );
        assert_eq!(line("codex", &["hi"], Some((None, &["-m", "x"]))), "codex|-m|x|--no-daemon|hi");
        assert_eq!(line("generic", &["bash"], Some((Some("/bin/x"), &["-v"]))), "bash");
        assert_eq!(line("aider", &["-v"], Some((Some("aider"), &[]))), "aider|-v");
    }

    #[test]
    fn what_cannot_be_started_is_refused_with_a_next_step() {
        let refused =
            |assistant: &str, args: &[String]| command(&name(assistant), args, None).unwrap_err();
        assert_eq!(refused("generic", &[]), AssistantError::EmptyCommand);
        assert_eq!(refused("generic", &strings(&[""])), AssistantError::EmptyCommand);
        assert_eq!(refused("claude", &strings(&["a", "b\0c"])), AssistantError::Nul { nth: 2 });
        assert!(command(&name("claude"), &["x".repeat(ARGUMENT_MAX)], None).is_ok());
        let bytes = ARGUMENT_MAX + 1;
        assert_eq!(
            refused("claude", &["x".repeat(bytes)]),
            AssistantError::ArgumentTooLong { nth: 1, bytes }
        );
        let many = vec!["x".repeat(100_000); 11];
        assert!(matches!(refused("claude", &many), AssistantError::CommandTooLong { .. }));

        let unknown = refused("cluade", &[]);
        assert!(unknown.to_string().contains("did you mean `claude`?"), "{unknown}");
        assert!(unknown.remedy().contains("--assistant generic -- "), "{}", unknown.remedy());
        assert!(!refused("zzzzzz", &[]).to_string().contains("did you mean"));
        assert!(refused("generic", &[]).remedy().contains("-- COMMAND"));
        assert!(check(&name("claude")).is_ok() && check(&name("cluade")).is_err());
    }

    #[test]
    fn the_table_is_in_order_and_its_names_are_names() {
        assert!(known().is_sorted_by_key(|assistant| assistant.name));
        for assistant in known() {
            assert_eq!(find(&name(assistant.name)).unwrap().name, assistant.name);
            assert!(!assistant.title.is_empty());
        }
    }

    #[test]
    fn the_terminal_is_ours_for_every_assistant() {
        let of = |assistant: &str| default_env(&name(assistant)).collect::<Vec<_>>();
        assert!(of("generic").contains(&("TERM", "xterm-256color")));
        assert!(of("aider").contains(&("COLORTERM", "truecolor")));
        assert!(of("gemini").contains(&("GEMINI_CLI_NO_RELAUNCH", "true")));
    }

    proptest! {
        #[test]
        fn arguments_arrive_as_they_were_given(
            which in 0..KNOWN.len(),
            program in "[a-z/]{1,20}",
            args in proptest::collection::vec("[^\0]{0,40}", 0..8),
        ) {
            let mut args = args;
            if KNOWN[which].program.is_none() {
                args.insert(0, program);
            }
            let argv = command(&name(KNOWN[which].name), &args, None).unwrap();
            prop_assert!(argv.ends_with(&args));
            prop_assert!(argv.len() <= args.len() + 2);
        }
    }
}
