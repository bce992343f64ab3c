//! Why an assistant cannot be started as asked.

use stratavore_core::name::Name;

use crate::{ARGUMENT_MAX, COMMAND_MAX, known};

/// `nth` counts from the program, which is 0.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AssistantError {
    #[error(
        "there is no assistant `{name}`{}",
        .nearest.map_or_else(String::new, |nearest| format!("; did you mean `{nearest}`?"))
    )]
    Unknown { name: Name, nearest: Option<&'static str> },
    #[error("no command is given")]
    EmptyCommand,
    #[error("argument {nth} has a NUL character in it, which no program can be given")]
    Nul { nth: usize },
    #[error("argument {nth} has {bytes} bytes, and the system takes at most {ARGUMENT_MAX}")]
    ArgumentTooLong { nth: usize, bytes: usize },
    #[error("the command has {bytes} bytes, and at most {COMMAND_MAX} are taken")]
    CommandTooLong { bytes: usize },
    #[error("{assistant} cannot go on from a conversation without changing it")]
    CannotFork { assistant: &'static str },
}

impl AssistantError {
    /// What to do about it.
    pub fn remedy(&self) -> String {
        match self {
            Self::Unknown { .. } => {
                format!(
                    "use one of {}; any other program: --assistant generic -- PROGRAM ARGS…",
                    names()
                )
            }
            Self::EmptyCommand => "write it after two dashes: -- COMMAND ARGS…".into(),
            Self::Nul { .. } => "remove it".into(),
            Self::ArgumentTooLong { .. } | Self::CommandTooLong { .. } => {
                "put the text into a file, or send it once the runner runs".into()
            }
            Self::CannotFork { .. } => "resume the conversation itself, or begin a new one".into(),
        }
    }

    pub(crate) fn unknown(name: &Name) -> Self {
        let distance =
            |known: &str| strsim::damerau_levenshtein(&name.as_str().to_ascii_lowercase(), known);
        let nearest = known()
            .iter()
            .map(|assistant| (distance(assistant.name), assistant.name))
            .min()
            .filter(|(distance, known)| *distance <= known.len() / 2)
            .map(|(_, known)| known);
        Self::Unknown { name: name.clone(), nearest }
    }
}

fn names() -> String {
    known().iter().map(|assistant| assistant.name).collect::<Vec<_>>().join(", ")
}
