//! What looks like a secret, so that it is neither kept in the configuration nor shown.
//!
//! A guess, and meant as one: it catches the habit of writing a key where a file's name belongs.

const WORDS: [&str; 9] = [
    "password",
    "passwd",
    "passphrase",
    "secret",
    "token",
    "credential",
    "credentials",
    "apikey",
    "pgpassword",
];
const KEYS: [&str; 5] = ["api", "private", "access", "secret", "auth"];
/// How keys of well-known services begin.
const PREFIXES: [&str; 9] =
    ["sk-", "ghp_", "gho_", "github_pat_", "glpat-", "xoxb-", "xoxp-", "AKIA", "AIza"];

/// True for a name such as `password` or `api_key`, and not for `password_file` or `max_tokens`.
pub(crate) fn is_secret_name(name: &str) -> bool {
    let lower = name.trim_start_matches('-').to_ascii_lowercase();
    let mut words = lower.rsplit(['-', '_', '.']);
    match words.next() {
        Some("key") => words.next().is_some_and(|word| KEYS.contains(&word)),
        Some(last) => WORDS.contains(&last),
        None => false,
    }
}

/// The position of the first argument that seems to hold a secret.
pub(crate) fn find(arguments: &[String]) -> Option<usize> {
    (0..arguments.len()).find(|&at| holds_secret(arguments, at))
}

/// The arguments with what seems a secret replaced.
pub(crate) fn hide(arguments: &[String]) -> Vec<String> {
    let hide = |(at, argument): (usize, &String)| match holds_secret(arguments, at) {
        false => argument.clone(),
        true => match argument.split_once('=') {
            Some((name, _)) if is_secret_name(name) => format!("{name}=(hidden)"),
            _ => "(hidden)".into(),
        },
    };
    arguments.iter().enumerate().map(hide).collect()
}

/// A single value with the password of a URL replaced: `postgres://user:(hidden)@host`.
pub(crate) fn hide_in_url(value: &str) -> String {
    let parts = value.split_once("://").and_then(|(scheme, rest)| {
        let (user, host) = rest.rsplit_once('@')?;
        Some((scheme, user.split_once(':')?.0, host))
    });
    parts.map_or_else(
        || value.into(),
        |(scheme, user, host)| format!("{scheme}://{user}:(hidden)@{host}"),
    )
}

fn holds_secret(arguments: &[String], at: usize) -> bool {
    let argument = arguments[at].as_str();
    let known = PREFIXES.iter().any(|prefix| argument.starts_with(prefix)) && argument.len() >= 16;
    let assigned = argument
        .split_once('=')
        .is_some_and(|(name, value)| is_secret_name(name) && is_literal(value));
    // The value of the option before it.
    let follows = at > 0
        && arguments[at - 1].starts_with("--")
        && !argument.starts_with('-')
        && is_secret_name(&arguments[at - 1])
        && is_literal(argument);
    known || assigned || follows
}

/// False for what names a place: a variable, a file.
fn is_literal(value: &str) -> bool {
    !value.is_empty()
        && !value.starts_with(['$', '/', '@', '~'])
        && !value.starts_with("file:")
        && !value.starts_with("env:")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_secrets_are_told_from_others() {
        for name in [
            "password",
            "db_password",
            "--api-key",
            "API_KEY",
            "token",
            "auth-token",
            "PGPASSWORD",
            "apikey",
        ] {
            assert!(is_secret_name(name), "{name}");
        }
        for name in [
            "password_file",
            "max_tokens",
            "--max-tokens",
            "key",
            "keyboard",
            "tokenizer",
            "host",
            "",
        ] {
            assert!(!is_secret_name(name), "{name}");
        }
    }

    #[test]
    fn the_password_of_a_url_is_hidden() {
        assert_eq!(hide_in_url("postgres://u:p@ss:w@h/d?a=b"), "postgres://u:(hidden)@h/d?a=b");
        for harmless in ["postgres://h/d", "postgres://u@h/d", "sqlite:/a@b:c", "plain"] {
            assert_eq!(hide_in_url(harmless), harmless);
        }
    }

    #[test]
    fn secrets_in_arguments_are_found_and_hidden() {
        let of = |args: &[&str]| {
            hide(&args.iter().map(ToString::to_string).collect::<Vec<_>>()).join(" ")
        };
        assert_eq!(of(&["--api-key", "abc", "-v"]), "--api-key (hidden) -v");
        assert_eq!(of(&["--api-key=abc"]), "--api-key=(hidden)");
        assert_eq!(of(&["-k", "sk-ant-0123456789abcdef"]), "-k (hidden)");
        for harmless in [
            ["--api-key", "$KEY"],
            ["--token", "file:/a"],
            ["--max-tokens", "4096"],
            ["--password", "-v"],
        ] {
            assert_eq!(of(&harmless), harmless.join(" "));
        }
    }
}
