//! How much one request may ask for.

use crate::error::Error;

/// The most kinds that an event filter names, and the longest of them.
const KINDS_MAX: usize = 64;
const KIND_MAX: usize = 100;
/// The most runners that one request names.
const NAMED_MAX: usize = 1000;
/// The bytes of a launch's arguments and variables together: the kernel takes no longer argument,
/// and all of it stands in the runner's row.
const COMMAND_MAX: usize = 128 << 10;

/// The bytes of texts in one answer: what is larger than 4 MB does not go over the wire.
const ANSWER_MAX: usize = 2 << 20;

/// Refuses a list of kinds that is too long.
pub(crate) fn kinds(kinds: &[String]) -> Result<(), Error> {
    at_most(kinds.len(), KINDS_MAX, "kinds in a filter", "name fewer, or a family: runner.")?;
    let longest = kinds.iter().map(String::len).max().unwrap_or(0);
    at_most(longest, KIND_MAX, "bytes in a kind", "see which there are: stratavore events")
}

/// Refuses too long a list of runners.
pub(crate) fn named(runners: &[String]) -> Result<(), Error> {
    at_most(runners.len(), NAMED_MAX, "runners in one request", "name them in several requests")
}

/// Refuses a command that is too large.
pub(crate) fn command(args: &[String], env: &[String]) -> Result<(), Error> {
    let bytes = args.iter().chain(env).map(|text| text.len() + 1).sum();
    let hint = "put what is long into a file, and name the file";
    at_most(bytes, COMMAND_MAX, "bytes of arguments and variables", hint)
}

/// Refuses a prompt that is too long for what has to hold it.
pub(crate) fn prompt(text: &str) -> Result<(), Error> {
    if text.contains('\0') {
        return Err(Error::invalid("the prompt has a NUL character in it", "remove it"));
    }
    let hint = "put what is long into a file of the project, and name the file in the prompt";
    at_most(text.len(), COMMAND_MAX, "bytes in a prompt", hint)
}

/// How many of these texts fit into one answer, given how many bytes each has: at least one.
pub(crate) fn fitting(sizes: impl IntoIterator<Item = usize>) -> usize {
    let mut bytes = 0_usize;
    let fits = |size: &usize| {
        bytes = bytes.saturating_add(*size);
        bytes <= ANSWER_MAX
    };
    sizes.into_iter().take_while(fits).count().max(1)
}

fn at_most(found: usize, limit: usize, what: &str, hint: &str) -> Result<(), Error> {
    if found <= limit {
        return Ok(());
    }
    Err(Error::invalid(format!("{found} {what} are over the limit of {limit}"), hint))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_has_as_much_as_fits_and_at_least_one() {
        assert_eq!(fitting([10, 10, 10]), 3);
        assert_eq!(fitting([ANSWER_MAX - 10, 10, 1]), 2);
        assert_eq!(fitting([ANSWER_MAX * 2, 10]), 1);
        assert_eq!(fitting([usize::MAX, usize::MAX]), 1);
    }
}
