//! A runner's environment: what may be set, and how secrets are referred to.

use serde::{Deserialize, Serialize};

/// One value of a runner's environment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EnvValue {
    /// Stored and shown; never a secret.
    Literal(String),
    /// The content of a file, read by the agent when the assistant starts, and never stored.
    File(String),
    /// A variable of the daemon's environment, handed over when the agent starts, and never stored.
    Daemon(String),
}

/// Why a text is not an environment assignment that a runner may have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EnvError {
    #[error("`{}` is not KEY=VALUE", .0.escape_debug())]
    Form(String),
    #[error("`{}` is not a variable's name: use letters, digits and `_`", .0.escape_debug())]
    Name(String),
    #[error("{0} would change how programs load or run code, and a runner may not set it")]
    Forbidden(String),
    #[error(
        "{0} looks like a secret, and a literal value would be stored: write {0}=file:/path/of/a/file or {0}=env:NAME"
    )]
    LiteralSecret(String),
}

/// Variables that turn a program into another one: those of loaders, shells, interpreters, and of
/// version control, which calls other programs.
const FORBIDDEN_ENV: [&str; 35] = [
    "PATH",
    "GCONV_PATH",
    "GLIBC_TUNABLES",
    "LOCPATH",
    "BASHOPTS",
    "BASH_ENV",
    "ENV",
    "IFS",
    "PROMPT_COMMAND",
    "PS4",
    "SHELLOPTS",
    "ZDOTDIR",
    "ELECTRON_RUN_AS_NODE",
    "NODE_OPTIONS",
    "NODE_PATH",
    "PERL5DB",
    "PERL5LIB",
    "PERL5OPT",
    "PYTHONBREAKPOINT",
    "PYTHONHOME",
    "PYTHONPATH",
    "PYTHONSTARTUP",
    "RUBYLIB",
    "RUBYOPT",
    "JAVA_TOOL_OPTIONS",
    "JDK_JAVA_OPTIONS",
    "_JAVA_OPTIONS",
    "GIT_ASKPASS",
    "GIT_EXEC_PATH",
    "GIT_EXTERNAL_DIFF",
    "GIT_PROXY_COMMAND",
    "GIT_SSH",
    "GIT_SSH_COMMAND",
    "GIT_TEMPLATE_DIR",
    "SSH_ASKPASS",
];

/// What all of a kind begin with: loaders' variables, a shell's functions, settings of version
/// control, and ours.
const FORBIDDEN_BEGINNINGS: [&str; 5] = ["LD_", "DYLD_", "BASH_FUNC_", "GIT_CONFIG", "STRATAVORE_"];

/// Reads `KEY=VALUE`, where a value of `file:PATH` or `env:NAME` is a reference to a secret.
pub fn parse_env(text: &str) -> Result<(String, EnvValue), EnvError> {
    let (key, value) = text.split_once('=').ok_or_else(|| EnvError::Form(text.into()))?;
    let starts_well = key.bytes().next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_');
    if !starts_well
        || !key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
        || key.len() > 128
    {
        return Err(EnvError::Name(key.into()));
    }
    if value.contains('\0') {
        return Err(EnvError::Form(key.into()));
    }
    if FORBIDDEN_ENV.contains(&key)
        || FORBIDDEN_BEGINNINGS.iter().any(|beginning| key.starts_with(beginning))
    {
        return Err(EnvError::Forbidden(key.into()));
    }
    if let Some(path) = value.strip_prefix("file:") {
        return Ok((key.into(), EnvValue::File(path.into())));
    }
    if let Some(name) = value.strip_prefix("env:") {
        return Ok((key.into(), EnvValue::Daemon(name.into())));
    }
    let upper = key.to_ascii_uppercase();
    let secret =
        ["TOKEN", "SECRET", "PASSWORD", "PASSWD", "API_KEY", "APIKEY", "PRIVATE_KEY", "CREDENTIAL"];
    if secret.iter().any(|word| upper.contains(word)) {
        return Err(EnvError::LiteralSecret(key.into()));
    }
    Ok((key.into(), EnvValue::Literal(value.into())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_that_turn_programs_into_others_are_refused() {
        for text in [
            "LD_PRELOAD=/tmp/x.so",
            "LD_LIBRARY_PATH=/tmp",
            "PATH=/tmp",
            "GIT_SSH_COMMAND=sh -c id",
            "NODE_OPTIONS=--require /tmp/x",
            "BASH_ENV=/tmp/x",
            "PYTHONSTARTUP=/tmp/x",
            "STRATAVORE_RUNNER_ID=run_0",
            "BASH_FUNC_ls%%=() { id; }",
        ] {
            let error = parse_env(text).unwrap_err();
            assert!(matches!(error, EnvError::Forbidden(_) | EnvError::Name(_)), "{text}: {error}");
        }
    }

    #[test]
    fn what_is_no_assignment_is_refused() {
        for text in ["", "=x", "A", "1A=x", "A B=x", "A\n=x", "Ä=x", "A=x\0y"] {
            assert!(parse_env(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_secret_is_referred_to_and_not_written_out() {
        assert!(matches!(parse_env("ANTHROPIC_API_KEY=sk-123"), Err(EnvError::LiteralSecret(_))));
        assert_eq!(
            parse_env("ANTHROPIC_API_KEY=file:/run/key").unwrap().1,
            EnvValue::File("/run/key".into())
        );
        assert_eq!(
            parse_env("GITHUB_TOKEN=env:GITHUB_TOKEN").unwrap().1,
            EnvValue::Daemon("GITHUB_TOKEN".into())
        );
        assert_eq!(
            parse_env("EDITOR=vim --noplugin=x").unwrap().1,
            EnvValue::Literal("vim --noplugin=x".into())
        );
    }
}
