//! A mistake on the command line, told like every other failure.

use clap::Command;

use crate::cmd;
use crate::exit::Failure;

/// What `error` says, on one line, and where the right usage is to be read.
pub(crate) fn failure(error: &clap::Error, arguments: impl Iterator<Item = String>) -> Failure {
    let text = error.render().to_string();
    let mut paragraphs = text.split("\n\n").map(one_line);
    let message = paragraphs.next().unwrap_or_default();
    let message = message.strip_prefix("error: ").unwrap_or(&message).to_owned();
    let mut steps: Vec<String> =
        paragraphs.filter_map(|p| Some(p.strip_prefix("tip: ")?.to_owned())).collect();
    steps.push(format!("{} --help", path(&cmd::command(), arguments)));
    Failure::usage(message).next(steps.join("; "))
}

fn one_line(paragraph: &str) -> String {
    paragraph.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The command that the arguments name, as far as they do.
fn path(root: &Command, arguments: impl Iterator<Item = String>) -> String {
    let mut path = root.get_name().to_owned();
    let mut command = root;
    for argument in arguments {
        let named = command.find_subcommand(&argument);
        if let Some(next) = named.filter(|_| !argument.starts_with('-')) {
            path = format!("{path} {}", next.get_name());
            command = next;
        }
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(arguments: &[&str]) -> (String, String) {
        let words: Vec<_> = ["stratavore"].iter().chain(arguments).map(Into::into).collect();
        let error = cmd::Cli::read(&words).unwrap_err();
        let failure = failure(&error, arguments.iter().map(|text| (*text).to_owned()));
        (failure.message, failure.next)
    }

    #[test]
    fn a_mistake_is_one_line_with_its_next_step() {
        let (message, next) = told(&["attach"]);
        assert_eq!(message, "the following required arguments were not provided: <RUNNER>");
        assert_eq!(next, "stratavore attach --help");

        let (message, next) = told(&["kill", "--forse"]);
        assert_eq!(message, "unexpected argument '--forse' found");
        assert_eq!(next, "a similar argument exists: '--force'; stratavore kill --help");

        let (_, next) = told(&["projects", "edit"]);
        assert_eq!(next, "stratavore projects edit --help");
    }
}
